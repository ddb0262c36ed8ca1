"""Checkpoints on the real DynamoDB Local, through a proxy that loses, delays and invents responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from support.proxy import (
    ANSWER_LOST,
    HALF_ANSWER,
    HOLD,
    LATE,
    LOST,
    PASS,
    Answer,
    Fault,
    Proxy,
    condition_failed,
    error,
    proxy_to,
)
from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import Fenced, StoreRejected, Throttled
from eventsrc.processing import DynamoDBCheckpoints, Parked, Registration, Skipped, Slot
from eventsrc.processing.slice import Fence, PositionMoved, Slice
from eventsrc.stores.dynamodb.wire.client import Reply
from eventsrc.stores.dynamodb.wire.signed_client import SignedClient
from eventsrc.testing.contract.checkpoints.samples import make_slice, read_heads

FENCE = Fence(0, 1)
LOST_ANSWERS = [ANSWER_LOST, HALF_ANSWER, error("InternalServerError", 500, forwarded=True)]


class Bench(NamedTuple):
    """Checkpoints in one table: through the proxy, and directly."""

    endpoint: str
    proxy: Proxy
    direct: DynamoDBCheckpoints
    faulty: DynamoDBCheckpoints

    @property
    def table(self) -> str:
        return self.direct.table.name


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with (
        proxy_to(dynamodb_endpoint) as proxy,
        checkpoints_on(dynamodb_endpoint, table) as direct,
        checkpoints_on(proxy.url, table, deadline=3.0) as faulty,
    ):
        await direct.create_table()
        yield Bench(dynamodb_endpoint, proxy, direct, faulty)


def run(after: int, last: int, fence: Fence = FENCE, stream: str = "s-1") -> Slice:
    return make_slice(stream, after, last, fence)


async def versions(checkpoints: DynamoDBCheckpoints, streams: Sequence[str] = ("s-1",)) -> dict[str, int]:
    return {stream: found.version for stream, found in (await checkpoints.positions("p@1", streams)).items()}


async def give_up(bench: Bench, call: Coroutine[Any, Any, Any], *faults: Fault) -> None:
    """Cancel a call while its request is held by the proxy, which carries it out when `go_on` is set."""
    bench.proxy.faults, before = [*faults, HOLD], len(bench.proxy.operations)
    calling = asyncio.create_task(call)
    while len(bench.proxy.operations) <= before + len(faults):
        bench.proxy.arrived.clear()
        await bench.proxy.arrived.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)


async def carry_out(bench: Bench) -> None:
    """Let the proxy carry out what it holds."""
    forwarded = bench.proxy.forwarded
    bench.proxy.go_on.set()
    async with asyncio.timeout(20):
        while bench.proxy.forwarded == forwarded:  # noqa: ASYNC110  # the proxy has no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
async def test_a_position_whose_response_is_lost_counts_as_written(bench: Bench, fault: Any) -> None:
    bench.proxy.faults = [fault, fault]
    await bench.faulty.advance("p@1", run(0, 2))
    assert await versions(bench.direct) == {"s-1": 2}
    bench.proxy.faults = [fault, condition_failed(forwarded=True)]  # without the stored item
    await bench.faulty.advance("p@1", run(2, 3))
    with pytest.raises(PositionMoved):
        await bench.faulty.advance("p@1", run(2, 3))
    await bench.direct.advance("p@1", run(3, 5))
    bench.proxy.faults = [LOST]
    with pytest.raises(PositionMoved):
        await bench.faulty.advance("p@1", run(3, 4))
    await bench.direct.advance("p@1", run(5, 6, Fence(0, 2)))
    bench.proxy.faults = [LOST, condition_failed()]
    with pytest.raises(Fenced):
        await bench.faulty.advance("p@1", run(6, 7))


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
async def test_a_slot_whose_response_is_lost_is_claimed_and_saved(bench: Bench, fault: Any) -> None:
    bench.proxy.faults = [fault, fault]
    await bench.faulty.claim("p@1", Slot(number=0, of=1, epoch=1))
    bench.proxy.faults = [fault]
    await bench.faulty.save("p@1", saved := Slot(number=0, of=1, epoch=1, checkpoint="c"))
    assert await bench.direct.slots("p@1") == [saved]
    bench.proxy.faults = [LOST]
    with pytest.raises(Fenced):
        await bench.faulty.claim("p@1", Slot(number=0, of=1, epoch=1))
    bench.proxy.faults = [fault, fault]
    assert await bench.faulty.registry.activate("p", 1, instead_of=None)
    bench.proxy.faults = [fault]
    await bench.faulty.park("p@1", parked := Parked(stream="s-1", version=1, error="", attempts=1, since=1), FENCE)
    assert await bench.direct.parked("p@1") == [parked]


async def test_late_writes_do_not_take_back_a_released_slot(bench: Bench) -> None:
    held = Slot(number=0, of=1, epoch=1, owner="w-1", checkpoint="c")
    bench.proxy.faults = [LATE]
    await bench.faulty.claim("p@1", held)
    bench.proxy.faults = [LATE]
    await bench.faulty.save("p@1", held)
    await bench.faulty.save("p@1", given_back := Slot(number=0, of=1, epoch=1, owner="", checkpoint="c"))
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.slots("p@1") == [given_back]


async def test_a_late_unpark_does_not_undo_that_a_stream_is_parked_again(bench: Bench) -> None:
    parked = [Parked(stream="s-1", version=4, error="", attempts=attempts, since=1) for attempts in (5, 6)]
    await bench.faulty.park("p@1", parked[0], FENCE)
    bench.proxy.faults = [LATE]
    await bench.faulty.unpark("p@1", parked[0])
    assert await bench.direct.parked("p@1") == []
    await bench.faulty.park("p@1", parked[1], FENCE)
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.parked("p@1") == [parked[1]]


async def test_a_late_first_position_does_not_undo_that_the_stream_begins_again(bench: Bench) -> None:
    await give_up(bench, bench.faulty.advance("p@1", run(0, 2)))
    await bench.direct.advance("p@1", run(0, 2))
    await bench.direct.delete_position("p@1", "s-1", FENCE)
    await carry_out(bench)
    assert await versions(bench.direct) == {}
    await bench.direct.advance("p@1", run(0, 1))
    assert await versions(bench.direct) == {"s-1": 1}


async def test_a_late_deletion_of_a_position_does_not_delete_a_later_one(bench: Bench) -> None:
    await bench.direct.advance("p@1", run(0, 2))
    await give_up(bench, bench.faulty.delete_position("p@1", "s-1", FENCE), PASS, PASS)
    await bench.direct.delete_position("p@1", "s-1", FENCE)
    await bench.direct.advance("p@1", run(0, 2))
    await carry_out(bench)
    assert await versions(bench.direct) == {"s-1": 2}


async def test_a_worker_whose_clock_is_behind_handles_a_stream_that_begins_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.direct.advance("p@1", run(0, 2))
    await bench.direct.delete_position("p@1", "s-1", FENCE)
    parked = [Parked(stream="s-1", version=version, error="", attempts=1, since=1) for version in (1, 2)]
    await bench.direct.park("p@1", parked[0], FENCE)
    monkeypatch.setattr("eventsrc.processing.checkpoints.dynamodb.stamps.time.time_ns", lambda: 1_000)
    await bench.faulty.park("p@1", parked[1], FENCE)
    assert await bench.direct.parked("p@1") == [parked[1]]
    async with checkpoints_on(bench.endpoint, bench.table) as behind:
        with pytest.raises(PositionMoved):
            await behind.advance("p@1", run(0, 1))
        await behind.advance("p@1", run(0, 1))
    assert await versions(bench.direct) == {"s-1": 1}


async def test_a_late_try_does_not_park_a_stream_again(bench: Bench) -> None:
    early, later = (Parked(stream="s-1", version=version, error="", attempts=1, since=1) for version in (1, 2))
    bench.proxy.faults = [LATE]
    await bench.faulty.park("p@1", early, FENCE)
    await bench.faulty.unpark("p@1", early)
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.parked("p@1") == []
    await give_up(bench, bench.faulty.park("p@1", early, FENCE))
    await bench.direct.park("p@1", later, FENCE)
    await carry_out(bench)
    assert await bench.direct.parked("p@1") == [later]


async def test_a_late_pause_does_not_undo_a_resume(bench: Bench) -> None:
    running, paused = Registration(store="s"), Registration(store="s", paused=True)
    await bench.direct.registry.register("p@1", running, instead_of=None)
    bench.proxy.faults = [LATE]
    assert await bench.faulty.registry.register("p@1", paused, instead_of=running)
    assert await bench.faulty.registry.register("p@1", running, instead_of=paused)
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.registry.registration("p@1") == running
    bench.proxy.faults = [ANSWER_LOST, condition_failed()]
    assert await bench.faulty.registry.register("p@1", paused, instead_of=running)
    assert await bench.direct.registry.registration("p@1") == paused


async def test_a_late_note_does_not_replace_a_later_one(bench: Bench) -> None:
    early, later = (Skipped(stream="s-1", version=1, reason=reason, time=1) for reason in ("early", "later"))
    bench.proxy.faults = [LATE]
    await bench.faulty.note_skipped("p@1", early)
    await bench.direct.note_skipped("p@1", later)
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.skipped("p@1") == [later]


async def test_a_late_forget_deletes_nothing_that_was_written_since(bench: Bench) -> None:
    await bench.direct.claim("p@1", Slot(number=0, of=1, epoch=1))
    await bench.direct.advance("p@1", run(0, 2))
    operations = bench.proxy.operations
    bench.proxy.choose = lambda: HOLD if operations[-1] == "DeleteItem" else PASS
    forgetting = asyncio.create_task(bench.faulty.forget("p@1"))
    while "DeleteItem" not in operations:
        bench.proxy.arrived.clear()
        await bench.proxy.arrived.wait()
    forgetting.cancel()
    await asyncio.gather(forgetting, return_exceptions=True)
    await bench.direct.forget("p@1")
    [slot] = await bench.direct.slots("p@1")
    await bench.direct.claim("p@1", Slot(number=0, of=1, epoch=slot.epoch + 1))
    await bench.direct.advance("p@1", run(0, 2, Fence(0, slot.epoch + 1)))
    await carry_out(bench)
    assert await versions(bench.direct) == {"s-1": 2}


async def test_a_late_save_does_not_bring_a_forgotten_checkpoint_back(bench: Bench) -> None:
    await bench.direct.claim("p@1", held := Slot(number=0, of=1, epoch=1, owner="w-1", checkpoint="c"))
    await give_up(bench, bench.faulty.save("p@1", held))
    bench.proxy.go_on.clear()
    await bench.direct.forget("p@1")
    await carry_out(bench)
    assert await bench.direct.slots("p@1") == [Slot(number=0, of=1, epoch=2)]


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
async def test_a_processor_is_forgotten_although_responses_are_lost(bench: Bench, fault: Any) -> None:
    await bench.direct.claim("p@1", Slot(number=0, of=1, epoch=1, checkpoint="c"))
    await bench.direct.registry.register("p@1", Registration(store="s"), instead_of=None)
    streams = [f"s-{number}" for number in range(20)]
    await asyncio.gather(*(bench.direct.advance("p@1", run(0, 1, stream=stream)) for stream in streams))
    written: list[str] = []

    def lose_first() -> Any:
        operation = bench.proxy.operations[-1]
        written.append(operation)
        return fault if written.count(operation) in (1, 3) and operation in ("UpdateItem", "DeleteItem") else PASS

    bench.proxy.choose = lose_first
    await bench.faulty.forget("p@1")
    [slot] = await bench.direct.slots("p@1")
    assert slot.epoch >= 2
    assert slot.checkpoint == ""
    assert (await read_heads(bench.direct, "p@1"), await bench.direct.processors()) == ({}, [])


async def test_a_stale_worker_that_finds_no_position_is_fenced(bench: Bench) -> None:
    await bench.direct.claim("p@1", Slot(number=0, of=1, epoch=1))
    await bench.direct.advance("p@1", run(0, 2))
    await bench.direct.forget("p@1")
    with pytest.raises(Fenced):
        await bench.faulty.advance("p@1", run(2, 3))
    await bench.direct.advance("p@1", run(0, 2, Fence(0, 2)))
    with pytest.raises(PositionMoved):
        await bench.direct.advance("p@1", run(0, 2, Fence(0, 2)))


async def test_calls_need_few_requests(bench: Bench) -> None:
    streams = [f"s-{number}" for number in range(90)]
    await asyncio.gather(*(bench.faulty.advance("p@1", run(0, 1, stream=stream)) for stream in streams))
    assert bench.proxy.counts == {"UpdateItem": 90}
    await bench.faulty.positions("p@1", streams)
    assert bench.proxy.counts == {"UpdateItem": 90, "BatchGetItem": 1}
    parked = [Parked(stream=stream, version=1, error="", attempts=1, since=1) for stream in streams]
    await asyncio.gather(*(bench.faulty.park("p@1", each, FENCE) for each in parked))  # without conflicts
    assert bench.proxy.counts == {"UpdateItem": 90, "BatchGetItem": 1, "TransactWriteItems": 90}
    bench.proxy.operations.clear()
    await bench.faulty.registry.register("p@1", Registration(store="s"), instead_of=None)
    await bench.faulty.claim("p@1", Slot(number=0, of=1, epoch=1))
    await bench.faulty.save("p@1", Slot(number=0, of=1, epoch=1))
    assert bench.proxy.counts == {"UpdateItem": 3}


async def test_keys_that_a_batch_leaves_out_are_requested_again(bench: Bench) -> None:
    streams = [f"s-{number}" for number in range(120)]
    await asyncio.gather(*(bench.direct.advance("p@1", run(0, 1, stream=stream)) for stream in streams))
    keys = [{"PK": {"S": "no"}, "SK": {"S": "no"}}]
    asked = {"Keys": keys, "ConsistentRead": True, "ProjectionExpression": "SK"}
    left = {"Responses": {}, "UnprocessedKeys": {bench.table: asked}, "ConsumedCapacity": [{"CapacityUnits": 1.0}]}
    answer = Answer(200, json.dumps(left).encode())
    bench.proxy.faults = [answer]
    found = await versions(bench.faulty, streams)
    assert found == dict.fromkeys(streams[100:], 1)  # of the first hundred what was left out did not exist
    assert bench.proxy.counts == {"BatchGetItem": 3}
    async with checkpoints_on(bench.proxy.url, bench.table, deadline=0.5) as hasty:
        bench.proxy.then = answer
        with pytest.raises(Throttled):
            await hasty.positions("p@1", streams)


async def test_a_table_with_other_keys_is_refused(bench: Bench) -> None:
    async with store_on(bench.endpoint, table := fresh_name()) as store, checkpoints_on(bench.endpoint, table) as other:
        await store.create_table()
        with pytest.raises(StoreRejected, match="other keys"):
            await other.create_table()
        with pytest.raises(StoreRejected, match="ValidationException"):
            await other.positions("p@1", ["s-1"])
        with pytest.raises(StoreRejected, match="ValidationException"):
            await other.advance("p@1", run(0, 1))


async def test_keys_may_have_other_names(bench: Bench) -> None:
    names = {"partition_key": "processor #1", "sort_key": "total"}
    async with checkpoints_on(bench.endpoint, fresh_name(), **names) as checkpoints:
        await checkpoints.create_table()
        await checkpoints.advance("p@1", run(0, 1))
        await checkpoints.claim("p@1", Slot(number=0, of=1, epoch=1))
        await checkpoints.workers.heartbeat("w-1")
        assert await checkpoints.workers.beats() == {"w-1": 1}
        assert await versions(checkpoints) == {"s-1": 1}
        await checkpoints.forget("p@1")
        assert await checkpoints.slots("p@1") == [Slot(number=0, of=1, epoch=2)]
    for wrong in ({"partition_key": "SK"}, {"sort_key": "epoch"}, {"sort_key": ""}, {"deadline": 0}):
        with pytest.raises(ValueError):
            checkpoints_on(bench.endpoint, bench.table, **wrong)
    with pytest.raises(ValueError):
        checkpoints_on(bench.endpoint, "a b")


async def test_all_reads_are_strongly_consistent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamoDB Local has no other reads, so the requests show it."""
    sent: list[tuple[str, Mapping[str, Any]]] = []
    call = SignedClient.call

    async def record(client: SignedClient, operation: str, request: Mapping[str, Any]) -> Reply:
        sent.append((operation, request))
        return await call(client, operation, request)

    monkeypatch.setattr(SignedClient, "call", record)
    checkpoints = bench.direct
    await checkpoints.advance("p@1", run(0, 2))
    await checkpoints.claim("p@1", Slot(number=0, of=1, epoch=1))
    await checkpoints.workers.heartbeat("w-1")
    await checkpoints.park("p@1", Parked(stream="s-1", version=3, error="", attempts=1, since=0), FENCE)
    await checkpoints.registry.activate("p", 1, instead_of=None)
    assert await versions(checkpoints) == {"s-1": 2}
    assert [head async for page in checkpoints.all_positions("p@1") for head in page]
    assert await checkpoints.slots("p@1")
    assert await checkpoints.workers.beats()
    assert await checkpoints.parked("p@1")
    assert await checkpoints.parked("p@1", ["s-1"])
    assert await checkpoints.active("p") == 1
    await checkpoints.registry.register("p@1", Registration(store="s"), instead_of=None)
    assert await checkpoints.registry.registration("p@1")
    assert await checkpoints.processors() == ["p@1"]
    await checkpoints.delete_position("p@1", "s-1", FENCE)
    await checkpoints.forget("p@1")
    reads = [
        (operation, part)
        for operation, request in sent
        if operation in ("GetItem", "Query", "BatchGetItem")
        for part in request.get("RequestItems", {"": request}).values()
    ]
    assert {operation for operation, _ in reads} == {"GetItem", "Query", "BatchGetItem"}
    assert all(part["ConsistentRead"] for _, part in reads)
