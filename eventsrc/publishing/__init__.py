"""Published events as an API: CloudEvents, as a live stream and in pages that caches can keep.

```python
published = [PublishedEvent(Deposited, type="com.example.account.deposited.v1")]
app = events_api(store, published, source="/ledger")  # an ASGI app: serve it, or mount it in another app
```
Only the event classes in the list are published. `docs/api.md` describes the API as clients see it.
"""

from .api import events_api
from .catalogue import PublishedEvent

__all__ = ["PublishedEvent", "events_api"]
