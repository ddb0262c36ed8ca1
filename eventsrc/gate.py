"""The version gate: each commit of a stream once and in order, whatever a transport repeats, reorders or drops.

Transports give hints that something happened. DynamoDB Streams orders the changes of one item only, and each commit is
an item of its own; Kinesis, Lambda and a scan repeat and reorder as they like. One integer a stream makes all of them
exact: the version that was handled last.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from .errors import StreamCorrupt
from .gaps import contiguous
from .store import Commit, Store


class Gate:
    """`seen` holds, for each stream, the version that was handled last; it begins with what was handled before.

    One task at a time per stream: ask what is `due`, handle it, say `handled`. Gates share nothing, so each processor
    has its own.
    """

    def __init__(self, store: Store, seen: MutableMapping[str, int]) -> None:
        self._store, self._seen = store, seen

    async def due(self, hint: Commit) -> Sequence[Commit]:
        """What is to be handled now, in order, so that this commit is handled too: nothing if it has been already, and
        before it what the transport has not told yet, read from the store.

        Raises StreamCorrupt if the store misses a version, and what its reads raise.
        """
        seen = self._seen.get(hint.stream, 0)
        if hint.version == seen + 1:
            return (hint,)
        if hint.version <= seen:
            return ()
        missing = [commit async for commit in contiguous(self._store, hint.stream, seen, hint.version - 1)]
        if seen + len(missing) + 1 != hint.version:  # it was there before the hint was written
            raise StreamCorrupt(hint.stream, seen + len(missing) + 1)
        return (*missing, hint)

    def handled(self, commit: Commit) -> None:
        """The commit has had its effect; later ones may follow."""
        self._seen[commit.stream] = commit.version
