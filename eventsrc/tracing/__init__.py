"""Cause and effect: stamps of whole requests and processes, and the traces that they make.

```python
app.add_middleware(TraceMiddleware, actor=lambda scope: scope["user"].id)  # FastAPI, Starlette
name_service("orders")

trace = await find_trace("request-9", {"orders": orders, "stock": stock}, processors=[reserve, mail])
print(draw_tree(trace))  # or draw_mermaid, draw_lanes (SVG), draw_page (HTML)
```
"""

from ..trace_context import name_service, trace_id_of
from .finding import find_trace
from .lanes import draw_lanes
from .mermaid import draw_mermaid
from .middleware import TraceMiddleware
from .page import draw_page
from .trace import Handling, Step, Trace, TracedEvent
from .tree import draw_tree

__all__ = [
    "Handling",
    "Step",
    "Trace",
    "TraceMiddleware",
    "TracedEvent",
    "draw_lanes",
    "draw_mermaid",
    "draw_page",
    "draw_tree",
    "find_trace",
    "name_service",
    "trace_id_of",
]
