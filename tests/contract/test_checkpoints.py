"""The promises that every kind of Checkpoints keeps."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from msgspec import structs
from support.tables import checkpoints_on, fresh_name, session

from eventsrc import Fenced, StoreClosed, StoreError
from eventsrc.processing import (
    Checkpoints,
    DynamoDBCheckpoints,
    MemoryCheckpoints,
    Parked,
    Skipped,
    Slot,
    SQLiteCheckpoints,
)
from eventsrc.processing.slice import Fence, PositionMoved, Slice
from eventsrc.testing.contract.samples import make_commit

P = "balances@1"
FENCE = Fence(0, 1)
LONG = "account-" + "\u00e4" * 1_000 + "x"  # more bytes than a sort key of DynamoDB may have
MANY = {"memory": 2_500, "sqlite": 2_500, "dynamodb": 350, "sdk": 150}  # streams: several pages of any kind


@pytest.fixture(params=list(MANY))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def both(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Checkpoints, Checkpoints]]:
    """Two objects for the same checkpoints, as in two processes; in memory, the same object twice."""
    async with AsyncExitStack() as stack:
        if kind == "memory":
            only = await stack.enter_async_context(MemoryCheckpoints())
            yield only, only
        elif kind == "sqlite":
            first = await stack.enter_async_context(SQLiteCheckpoints(tmp_path / "read.db"))
            yield first, await stack.enter_async_context(SQLiteCheckpoints(tmp_path / "read.db"))
        else:
            endpoint, table = request.getfixturevalue("dynamodb_endpoint"), fresh_name()
            one = await stack.enter_async_context(checkpoints_on(endpoint, table))
            assert await one.create_table()
            if kind == "dynamodb":
                yield one, await stack.enter_async_context(checkpoints_on(endpoint, table))
            else:  # a client of the user's own
                client = await stack.enter_async_context(session().client("dynamodb", endpoint_url=endpoint))
                sdk = await stack.enter_async_context(DynamoDBCheckpoints(table, client=client))
                yield sdk, await stack.enter_async_context(DynamoDBCheckpoints(table, client=client))


@pytest.fixture
def one(both: tuple[Checkpoints, Checkpoints]) -> Checkpoints:
    return both[0]


def slice_of(stream: str, after: int, last_version: int, fence: Fence = FENCE) -> Slice:
    return Slice(stream, after, [make_commit(stream, version) for version in range(after + 1, last_version + 1)], fence)


async def all_positions(checkpoints: Checkpoints, processor: str = P) -> dict[str, int]:
    heads = [head async for page in checkpoints.all_positions(processor) for head in page]
    assert len({head.stream for head in heads}) == len(heads)
    return {head.stream: head.version for head in heads}


async def test_positions_are_seen_by_every_process(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    assert await one.positions(P, []) == {}
    assert await one.positions(P, ["s-1", LONG]) == {}
    await one.advance(P, slice_of("s-1", 0, 2))
    await other.advance(P, slice_of("s-1", 2, 3))
    await other.advance(P, slice_of(LONG, 0, 1))
    await one.advance("others@1", slice_of("s-2", 0, 9))
    assert await other.positions(P, ["s-1", "s-2", LONG, "s-1"]) == {"s-1": 3, LONG: 1}
    assert await all_positions(one) == {"s-1": 3, LONG: 1}
    assert await all_positions(other, "others@1") == {"s-2": 9}


async def test_a_new_stream_may_start_at_any_version(one: Checkpoints) -> None:
    await one.advance(P, slice_of("s-1", 7, 8))
    assert await one.positions(P, ["s-1"]) == {"s-1": 8}


@pytest.mark.parametrize("after", [0, 1, 3, 9])
async def test_an_advance_from_another_position_is_refused(one: Checkpoints, after: int) -> None:
    await one.advance(P, slice_of("s-1", 0, 2))
    with pytest.raises(PositionMoved) as raised:
        await one.advance(P, slice_of("s-1", after, 12))
    assert raised.value.stream == "s-1"
    assert await one.positions(P, ["s-1"]) == {"s-1": 2}


async def test_the_same_slice_advances_once(one: Checkpoints) -> None:
    await one.advance(P, slice_of("s-1", 0, 2))
    with pytest.raises(PositionMoved):
        await one.advance(P, slice_of("s-1", 0, 2))


async def test_of_many_advances_at_once_one_succeeds(both: tuple[Checkpoints, Checkpoints]) -> None:
    racing = [each.advance(P, slice_of("s-1", 0, version)) for version in range(1, 6) for each in both]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, PositionMoved) for outcome in outcomes) == 9


async def test_the_old_owner_of_a_slot_is_fenced_after_the_new_owner_advanced(
    both: tuple[Checkpoints, Checkpoints],
) -> None:
    one, other = both
    await one.claim(P, Slot(number=0, of=1, epoch=1))
    await one.advance(P, slice_of("s-1", 0, 1, Fence(0, 1)))
    await other.claim(P, Slot(number=0, of=1, epoch=2))
    await other.advance(P, slice_of("s-1", 1, 2, Fence(0, 2)))
    with pytest.raises(Fenced) as raised:
        await one.advance(P, slice_of("s-1", 2, 3, Fence(0, 1)))
    assert (raised.value.processor, raised.value.slot) == (P, 0)
    assert await one.positions(P, ["s-1"]) == {"s-1": 2}
    await other.advance(P, slice_of("s-1", 2, 3, Fence(0, 2)))


async def test_a_slot_is_claimed_only_with_a_higher_epoch(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    slot = Slot(number=3, of=16, epoch=2, owner="w-1", checkpoint="c", began=5)
    await one.claim(P, slot)
    for epoch in (1, 2):
        with pytest.raises(Fenced):
            await other.claim(P, Slot(number=3, of=16, epoch=epoch, owner="w-2"))
    assert await other.slots(P) == [slot]
    await other.claim(P, Slot(number=3, of=16, epoch=3, owner="w-2"))
    await other.claim(P, Slot(number=10, of=16, epoch=1))
    await other.claim(P, Slot(number=2, of=16, epoch=1))
    assert [(each.number, each.epoch, each.owner) for each in await one.slots(P)] == [
        (2, 1, ""),
        (3, 3, "w-2"),
        (10, 1, ""),
    ]
    assert await one.slots("others@1") == []


async def test_of_two_claims_at_once_one_succeeds(both: tuple[Checkpoints, Checkpoints]) -> None:
    for epoch in range(1, 6):
        claims = [each.claim(P, Slot(number=0, of=1, epoch=epoch, owner=f"w-{i}")) for i, each in enumerate(both)]
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Fenced", "NoneType"]
        [slot] = await both[0].slots(P)
        assert outcomes[int(slot.owner.removeprefix("w-"))] is None


async def test_only_the_owner_of_a_slot_can_save_it(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    await one.claim(P, Slot(number=0, of=1, epoch=1, owner="w-1"))
    for checkpoint in ("a", "b"):
        await one.save(P, saved := Slot(number=0, of=1, epoch=1, owner="w-1", checkpoint=checkpoint))
        assert await other.slots(P) == [saved]
    await other.claim(P, taken := Slot(number=0, of=1, epoch=2, owner="w-2", checkpoint="b"))
    with pytest.raises(Fenced):
        await one.save(P, Slot(number=0, of=1, epoch=1, owner="w-1", checkpoint="z"))
    assert await one.slots(P) == [taken]
    await other.save(P, given_back := Slot(number=0, of=1, epoch=2, owner="", checkpoint="c"))
    assert await one.slots(P) == [given_back]


async def test_heartbeats_are_counted(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    assert await one.beats() == {}
    for each in (one, other, one):
        await each.heartbeat("w-1")
    await other.heartbeat("w-2")
    assert await one.beats() == {"w-1": 3, "w-2": 1}
    await one.sign_off("w-1")
    await one.sign_off("w-3")
    assert await other.beats() == {"w-2": 1}


async def test_parked_streams_can_be_noted_read_and_removed(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    parked = [
        Parked(stream=stream, version=4, error="ValueError: \u00e4", attempts=5, since=17) for stream in ("s-1", LONG)
    ]
    for each in parked:
        await one.park(P, each)
    await one.park("others@1", parked[0])
    assert sorted(await other.parked(P), key=lambda each: each.stream) == sorted(parked, key=lambda each: each.stream)
    again = Parked(stream="s-1", version=6, error="", attempts=7, since=17)
    await other.park(P, again)
    assert sorted(each.stream for each in await other.parked(P, ["s-1", LONG, "s-9"])) == [LONG, "s-1"]
    assert await other.parked(P, []) == []
    await other.unpark(P, parked[1])
    await other.unpark(P, structs.replace(again, stream="s-9"))
    await other.unpark(P, structs.replace(again, released=True))  # differs from the stored note, so it is not removed
    assert await one.parked(P) == [again]
    assert parked[0].at.year == 1970


async def test_an_error_of_any_length_is_stored_perhaps_shortened(one: Checkpoints) -> None:
    await one.park(P, Parked(stream="s-1", version=1, error="x" * 1_000_000, attempts=1, since=1))
    [parked] = await one.parked(P)
    assert parked.error.startswith("x" * 1_000)


async def test_all_parked_streams_are_returned_however_long_their_errors_are(one: Checkpoints) -> None:
    streams = {f"s-{number}" for number in range(130)}  # more than a page of DynamoDB, which has 1 MB
    parking = (Parked(stream=each, version=1, error="x" * 9_000, attempts=1, since=1) for each in streams)
    await asyncio.gather(*(one.park(P, each) for each in parking))
    assert {parked.stream for parked in await one.parked(P)} == streams
    assert len(await one.parked(P)) == 130
    await one.forget(P)
    assert await one.parked(P) == []


async def test_skipped_commits_are_returned_in_order(both: tuple[Checkpoints, Checkpoints]) -> None:
    skipped = [
        Skipped(stream=stream, version=version, reason="test data", time=(10 - version) * 10**version)
        for version, stream in enumerate(("s-3", LONG, "s-1", "s-1"), 1)
    ]
    for index, each in enumerate(skipped):
        await both[index % 2].note_skipped(P, each)
    assert await both[0].skipped(P) == skipped
    assert await both[0].skipped("others@1") == []


async def test_one_version_is_active(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    assert await one.active("balances") is None
    assert not await one.activate("balances", 2, instead_of=1)
    assert await one.activate("balances", 1, instead_of=None)
    assert await one.activate("balances", 1, instead_of=None)  # it is active already
    assert not await other.activate("balances", 2, instead_of=None)
    assert not await other.activate("balances", 3, instead_of=2)
    assert await other.active("balances") == 1
    assert await other.activate("balances", 2, instead_of=1)
    assert await one.active("balances") == 2
    assert await one.active("other") is None


async def test_forget_removes_one_processor_and_no_other(kind: str, one: Checkpoints) -> None:
    for processor in (P, "balances@10", "balances@2"):
        await one.claim(processor, Slot(number=0, of=1, epoch=1))
        await one.advance(processor, slice_of("s-1", 0, 1))
        await one.park(processor, Parked(stream="s-1", version=4, error="", attempts=5, since=17))
        await one.note_skipped(processor, Skipped(stream="s-1", version=2, reason="test", time=1))
    await asyncio.gather(*(one.advance(P, slice_of(f"many-{i}", 0, 1)) for i in range(MANY[kind] // 2)))
    await one.activate("balances", 1, instead_of=None)
    await one.heartbeat("w-1")
    await one.forget(P)
    await one.forget(P)
    assert [await all_positions(one), await one.slots(P), await one.parked(P), await one.skipped(P)] == [{}, [], [], []]
    for processor in ("balances@10", "balances@2"):
        assert await all_positions(one, processor) == {"s-1": 1}
        assert len([*await one.slots(processor), *await one.parked(processor), *await one.skipped(processor)]) == 3
    assert (await one.active("balances"), await one.beats()) == (1, {"w-1": 1})
    await one.claim(P, Slot(number=0, of=1, epoch=1))
    await one.advance(P, slice_of("s-1", 0, 1))
    assert await one.positions(P, ["s-1"]) == {"s-1": 1}


async def test_positions_of_many_streams(kind: str, one: Checkpoints) -> None:
    wanted = {f"many-{i}": i % 7 + 1 for i in range(MANY[kind])}
    await asyncio.gather(*(one.advance(P, slice_of(stream, 0, version)) for stream, version in wanted.items()))
    assert await all_positions(one) == wanted
    assert await one.positions(P, [*wanted, "no-1"]) == wanted


async def test_a_cancelled_advance_has_happened_or_not(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    position = 0
    for steps in range(12):
        advancing = asyncio.create_task(one.advance(P, slice_of("s-1", position, position + 3)))
        for _ in range(steps):
            await asyncio.sleep(0)
        advancing.cancel()
        await asyncio.gather(advancing, return_exceptions=True)
        while (found := (await other.positions(P, ["s-1"])).get("s-1", 0)) != position + 3:
            assert found == position
            try:
                await other.advance(P, slice_of("s-1", position, position + 3))
            except PositionMoved:
                continue  # the cancelled call has taken effect
        position += 3


async def test_closed_checkpoints_refuse_calls(kind: str, one: Checkpoints) -> None:
    if kind == "memory":
        return  # in memory there is nothing to close
    with pytest.raises(StoreClosed):
        await one.open()
    await one.aclose()
    await one.aclose()
    for call in (one.positions(P, ["s-1"]), one.advance(P, slice_of("s-1", 0, 1)), one.slots(P), one.heartbeat("w")):
        with pytest.raises(StoreClosed, match=r"is not open.*; use it inside `async with checkpoints:`$"):
            await call
    await one.open()
    assert await one.positions(P, ["s-1"]) == {}


async def test_calls_in_flight_end_before_close_returns(both: tuple[Checkpoints, Checkpoints]) -> None:
    one, other = both
    advancing = [asyncio.create_task(one.advance(P, slice_of(f"s-{i}", 0, 1))) for i in range(20)]
    await asyncio.sleep(0)
    await one.aclose()
    outcomes = await asyncio.gather(*advancing, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, StoreError) for outcome in outcomes)
    positions = await other.positions(P, [f"s-{i}" for i in range(20)])
    assert positions == {f"s-{i}": 1 for i, outcome in enumerate(outcomes) if outcome is None}
    assert positions


async def test_opening_waits_for_another_writer_of_a_new_sqlite_file(tmp_path: Path) -> None:
    """SQLite fails the switch to WAL at once while another connection writes; it does not wait by itself."""
    path = tmp_path / "model.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE theirs (id INTEGER)")
        asyncio.get_running_loop().call_later(0.3, other.execute, "COMMIT")
        async with SQLiteCheckpoints(path) as checkpoints:
            assert await checkpoints.slots("p@1") == []
