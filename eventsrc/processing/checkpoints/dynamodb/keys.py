"""The keys of the items of checkpoints."""

from __future__ import annotations

from hashlib import sha256
from zlib import crc32

PROCESSORS, WORKERS, ACTIVE = "@processors", "@workers", "@active"  # partition keys
ATTRIBUTES = {
    *("registration", "version", "id", "time", "epoch", "stream"),
    *("slot", "token", "stamp", "parked", "skipped", "beats", "least"),
}
"""The names of all attributes."""

_PARTITIONS = 64  # for the positions of a processor: a partition accepts 1,000 writes a second
START = "|start"  # a sort key that is neither a stream nor a hash
_MAX_SORT_KEY = 900  # bytes of a stream id that is used as a sort key, which holds 1,024


def slots_partition(processor: str) -> str:
    return f"@{processor}"


def position_partitions(processor: str) -> list[str]:
    return [f"@{processor}/{each}" for each in range(_PARTITIONS)]


def parked_partition(processor: str) -> str:
    return f"@{processor}/parked"


def skipped_partition(processor: str) -> str:
    return f"@{processor}/skipped"


def position_key(processor: str, stream: str) -> tuple[str, str]:
    """Return the partition and the sort key of a position."""
    return f"@{processor}/{crc32(stream.encode()) % _PARTITIONS}", to_sort_key(stream)


def to_sort_key(stream: str) -> str:
    """Return the sort key for a stream: the stream, or its hash if it is too long. Streams do not contain '|'."""
    encoded = stream.encode()
    return stream if len(encoded) <= _MAX_SORT_KEY else f"|{sha256(encoded).hexdigest()}"
