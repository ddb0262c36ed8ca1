"""Read models on the real DynamoDB Local, without a processor: owners of rows, forget, replay, forms of writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from support.bank import Deposited, Opened
from support.ledger import commits_of, fill
from support.slices import FENCE, slices
from support.tables import checkpoints_on, fresh_name, session

from eventsrc import Commit, DeclarationError, Fenced, MemoryStore, StoreChanged
from eventsrc.processing import (
    DynamoDBCheckpoints,
    DynamoDBContext,
    DynamoDBProjection,
    DynamoDBRows,
    RowContext,
    Writes,
)
from eventsrc.processing.checkpoints.checkpoints import Slot
from eventsrc.processing.slice import Fence, HandlerFailed, PositionMoved, Slice
from eventsrc.stores.dynamodb.wire.responses import Item


class Tenant(MemoryStore):
    """A store that has an identity."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def identity(self) -> str:
        return self.name


class Balances(DynamoDBRows, tag="balances"):
    prefix = ""

    def __init__(self, table: str) -> None:
        self.table = table  # type: ignore[misc]  # where it is known only now

    def key(self, stream: str) -> Mapping[str, str]:
        return {"PK": f"{self.prefix}{self.name}", "SK": stream}

    async def handle_deposited(self, event: Deposited, context: RowContext) -> None:
        context.add(amount=event.amount)


class Balances10(Balances):
    version = 10


class Totals(DynamoDBProjection, tag="totals"):
    """The sum of all deposits, and the sum of each stream, which is needed to undo it."""

    tables: ClassVar[Sequence[str]] = ()

    def __init__(self, table: str, *, declared: bool = True) -> None:
        self.model = table
        self.tables = (table,) if declared else ()  # type: ignore[misc]

    def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
        context.add(self.model, {"PK": self.name, "SK": "all"}, amount=event.amount)
        context.add(self.model, {"PK": f"{self.name}#streams", "SK": context.stream}, amount=event.amount)

    async def forget_stream(self, writes: Writes, stream: str) -> None:
        key = {"PK": f"{self.name}#streams", "SK": stream}
        found = await self._checkpoints.table.get(self._checkpoints.table.key(*key.values()))
        if found is not None:
            writes.add(self.model, {"PK": self.name, "SK": "all"}, amount=-int(found["amount"]["N"]))
            writes.write({"Delete": {"TableName": self.model, "Key": {name: {"S": key[name]} for name in key}}})


class Totals10(Totals):
    version = 10


class Bench:
    def __init__(self, checkpoints: DynamoDBCheckpoints, endpoint: str, commits: Sequence[Commit]) -> None:
        self.checkpoints, self.endpoint, self.commits = checkpoints, endpoint, commits
        self.table = checkpoints.table.name

    def bind(self, projection: Any, store: MemoryStore | None = None) -> Any:
        projection.bind(self.checkpoints, store or Tenant("one"), handler_timeout=5.0)
        return projection

    async def apply(self, projection: Any, runs: Sequence[Slice]) -> list[Exception]:
        return [failure.error for run in runs for failure in await projection.apply([run])]

    async def items(self, partition: str) -> dict[str, Item]:
        async with session().client("dynamodb", endpoint_url=self.endpoint) as client:
            asked = {":pk": {"S": partition}}
            found = await client.query(
                TableName=self.table, KeyConditionExpression="PK = :pk", ExpressionAttributeValues=asked
            )
        return {item["SK"]["S"]: item for item in found["Items"]}

    async def amounts(self, partition: str) -> dict[str, int]:
        return {sort: int(item["amount"]["N"]) for sort, item in (await self.items(partition)).items()}


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    async with MemoryStore() as store, checkpoints_on(dynamodb_endpoint, fresh_name()) as checkpoints:
        await checkpoints.create_table()
        await fill(store, accounts=3, deposits=3)
        yield Bench(checkpoints, dynamodb_endpoint, await commits_of(store))


EACH = {"account-a-0": 103, "account-a-1": 103, "account-a-2": 103}


async def test_a_row_holds_its_position_with_the_commits_id(bench: Bench) -> None:
    rows = bench.bind(Balances(bench.table))
    assert not await bench.apply(rows, slices(bench.commits))
    assert await bench.amounts("balances@1") == EACH
    last = bench.commits[-1]
    position = (await rows.positions([last.stream, "none"]))[last.stream]
    assert (position.version, position.id, position.time) == (last.version, last.id, last.time)
    assert await rows.positions_of("balances@2", [last.stream]) == {}


async def test_a_slice_that_does_not_begin_at_the_position_of_the_row_changes_nothing(bench: Bench) -> None:
    rows = bench.bind(Balances(bench.table))
    run = slices(bench.commits)[0]
    assert not await bench.apply(rows, [run.part(0, 2)])
    for stale in (run, run.part(1, 3), run.part(2, 3)._replace(is_first=True)):
        [error] = await bench.apply(rows, [stale])
        assert isinstance(error, PositionMoved)
    [error] = await bench.apply(rows, [slices(bench.commits)[1].part(1, 3)])  # it has no row
    assert isinstance(error, PositionMoved)
    assert not await bench.apply(rows, [run.part(2, 3)._replace(fence=Fence(0, 5))])
    [error] = await bench.apply(rows, [run.part(2, 3)])
    assert isinstance(error, Fenced)
    assert await bench.amounts("balances@1") == {"account-a-0": 103}


async def test_a_row_of_another_tenant_is_refused(bench: Bench) -> None:
    first, second = (bench.bind(Balances(bench.table), Tenant(name)) for name in ("one", "two"))
    run = slices(bench.commits)[0]
    assert not await bench.apply(first, [run.part(0, 2)])
    with pytest.raises(StoreChanged, match="another store or tenant; put the tenant into the key"):
        await second.positions([run.stream])
    for part in (run.part(0, 2), run.part(2, 3)):
        [error] = await bench.apply(second, [part])
        assert isinstance(error, StoreChanged)
    with pytest.raises(StoreChanged):
        await second.reset(run.stream, FENCE)
    assert await bench.amounts("balances@1") == {"account-a-0": 101}
    assert not await bench.apply(first, [run.part(2, 3)])


async def test_a_row_of_another_processor_is_refused(bench: Bench) -> None:
    class Other(Balances, tag="other"):
        def key(self, stream: str) -> Mapping[str, str]:
            return {"PK": f"balances@{self.version}", "SK": stream}

    run = slices(bench.commits)[0]
    assert not await bench.apply(bench.bind(Balances(bench.table)), [run.part(0, 2)])
    for part in (run.part(0, 2), run.part(2, 3)):
        [error] = await bench.apply(bench.bind(Other(bench.table)), [part])
        assert isinstance(error, DeclarationError)
        assert "belongs to balances@1" in str(error)


async def test_forget_deletes_the_rows_of_this_version_and_store(bench: Bench) -> None:
    rows, newer = bench.bind(Balances(bench.table)), bench.bind(Balances10(bench.table))
    other = Balances(bench.table)  # the same processor of another tenant, with checkpoints of its own
    async with checkpoints_on(bench.endpoint, fresh_name()) as theirs:
        await theirs.create_table()
        other.prefix = "two "
        other.bind(theirs, Tenant("two"))
        for each in (rows, newer, other):
            assert not await bench.apply(each, slices(bench.commits))
        await rows.discard()
        assert await bench.items("balances@1") == {}
        assert await bench.amounts("balances@10") == await bench.amounts("two balances@1") == EACH
        assert not await bench.apply(rows, slices(bench.commits))  # it begins with nothing
        assert await bench.amounts("balances@1") == EACH


async def test_a_stale_worker_is_fenced_after_forget(bench: Bench) -> None:
    """It holds the slot's old epoch; its first slices of a stream confirm the slot, others find no row."""
    rows, totals = bench.bind(Balances(bench.table)), bench.bind(Totals(bench.table))
    run, other = slices(bench.commits)[:2]

    for projection in (rows, totals):

        async def confirm(name: str = projection.name) -> None:
            await bench.checkpoints.slot_items.check_fence(name, FENCE)

        await bench.checkpoints.claim(projection.name, Slot(number=0, of=1, epoch=1))
        assert not await bench.apply(projection, [run.part(0, 2)])
        await projection.discard()
        errors = await bench.apply(projection, [run.part(2, 3), other._replace(confirm=confirm)])
        assert [type(error) for error in errors] == [Fenced, Fenced]
    assert await bench.items("balances@1") == await bench.items("totals@1") == {}


async def test_reset_of_a_row_handles_its_stream_again(bench: Bench) -> None:
    rows = bench.bind(Balances(bench.table))
    runs = slices(bench.commits)
    assert not await bench.apply(rows, runs)
    await rows.reset("account-a-1", FENCE)
    await rows.reset("account-a-9", FENCE)  # it has no row
    assert await bench.amounts("balances@1") == {"account-a-0": 103, "account-a-2": 103}
    assert not await bench.apply(rows, [runs[1]])
    assert await bench.amounts("balances@1") == EACH
    await bench.checkpoints.claim(rows.name, Slot(number=0, of=1, epoch=5))
    with pytest.raises(Fenced):
        await rows.reset("account-a-1", FENCE)
    assert await bench.amounts("balances@1") == EACH


async def test_forget_deletes_the_items_of_this_version_in_declared_tables(bench: Bench) -> None:
    totals, newer = bench.bind(Totals(bench.table)), bench.bind(Totals10(bench.table))
    for each in (totals, newer):
        assert not await bench.apply(each, slices(bench.commits))
    assert await bench.amounts("totals@1") == {"all": 309}
    await totals.discard()
    assert await bench.items("totals@1") == await bench.items("totals@1#streams") == {}
    assert not await totals.positions(list(EACH))
    assert await bench.amounts("totals@10") == {"all": 309}
    assert await bench.amounts("totals@10#streams") == EACH
    assert len(await newer.positions(list(EACH))) == 3
    assert not await bench.apply(totals, slices(bench.commits))  # it begins with nothing
    assert await bench.amounts("totals@1") == {"all": 309}


async def test_forget_of_many_items_reads_several_pages(bench: Bench) -> None:
    class Wide(Totals, tag="wide"):
        def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            key = {"PK": f"{self.name} {context.stream}", "SK": context.id}
            item = {**{name: {"S": text} for name, text in key.items()}, "text": {"S": "x" * 390_000}}
            context.write({"Put": {"TableName": self.model, "Item": item}})

    wide = bench.bind(Wide(bench.table))
    assert not await bench.apply(wide, slices(bench.commits))
    assert len(await bench.items("wide@1 account-a-2")) == 3  # 1 MB is one page
    await wide.discard()
    for stream in EACH:
        assert not await bench.items(f"wide@1 {stream}")


async def test_forget_of_undeclared_items_is_refused_and_drops_nothing(bench: Bench) -> None:
    totals = bench.bind(Totals(bench.table, declared=False))
    assert not await bench.apply(totals, slices(bench.commits))
    with pytest.raises(TypeError, match=r"raise its version.*or declare Totals\.tables"):
        await totals.discard()
    assert await bench.amounts("totals@1") == {"all": 309}
    assert len(await totals.positions(list(EACH))) == 3


async def test_reset_undoes_a_stream_and_deletes_its_position_in_one_transaction(bench: Bench) -> None:
    totals = bench.bind(Totals(bench.table))
    runs = slices(bench.commits)
    assert not await bench.apply(totals, runs)
    await totals.reset("account-a-1", FENCE)
    assert await bench.amounts("totals@1") == {"all": 206}
    assert set(await totals.positions(list(EACH))) == {"account-a-0", "account-a-2"}
    assert not await bench.apply(totals, [runs[1]])
    assert await bench.amounts("totals@1") == {"all": 309}
    await bench.checkpoints.claim(totals.name, Slot(number=0, of=1, epoch=5))
    with pytest.raises(Fenced):
        await totals.reset("account-a-1", FENCE)
    assert await bench.amounts("totals@1") == {"all": 309}


async def test_reset_needs_forget_stream(bench: Bench) -> None:
    class Plain(DynamoDBProjection, tag="plain"):
        def handle_opened(self, event: Opened, context: DynamoDBContext) -> None: ...

    with pytest.raises(TypeError, match=r"Plain\.forget_stream is not written"):
        await bench.bind(Plain()).reset("account-a-1", FENCE)


class Written(DynamoDBProjection, tag="written"):
    def __init__(self, action: Any) -> None:
        self.action = action

    def handle_opened(self, event: Opened, context: DynamoDBContext) -> None:
        context.write(self.action)


def put(**attributes: Any) -> Any:
    return {"Put": {"TableName": "models", "Item": {"PK": {"S": "p"}, "SK": {"S": "s"}, **attributes}}}


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (put(minutes=7), r"Put\.Item\.minutes is of type int, not an attribute value"),
        (put(minutes={"N": 4711}), r"Put\.Item\.minutes\.N is of type int; it must be a str"),
        (put(minutes={"N": "4711x"}), r"Put\.Item\.minutes\.N is not the text of a number"),
        (put(minutes={"N": "NaN"}), r"Put\.Item\.minutes\.N is not the text of a number"),
        (put(late={"BOOL": "4711"}), r"Put\.Item\.late\.BOOL is of type str"),
        (put(late={"NULL": False}), r"Put\.Item\.late\.NULL is not True"),
        (put(name={"S": b"4711"}), r"Put\.Item\.name\.S is of type bytes"),
        (put(raw={"B": "4711"}), r"Put\.Item\.raw\.B is of type str"),
        (put(name={"S": "4711", "N": "4711"}), r"Put\.Item\.name is of type dict, not an attribute value"),
        (put(name={"X": "4711"}), r"Put\.Item\.name\.X has a type that DynamoDB does not have"),
        (put(legs={"L": [{"S": "a"}, "4711"]}), r"Put\.Item\.legs\.L\[1\] is of type str, not an attribute value"),
        (put(legs={"M": {"first": {"M": {"at": 4711}}}}), r"Put\.Item\.legs\.M\.first\.M\.at is of type int"),
        (put(codes={"SS": []}), r"Put\.Item\.codes\.SS is empty"),
        (put(codes={"NS": ["1", 4711]}), r"Put\.Item\.codes\.NS\[1\] is of type int"),
        ({"Delete": {"TableName": "models", "Key": {"PK": "4711"}}}, r"Delete\.Key\.PK is of type str"),
        (
            {"Update": {"TableName": "m", "Key": {"PK": {"S": "p"}}, "ExpressionAttributeValues": {":a": 4711}}},
            r"Update\.ExpressionAttributeValues\.:a is of type int",
        ),
        (
            {"Update": {"TableName": "m", "Key": {"PK": {"S": "p"}}, "ExpressionAttributeNames": {"#a": 4711}}},
            r"Update\.ExpressionAttributeNames\.#a is of type int; it must be a str",
        ),
        (
            {"Delete": {"TableName": "m", "Key": {"PK": {"S": "p"}}, "ConditionExpression": 4711}},
            r"Delete\.ConditionExpression is of type int",
        ),
        (
            {"Delete": {"TableName": "m", "Key": {"PK": {"S": "p"}}, "UpdateExpression": "REMOVE a"}},
            r"Delete\.UpdateExpression is not a field",
        ),
        (
            {"Delete": {"TableName": "m", "Key": {"PK": {"S": "p"}}, "Condition": "a"}},
            r"Delete\.Condition is not a field",
        ),
        (put(minutes={"N": "\u0663"}), r"Put\.Item\.minutes\.N is not the text of a number"),
        (put(minutes={"N": " 1"}), r"Put\.Item\.minutes\.N is not the text of a number"),
        ({"Put": {"TableName": "models", "Key": {}}}, "Put needs a TableName, which is a text, and Item"),
        ({"Upsert": {}}, "an action is a dict with one of the keys Put, Update"),
        ({"TableName": "models", "Item": {}}, "an action is a dict with one of the keys"),
    ],
)
async def test_plain_values_in_writes_are_refused_with_their_place(bench: Bench, action: Any, message: str) -> None:
    [error] = await bench.apply(bench.bind(Written(action)), [slices(bench.commits)[0]])
    assert isinstance(error, HandlerFailed)
    with pytest.raises((TypeError, ValueError), match=message):
        raise error.error
    assert "4711" not in str(error.error)


@pytest.mark.parametrize("kind", ["Put", "Delete"])
async def test_items_of_the_library_are_not_the_handlers(bench: Bench, kind: str) -> None:
    key = {"PK": {"S": "@processors"}, "SK": {"S": "written@1"}}
    action = {kind: {"TableName": bench.table, "Item" if kind == "Put" else "Key": key}}
    [error] = await bench.apply(bench.bind(Written(action)), [slices(bench.commits)[0]])
    assert isinstance(error, HandlerFailed)
    assert f"{kind} is for an item of the library" in str(error.error)


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(put(name={"S": "\ud800"}), id="a lone surrogate"),
        pytest.param({"Put": {"TableName": "", "Item": {"PK": {"S": "p"}}}}, id="an invalid table name"),
        pytest.param(put(minutes={"N": "1e999"}), id="a number out of range"),
    ],
)
async def test_a_write_that_cannot_be_sent_or_stored_fails_its_slice_only(bench: Bench, action: Any) -> None:
    [error] = await bench.apply(bench.bind(Written(action)), [slices(bench.commits)[0]])
    assert isinstance(error, HandlerFailed)


async def test_a_row_whose_value_cannot_be_encoded_fails_its_slice_only(bench: Bench) -> None:
    class Names(Balances, tag="names"):
        async def handle_opened(self, event: Opened, context: RowContext) -> None:
            context.set(owner="\ud800")

    [error] = await bench.apply(bench.bind(Names(bench.table)), [slices(bench.commits)[0]])
    assert isinstance(error, HandlerFailed)
    assert isinstance(error.error, UnicodeEncodeError)


async def test_values_of_all_types_are_written(bench: Bench) -> None:
    item = {
        "PK": {"S": "all types"},
        "SK": {"S": "s"},
        "number": {"N": "-1.5e3"},
        "raw": {"B": b"\x00"},
        "yes": {"BOOL": True},
        "none": {"NULL": True},
        "list": {"L": [{"S": ""}, {"M": {"deep": {"N": "1"}}}]},
        "texts": {"SS": ["a", "b"]},
        "numbers": {"NS": ["1", "2"]},
        "raws": {"BS": [b"a"]},
    }
    written = bench.bind(Written({"Put": {"TableName": bench.table, "Item": item}}))
    assert not await bench.apply(written, [slices(bench.commits)[0]])
    stored = (await bench.items("all types"))["s"]
    assert stored == {**item, "number": {"N": "-1500"}, "texts": stored["texts"], "numbers": stored["numbers"]}


async def test_a_handler_that_hangs_fails_at_its_limit(bench: Bench) -> None:
    class Hanging(DynamoDBProjection, tag="hanging"):
        async def handle_deposited(self, event: Deposited, context: DynamoDBContext) -> None:
            await asyncio.Event().wait()

    hanging = Hanging()
    hanging.bind(bench.checkpoints, Tenant("one"), handler_timeout=0.1)
    [error] = await bench.apply(hanging, [slices(bench.commits)[0].part(0, 1)])
    assert isinstance(error, HandlerFailed)
    assert "Hanging.handle_deposited took longer than the handler_timeout of 0.1 seconds" in str(error.error)
