"""Read a stream without gaps: a missing version is read again once, and then raises StreamCorrupt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..errors import StreamCorrupt, WrongStore
from ..store import MAX_VERSION, Commit, Store


def check_contiguous(stream: str, version: int, commits: Sequence[Commit]) -> None:
    """Raise StreamCorrupt unless these commits follow `version` without a gap.

    Stores return each version once and in order, so comparing the last version and the count is enough.
    """
    if commits and commits[-1].version != version + len(commits):
        missing = next(expected for expected, commit in enumerate(commits, version + 1) if commit.version != expected)
        raise StreamCorrupt(stream, missing)


async def read_without_gaps(
    store: Store, stream: str, after: int = 0, until: int = MAX_VERSION
) -> AsyncGenerator[Commit]:
    """Yield the commits after version `after`, oldest first. Raises StreamCorrupt.

    A version may be missing in a page that was read while it was written, so a gap is read again once.
    """
    read_again_at = None
    while True:
        async with aclosing(store.read(stream, after=after, until=until)) as commits:
            async for commit in commits:
                if commit.version != after + 1:
                    break
                after = commit.version
                yield commit
            else:
                return
        if read_again_at == after:
            raise StreamCorrupt(stream, after + 1)
        read_again_at = after


async def check_commit(store: Store, stream: str, version: int, id: bytes) -> None:
    """Raise WrongStore unless the commit with this id is in the store."""
    async with aclosing(store.read(stream, after=version - 1, until=version)) as commits:
        async for commit in commits:
            if commit.id == id:
                return
    raise WrongStore(stream, version)


async def read_backward_without_gaps(store: Store, stream: str, after: int = 0) -> AsyncGenerator[Commit]:
    """Yield the commits after version `after`, newest first. Raises StreamCorrupt.

    Version n is written before n+1, so a read that goes downwards from n+1 sees n. A gap is therefore never a race.
    """
    expected = None
    async with aclosing(store.read(stream, after=after, backward=True)) as commits:
        async for commit in commits:
            if expected is not None and commit.version != expected:
                raise StreamCorrupt(stream, expected)
            expected = commit.version - 1
            yield commit
    if expected is not None and expected > after:
        raise StreamCorrupt(stream, expected)
