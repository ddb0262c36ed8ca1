"""The version gate: each commit of a stream once and in order, whatever a transport repeats, reorders or drops.

Transports give hints that something happened. DynamoDB Streams orders the changes of one item only, and each commit is
an item of its own; Kinesis, Lambda and a scan repeat and reorder as they like. One integer a stream makes all of them
exact: the version that was handled last.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from ..errors import StreamCorrupt
from ..store import MAX_VERSION, Commit, Store
from .reading import read_without_gaps


class FarBehind(Exception):
    """More commits are missing than are to be read at once."""


class Gate:
    """`seen` holds, for each stream, the version that was handled last; it begins with what was handled before.

    One task at a time per stream: ask what is `due`, handle it, say `handled`. Gates share nothing, so each processor
    has its own. Where more than `most` commits are missing before a hint, `due` raises FarBehind and reads none.
    """

    def __init__(self, store: Store, seen: MutableMapping[str, int], *, most: int = MAX_VERSION) -> None:
        self._store, self._seen, self._most = store, seen, most

    async def due(self, *hints: Commit) -> Sequence[Commit]:
        """What is to be handled now, in order, so that these commits of one stream are handled too: nothing if they
        have been already, and between them what the transport has not told yet, read from the store.

        Raises StreamCorrupt if the store misses a version, and what its reads raise.
        """
        reached = self._seen.get(hints[0].stream, 0)
        due: list[Commit] = []
        for hint in hints if len(hints) == 1 else sorted(hints, key=_version):
            if hint.version <= reached:
                continue
            if hint.version > reached + 1:
                due += await self._missing(hint, reached)
            due.append(hint)
            reached = hint.version
        return due

    async def _missing(self, hint: Commit, seen: int) -> Sequence[Commit]:
        """What is before the hint; it was there before the hint was written."""
        if (count := hint.version - seen - 1) > self._most:
            raise FarBehind(hint.stream)
        missing = [commit async for commit in read_without_gaps(self._store, hint.stream, seen, hint.version - 1)]
        if len(missing) != count:
            raise StreamCorrupt(hint.stream, seen + len(missing) + 1)
        return missing

    def handled(self, commit: Commit) -> None:
        """The commit has had its effect; later ones may follow."""
        self._seen[commit.stream] = commit.version


def _version(commit: Commit) -> int:
    return commit.version
