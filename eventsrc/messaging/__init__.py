"""To and from other services: their events as they are stored there.

```python
async with events_client("https://ledger.example.com/events/") as events:
    await Inbox("/ledger", store, checkpoints).run(events)  # each is stored once, as a `Received`
```
`docs/services.md` describes it.
"""

from .client import EventsClient, events_client
from .inbox import Inbox
from .inbox_stream import Received
from .received_event import ReceivedEvent

__all__ = ["EventsClient", "Inbox", "Received", "ReceivedEvent", "events_client"]
