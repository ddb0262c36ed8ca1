"""Reading a stream without gaps: a version that is missing is read again, and then it is an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..errors import StreamCorrupt
from ..store import MAX_VERSION, Commit, Store


def check_contiguous(stream: str, version: int, commits: Sequence[Commit]) -> None:
    """Raise StreamCorrupt unless these follow `version` without a gap. Stores give each version once, in order, so
    first and last tell."""
    if commits and commits[-1].version != version + len(commits):
        missing = next(expected for expected, commit in enumerate(commits, version + 1) if commit.version != expected)
        raise StreamCorrupt(stream, missing)


async def read_without_gaps(
    store: Store, stream: str, after: int = 0, until: int = MAX_VERSION
) -> AsyncGenerator[Commit]:
    """The commits behind `after`, oldest first. Raises StreamCorrupt.

    A version may be missing in a page because its writer was quicker than the page, so it is read again once.
    """
    looked_again_at = None
    while True:
        async with aclosing(store.read(stream, after=after, until=until)) as commits:
            async for commit in commits:
                if commit.version != after + 1:
                    break
                after = commit.version
                yield commit
            else:
                return
        if looked_again_at == after:
            raise StreamCorrupt(stream, after + 1)
        looked_again_at = after


async def read_backward_without_gaps(store: Store, stream: str, after: int = 0) -> AsyncGenerator[Commit]:
    """The commits behind `after`, newest first. Raises StreamCorrupt.

    Who reads downwards and sees n+1 sees n too, because n was written before: a gap is no race here.
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
