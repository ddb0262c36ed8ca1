"""Stores that number all their commits in one order, and therefore have a feed."""

from __future__ import annotations

import asyncio
import re
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from functools import partial
from typing import TypeGuard

from ..errors import FeedTrimmed
from ..store import Commit, EventId
from .causes import Lookup, Searched, SearchingLookup
from .feed import Batch, Damaged, Head, select
from .lifecycle import ManagedStore

PAGE = 1_000  # commits
MAX_POSITION = 2**63 - 1
_CHECKPOINT = re.compile(r"(?a:(\d{1,19})(?:\.([0-9a-f]{16}))?)")
_ADVICE = "call `await processor.forget()` and run again; do not resume with an empty checkpoint"


class OrderedStore(ManagedStore):
    """A store that numbers its commits in the order in which they become visible.

    Its checkpoints are texts such as `7.8f3a5c0d9e1b2f46`: a position, and the last 8 bytes of the id of the commit at
    that position, by which a feed notices that the store was restored, or is another one. A position alone, as `7`, is
    a checkpoint, too, of which only the number is checked.

    A commit stored through this object wakes the feeds that follow it. With `poll`, in seconds, they are also woken to
    look for commits that other processes have stored; override `watch` if the store can find out for less.
    """

    ordered = True
    poll: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self._followers: set[asyncio.Event] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._lookup: Lookup = SearchingLookup(partial(_read_all, self))

    @abstractmethod
    async def identity(self) -> str:
        """Return a text that names this store for ever, as `Feed.identity`."""

    @abstractmethod
    async def commits_after(self, position: int) -> tuple[Sequence[Commit | Damaged], bool]:
        """Return up to PAGE commits of all streams after a position, in order, and whether there are no more.

        A `Damaged`, with its position, stands for a row that cannot be read as a commit.
        """

    @abstractmethod
    async def last_position(self) -> int:
        """Return the last position in use. Positions have no gaps unless streams were deleted."""

    @abstractmethod
    async def heads_after(self, after: str) -> Sequence[Head]:
        """Return up to PAGE streams after this one, in the order of their UTF-8 bytes."""

    async def commits_of(self, position: int, categories: Collection[str]) -> tuple[Sequence[Commit | Damaged], bool]:
        """Return as `commits_after`; other categories than these may be left out, but not the last row that was read.

        Override it if the store can find commits of a category without reading the others.
        """
        return await self.commits_after(position)

    async def commit_id_at(self, position: int) -> bytes | None:
        """Return the id of the commit at a position, or None if there is none.

        Override it to read one row: this reads a page.
        """
        rows, _ = await self.commits_after(position - 1)
        return next((row.id for row in rows[:1] if isinstance(row, Commit) and row.position == position), None)

    async def clock(self) -> int:
        """Return the time of this machine, in µs since the epoch."""
        return time.time_ns() // 1000

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        """Yield commits as `Feed.feed` does.

        Raises:
            FeedTrimmed: the checkpoint is ahead of the store, or the commit at the checkpoint is another one. A commit
                that is missing there is accepted, because its stream may have been deleted. A store that is restored
                while it is followed is noticed when it is written again past the commits that were read.
        """
        position, anchor = _parse_checkpoint(after)
        checkpoint, caught_up = _to_checkpoint(position, anchor), False
        if position:
            await _check(self, position, anchor)
        end = MAX_POSITION if follow else await self.last_position()  # writers may never stop
        grown = asyncio.Event()
        try:
            if follow:
                self._followers.add(grown)
                self.watch(following=True)
            while True:
                grown.clear()
                rows, complete = await _read_page(self, position, anchor, categories)
                commits, damaged = separate(rows)
                batch = select(Batch(commits, checkpoint, caught_up, damaged), categories)
                if batch.damaged and not report_damaged:
                    if commits := [each for each in batch.commits if _position(each) < _position(batch.damaged[0])]:
                        yield Batch(commits, _checkpoint_after(commits[-1]), caught_up=False)
                    raise batch.damaged[0].error
                if rows:
                    position, anchor = _position(rows[-1]), _anchor_of(rows[-1])
                    checkpoint = _checkpoint_after(rows[-1])
                if rows or not caught_up:
                    caught_up = complete or position >= end
                    yield batch._replace(checkpoint=checkpoint, caught_up=caught_up)
                if caught_up and not follow:
                    return
                if caught_up:
                    await grown.wait()
        finally:
            self._followers.discard(grown)
            if follow and not self._followers:
                self.watch(following=False)

    async def end(self) -> str:
        position = await self.last_position()
        return _to_checkpoint(position, _anchor(await self.commit_id_at(position)) if position else "")

    def earliest(self, checkpoints: Iterable[str]) -> str:
        found = [_parse_checkpoint(each) for each in checkpoints]
        position, anchor = min(found, key=lambda each: (each[0], not each[1]), default=(0, ""))
        return _to_checkpoint(position, anchor) if position else ""

    async def remaining(self, after: str) -> int:
        return max(0, await self.last_position() - position_of(after))

    async def behind(self, after: str) -> float:
        rows, _ = await self.commits_after(position_of(after))
        commit = next((row for row in rows if isinstance(row, Commit)), None)
        return max(0.0, (time.time_ns() // 1000 - commit.time) / 1e6) if commit is not None else 0.0

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while heads := await self.heads_after(after):
            yield heads
            after = heads[-1].stream

    def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        """Yield the commits of a trace, as `Lookup.correlated`.

        This one reads the whole store, and logs a warning. Override it if the store has an index.
        """
        return self._lookup.correlated(correlation_id)

    def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        """Yield the commits that an event has caused, as `Lookup.effects_of`.

        This one reads the whole store, and logs a warning. Override it if the store has an index.
        """
        return self._lookup.effects_of(cause, correlation_id=correlation_id)

    def notify(self) -> None:
        """Wake the feeds that follow this store."""
        for grown in self._followers:
            grown.set()

    def watch(self, *, following: bool) -> None:
        """Look for commits of other processes while feeds follow this store; call `notify` if there may be some.

        Called when a feed begins to follow, with True, and when the last one has ended, with False. This one wakes the
        feeds each `poll` seconds. Override it if the store can find out for less.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if following and self.poll is not None:
            self._timer = asyncio.get_running_loop().call_later(self.poll, self._look)

    def _look(self) -> None:
        self.notify()
        self.watch(following=True)

    async def aclose(self) -> None:
        self._closing = True
        self.notify()  # they raise StoreClosed
        await super().aclose()


async def _read_page(
    store: OrderedStore, position: int, anchor: str, categories: Collection[str]
) -> tuple[Sequence[Commit | Damaged], bool]:
    """Return a page of what follows a checkpoint, and whether it is the last one.

    Raises FeedTrimmed if there is more, but of another history: the store may be restored while it is followed.
    """
    if categories:
        rows, complete = await store.commits_of(position, categories)
    else:  # with the commit at the checkpoint, which costs less than another call
        rows, complete = await store.commits_after(max(0, position - 1))
        if position and rows and rows[0].position == position:
            first, rows = rows[0], rows[1:]
            if isinstance(first, Commit) and anchor == _anchor(first.id):
                return rows, complete
    if rows and position:
        await _check(store, position, anchor)
    return rows, complete


async def _check(store: OrderedStore, position: int, anchor: str) -> None:
    """Raise FeedTrimmed unless a checkpoint is of the history that this store has."""
    if anchor and (id := await store.commit_id_at(position)) is not None:
        if _anchor(id) == anchor:
            return
        raise FeedTrimmed(
            f"the commit at the checkpoint, position {position}, is another one: the store was restored, or is "
            "another one",
            _ADVICE,
        )
    if position > (last := await store.last_position()):
        raise FeedTrimmed(
            f"checkpoint {position} is ahead of the last commit, {last}: the store was restored, or is another one",
            _ADVICE,
        )


async def _read_all(store: OrderedStore) -> Searched:
    cost = f"all {await store.last_position():,} commits of the store, which has no index for it"
    return Searched(store.feed(follow=False, report_damaged=True), cost, ordered=True)


def position_of(checkpoint: str) -> int:
    """Return the position of a checkpoint of an ordered store; 0 for an empty text. Raises ValueError."""
    return _parse_checkpoint(checkpoint)[0]


def _parse_checkpoint(checkpoint: str) -> tuple[int, str]:
    """Return the position, and the anchor or an empty text."""
    given: object = checkpoint
    if given and not isinstance(given, str):
        raise TypeError(f"a checkpoint is a str, not {type(given).__name__}; use one of a batch, or '' for the start")
    if not checkpoint:
        return 0, ""
    parts = _CHECKPOINT.fullmatch(checkpoint)
    if parts is None or (position := int(parts[1])) > MAX_POSITION:
        raise ValueError(f"{checkpoint!r} is not a checkpoint of this store; use one of a batch, or '' for the start")
    return position, parts[2] or ""


def _to_checkpoint(position: int, anchor: str) -> str:
    return f"{position}.{anchor}" if anchor else str(position)


def _checkpoint_after(row: Commit | Damaged) -> str:
    return _to_checkpoint(_position(row), _anchor_of(row))


def _anchor_of(row: Commit | Damaged) -> str:
    return _anchor(row.id) if isinstance(row, Commit) else ""


def _anchor(id: bytes | None) -> str:
    """Return the part of a commit's id that is random in full."""
    return id[8:].hex() if id is not None else ""


def _position(row: Commit | Damaged) -> int:
    assert row.position is not None
    return row.position


def separate(rows: Sequence[Commit | Damaged]) -> tuple[Sequence[Commit], Sequence[Damaged]]:
    if _are_commits(rows):
        return rows, ()
    return [row for row in rows if isinstance(row, Commit)], [row for row in rows if isinstance(row, Damaged)]


def _are_commits(rows: Sequence[Commit | Damaged]) -> TypeGuard[Sequence[Commit]]:
    return Damaged not in map(type, rows)
