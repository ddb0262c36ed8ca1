"""Lookups of commits by their trace, and by the events that caused them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol, Self, runtime_checkable

from ..errors import InvalidStreamId, StoredDataError
from ..log import log
from ..store import MAX_VERSION, Commit, EventId
from ..stream_id import check_stream
from ..trace_context import check_text, trace_id_of
from .feed import Batch, Damaged

_VERSION = re.compile(r"[1-9][0-9]{0,15}")


@runtime_checkable
class Lookup(Protocol):
    """A store that finds the commits of a trace, and those that an event has caused.

    Memory use is constant: a page is held at a time. Both raise StoreClosed and StoreError as other reads do, and a
    StoredDataError for a stored row that cannot be read as a commit: at the end, after all others were yielded.
    """

    def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        """Yield the commits with this correlation id, by position or time.

        A commit without a correlation id starts a trace, whose id is its identity: `account-a-1@7`. It is yielded too.
        An empty correlation id counts as none, so nothing is found by it.
        """
        ...

    def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        """Yield the commits that were caused by an event, `account-a-1@7.0`, by position or time.

        - The identity of a commit, `account-a-1@7`, stands for each of its events.
        - Any other text is a cause that was given as `causation_id`.
        - `correlation_id` is that of the trace to search. Give it if you know it: some stores must otherwise read it.
        """
        ...


class Cause(NamedTuple):
    """A causation id to look up: that of an event, any other text, or the identity of a commit for all its events."""

    text: str
    is_commit: bool = False

    @property
    def prefix(self) -> tuple[str, str]:
        """The range of texts in which the ids of the commit's events are: from the first one up to the second one."""
        return f"{self.text}.", f"{self.text}/"  # "/" is next to "."

    @classmethod
    def of(cls, cause: EventId | str) -> Self:
        """Return the cause of an event id, of the identity of a commit, or of another text. Raises as check_text."""
        text = str(cause) if isinstance(cause, EventId) else cause
        check_text("a cause", text)
        return cls(text, parse_identity(text) is not None)

    def is_of(self, commit: Commit) -> bool:
        """Whether the commit was caused by it."""
        if not self.is_commit:
            return self.text in commit.causation_ids
        return any(each == self.text or identity_of(each) == self.text for each in commit.causation_ids)


def parse_identity(text: str) -> tuple[str, int] | None:
    """Return stream and version of the identity of a commit, `account-a-1@7`; None if the text is not one."""
    stream, _, version = text.rpartition("@")
    if not _VERSION.fullmatch(version) or int(version) > MAX_VERSION:
        return None
    try:
        check_stream(stream)
    except InvalidStreamId:
        return None
    return stream, int(version)


def identity_of(cause: str) -> str:
    """Return the identity of the commit of an event id; a text that is not an event id is returned as it is."""
    try:
        event = EventId.parse(cause)
    except ValueError:
        return cause
    return f"{event.stream}@{event.version}"


Page = tuple[Sequence[Commit | Damaged], bool]


class MemoryLookup:
    """A lookup in dictionaries of all commits, which it brings up to date by itself before each lookup.

    `commits_after` is that of an OrderedStore.
    """

    def __init__(self, commits_after: Callable[[int], Awaitable[Page]]) -> None:
        self._commits_after = commits_after
        self._position = 0
        self._traces: dict[str, list[Commit]] = {}
        self._effects: dict[str, list[Commit]] = {}  # by the identity of the cause's commit

    async def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        check_text("correlation_id", correlation_id)
        await self._catch_up()
        for commit in self._traces.get(correlation_id, [])[:]:
            yield commit

    async def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        wanted = Cause.of(cause)
        await self._catch_up()
        for commit in self._effects.get(identity_of(wanted.text), [])[:]:
            if wanted.is_of(commit):
                yield commit

    async def _catch_up(self) -> None:
        complete = False
        while not complete:
            rows, complete = await self._commits_after(self._position)
            for row in rows:
                if isinstance(row, Commit) and (row.position or 0) > self._position:  # else another lookup was first
                    self._add(row)

    def _add(self, commit: Commit) -> None:
        self._position = commit.position or 0
        self._traces.setdefault(trace_id_of(commit), []).append(commit)
        for identity in dict.fromkeys(map(identity_of, commit.causation_ids)):
            self._effects.setdefault(identity, []).append(commit)


class Searched(NamedTuple):
    """All commits, as a lookup without an index reads them. If they are not `ordered`, what is found is sorted."""

    batches: AsyncGenerator[Batch]
    cost: str  # what it reads
    ordered: bool


class SearchingLookup:
    """A lookup that reads the whole store, and logs a warning that says so."""

    def __init__(self, read_all: Callable[[], Awaitable[Searched]]) -> None:
        self._read_all = read_all

    async def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        check_text("correlation_id", correlation_id)
        async with aclosing(self._search(lambda commit: trace_id_of(commit) == correlation_id)) as found:
            async for commit in found:
                yield commit

    async def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        async with aclosing(self._search(Cause.of(cause).is_of)) as found:
            async for commit in found:
                yield commit

    async def _search(self, is_wanted: Callable[[Commit], bool]) -> AsyncGenerator[Commit]:
        batches, cost, ordered = await self._read_all()
        log.warning("a lookup of causes reads %s", cost)
        error: StoredDataError | None = None
        unordered: list[Commit] = []
        async with aclosing(batches):
            async for batch in batches:
                found = filter(is_wanted, batch.commits)
                if ordered:
                    for commit in found:
                        yield commit
                else:
                    unordered += found
                if batch.damaged and error is None:
                    error = batch.damaged[0].error
        for commit in sorted(unordered, key=lambda commit: (commit.time, commit.stream, commit.version)):
            yield commit
        if error is not None:
            raise error
