"""Published events as an API: CloudEvents, streamed to who follows, and in pages that caches keep.

```python
published = [PublishedEvent(Deposited, type="com.example.account.deposited.v1")]
app = events_api(store, published, source="/ledger")  # an ASGI app: serve it, or mount it in another
```
Only what is listed leaves; internal events are no API. `docs/api.md` tells what clients see.
"""

from .api import events_api
from .catalogue import PublishedEvent

__all__ = ["PublishedEvent", "events_api"]
