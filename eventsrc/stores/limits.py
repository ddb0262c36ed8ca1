"""Limits of commits, the same in every store. The size limit is that of one DynamoDB item."""

from __future__ import annotations

from ..errors import CommitTooLarge
from ..store import MAX_TIME, MAX_VERSION, OVERHEAD, Commit

MAX_COMMIT_BYTES = 409_600
"""The limit of a DynamoDB item, including attribute names. It is the default in other stores too, so that a commit that
one store accepts is accepted by all."""


ID_BYTES = 16


def check_commit(commit: Commit, limit: int = MAX_COMMIT_BYTES) -> None:
    """Raise CommitTooLarge beyond `limit` bytes, and ValueError for an invalid version, id or time."""
    if (size := item_size(commit)) > limit:
        raise CommitTooLarge(commit.stream, size, limit)
    check_version(commit.version)
    check_id_and_time(commit.id, commit.time)


def check_id_and_time(id: bytes, time: int) -> None:
    """Raise ValueError unless these can be a commit's id and time."""
    if len(id) != ID_BYTES:
        raise ValueError(f"a commit id has {len(id)} bytes; it must have {ID_BYTES}")
    if not 0 <= time <= MAX_TIME:
        raise ValueError(f"{time} is not a commit time; it must be in microseconds since 1970, up to the year 9892")


def check_version(version: object) -> None:
    """Raise TypeError or ValueError unless a commit can have this version."""
    if type(version) is not int:
        raise TypeError(f"a version must be an int, not {type(version).__name__}")
    if not 0 < version <= MAX_VERSION:
        raise ValueError(f"{version} is not a version; versions run from 1 to {MAX_VERSION}")


def item_size(commit: Commit) -> int:
    """Return the bytes of the commit as a DynamoDB item, names and the keys PK and SK included. Numbers are rounded up.

    Source: "DynamoDB item sizes and formats" in the Amazon DynamoDB Developer Guide.
    """
    texts = [*commit.tags, *commit.causation_ids, *commit.metadata, *commit.metadata.values()]
    texts += [text for text in (commit.correlation_id, commit.command_id) if text is not None]
    return OVERHEAD + len(commit.stream.encode()) + len(commit.payload) + sum(len(text.encode()) + 2 for text in texts)


def check_deadline(deadline: float) -> None:
    """Raise ValueError unless this can be a deadline in seconds."""
    if not 0 < deadline <= 86_400:
        raise ValueError(f"deadline is {deadline}; it must be in seconds, above 0 and up to 86,400 (a day)")
