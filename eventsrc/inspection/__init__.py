"""Look into the stores of a program: its streams, events and states. The command line and the studio show them.

```python
@asynccontextmanager
async def app():
    async with SQLiteStore("orders.db") as orders:
        yield App({"orders": orders}, aggregates=[Order])
```
"""

from .app import App, UsageError, find_feed, make_stores, open_app
from .events import describe_events

__all__ = ["App", "UsageError", "describe_events", "find_feed", "make_stores", "open_app"]
