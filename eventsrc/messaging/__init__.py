"""To and from other services: their events as they are stored there, and ours in queues, topics, buses and streams.

```python
async with events_client("https://ledger.example.com/events/") as events:
    await Inbox("/ledger", store, checkpoints).run(events)  # each is stored once, as a `Received`
```
`docs/services.md` describes it.
"""

from .client import EventsClient, events_client
from .inbox import Inbox
from .inbox_stream import Received
from .outbound import Outbound
from .received_event import ReceivedEvent
from .sinks.buses import EventBridgeSink, KinesisSink
from .sinks.queues import SNSSink, SQSSink
from .sinks.sink import Message, Refusal, Sink

__all__ = [
    "EventBridgeSink",
    "EventsClient",
    "Inbox",
    "KinesisSink",
    "Message",
    "Outbound",
    "Received",
    "ReceivedEvent",
    "Refusal",
    "SNSSink",
    "SQSSink",
    "Sink",
    "events_client",
]
