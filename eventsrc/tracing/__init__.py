"""Cause and effect: stamps of whole requests and processes.

```python
app.add_middleware(TraceMiddleware, actor=lambda scope: scope["user"].id)  # FastAPI, Starlette
name_service("orders")
```
"""

from ..trace_context import name_service, trace_id_of
from .middleware import TraceMiddleware

__all__ = ["TraceMiddleware", "name_service", "trace_id_of"]
