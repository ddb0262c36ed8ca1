"""The contract of projections detects kinds that break a promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.logs import memory_bench, sqlite_bench

from eventsrc import Commit, EventIndex, Fenced, Store, StoredDataError
from eventsrc.processing import (
    Checkpoints,
    Context,
    Failure,
    Fence,
    Guarantee,
    HandlerFailed,
    MemoryCheckpoints,
    Position,
    PositionMoved,
    Projection,
    Slice,
)
from eventsrc.testing.contract import check as checks
from eventsrc.testing.contract.projections import (
    CONTRACT,
    Bench,
    Capability,
    Check,
    Happened,
    check_projection,
    interfere,
)

Rows = list[tuple[str, str]]  # stream and event


class Tables(MemoryCheckpoints):
    """Checkpoints, with tables of read models next to them. A method without `await` is a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Rows] = {}  # by table

    def move(self, processor: str, run: Slice) -> None:
        """Move the position to the end of a slice, wherever it is."""
        self._positions.setdefault(processor, {})[run.stream] = run.position

    def current(self, processor: str, run: Slice) -> Slice:
        """Return the slice with a fence that is not stale."""
        slot = self._slots.get(processor, {}).get(run.fence.slot)
        return run if slot is None else run._replace(fence=Fence(slot.number, slot.epoch))

    def drop_positions(self, processor: str) -> None:
        self._positions.pop(processor, None)


class LogContext(Context):
    __slots__ = ("rows",)
    rows: Rows


class Log(Projection, tag="log"):
    """A kind that keeps the contract."""

    guarantee = Guarantee.TRANSACTION
    awaits = True
    _checkpoints: Tables

    async def handle_happened(self, event: Happened, context: LogContext) -> None:
        context.rows.append((context.stream, context.id))
        interfere(context)

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        if not isinstance(checkpoints, Tables):
            raise TypeError("a Log needs Tables")
        super().bind(checkpoints, store, handler_timeout=handler_timeout)

    @property
    def table(self) -> str:
        return self.name

    def rows(self) -> Rows:
        return self._checkpoints.rows.setdefault(self.table, [])

    async def discard(self) -> None:
        await super().discard()
        self.rows().clear()

    async def reset(self, stream: str, fence: Fence) -> None:
        await self._checkpoints.delete_position(self.name, stream, fence)
        self.drop_stream(stream)

    def drop_stream(self, stream: str) -> None:
        self.rows()[:] = [each for each in self.rows() if each[0] != stream]

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        try:
            await self.handle(run)
        except HandlerFailed as error:
            return await self.split(run, error)
        except (PositionMoved, Fenced) as error:
            return [Failure(run, error)]
        return []

    async def split(self, run: Slice, error: HandlerFailed) -> Sequence[Failure]:
        if len(run.commits) == 1:
            return [Failure(run, error)]
        for index in range(len(run.commits)):
            if failures := await self.apply([run.part(index, index + 1)]):
                return [Failure(run, failures[0].error)]
        return []

    async def handle(self, run: Slice) -> None:
        await self.write(run, await self.collect(run))

    async def collect(self, run: Slice) -> Rows:
        rows: Rows = []

        def context(commit: Commit, index: EventIndex, muted: bool) -> LogContext:
            made = LogContext(commit, index, muted)
            made.rows = rows
            return made

        await self.call_handlers(run, context)
        await asyncio.sleep(0)
        return rows

    async def write(self, run: Slice, rows: Rows) -> None:
        await self._checkpoints.advance(self.name, run)
        self.rows().extend(rows)


class NewestFirst(Log, tag="log1"):
    """Puts new rows before the older ones."""

    async def write(self, run: Slice, rows: Rows) -> None:
        await self._checkpoints.advance(self.name, run)
        self.rows()[:0] = rows


class RowsInObject(Log, tag="log2"):
    """Keeps the rows in the object, and the positions in the checkpoints."""

    def __init__(self) -> None:
        self.own: Rows = []

    def rows(self) -> Rows:
        return self.own


class WithoutIds(Log, tag="log3"):
    """Stores only the version of a position."""

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        found = await super().positions(streams)
        return {stream: Position(position.version) for stream, position in found.items()}


class LastCommits(Log, tag="log4"):
    """Handles only the last commit of a slice."""

    async def collect(self, run: Slice) -> Rows:
        return await super().collect(run.part(len(run.commits) - 1, len(run.commits)))


class BeginsAtTheBeginning(Log, tag="log5"):
    """Refuses a first slice that does not begin at the beginning of the stream."""

    async def write(self, run: Slice, rows: Rows) -> None:
        if run.is_first and run.after:
            raise PositionMoved(run.stream)
        await super().write(run, rows)


class AnyCase(Log, tag="log6"):
    """Takes `Account-1` and `account-1` for the same stream."""

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        known = await super().positions([each.lower() for each in streams])
        return {each: known[each.lower()] for each in streams if each.lower() in known}

    async def write(self, run: Slice, rows: Rows) -> None:
        await super().write(run._replace(stream=run.stream.lower()), rows)


class ShortKeys(Log, tag="log7"):
    """Uses the first 900 characters of a stream id in its rows."""

    async def write(self, run: Slice, rows: Rows) -> None:
        await super().write(run, [(stream[:900], event) for stream, event in rows])


class OnePage(Log, tag="log41"):
    """Finds the positions of a hundred streams."""

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        return await super().positions(list(streams)[:100])


class ByStream(Log, tag="log8"):
    """Takes batches, and handles one stream after the other."""

    in_batches = True

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return [failure for run in runs for failure in await super(ByStream, self).apply([run])]


class AdvanceHandles(Log, tag="log9"):
    """Calls handlers where only the position should move."""

    async def advance(self, run: Slice) -> None:
        await self.handle(run)


class AdvanceAnywhere(Log, tag="log10"):
    """Does not compare the position in `advance`."""

    async def advance(self, run: Slice) -> None:
        self._checkpoints.move(self.name, run)


class MovesIfItWrites(Log, tag="log11"):
    """Leaves the position where it is if there is nothing to write."""

    async def write(self, run: Slice, rows: Rows) -> None:
        if rows:
            await super().write(run, rows)


class NeverMuted(Log, tag="log12"):
    """Does not pass on that a slice is muted."""

    async def collect(self, run: Slice) -> Rows:
        return await super().collect(run._replace(muted=False))


class SkipsMuted(Log, tag="log13"):
    """Writes nothing for a muted slice."""

    async def collect(self, run: Slice) -> Rows:
        return [] if run.muted else await super().collect(run)


class PrepareClears(Log, tag="log14"):
    """Creates an empty table each time."""

    async def prepare(self) -> None:
        self.rows().clear()


class CreatesOnce(Log, tag="log15"):
    """Looks whether there is a table, and creates it later."""

    async def prepare(self) -> None:
        if self.table not in self._checkpoints.rows:
            await asyncio.sleep(0)
            if self.table in self._checkpoints.rows:
                raise ValueError("the table exists")
            self.rows()


class AnyCheckpoints(Log, tag="log16"):
    """Takes checkpoints that are somewhere else."""

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        Projection.bind(self, checkpoints, store, handler_timeout=handler_timeout)


class LastOneWins(Log, tag="log17"):
    """Does not compare the position."""

    async def write(self, run: Slice, rows: Rows) -> None:
        self._checkpoints.move(self.name, run)
        self.rows().extend(rows)


class WritesFirst(Log, tag="log18"):
    """Writes the rows, and then finds that the position has moved."""

    async def write(self, run: Slice, rows: Rows) -> None:
        self.rows().extend(rows)
        await self._checkpoints.advance(self.name, run)


class ReadsThenWrites(Log, tag="log19"):
    """Compares the position, and writes later."""

    async def write(self, run: Slice, rows: Rows) -> None:
        found = await self.position(run.stream)
        if found != (None if run.is_first else run.after):
            raise PositionMoved(run.stream)
        await asyncio.sleep(0)
        self._checkpoints.move(self.name, run)
        self.rows().extend(rows)

    async def position(self, stream: str) -> int | None:
        found = (await self.positions([stream])).get(stream)
        return None if found is None else found.version


class KnowsPositions(ReadsThenWrites, tag="log20"):
    """Compares the position that this object knows."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    async def write(self, run: Slice, rows: Rows) -> None:
        await super().write(run, rows)
        self.known[run.stream] = run.last_version

    async def position(self, stream: str) -> int | None:
        return self.known.get(stream, await super().position(stream))


class PassesFailures(Log, tag="log21"):
    """Passes over a commit whose handler fails."""

    async def split(self, run: Slice, error: HandlerFailed) -> Sequence[Failure]:
        if len(run.commits) == 1:
            await self.advance(run)
            return []
        return await super().split(run, error)


class AllOrNothing(Log, tag="log22"):
    """Handles nothing of a slice in which a handler fails."""

    async def split(self, run: Slice, error: HandlerFailed) -> Sequence[Failure]:
        return [Failure(run, error)]


class BareErrors(Log, tag="log23"):
    """Returns the error of the handler as it is."""

    async def split(self, run: Slice, error: HandlerFailed) -> Sequence[Failure]:
        failures = await super().split(run, error)
        return [Failure(each.run, getattr(each.error, "error", each.error)) for each in failures]


class WritesAtOnce(Log, tag="log24"):
    """Lets handlers write to the table directly, which nothing undoes."""

    async def handle_happened(self, event: Happened, context: LogContext) -> None:
        self.rows().append((context.stream, context.id))
        interfere(context)


class HandlesHalves(Log, tag="log25"):
    """Keeps what the handlers of a commit have written before one fails."""

    async def split(self, run: Slice, error: HandlerFailed) -> Sequence[Failure]:
        if len(run.commits) == 1:
            self.rows().append((run.stream, f"{run.stream}@{run.last_version}.0"))
        return await super().split(run, error)


class SkipsUnreadable(Log, tag="log26"):
    """Takes a commit that cannot be read for one without events."""

    async def collect(self, run: Slice) -> Rows:
        try:
            return await super().collect(run)
        except HandlerFailed as failed:
            if isinstance(failed.error, StoredDataError):
                return []
            raise


class TwoTransactions(Log, tag="log27"):
    """Moves the position in one transaction, and writes in the next."""

    async def write(self, run: Slice, rows: Rows) -> None:
        await self._checkpoints.advance(self.name, run)
        await asyncio.sleep(0)
        self.rows().extend(rows)


class NoFence(Log, tag="log28"):
    """Does not compare the fence of a slice."""

    async def write(self, run: Slice, rows: Rows) -> None:
        await super().write(self._checkpoints.current(self.name, run), rows)


class AdvancesUnfenced(Log, tag="log29"):
    """Does not compare the fence in `advance`."""

    async def advance(self, run: Slice) -> None:
        await super().advance(self._checkpoints.current(self.name, run))


class FencesByPosition(Log, tag="log30"):
    """Does not compare the fence of a stream that has no position yet."""

    async def write(self, run: Slice, rows: Rows) -> None:
        await super().write(self._checkpoints.current(self.name, run) if run.is_first else run, rows)


class DiscardsUnfenced(Log, tag="log31"):
    """Drops positions and rows, and leaves the slots as they are."""

    async def discard(self) -> None:
        self._checkpoints.drop_positions(self.name)
        self.rows().clear()


class ResetsUnfenced(Log, tag="log32"):
    """Does not compare the fence in `reset`."""

    async def reset(self, stream: str, fence: Fence) -> None:
        for slot in await self._checkpoints.slots(self.name):
            fence = Fence(slot.number, slot.epoch)
        await super().reset(stream, fence)


class OneTable(Log, tag="log33"):
    """Has one table for all versions."""

    @property
    def table(self) -> str:
        return self.tag


class OwnPositions(Log, tag="log34"):
    """Does not know other versions."""

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, Position]:
        return await self.positions(streams)


class DiscardKeepsRows(Log, tag="log35"):
    """Drops only what is in the checkpoints."""

    async def discard(self) -> None:
        await self._checkpoints.forget(self.name)


class DiscardsByPrefix(Log, tag="log36"):
    """Drops the rows of `log@12` with those of `log@1`."""

    async def discard(self) -> None:
        await super().discard()
        for name in self._checkpoints.rows:
            if name.startswith(self.name):
                self._checkpoints.rows[name].clear()


class DropsThenRefuses(Log, tag="log37"):
    """Forgets the positions before it finds that it cannot drop the rows."""

    async def discard(self) -> None:
        await self._checkpoints.forget(self.name)
        raise TypeError("the rows cannot be dropped")


class ResetKeepsRows(Log, tag="log38"):
    """Deletes only the position of a stream."""

    def drop_stream(self, stream: str) -> None: ...


class ResetsAll(Log, tag="log39"):
    """Deletes the rows of all streams."""

    def drop_stream(self, stream: str) -> None:
        self.rows().clear()


class ResetsThenRefuses(Log, tag="log40"):
    """Deletes the position before it finds that it cannot drop the rows."""

    def drop_stream(self, stream: str) -> None:
        raise TypeError("the rows cannot be dropped")


@asynccontextmanager
async def bench_of(kind: type[Log]) -> AsyncIterator[Bench[Log]]:
    async def read(log: Log, stream: str) -> Sequence[str]:
        return [event for of, event in log.rows() if of == stream]

    yield Bench(kind, read, Tables())


@pytest.mark.parametrize("check", CONTRACT, ids=str)
async def test_a_kind_that_keeps_the_contract_passes(check: Check) -> None:
    await check(lambda: bench_of(Log))


BROKEN: dict[type[Log], str] = {
    NewestFirst: "each_event_is_handled_once_and_in_order",
    RowsInObject: "another_object_continues",
    WithoutIds: "slices_may_be_cut_anywhere",
    LastCommits: "slices_may_be_cut_anywhere",
    BeginsAtTheBeginning: "a_first_slice_may_begin_anywhere",
    AnyCase: "streams_are_kept_apart",
    ShortKeys: "streams_are_kept_apart",
    OnePage: "many_streams_are_handled",
    ByStream: "a_batch_is_handled_in_the_order_of_the_feed",
    AdvanceHandles: "advance_calls_no_handler",
    AdvanceAnywhere: "advance_calls_no_handler",
    MovesIfItWrites: "events_without_a_handler_are_passed",
    NeverMuted: "handlers_know_that_a_slice_is_muted",
    SkipsMuted: "handlers_know_that_a_slice_is_muted",
    PrepareClears: "prepare_may_be_called_again",
    CreatesOnce: "prepare_may_be_called_again",
    AnyCheckpoints: "other_checkpoints_are_refused",
    LastOneWins: "a_slice_that_does_not_follow_leaves_nothing",
    WritesFirst: "a_slice_that_does_not_follow_leaves_nothing",
    ReadsThenWrites: "of_racing_objects_one_handles_a_slice",
    KnowsPositions: "an_object_that_was_overtaken_leaves_nothing",
    PassesFailures: "a_parked_stream_holds_up_no_other",
    AllOrNothing: "a_failing_handler_keeps_what_came_before",
    BareErrors: "a_failing_handler_keeps_what_came_before",
    WritesAtOnce: "a_failing_handler_leaves_nothing_of_its_commit",
    HandlesHalves: "a_failing_handler_leaves_nothing_of_its_commit",
    SkipsUnreadable: "an_event_that_cannot_be_read_fails",
    TwoTransactions: "a_cancelled_slice_is_handled_or_not",
    NoFence: "a_stale_worker_is_fenced",
    AdvancesUnfenced: "a_stale_worker_is_fenced",
    FencesByPosition: "a_worker_that_lost_its_slot_begins_no_stream",
    DiscardsUnfenced: "a_discarded_version_fences_its_workers",
    ResetsUnfenced: "a_stale_worker_resets_nothing",
    OneTable: "versions_share_nothing",
    OwnPositions: "positions_of_another_version_are_found",
    DiscardKeepsRows: "a_discarded_version_begins_with_nothing",
    DiscardsByPrefix: "a_discarded_version_begins_with_nothing",
    DropsThenRefuses: "a_refused_discard_changes_nothing",
    ResetKeepsRows: "a_stream_that_is_reset_begins_with_nothing",
    ResetsAll: "a_stream_that_is_reset_begins_with_nothing",
    ResetsThenRefuses: "a_refused_reset_changes_nothing",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
async def test_a_broken_promise_is_detected(broken: type[Log]) -> None:
    check = find_check(BROKEN[broken])
    with pytest.raises(AssertionError) as raised:
        await check(lambda: bench_of(broken))
    assert str(raised.value).startswith(f"{check.promise}\nbut ")
    assert "DeclarationError" not in str(raised.value)


def test_every_check_detects_something() -> None:
    """A check that nothing breaks checks nothing."""
    assert {check.name for check in CONTRACT} == {*BROKEN.values()}


def find_check(name: str) -> Check:
    return next(check for check in CONTRACT if check.name == name)


async def test_a_declaration_that_is_not_true_is_reported(tmp_path: Path) -> None:
    lacks_resets = r"without: drops what one stream has written, but has it; remove the declaration"
    with pytest.raises(AssertionError, match=lacks_resets):
        await check_projection(lambda: bench_of(Log), without={Capability.RESETS})
    check = find_check("a_stream_that_is_reset_begins_with_nothing")
    with pytest.raises(AssertionError, match=lacks_resets):
        await check(lambda: sqlite_bench(tmp_path / "read.db"), without={Capability.RESETS})


async def test_a_lack_that_is_not_declared_is_reported() -> None:
    with pytest.raises(AssertionError, match="Nothing stays of a commit whose handler fails"):
        await check_projection(memory_bench, without={Capability.SHARES, Capability.FENCES, Capability.DROPS})


async def test_a_kind_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Log, tag="stuck"):
        async def prepare(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    with pytest.raises(AssertionError, match=r"but it did not end within 0.2 seconds$"):
        await check_projection(lambda: bench_of(Stuck))
