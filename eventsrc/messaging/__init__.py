"""To and from other services: their events as they are stored there.

```python
async with events_client("https://ledger.example.com/events/") as events:
    async for event in events: ...
```
`docs/services.md` describes it.
"""

from .client import EventsClient, events_client
from .received_event import ReceivedEvent

__all__ = ["EventsClient", "ReceivedEvent", "events_client"]
