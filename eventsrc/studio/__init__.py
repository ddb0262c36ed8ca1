"""The studio: pages about the stores, traces and processors of a program, for a browser.

```python
app.mount("/studio", Studio(program))  # FastAPI, Starlette; `program` is an eventsrc.inspection.App
```

`eventsrc studio --app shop.main:app` serves it on this machine. It needs `eventsrc[studio]`.
"""

try:
    from .studio import Studio
except ModuleNotFoundError as error:
    if error.name not in ("starlette", "jinja2", "markupsafe"):
        raise
    raise ImportError(f"the studio needs {error.name}: pip install 'eventsrc[studio]'") from None

__all__ = ["Studio"]
