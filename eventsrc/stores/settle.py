"""The outcome of an append whose version is taken."""

from __future__ import annotations

from ..errors import ConflictError
from ..store import Commit, Receipt
from ..usage import Usage


def settle(commit: Commit, standing: Commit, used: Usage) -> Receipt:
    """Return the receipt if `standing`, the commit found at its version, has the same id. Add the outcome to `used`.

    Raises ConflictError if it is another commit.
    """
    if standing.id != commit.id:
        used.conflicts = 1
        raise ConflictError(commit.stream, commit.version - 1, standing.version, standing)
    used.bytes_written = commit.size
    return Receipt(commit.stream, commit.version, commit.id, commit.events, standing.position, usage=used)
