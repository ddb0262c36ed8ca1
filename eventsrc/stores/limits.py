"""How large a commit may be: what one item of DynamoDB holds, in every store."""

from __future__ import annotations

from ..errors import CommitTooLarge
from ..store import MAX_VERSION, OVERHEAD, Commit

MAX_COMMIT_BYTES = 409_600
"""An item of DynamoDB holds this much, attribute names counted. Other stores keep to it unless told otherwise, so
that what works on one works on all."""


def check_commit(commit: Commit, limit: int = MAX_COMMIT_BYTES) -> None:
    """Raise CommitTooLarge beyond `limit` bytes, and ValueError for a version that no stream can have."""
    if (size := item_size(commit)) > limit:
        raise CommitTooLarge(commit.stream, size, limit)
    check_version(commit.version)
    check_stored(commit.id, commit.time)


def check_stored(id: bytes, time: int) -> None:
    """Raise ValueError unless these can be a commit's id and time."""
    if len(id) != 16:
        raise ValueError(f"a commit id has 16 bytes, not {len(id)}")
    if not 0 <= time < 250_000_000_000_000_000:  # the year 9892, which datetime still knows
        raise ValueError(f"{time} is no time in microseconds since 1970")


def check_version(version: object) -> None:
    """Raise TypeError or ValueError unless a commit can stand there."""
    if type(version) is not int:
        raise TypeError(f"a version is an int, not {type(version).__name__}")
    if not 0 < version <= MAX_VERSION:
        raise ValueError(f"{version} is no version; they run from 1 to {MAX_VERSION}")


def item_size(commit: Commit) -> int:
    """Bytes of the commit as an item of DynamoDB, names and all, keys called PK and SK; numbers rounded up.

    Source: "DynamoDB item sizes and formats" in the Amazon DynamoDB Developer Guide.
    """
    texts = [*commit.tags, *commit.causation_ids, *commit.metadata, *commit.metadata.values()]
    texts += [text for text in (commit.correlation_id, commit.command_id) if text is not None]
    return OVERHEAD + len(commit.stream.encode()) + len(commit.payload) + sum(len(text.encode()) + 2 for text in texts)


def check_deadline(deadline: float) -> None:
    """Raise ValueError unless a call can end within so many seconds."""
    if not 0 < deadline <= 86_400:
        raise ValueError(f"deadline is {deadline}; it is a time in seconds, above 0 and up to a day")
