"""Cause and effect: stamps of whole requests and processes, and the traces that they make.

```python
app.add_middleware(TraceMiddleware, actor=lambda scope: scope["user"].id)  # FastAPI, Starlette
name_service("orders")

trace = await find_trace("request-9", {"orders": orders, "stock": stock}, processors=[reserve, mail])
print(draw_tree(trace))  # or draw_mermaid, draw_lanes (SVG), draw_page (HTML)

map = await find_map({"orders": orders, "stock": stock}, since=monday)
print(draw_map_table(map))  # or draw_map_mermaid, draw_map (SVG)
```
"""

from ..trace_context import name_service, trace_id_of
from .cloud_events import trace_cloud_event
from .columns import draw_columns
from .finding import find_trace
from .following import follow_trace
from .lanes import draw_lanes
from .map import Edge, Kind, Map
from .map_difference import Change, change_lines, compare_maps
from .map_mermaid import draw_map_mermaid
from .map_picture import draw_map
from .map_table import draw_map_table
from .mapping import find_map
from .mermaid import draw_mermaid
from .middleware import TraceMiddleware
from .missing import find_missing
from .ocel import to_ocel
from .page import draw_page
from .trace import Handling, Missing, ProcessState, Step, TimerState, Trace, TracedEvent
from .tree import draw_tree

__all__ = [
    "Change",
    "Edge",
    "Handling",
    "Kind",
    "Map",
    "Missing",
    "ProcessState",
    "Step",
    "TimerState",
    "Trace",
    "TraceMiddleware",
    "TracedEvent",
    "change_lines",
    "compare_maps",
    "draw_columns",
    "draw_lanes",
    "draw_map",
    "draw_map_mermaid",
    "draw_map_table",
    "draw_mermaid",
    "draw_page",
    "draw_tree",
    "find_map",
    "find_missing",
    "find_trace",
    "follow_trace",
    "name_service",
    "to_ocel",
    "trace_cloud_event",
    "trace_id_of",
]
