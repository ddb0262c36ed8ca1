"""The version gate: each commit of a stream once and in order, even if a transport repeats, reorders or drops commits.

Commits from such transports are hints that something happened. DynamoDB Streams orders only the changes of one item,
and each commit is an item of its own. Kinesis, Lambda and a scan may repeat and reorder. The gate keeps one integer for
each stream, the last handled version, and reads missing commits from the store.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from ..errors import StreamCorrupt
from ..store import MAX_VERSION, Commit, Store
from .reading import read_without_gaps


class TooManyMissing(Exception):
    """More commits are missing before a hint than the gate may read at once."""


class Gate:
    """Decides which commits to handle, given hints from a transport.

    `seen` maps each stream to its last handled version. Pass the versions that were handled earlier.

    - Use one task at a time for each stream: call `due`, handle the commits, and call `handled` for each.
    - Gates share nothing. Give each processor its own.
    - If more than `most` commits are missing before a hint, `due` raises TooManyMissing and reads nothing.
    """

    def __init__(self, store: Store, seen: MutableMapping[str, int], *, most: int = MAX_VERSION) -> None:
        self._store, self._seen, self._most = store, seen, most

    async def due(self, *hints: Commit, after: int | None = None) -> Sequence[Commit]:
        """Return the commits to handle now, in order, up to the newest of these hints, which are of one stream.

        With `after`, that is the last handled version, and `seen` is not looked at.

        Commits that were handled already are left out. Commits that the transport has not delivered are read from the
        store. Raises StreamCorrupt if a version is missing in the store, and the errors of `Store.read`.
        """
        last = self._seen.get(hints[0].stream, 0) if after is None else after
        due: list[Commit] = []
        for hint in hints if len(hints) == 1 else sorted(hints, key=_version):
            if hint.version <= last:
                continue
            if hint.version > last + 1:
                due += await self._missing(hint, last)
            due.append(hint)
            last = hint.version
        return due

    async def _missing(self, hint: Commit, seen: int) -> Sequence[Commit]:
        """Return the commits after `seen` and before the hint. They were stored before the hint was."""
        if (count := hint.version - seen - 1) > self._most:
            raise TooManyMissing(hint.stream)
        missing = [commit async for commit in read_without_gaps(self._store, hint.stream, seen, hint.version - 1)]
        if len(missing) != count:
            raise StreamCorrupt(hint.stream, seen + len(missing) + 1)
        return missing

    def handled(self, commit: Commit) -> None:
        """Note that this commit was handled."""
        self._seen[commit.stream] = commit.version


def _version(commit: Commit) -> int:
    return commit.version
