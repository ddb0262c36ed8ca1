"""Read models on the real DynamoDB Local, through a proxy that loses, repeats, delays and invents responses."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from support.bank import Account, Deposited, Opened, Withdrawn
from support.ledger import Outside, Poisoned, commits_of, deposit, fill, ids_of, running
from support.proxy import ANSWER_LOST, HALF_ANSWER, LATE, LOST, PASS, TWICE, Answer, Proxy, error, proxy_to
from support.slices import slices
from support.tables import checkpoints_on, fresh_name, session, store_on

from eventsrc import (
    Commit,
    DeclarationError,
    Event,
    Fenced,
    MemoryStore,
    Repository,
    StoreRejected,
    StreamParked,
    StreamsParked,
    Throttled,
)
from eventsrc.processing import (
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    DynamoDBRows,
    MemoryCheckpoints,
    Processor,
    RowContext,
    rebuild,
)
from eventsrc.processing.projections.clearing import delete_version
from eventsrc.processing.slice import Fence, HandlerFailed, PositionMoved, Slice
from eventsrc.stores.dynamodb.wire.responses import Item
from eventsrc.testing.contract.samples import make_commit

FENCE = Fence(0, 1)
Movement = Opened | Deposited | Withdrawn

THROTTLE = error("ProvisionedThroughputExceededException")
LOST_ANSWERS: list[str | Answer] = [ANSWER_LOST, HALF_ANSWER, error("InternalServerError", 500, forwarded=True)]
FAULTS: list[str | Answer] = [
    LOST,
    *LOST_ANSWERS,
    TWICE,
    THROTTLE,
    error("TransactionInProgressException"),
    Answer(502, b"<html>"),
]


def at_times(dice: Random, faults: list[str | Answer], share: float) -> Callable[[], str | Answer]:
    return lambda: dice.choice(faults) if dice.random() < share else PASS


def cancelled(*codes: str) -> Answer:
    """Return the response to a cancelled transaction, with a reason for each action."""
    reasons = [{"Code": code} for code in codes]
    kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException"
    return Answer(400, json.dumps({"__type": kind, "CancellationReasons": reasons}).encode())


class Counted(Poisoned, DynamoDBProjection, tag="counted"):
    """Counts how often each event was handled, each in its own item, and the totals in another item."""

    def __init__(self, table: str) -> None:
        self.model = table
        self.calls = 0

    async def handle_movement(self, event: Movement, context: DynamoDBContext) -> None:
        self.calls += 1
        context.add(self.model, {"PK": f"{self.name} {context.stream}", "SK": context.id}, times=1)
        context.add(self.model, {"PK": self.name, "SK": "total"}, events=1, amount=getattr(event, "amount", 0))
        await asyncio.sleep(0)
        self.taste(event)


class Rows(Poisoned, DynamoDBRows, tag="rows"):
    def __init__(self, table: str) -> None:
        self.table = table  # type: ignore[misc]  # where it is known only now

    def key(self, stream: str) -> Mapping[str, str]:
        return {"PK": f"row of {self.name}", "SK": stream}

    def handle_movement(self, event: Movement, context: RowContext) -> None:
        context.add(events=1, amount=getattr(event, "amount", 0))
        context.set(last=context.id, muted=context.muted)
        self.taste(event)


class Bench:
    """Events in memory, and checkpoints and read models in one table, which is used directly and through a proxy."""

    def __init__(
        self, store: MemoryStore, endpoint: str, proxy: Proxy, direct: DynamoDBCheckpoints, faulty: DynamoDBCheckpoints
    ) -> None:
        self.store, self.endpoint, self.proxy, self.direct, self.faulty = store, endpoint, proxy, direct, faulty
        self.table = direct.table.name
        self.accounts = Repository(Account, store)

    def bind(self, projection: Counted | Rows, checkpoints: DynamoDBCheckpoints) -> Any:
        projection.bind(checkpoints, self.store)
        self.proxy.operations.clear()
        return projection

    async def items(self, partition: str) -> dict[str, Item]:
        async with session().client("dynamodb", endpoint_url=self.endpoint) as client:
            asked = {":pk": {"S": partition}}
            found = await client.query(
                TableName=self.table, KeyConditionExpression="PK = :pk", ExpressionAttributeValues=asked
            )
        return {item["SK"]["S"]: item for item in found["Items"]}

    async def check(self, projection: Counted | Rows) -> None:
        """Assert that each event was handled once."""
        events = await ids_of(self.store)
        amounts: dict[str, int] = defaultdict(int)
        for stream in events:
            account = await self.accounts.load(stream.removeprefix("account-"))
            amounts[stream] = account.balance
        if isinstance(projection, Counted):
            for stream, ids in events.items():
                found = await self.items(f"{projection.name} {stream}")
                assert {id: int(item["times"]["N"]) for id, item in found.items()} == dict.fromkeys(ids, 1)
            total = (await self.items(projection.name))["total"]
            assert int(total["events"]["N"]) == sum(map(len, events.values()))
            assert int(total["amount"]["N"]) == sum(amounts.values())
        else:
            rows = await self.items(f"row of {projection.name}")
            assert {stream: int(row["events"]["N"]) for stream, row in rows.items()} == {
                stream: len(ids) for stream, ids in events.items()
            }
            assert {stream: int(row["amount"]["N"]) for stream, row in rows.items()} == amounts
            assert {stream: row["last"]["S"] for stream, row in rows.items()} == {s: i[-1] for s, i in events.items()}


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with (
        MemoryStore() as store,
        proxy_to(dynamodb_endpoint) as proxy,
        checkpoints_on(dynamodb_endpoint, table) as direct,
        checkpoints_on(proxy.url, table, deadline=3.0) as faulty,
    ):
        await direct.create_table()
        yield Bench(store, dynamodb_endpoint, proxy, direct, faulty)


every_kind = pytest.mark.parametrize("kind", [Counted, Rows])
Kind = type[Counted] | type[Rows]


def run(after: int, reached: int, fence: Fence = FENCE, stream: str = "s-1") -> Slice:
    commits = [make_commit(stream, version) for version in range(after + 1, reached + 1)]
    return Slice(stream, after, commits, fence, is_first=not after)


async def run_to_parked(processor: Processor[Any]) -> None:
    """Run a processor to the end, where it has parked streams."""
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)


@every_kind
async def test_each_event_is_handled_once(bench: Bench, kind: Kind) -> None:
    await fill(bench.store)
    processor = Processor(kind(bench.table), bench.store, bench.direct)
    async with running(processor):
        await processor.wait_for(await deposit(bench.store, "a-1", 7))
        await asyncio.wait_for(processor.caught_up.wait(), 10)
    await bench.check(processor.projection)
    await Processor(kind(bench.table), bench.store, bench.direct).run(until_caught_up=True)
    await bench.check(processor.projection)


@every_kind
@pytest.mark.parametrize("seed", range(3))
async def test_each_event_is_handled_once_despite_faults(bench: Bench, kind: Kind, seed: int) -> None:
    await fill(bench.store, accounts=4, deposits=6)
    dice = Random(seed)
    commits = [commit for commit in await commits_of(bench.store) for _ in range(2)]
    dice.shuffle(commits)
    processor = Processor(kind(bench.table), bench.store, bench.faulty)
    await processor.pipeline.prepare()
    await processor.pipeline.assignment.take_all()
    bench.proxy.choose = at_times(dice, FAULTS, 0.4)
    for start in range(0, len(commits), 7):
        await processor.pipeline.handle(commits[start : start + 7])
    await processor.pipeline.wait_until_idle()
    bench.proxy.choose = None
    await bench.check(processor.projection)
    assert not await processor.parked()


@every_kind
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_lost_response_is_settled_by_sending_the_same_request_again(
    bench: Bench, kind: Kind, fault: Any
) -> None:
    await fill(bench.store, accounts=1, deposits=3)
    projection = bench.bind(kind(bench.table), bench.faulty)
    bench.proxy.faults = [fault, fault]
    assert not await projection.apply(slices(await commits_of(bench.store)))
    write = "TransactWriteItems" if kind is Counted else "UpdateItem"
    assert bench.proxy.operations == [write] * (1 if fault == TWICE else 3)
    await bench.check(projection)


async def test_a_transaction_that_an_earlier_try_carried_out_counts_as_done(bench: Bench) -> None:
    """The service has forgotten the token of the earlier try, and does not return the stored item."""
    await fill(bench.store, accounts=1, deposits=3)
    projection = bench.bind(Counted(bench.table), bench.faulty)
    bench.proxy.faults = [ANSWER_LOST, cancelled("ConditionalCheckFailed", "None", "None")]
    assert not await projection.apply(slices(await commits_of(bench.store)))
    assert bench.proxy.operations == ["TransactWriteItems", "TransactWriteItems", "GetItem"]
    await bench.check(projection)


@pytest.mark.parametrize("after", [0, 1, 3, 9])
async def test_the_position_of_a_row_that_moved_is_kept(bench: Bench, after: int) -> None:
    projection = Rows(bench.table)
    projection.bind(bench.direct, bench.store)
    first, newer = run(0, 2), run(2, 3, Fence(0, 2))
    await projection.advance(first)
    with pytest.raises(PositionMoved):
        await projection.advance(run(after, 12))
    assert await projection.positions(["s-1", "s-2"]) == {"s-1": first.position}
    await projection.advance(newer)
    with pytest.raises(Fenced):
        await projection.advance(run(3, 4))
    other = run(7, 8, stream="s-2")._replace(is_first=True)  # a processor that starts at a time
    await projection.advance(other)
    assert await projection.positions(["s-1", "s-2"]) == {"s-1": newer.position, "s-2": other.position}


@every_kind
async def test_a_transaction_that_arrives_late_has_no_second_effect(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=1, deposits=3)
    projection = bench.bind(kind(bench.table), bench.faulty)
    bench.proxy.faults = [LATE]
    assert not await projection.apply(slices(await commits_of(bench.store)))
    await asyncio.gather(*bench.proxy.late)
    await bench.check(projection)


@every_kind
async def test_processors_of_the_same_streams_do_not_disturb_each_other(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=4, deposits=6)
    commits = await commits_of(bench.store)
    processors = [
        Processor(kind(bench.table), bench.store, each) for each in (bench.direct, bench.faulty, bench.direct)
    ]
    dice = Random(5)
    bench.proxy.choose = at_times(dice, LOST_ANSWERS, 0.2)

    async def work(processor: Processor[Any], told: list[Commit]) -> None:
        await processor.pipeline.assignment.join()
        for start in range(0, len(told), 5):
            await processor.pipeline.handle(told[start : start + 5])
        await processor.pipeline.wait_until_idle()

    await asyncio.gather(*(work(each, dice.sample(commits, len(commits))) for each in processors))
    await bench.check(processors[0].projection)
    assert sum(processor.pipeline.progress.commits for processor in processors) >= 24


@every_kind
async def test_a_cancelled_processor_resumes_where_it_was(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=6, deposits=4)
    commits = await commits_of(bench.store)
    processor = Processor(kind(bench.table), bench.store, bench.faulty)
    await processor.pipeline.assignment.take_all()
    for _ in range(8):
        bench.proxy.arrived.clear()
        handling = asyncio.create_task(processor.pipeline.handle(commits))
        await bench.proxy.arrived.wait()
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
    await processor.pipeline.handle(commits)
    await processor.pipeline.wait_until_idle()
    await bench.check(processor.projection)


@every_kind
async def test_a_fenced_processor_writes_nothing(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=1, deposits=3)
    commits = await commits_of(bench.store)
    old, new = (Processor(kind(bench.table), bench.store, bench.direct) for _ in range(2))
    await old.pipeline.assignment.take_all()
    await old.pipeline.handle(commits[:1])
    await new.pipeline.assignment.take_all()
    await new.pipeline.handle(commits[:2])
    with pytest.raises(Fenced):
        await old.pipeline.handle(commits)
    await new.pipeline.handle(commits)
    await bench.check(new.projection)


@every_kind
async def test_a_failed_handler_blocks_its_stream_only(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=2, deposits=8)
    await deposit(bench.store, "a-0", 666)
    await deposit(bench.store, "a-0", 7)
    projection = kind(bench.table)
    projection.poison = {666}
    processor = Processor(projection, bench.store, bench.direct, attempts=1)
    await run_to_parked(processor)
    [parked] = await processor.parked()
    assert (parked.stream, parked.version) == ("account-a-0", 9)  # all before it has had its effect
    assert await processor.positions(["account-a-0", "account-a-1"]) == {"account-a-0": 8, "account-a-1": 8}
    projection.poison = set()
    await processor.retry("account-a-0")
    await bench.check(projection)


@every_kind
async def test_a_skipped_commit_moves_the_position_only(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=1, deposits=2)
    projection = kind(bench.table)
    projection.poison = {1}
    processor = Processor(projection, bench.store, bench.direct, attempts=1)
    await run_to_parked(processor)
    await processor.skip("account-a-0", "test data")
    assert await processor.positions(["account-a-0"]) == {"account-a-0": 2}
    assert [each.version for each in await bench.direct.skipped(processor.name)] == [2]
    partition = "counted@1 account-a-0" if kind is Counted else "row of rows@1"
    found = await bench.items(partition)
    assert (len(found) if kind is Counted else int(found["account-a-0"]["events"]["N"])) == 2


async def test_more_writes_than_a_transaction_holds_are_split(bench: Bench) -> None:
    class Wide(DynamoDBProjection, tag="wide"):
        width = 30

        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            for number in range(self.width if event.amount < 100 else 100):
                key = {"PK": {"S": f"wide {context.stream}"}, "SK": {"S": f"{context.id} {number}"}}
                condition = {"ConditionExpression": "attribute_not_exists(PK)"}  # each once
                context.write({"Put": {"TableName": bench.table, "Item": key, **condition}})

    account = Account.open("a-1", owner="ann")
    await bench.accounts.save(account)
    for _ in range(12):
        account.deposit(1)
        await bench.accounts.save(account)
    processor = Processor(Wide(), bench.store, bench.faulty, attempts=1)
    await processor.run(until_caught_up=True)
    assert len(await bench.items("wide account-a-1")) == 360
    assert bench.proxy.counts["TransactWriteItems"] < 12
    await deposit(bench.store, "a-1", 100)
    await deposit(bench.store, "a-1", 1)
    await run_to_parked(processor)
    [parked] = await processor.parked()
    assert parked.version == 14
    assert "100 writes; a transaction holds 98" in parked.error


async def test_two_writes_to_an_item_within_a_slice_are_made_in_order(bench: Bench) -> None:
    class Last(DynamoDBProjection, tag="last"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            key = {"PK": {"S": "last"}, "SK": {"S": context.stream}}
            item = {**key, "amount": {"N": str(event.amount)}, "data": {"B": b"\x00\xff"}}
            context.write({"Put": {"TableName": bench.table, "Item": item}})

    await fill(bench.store, accounts=2, deposits=9)
    processor = Processor(Last(), bench.store, bench.direct, attempts=1)
    await processor.run(until_caught_up=True)
    assert not await processor.parked()
    found = await bench.items("last")
    assert {sort: item["amount"]["N"] for sort, item in found.items()} == {"account-a-0": "8", "account-a-1": "8"}
    assert found["account-a-0"]["data"]["B"] == b"\x00\xff"


async def test_a_slice_too_large_for_a_request_is_split(bench: Bench) -> None:
    class Large(DynamoDBProjection, tag="large"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            key = {"PK": {"S": "large"}, "SK": {"S": context.id}}
            context.write({"Put": {"TableName": bench.table, "Item": {**key, "data": {"B": bytes(300_000)}}}})

    await fill(bench.store, accounts=1, deposits=60)  # 18 MB
    processor = Processor(Large(), bench.store, bench.direct, attempts=1)
    await processor.run(until_caught_up=True)
    assert not await processor.parked()
    pages = [page async for page in bench.direct.table.query("large")]
    assert len({item["SK"]["S"] for page in pages for item in page}) == 60


async def test_a_client_of_the_sdk_is_used(bench: Bench) -> None:
    await fill(bench.store, accounts=2, deposits=4)
    runs = slices(await commits_of(bench.store))
    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url) as client,
        DynamoDBCheckpoints(bench.table, client=client) as checkpoints,
    ):
        for projection in (Counted(bench.table), Rows(bench.table)):
            projection.bind(checkpoints, bench.store)
            projection.poison = {3}
            bench.proxy.faults = [cancelled("None", "TransactionConflict")]
            failures = [failure for each in runs for failure in await projection.apply([each])]
            assert {type(failure.error) for failure in failures} == {HandlerFailed}
            positions = await projection.positions([each.stream for each in runs])
            assert [position.version for position in positions.values()] == [3, 3]
            projection.poison = set()
            assert not any([await projection.apply([each.part(3, 4)]) for each in runs])
            await bench.check(projection)
            await projection.advance(run(4, 5, Fence(0, 2), runs[0].stream))
            [failure] = await projection.apply([run(5, 6, stream=runs[0].stream)])
            assert isinstance(failure.error, Fenced)


async def test_writes_that_do_not_fit_into_a_transaction_are_not_sent_as_one(bench: Bench) -> None:
    class Updated(DynamoDBProjection, tag="updated"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            key = {"PK": {"S": "updated"}, "SK": {"S": context.stream}}
            update = {"UpdateExpression": "ADD n :n", "ExpressionAttributeValues": {":n": {"N": "1"}}}
            context.write({"Update": {"TableName": bench.table, "Key": key, **update}})

    await fill(bench.store, accounts=1, deposits=8)
    await Processor(Updated(), bench.store, bench.faulty).run(until_caught_up=True)
    assert (await bench.items("updated"))["account-a-0"]["n"]["N"] == "8"
    assert bench.proxy.counts["TransactWriteItems"] == 8


async def test_a_failed_condition_of_a_handlers_write_parks_the_stream(bench: Bench) -> None:
    class Limited(DynamoDBProjection, tag="limited"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            key = {"PK": {"S": "limited"}, "SK": {"S": context.stream}}
            context.write(
                {
                    "Update": {
                        "TableName": bench.table,
                        "Key": key,
                        "UpdateExpression": "ADD deposits :one",
                        "ConditionExpression": "attribute_not_exists(deposits) OR deposits < :most",
                        "ExpressionAttributeValues": {":one": {"N": "1"}, ":most": {"N": "3"}},
                    }
                }
            )
            context.add(bench.table, {"PK": "limited total", "SK": "total"}, deposits=1)

    await fill(bench.store, accounts=2, deposits=3)
    await deposit(bench.store, "a-0", 7)
    processor = Processor(Limited(), bench.store, bench.direct, attempts=1)
    await run_to_parked(processor)
    [parked] = await processor.parked()
    assert (parked.stream, parked.version) == ("account-a-0", 4)
    assert f"condition of a Update in {bench.table} failed" in parked.error
    assert (await bench.items("limited total"))["total"]["deposits"]["N"] == "6"  # nothing of what failed
    with pytest.raises(StreamParked):
        await processor.retry("account-a-0")


@pytest.mark.parametrize(
    "write",
    [
        {"Put": {"TableName": "TABLE", "Item": {"PK": {"S": "x"}}}},
        {"Put": {"TableName": "TABLE", "Item": {"PK": {"S": "x"}, "SK": {"S": "y"}, "big": {"S": "x" * 410_000}}}},
        {"Update": {"TableName": "TABLE", "Key": {"PK": {"S": "x"}, "SK": {"S": "y"}}, "UpdateExpression": "SET"}},
        {"Put": {"Item": {}}},
        {"Delete": {"Key": {}}},
        {"Nothing": {}},
    ],
    ids=["key", "size", "expression", "no-table", "no-table-of-a-key", "no-action"],
)
async def test_a_write_that_is_not_valid_parks_its_stream(bench: Bench, write: dict[str, dict[str, Any]]) -> None:
    class Wrong(DynamoDBProjection, tag="wrong"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            [(kind, action)] = write.items()
            context.write({kind: {**action, **({"TableName": bench.table} if "TableName" in action else {})}})

    await fill(bench.store, accounts=1, deposits=1)
    processor = Processor(Wrong(), bench.store, bench.direct, attempts=1)
    await run_to_parked(processor)
    assert [each.version for each in await processor.parked()] == [1]


async def test_a_read_model_whose_table_is_missing_stops_the_processor(bench: Bench) -> None:
    await fill(bench.store, accounts=1)
    with pytest.raises(StoreRejected, match="ResourceNotFound"):
        await Processor(Counted("no-such-table"), bench.store, bench.direct).run(until_caught_up=True)
    with pytest.raises(StoreRejected, match="ResourceNotFound"):
        await Processor(Rows("no-such-table"), bench.store, bench.direct).run(until_caught_up=True)


async def test_events_without_writes_cost_only_the_position(bench: Bench) -> None:
    """After the first position, which is checked: the processor may have been forgotten."""

    class Quiet(DynamoDBProjection, tag="quiet"):
        def handle_deposited(self, event: Deposited) -> None: ...

    await fill(bench.store, accounts=3)
    await Processor(Quiet(), bench.store, bench.faulty).run(until_caught_up=True)
    assert bench.proxy.counts["TransactWriteItems"] == 3
    await deposit(bench.store, "a-0", 5)
    bench.proxy.operations.clear()
    await Processor(Quiet(), bench.store, bench.faulty).run(until_caught_up=True)
    assert "TransactWriteItems" not in bench.proxy.counts
    assert (await bench.direct.positions("quiet@1", ["account-a-0"]))["account-a-0"].version == 5


@pytest.mark.parametrize("reasons", [("None", "TransactionConflict"), ("ThrottlingError",), ("None", "None"), ()])
async def test_a_transaction_cancelled_because_of_others_is_tried_again(bench: Bench, reasons: tuple[str, ...]) -> None:
    await fill(bench.store, accounts=1, deposits=2)
    projection = bench.bind(Counted(bench.table), bench.faulty)
    bench.proxy.faults = [cancelled(*reasons), cancelled(*reasons)]
    assert not await projection.apply(slices(await commits_of(bench.store)))
    assert bench.proxy.operations == ["TransactWriteItems"] * 3
    await bench.check(projection)


async def test_conflicts_until_the_deadline_raise_throttled(bench: Bench) -> None:
    await fill(bench.store, accounts=1, deposits=2)
    async with checkpoints_on(bench.proxy.url, bench.table, deadline=0.5) as hasty:
        projection = bench.bind(Counted(bench.table), hasty)
        bench.proxy.then = cancelled("None", "TransactionConflict")
        [failure] = await projection.apply(slices(await commits_of(bench.store)))
        assert isinstance(failure.error, Throttled)
        assert "TransactionConflict" in str(failure.error)
        bench.proxy.then = PASS
        assert not await projection.apply(slices(await commits_of(bench.store)))
    await bench.check(projection)


async def test_a_row_is_the_same_however_its_commits_are_sliced(bench: Bench) -> None:
    class Varied(DynamoDBRows, tag="varied"):
        table = bench.table

        def key(self, stream: str) -> Mapping[str, str]:
            return {"PK": f"{self.name} {self.way}", "SK": stream}

        way = ""

        def handle_deposited(self, event: Deposited, context: RowContext) -> None:
            match event.amount % 5:
                case 0:
                    context.add(sum=event.amount, precise=Decimal("0.1"))
                case 1:
                    context.remove("sum", "flag")
                case 2:
                    context.set(sum=event.amount, flag=True, none=None)
                case 3:
                    context.add(sum=1)
                    context.set(nested={"list": [1, "a", b"\x00", {"deep": Decimal(2)}]}, precise=5)
                case _:
                    context.set(text="\u00e4 " + str(event.amount))
                    context.remove("precise")

    dice = Random(3)
    account = Account.open("a-1", owner="ann")
    await bench.accounts.save(account)
    for _ in range(20):
        for _ in range(4):
            account.deposit(dice.randrange(1, 50))
        await bench.accounts.save(account)
    [whole] = slices(await commits_of(bench.store))
    rows: list[Item] = []
    for size in (1, 7, 21):
        projection = Varied()
        projection.way = str(size)
        projection.bind(bench.direct, bench.store)
        for start in range(0, len(whole.commits), size):
            assert not await projection.apply([whole.part(start, start + size)])
        row = (await bench.items(f"varied@1 {size}"))["account-a-1"]
        del row["PK"], row["eventsrc"]["M"]["epoch"]
        rows.append(row)
    assert rows[0] == rows[1] == rows[2]
    position = rows[0]["eventsrc"]["M"]
    assert position.keys() == {"version", "id", "time", "stream", "processor", "store"}
    assert (position["version"], position["id"]) == ({"N": "21"}, {"B": whole.commits[-1].id})
    assert len(rows[0]) > 4


async def test_a_value_that_a_row_cannot_hold_parks_its_stream(bench: Bench) -> None:
    class Inexact(DynamoDBRows, tag="inexact"):
        table = bench.table
        value: Any = 0.5

        def key(self, stream: str) -> Mapping[str, str]:
            return {"PK": self.name, "SK": stream}

        def handle_deposited(self, event: Deposited, context: RowContext) -> None:
            context.set(value=self.value)

    await fill(bench.store, accounts=1, deposits=1)
    for value in (0.5, object(), Decimal("NaN"), int("1" * 40), "x" * 410_000, {1: 2}):
        projection = Inexact()
        projection.value = value
        processor = Processor(projection, bench.store, bench.direct, attempts=1)
        await run_to_parked(processor)
        assert [each.version for each in await processor.parked()] == [1]
        projection.value = 5
        await processor.retry("account-a-0")
        await bench.direct.forget("inexact@1")
        await bench.direct.table.clear("inexact@1")


async def test_each_version_has_its_own_rows(bench: Bench) -> None:
    class Unversioned(Rows, tag="unversioned"):
        def key(self, stream: str) -> Mapping[str, str]:
            return {"PK": stream, "SK": "row"}

    with pytest.raises(DeclarationError, match=r"Unversioned\.key is the same for all versions|Unversioned.key"):
        Processor(Unversioned(bench.table), bench.store, bench.direct)


def into_two(old: Opened) -> list[Welcomed]:
    return [Welcomed(owner=old.owner), Welcomed(owner=old.owner)]


class Welcomed(Event, tag="account.welcomed"):
    owner: str


@every_kind
async def test_each_part_of_an_event_has_its_own_id(bench: Bench, kind: Kind) -> None:
    await bench.accounts.save(Account.open("a-1", owner="ann"))

    class Welcomes(kind, tag="welcomes"):  # type: ignore[call-arg,misc,valid-type]
        upcasters = (into_two,)

        async def handle_movement(self, event: Welcomed, context: Any) -> None:
            await _call(kind.handle_movement(self, event, context))  # type: ignore[arg-type]

    projection = Welcomes(bench.table)
    await Processor(projection, bench.store, bench.direct).run(until_caught_up=True)
    if kind is Counted:
        assert [*await bench.items(f"{projection.name} account-a-1")] == ["account-a-1@1.0", "account-a-1@1.0.1"]
    else:
        [row] = (await bench.items(f"row of {projection.name}")).values()
        assert (row["events"]["N"], row["last"]["S"]) == ("2", "account-a-1@1.0.1")


async def _call(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


async def test_each_stream_has_its_own_row(bench: Bench) -> None:
    class Shared(Rows, tag="shared"):
        def key(self, stream: str) -> Mapping[str, str]:
            return {"PK": self.name, "SK": "all"}

    await fill(bench.store, accounts=2)
    first, second = slices(await commits_of(bench.store))
    projection = bench.bind(Shared(bench.table), bench.direct)
    with pytest.raises(DeclarationError, match="two streams the same row"):
        await projection.positions([first.stream, second.stream])
    assert not await projection.apply([first])
    [failure] = await projection.apply([second])
    with pytest.raises(DeclarationError, match="two streams the same row"):
        raise failure.error


@every_kind
async def test_a_rebuild_leaves_the_version_in_use_alone(bench: Bench, kind: Kind) -> None:
    await fill(bench.store, accounts=3, deposits=4)
    await Processor(kind(bench.table), bench.store, bench.direct).run(until_caught_up=True)

    class Second(kind):  # type: ignore[valid-type,misc]  # either
        version = 2

    processor = Processor(Second(bench.table), bench.store, bench.direct)
    steps: list[tuple[int, int]] = []
    await rebuild(processor, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    await bench.check(processor.projection)
    await bench.check(kind(bench.table))
    assert await bench.direct.active(processor.projection.tag) == 2
    if kind is Rows:
        assert all(row["muted"]["BOOL"] for row in (await bench.items("row of rows@2")).values())


@every_kind
async def test_forget_keeps_the_read_model(bench: Bench, kind: Kind) -> None:
    await fill(bench.store)
    processor = Processor(kind(bench.table), bench.store, bench.direct)
    await processor.run(until_caught_up=True)
    await bench.direct.forget(processor.name)
    await bench.check(processor.projection)


class Itemized(DynamoDBProjection, tag="itemized"):
    """Writes an item for each event, which `forget` can find."""

    def __init__(self, table: str) -> None:
        self.tables = (table,)  # type: ignore[misc]  # where it is known only now

    def handle_movement(self, event: Movement, context: DynamoDBContext) -> None:
        context.add(self.tables[0], {"PK": self.name, "SK": context.id}, times=1)

    async def check(self, bench: Bench) -> None:
        """Assert that each event was handled once."""
        found = {id: int(item["times"]["N"]) for id, item in (await bench.items(self.name)).items()}
        assert found == dict.fromkeys([id for ids in (await ids_of(bench.store)).values() for id in ids], 1)


@pytest.mark.parametrize("worker", ["stale", "sharing", "claiming"])
async def test_forget_is_exact_while_a_worker_handles_new_streams(
    bench: Bench, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has checked its slots just before, one that shares them, as functions do, or one that claims them,
    right before and after the items are deleted.
    """
    await fill(bench.store, accounts=3)
    await Processor(Itemized(bench.table), bench.store, bench.direct).run(until_caught_up=True)
    processor = Processor(Itemized(bench.table), bench.store, bench.direct)
    assignment = processor.pipeline.assignment
    await processor.pipeline.prepare()
    await (assignment.join() if worker == "sharing" else assignment.take_all())
    monkeypatch.setattr("eventsrc.processing.assignment.CONFIRM_SECONDS", 60.0)  # the last check is young enough
    await assignment.refresh()
    names, refused = iter("bcde"), list[Fenced]()

    async def handle() -> None:
        """Handle a new stream, and then one that was handled before."""
        await bench.accounts.save(Account.open(next(names), owner="bob"))
        await handle_newest()
        await deposit(bench.store, "a-0", 1)
        await handle_newest()

    async def handle_newest() -> None:
        try:
            if worker == "sharing":
                await assignment.join()
            elif worker == "claiming":
                await assignment.take_all()
            await processor.pipeline.handle((await commits_of(bench.store))[-1:])
        except Fenced as error:
            refused.append(error)

    async def delete_items(*given: Any) -> None:
        await handle()
        await delete_version(*given)
        await handle()

    monkeypatch.setattr("eventsrc.processing.projections.dynamodb.delete_version", delete_items)
    await Processor(Itemized(bench.table), bench.store, bench.direct).forget()
    again = Processor(Itemized(bench.table), bench.store, bench.direct)
    await again.run(until_caught_up=True)
    await again.projection.check(bench)
    assert refused


async def test_other_checkpoints_are_refused(bench: Bench) -> None:
    for projection in (Counted(bench.table), Rows(bench.table)):
        with pytest.raises(TypeError, match="needs DynamoDBCheckpoints"):
            Processor(projection, bench.store, MemoryCheckpoints())
    with pytest.raises(DeclarationError, match=r"Rows\.table is not set|Rows.table"):
        Processor(Rows(""), bench.store, bench.direct)


async def test_effects_with_positions_in_dynamodb(bench: Bench) -> None:
    await fill(bench.store)
    processor = Processor(Outside(), bench.store, bench.faulty)
    dice = Random(2)
    bench.proxy.choose = at_times(dice, FAULTS, 0.3)
    await processor.run(until_caught_up=True)
    assert await processor.projection.read_handled() == await ids_of(bench.store)


async def test_a_processor_follows_the_stream_of_a_table(bench: Bench) -> None:
    async with store_on(bench.endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        await fill(store)
        processor = Processor(Counted(bench.table), store, bench.direct)
        async with running(processor):
            for number in range(3):
                await processor.wait_for(await deposit(store, f"a-{number}", 7))
        found = [await bench.items(f"counted@1 account-a-{number}") for number in range(3)]
        assert [len(items) for items in found] == [6, 6, 6]
        assert {item["times"]["N"] for items in found for item in items.values()} == {"1"}


async def test_a_refused_write_has_the_services_message(bench: Bench) -> None:
    class Wrong(DynamoDBProjection, tag="wrong"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            context.write({"Put": {"TableName": bench.table, "Item": {"PK": {"S": "no sort key"}}}})

    class Misspelt(DynamoDBProjection, tag="misspelt"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            context.add("no-such-table", {"PK": "p", "SK": "s"}, amount=1)

    await fill(bench.store, accounts=1, deposits=1)
    processor = Processor(Wrong(), bench.store, bench.direct, attempts=1)
    await run_to_parked(processor)
    [parked] = await processor.parked()
    assert "key" in parked.error.lower().partition("of the store?")[2]  # the service's words
    with pytest.raises(StoreRejected, match="no-such-table"):
        await Processor(Misspelt(), bench.store, bench.direct, attempts=1).run(until_caught_up=True)
