"""The command line, `eventsrc` or `python -m eventsrc`, and what it needs of a program.

```python
@asynccontextmanager
async def app() -> AsyncIterator[App]:
    async with SQLiteStore("orders.db") as orders, SQLiteCheckpoints("views.db") as checkpoints:
        yield App({"orders": orders}, aggregates=[Order], processors=[Processor(Totals(), orders, checkpoints)])
```

`eventsrc --app shop.main:app trace request-9` then knows the program's stores, classes and processors.
"""

from .app import App

__all__ = ["App"]
