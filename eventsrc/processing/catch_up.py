"""Catching up: streams that are handled from the store to their end, and not from the feed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from ..concurrency import cancel_all
from ..errors import StoredDataError, StreamCorrupt
from ..store import Commit, Store
from ..stores.reading import read_without_gaps
from .applying import Applier
from .assignment import Assignment
from .checkpoints.checkpoints import Parked
from .following import Following
from .positions import Positions
from .slice import HandlerFailed, PositionMoved, Slice

MAX_ASIDE = 1_000  # streams; with more of them, reading the feed waits

_PAGE = 100  # commits that are read and handled at a time


class Entry:
    """A stream that is not handled from the feed, because a task handles it from the store."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.latest = 0  # the newest version that the feed has delivered
        self.stored: Parked | None = None  # what the checkpoints hold for the stream
        self.writing = asyncio.Lock()  # held while `stored` changes: an older state is never written over a newer one
        self.since = asyncio.get_running_loop().time()
        self.failed: HandlerFailed | None = None  # in the last of `failures` attempts at the commit after `at`
        self.failures = 0
        self.at: int | None = None
        self.confirm: Callable[[], Awaitable[None]] | None = None  # instead of a check of the slot
        self.released: asyncio.Event | None = None  # set when the call of `retry` that handles the stream has ended
        self.is_suspended = False  # without a task, until it is stored
        self.at_risk = False  # processes may have ended while they handled this stream
        self.first: asyncio.Task[None] | None = None  # a slow slice from the feed, which comes first
        self.task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()  # ends a pause between two attempts


class CatchUp:
    """Handles streams from their positions to their ends. The feed leaves `entries` alone."""

    def __init__(
        self, store: Store, assignment: Assignment, positions: Positions, applier: Applier, following: Following
    ) -> None:
        self._store, self._assignment, self._positions = store, assignment, positions
        self._applier, self._following = applier, following
        self.entries: dict[str, Entry] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more streams may be aside."""
        return len(self.entries) >= MAX_ASIDE

    def enter(self, stream: str, latest: int = 0) -> Entry:
        """Leave a stream, from now on, to the task of this entry, which ends with `leave`."""
        entry = self.entries[stream] = Entry(stream)
        entry.latest = latest
        return entry

    def leave(self, entry: Entry) -> None:
        """Handle a stream from the feed again. Call it in the same step of the loop in which `run` returned."""
        if self.entries.get(entry.stream) is entry:
            del self.entries[entry.stream]

    def note_newer(self, stream: str, version: int) -> bool:
        """Note that the feed has delivered a version. Return False if the stream is handled from the feed."""
        if (entry := self.entries.get(stream)) is None:
            return False
        entry.latest = max(entry.latest, version)
        return True

    async def run(self, entry: Entry, page: int = _PAGE) -> bool:
        """Handle a stream from its position to its end, at least up to what the feed has delivered, and return True.

        - In a rebuild, end where the followed version has ended, and return False if there are commits after that.
        - With a `page` of fewer commits than usual, handle only as many, and return False if there are more.

        Raises:
            HandlerFailed: a handler failed, or a commit is damaged or missing.
            Interrupted: the slot is being given up.
            Fenced, StoreError: call it again, if it is worth it.
        """
        stream = entry.stream
        if (first := entry.first) is not None:
            entry.first = None
            try:
                with suppress(PositionMoved):
                    await first
            finally:
                await cancel_all([first])
        while True:
            latest = entry.latest
            known = await self._positions.read(stream)
            position = known.version
            await self._positions.check_stored({stream: known})
            commits = await self._page(stream, position, page)
            if not commits and position < latest:
                raise HandlerFailed(StreamCorrupt(stream, position + 1))  # the feed has delivered a later version
            if not commits:
                if entry.latest <= position:
                    return True
                continue
            run = await self.slice(stream, commits, known.is_first, entry.confirm)
            if entry.failures and position == entry.at:
                run = run._replace(attempt=entry.failures + 1)
            parts = await self._following.split([run])
            for part in parts:
                with suppress(PositionMoved):
                    await self._applier.apply_one(part)
            if not parts or parts[0].last_version < run.last_version or page < _PAGE:
                return False

    def is_calling(self, stream: str) -> bool:
        """Whether a handler is working on this stream."""
        return stream in self._applier.calling

    async def position(self, stream: str) -> int:
        """Read the position of a stream again, and return its version."""
        return (await self._positions.read(stream)).version

    async def has_more(self, stream: str) -> bool:
        """Whether there are commits after the position of a stream."""
        return bool(await self._page(stream, (await self._positions.read(stream)).version))

    async def slice(
        self,
        stream: str,
        commits: Sequence[Commit],
        is_first: bool,
        confirm_entry: Callable[[], Awaitable[None]] | None = None,
    ) -> Slice:
        """Return the slice of these commits, which follow the position of the stream."""
        fence = await self._assignment.fence_of(stream)

        async def confirm() -> None:
            await (confirm_entry() if confirm_entry is not None else self._assignment.confirm(fence.slot))

        return Slice(stream, commits[0].version - 1, commits, fence, is_first=is_first, confirm=confirm)

    async def _page(self, stream: str, position: int, size: int = _PAGE) -> Sequence[Commit]:
        """Read the next commits; if one of them is damaged, only the next one, to handle all before the damaged one."""
        damaged: StoredDataError | None = None
        for count in (size, 1):
            try:
                page = [c async for c in read_without_gaps(self._store, stream, position, position + count)]
            except StoredDataError as error:
                damaged = error
            else:
                if page or damaged is None:
                    return page
        assert damaged is not None
        raise HandlerFailed(damaged) from damaged
