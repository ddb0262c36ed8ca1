"""Checkpoints on the real DynamoDB Local, through a proxy that loses, delays and invents responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import pytest
from support.proxy import ANSWER_LOST, HALF_ANSWER, LATE, LOST, Answer, Proxy, condition_failed, error, proxy_to
from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc import Fenced, StoreRejected, Throttled
from eventsrc.processing import DynamoDBCheckpoints, Parked, Slot
from eventsrc.processing.slice import Fence, PositionMoved, Slice
from eventsrc.stores.dynamodb.wire.client import Reply
from eventsrc.stores.dynamodb.wire.signed_client import SignedClient
from eventsrc.testing.contract.samples import make_commit

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


def run(after: int, reached: int, fence: Fence = FENCE, stream: str = "s-1") -> Slice:
    return Slice(stream, after, [make_commit(stream, version) for version in range(after + 1, reached + 1)], fence)


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
async def test_a_position_whose_response_is_lost_counts_as_written(bench: Bench, fault: Any) -> None:
    bench.proxy.faults = [fault, fault]
    await bench.faulty.advance("p@1", run(0, 2))
    assert await bench.direct.positions("p@1", ["s-1"]) == {"s-1": 2}
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
    assert await bench.faulty.activate("p", 1, instead_of=None)
    bench.proxy.faults = [fault]
    await bench.faulty.park("p@1", parked := Parked(stream="s-1", version=1, error="", attempts=1, since=1))
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
    await bench.faulty.park("p@1", parked[0])
    bench.proxy.faults = [LATE]
    await bench.faulty.unpark("p@1", parked[0])
    assert await bench.direct.parked("p@1") == []
    await bench.faulty.park("p@1", parked[1])
    await asyncio.gather(*bench.proxy.late)
    assert await bench.direct.parked("p@1") == [parked[1]]


async def test_keys_that_a_batch_leaves_out_are_requested_again(bench: Bench) -> None:
    streams = [f"s-{number}" for number in range(120)]
    await asyncio.gather(*(bench.direct.advance("p@1", run(0, 1, stream=stream)) for stream in streams))
    keys = [{"PK": {"S": "no"}, "SK": {"S": "no"}}]
    asked = {"Keys": keys, "ConsistentRead": True, "ProjectionExpression": "SK"}
    left = {"Responses": {}, "UnprocessedKeys": {bench.table: asked}, "ConsumedCapacity": [{"CapacityUnits": 1.0}]}
    answer = Answer(200, json.dumps(left).encode())
    bench.proxy.faults = [answer]
    found = await bench.faulty.positions("p@1", streams)
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
        await checkpoints.heartbeat("w-1")
        assert await checkpoints.beats() == {"w-1": 1}
        assert await checkpoints.positions("p@1", ["s-1"]) == {"s-1": 1}
        await checkpoints.forget("p@1")
        assert await checkpoints.slots("p@1") == []
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
    await checkpoints.heartbeat("w-1")
    await checkpoints.park("p@1", Parked(stream="s-1", version=3, error="", attempts=1, since=0))
    await checkpoints.activate("p", 1, instead_of=None)
    assert await checkpoints.positions("p@1", ["s-1"]) == {"s-1": 2}
    assert [head async for page in checkpoints.all_positions("p@1") for head in page]
    assert await checkpoints.slots("p@1")
    assert await checkpoints.beats()
    assert await checkpoints.parked("p@1")
    assert await checkpoints.parked("p@1", ["s-1"])
    assert await checkpoints.active("p") == 1
    reads = [
        (operation, part)
        for operation, request in sent
        if operation in ("GetItem", "Query", "BatchGetItem")
        for part in request.get("RequestItems", {"": request}).values()
    ]
    assert {operation for operation, _ in reads} == {"GetItem", "Query", "BatchGetItem"}
    assert all(part["ConsistentRead"] for _, part in reads)
