"""Create checkpoints from a URL."""

from __future__ import annotations

from ...stores.url import parse_url
from .checkpoints import Checkpoints


def open_checkpoints(url: str) -> Checkpoints:
    """Return the checkpoints of a URL, not yet open. Use it as `async with open_checkpoints(url) as checkpoints:`.

    - `memory://`
    - `sqlite:///relative.db` or `sqlite:////absolute.db`: the path starts after the third slash.
    - `dynamodb://table?region=…&endpoint=…&plain_http=true`: all options may be left out.

    Raises ValueError for any other URL. The message names the wrong part.
    """
    address = parse_url(url)
    if address.scheme == "memory":
        from .memory import MemoryCheckpoints

        return MemoryCheckpoints()
    if address.scheme == "sqlite":
        from .sqlite.checkpoints import SQLiteCheckpoints

        return SQLiteCheckpoints(address.place)
    from .dynamodb.checkpoints import DynamoDBCheckpoints

    return DynamoDBCheckpoints(address.place, **address.connection)  # type: ignore[arg-type]  # parse_url has checked the names
