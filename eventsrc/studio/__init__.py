"""The studio: pages about the stores, traces and processors of a program, for a browser.

```python
app.mount("/studio", Studio(program))  # FastAPI, Starlette; `program` is an eventsrc.inspection.App
```

`eventsrc studio --app shop.main:app` serves it on this machine. It needs `eventsrc[studio]`.
"""

from .studio import Studio

__all__ = ["Studio"]
