"""Processors in AWS Lambda: each commit is handled once, and the response makes Lambda send the rest again."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from support.ledger import InMemory, InSQLite, Movement, Outside, fill
from support.proxy import ANSWER_LOST, HOLD, LOST, PASS, TWICE, Proxy, proxy_to
from support.tables import as_lambda, checkpoints_on, fresh_name, records, session, store_on

from eventsrc import Commit, DynamoDBStore, MemoryStore, StoreChanged
from eventsrc.processing import Context, DynamoDBContext, DynamoDBProjection, Processor, SQLiteCheckpoints, rebuild
from eventsrc.processing.aws_lambda import Answer, lambda_handler

SAMPLES = Path(__file__).parents[1] / "samples"
NONE: Answer = {"batchItemFailures": []}


class Clock:
    """The context of Lambda, with the milliseconds that are left."""

    def __init__(self, seconds: float = 60) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


class Environment:
    """A deployed function: its handler, and the state of its environment."""

    def __init__(self, endpoint: str, table: str, folder: Path, **options: Any) -> None:
        self.endpoint, self.table, self.folder, self.options = endpoint, table, folder, options
        self.stores: list[DynamoDBStore] = []
        self.projection: Any = InSQLite()
        self.handler = lambda_handler(self.app)
        self.broken = self.closed = False

    @asynccontextmanager
    async def app(self) -> AsyncIterator[Processor[Any]]:
        if self.broken:
            raise ConnectionError("not now")
        attempts = self.options.get("attempts", 5)
        store = store_on(self.endpoint, self.table, tenant=self.options.get("tenant"), deadline=1.0)
        async with store, SQLiteCheckpoints(self.folder / "model.db") as checkpoints:
            self.stores.append(store)
            yield Processor(self.projection, store, checkpoints, attempts=attempts)

    async def __call__(self, event: object, seconds: float = 60) -> Answer:
        """Call the handler as Lambda does, from a thread without an event loop."""
        return await asyncio.to_thread(self.handler, event, Clock(seconds))

    def close(self) -> None:
        if not self.closed:
            self.handler.close()
        self.closed = True

    async def read_handled(self) -> dict[str, list[str]]:
        async with SQLiteCheckpoints(self.folder / "model.db") as checkpoints:
            (projection := InSQLite()).bind(checkpoints, MemoryStore())
            return await projection.read_handled()


Deploy = Callable[..., Environment]


@pytest.fixture
def table() -> str:
    return fresh_name()


@pytest.fixture
async def store(dynamodb_endpoint: str, table: str) -> AsyncIterator[DynamoDBStore]:
    async with store_on(dynamodb_endpoint, table) as store:
        await store.create_table(stream=True)
        yield store


@pytest.fixture
def deploy(dynamodb_endpoint: str, table: str, tmp_path: Path) -> Iterator[Deploy]:
    made: list[Environment] = []

    def deployed(endpoint: str = dynamodb_endpoint, **options: Any) -> Environment:
        made.append(Environment(endpoint, options.pop("table", table), tmp_path, **options))
        return made[-1]

    yield deployed
    for environment in made:
        environment.close()


def of_table(table: str, event: Any) -> Any:
    """Return an event of the samples as if its records were of this table."""
    if isinstance(event, dict):
        return {name: of_table(table, value) for name, value in event.items()}
    if isinstance(event, list):
        return [of_table(table, value) for value in event]
    if isinstance(event, str) and event.startswith("eyJ"):  # the data of Kinesis
        return b64encode(b64decode(event).replace(b'"ledger"', f'"{table}"'.encode())).decode()
    return event.replace("table/ledger/", f"table/{table}/") if isinstance(event, str) else event


def event_of(store: DynamoDBStore, commits: Sequence[Commit]) -> dict[str, Any]:
    """Return the event that Lambda delivers for these commits, with sequence numbers from 100 on."""
    records = [
        {
            "eventID": f"event-{number}",
            "eventName": "INSERT",
            "dynamodb": {"Keys": {}, "NewImage": store.items.from_commit(commit), "SequenceNumber": str(number)},
        }
        for number, commit in enumerate(commits, 100)
    ]
    return {"Records": as_lambda(records)}


async def accounts(store: DynamoDBStore, **sizes: int) -> dict[str, list[Commit]]:
    """Store streams with these numbers of commits."""
    return {name: await account(store, name, size) for name, size in sizes.items()}


async def account(store: DynamoDBStore, name: str, size: int) -> list[Commit]:
    async with MemoryStore() as made:
        await fill(made, accounts=1, deposits=size)
        commits = [replace(commit, stream=name, position=None) async for commit in made.read("account-a-0")]
    await asyncio.gather(*(store.append(commit) for commit in commits))
    return commits


def ids(commits: Sequence[Commit]) -> list[str]:
    return [str(commit.event_id(index)) for commit in commits for index in range(commit.events)]


IDENTIFIERS = {
    "lambda-dynamodb": ["4421584500000000017450439091"],
    "lambda-kinesis": ["49545115241445821800535793961931190"],
    "pipes-dynamodb": ["c4ca4238a0b923820dcc509a6f758490", "c4ca4238a0b923820dcc509a6f758491"],
    "pipes-kinesis": [
        "shardId-000000000000:49545115241445821800535793961931190",
        "shardId-000000000000:49545115241445821800535793961931191",
    ],
}


@pytest.mark.parametrize("sample", IDENTIFIERS)
async def test_events_of_every_source_are_handled(
    sample: str, store: DynamoDBStore, table: str, deploy: Deploy
) -> None:
    """The handler is called directly, although the caller has a running loop."""
    environment = deploy(tenant="acme")
    event = of_table(table, json.loads((SAMPLES / f"{sample}.json").read_text()))
    assert environment.handler({"Records": []}, Clock()) == NONE
    failures = [{"itemIdentifier": identifier} for identifier in IDENTIFIERS[sample]]
    assert environment.handler(event, Clock(0.5)) == {"batchItemFailures": failures}  # no time left
    assert environment.handler(event, Clock()) == NONE
    assert environment.handler(event, Clock()) == NONE
    assert await environment.read_handled() == {"account-a-1": ["account-a-1@1.0", "account-a-1@2.0"]}


async def test_records_of_a_real_stream_are_handled_once(dynamodb_endpoint: str, table: str, deploy: Deploy) -> None:
    """The records are shuffled, repeated and partly lost, over many invocations, with one set of clients."""
    dice = Random(4)
    async with store_on(dynamodb_endpoint, table) as store:
        await store.create_table(stream=True)
        streams = await accounts(store, one=12, two=12, three=12)
        told = [as_lambda(record) for record in await records(dynamodb_endpoint, table)]
    last = [record for record in told if record["dynamodb"]["Keys"]["SK"] == {"N": "12"}]
    told = dice.sample(told, 30) + dice.sample(told, 15)
    dice.shuffle(told)
    environment = deploy()
    for first in range(0, len(told), 7):
        assert await environment({"Records": told[first : first + 7]}) == NONE
    assert await environment({"Records": last}) == NONE
    assert await environment.read_handled() == {stream: ids(commits) for stream, commits in streams.items()}
    assert len(environment.stores) == 1


async def test_two_environments_with_the_same_records_handle_them_once(store: DynamoDBStore, deploy: Deploy) -> None:
    dice = Random(5)
    streams = await accounts(store, one=15, two=15, three=15)
    commits = [commit for stream in streams.values() for commit in stream]
    environments = [deploy(), deploy()]

    async def work(environment: Environment, told: list[Commit]) -> None:
        for first in range(0, len(told), 4):
            assert await environment(event_of(store, told[first : first + 4])) == NONE

    await asyncio.gather(*(work(each, dice.sample(commits, len(commits))) for each in environments))
    assert await environments[0].read_handled() == {stream: ids(commits) for stream, commits in streams.items()}


async def test_records_whose_store_is_not_available_are_reported_as_failed(
    store: DynamoDBStore, dynamodb_endpoint: str, deploy: Deploy
) -> None:
    """The record before it was handled by an earlier invocation. The records after it are delivered again."""
    [stream] = (await accounts(store, one=9)).values()
    async with proxy_to(dynamodb_endpoint) as proxy:
        environment = deploy(proxy.url)
        assert await environment(event_of(store, stream[:2])) == NONE
        event = event_of(store, [*stream[:2], stream[4], stream[5]])  # the commits between are read from the table
        proxy.then = LOST
        assert await environment(event) == {"batchItemFailures": [{"itemIdentifier": "102"}]}
        assert await environment.read_handled() == {"one": ids(stream[:2])}
        proxy.then = "pass"
        assert await environment(event) == NONE
    assert await environment.read_handled() == {"one": ids(stream[:6])}
    assert len(environment.stores) == 1


async def test_records_that_take_too_long_are_reported_as_failed(
    store: DynamoDBStore, dynamodb_endpoint: str, deploy: Deploy
) -> None:
    """The slow stream is delivered again from its first record on. Pipes gets each failed record."""
    streams = await accounts(store, short=3, long=130)
    short, long = streams["short"], streams["long"]
    async with proxy_to(dynamodb_endpoint) as proxy:
        environment = deploy(proxy.url)
        assert await environment(event_of(store, short[:1])) == NONE
        proxy.then = HOLD
        event = event_of(store, [short[0], short[1], long[128], short[2], long[129]])
        # Also the short stream: its position is compared with the table before a commit after it is handled.
        assert await environment(event, seconds=3) == {"batchItemFailures": [{"itemIdentifier": "101"}]}
        assert await environment.read_handled() == {"short": ids(short[:1])}
        told = await environment(event["Records"], seconds=3)
        assert told == {"batchItemFailures": [{"itemIdentifier": f"event-{each}"} for each in (101, 102, 103, 104)]}
        proxy.then = "pass"
        proxy.go_on.set()
        assert await environment(event) == NONE
    assert await environment.read_handled() == {"short": ids(short), "long": ids(long)}


async def test_without_time_no_more_records_are_handled(store: DynamoDBStore, deploy: Deploy) -> None:
    [stream] = (await accounts(store, one=3)).values()
    environment = deploy()
    with pytest.raises(TimeoutError):  # before anything is open
        await environment(event_of(store, stream), seconds=0.5)
    assert await environment(event_of(store, stream[:1])) == NONE
    assert await environment(event_of(store, stream), seconds=0.5) == {"batchItemFailures": [{"itemIdentifier": "101"}]}


async def test_connections_that_broke_while_the_environment_was_frozen_are_replaced(
    store: DynamoDBStore, dynamodb_endpoint: str, deploy: Deploy
) -> None:
    [stream] = (await accounts(store, one=9)).values()
    proxy, writers = Proxy(dynamodb_endpoint), list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await proxy.serve(reader, writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        environment = deploy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await environment(event_of(store, stream[2:3])) == NONE
        assert writers
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        assert await environment(event_of(store, stream[5:6])) == NONE
        environment.close()
    assert await environment.read_handled() == {"one": ids(stream[:6])}
    assert len(environment.stores) == 1


async def test_a_failed_start_is_tried_again(store: DynamoDBStore, deploy: Deploy) -> None:
    [stream] = (await accounts(store, one=3)).values()
    environment = deploy()
    environment.broken = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await environment(event_of(store, stream))
    environment.broken = False
    assert await environment(event_of(store, stream)) == NONE
    assert await environment.read_handled() == {"one": ids(stream)}


async def test_a_failed_handler_parks_its_stream_only(store: DynamoDBStore, deploy: Deploy) -> None:
    one, two = (await accounts(store, one=4, two=4)).values()
    environment = deploy(attempts=1)
    environment.projection.poison = {2}
    event = event_of(store, [*one, two[0]])
    assert await environment(event) == NONE
    assert await environment(event, seconds=0.5) == NONE  # what is parked waits for nobody here
    assert await environment.read_handled() == {"one": ids(one[:2]), "two": ids(two[:1])}
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        assert [(each.stream, each.version) for each in await checkpoints.parked("in-sqlite@1")] == [("one", 3)]


async def test_attempts_are_counted_over_invocations_until_the_stream_is_parked(
    store: DynamoDBStore, deploy: Deploy
) -> None:
    """Otherwise the same batch would fail again and again, and block the shard."""
    one, two = (await accounts(store, one=4, two=4)).values()
    environment = deploy(attempts=5)
    environment.projection.poison = {2}
    event = event_of(store, [*one, two[0]])
    answers = [await environment(event, seconds=1.5)]
    while answers[-1] != NONE and len(answers) < 6:
        event["Records"] = [each for each in event["Records"] if each["dynamodb"]["SequenceNumber"] >= "102"]
        answers.append(await environment(event, seconds=1.5))
    assert 1 < len(answers) < 6  # its time was up before the fifth attempt, and the next ones continued to count
    assert answers[:-1] == [{"batchItemFailures": [{"itemIdentifier": "102"}]}] * (len(answers) - 1)
    assert await environment.read_handled() == {"one": ids(one[:2]), "two": ids(two[:1])}
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        [parked] = await checkpoints.parked("in-sqlite@1")
    assert (parked.stream, parked.version, parked.attempts, parked.state) == ("one", 3, 5, "parked")


async def test_a_damaged_record_is_read_from_the_table(store: DynamoDBStore, deploy: Deploy) -> None:
    """The commit in the table is not damaged."""
    [stream] = (await accounts(store, one=3)).values()
    event = event_of(store, stream)
    del event["Records"][2]["dynamodb"]["NewImage"]["i"]
    environment = deploy()
    assert await environment(event) == NONE
    assert await environment.read_handled() == {"one": ids(stream)}


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("delivered", [slice(3, 4), slice(4, 5), slice(149, 150)])
async def test_a_restored_table_that_was_written_since_is_noticed(
    dynamodb_endpoint: str, deploy: Deploy, delivered: slice, *, warm: bool
) -> None:
    """The record of the new third commit comes later, or never; or so many are missing that the stream catches up."""
    tables = fresh_name(), fresh_name()
    async with store_on(dynamodb_endpoint, tables[0]) as store, store_on(dynamodb_endpoint, tables[1]) as other:
        for each in (store, other):
            await each.create_table(stream=True)
        before = await account(store, "one", 3)
        after = await account(other, "one", 150)
        environment = deploy(table=tables[0])
        assert await environment(event_of(store, before)) == NONE
        async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
            key = {"PK": {"S": "one"}, "SK": {"N": "3"}}
            await client.delete_item(TableName=tables[0], Key=key)
        for commit in after[2:]:
            await store.append(commit)
        if not warm:
            environment.close()
            environment = deploy(table=tables[0])
        with pytest.raises(StoreChanged, match="one has another commit at version 3"):
            await environment(event_of(store, after[delivered]))
        assert await environment.read_handled() == {"one": ids(before)}


async def test_a_damaged_commit_parks_its_stream(
    store: DynamoDBStore, table: str, dynamodb_endpoint: str, deploy: Deploy
) -> None:
    one, two = (await accounts(store, one=4, two=4)).values()
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        key = {"PK": {"S": "one"}, "SK": {"N": "3"}}
        await client.update_item(TableName=table, Key=key, UpdateExpression="REMOVE i")
    event = event_of(store, [one[2], *two])
    del event["Records"][0]["dynamodb"]["NewImage"]["i"]
    environment = deploy(attempts=1)
    assert await environment(event) == NONE
    assert await environment.read_handled() == {"one": ids(one[:2]), "two": ids(two)}
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        assert [(each.stream, each.version) for each in await checkpoints.parked("in-sqlite@1")] == [("one", 3)]


@pytest.mark.parametrize(
    "record", [{"eventName": "INSERT", "s3": {}}, {"eventName": "INSERT", "dynamodb": {"Keys": {}}}]
)
async def test_a_record_of_another_program_is_reported_as_failed(
    record: Any, store: DynamoDBStore, deploy: Deploy
) -> None:
    one, two = (await accounts(store, one=2, two=2)).values()
    event = event_of(store, [*one, *two])
    event["Records"][2] = {"eventID": "event-102", "eventName": "INSERT", **record}
    event["Records"][2].get("dynamodb", {})["SequenceNumber"] = "102"
    environment = deploy()
    [failure] = (await environment(event))["batchItemFailures"]
    assert failure["itemIdentifier"] in ("102", "")  # an empty one stands for the whole batch
    assert await environment(event["Records"]) == {"batchItemFailures": [{"itemIdentifier": "event-102"}]}
    assert await environment.read_handled() == {"one": ids(one), "two": ids(two)}  # all commits are in the table


@pytest.mark.parametrize("event", [{}, {"Records": 7}, {"detail": {}}, None, "test"])
async def test_an_event_of_another_kind_raises(event: object, deploy: Deploy) -> None:
    with pytest.raises(ValueError, match="records"):
        await deploy()(event)


async def test_errors_are_raised_if_the_response_is_ignored(store: DynamoDBStore, deploy: Deploy) -> None:
    [stream] = (await accounts(store, one=3)).values()
    environment = deploy()
    environment.handler.close()
    environment.handler = lambda_handler(environment.app, partial=False)
    assert await environment(event_of(store, stream[:1])) == NONE
    with pytest.raises(TimeoutError):
        await environment(event_of(store, stream), seconds=0.5)
    assert await environment(event_of(store, stream)) == NONE
    assert await environment.read_handled() == {"one": ids(stream)}


async def test_a_function_joins_a_worker_that_has_taken_over(
    store: DynamoDBStore, table: str, dynamodb_endpoint: str, deploy: Deploy
) -> None:
    [stream] = (await accounts(store, one=3)).values()
    environment = deploy()
    assert await environment(event_of(store, stream[:1])) == NONE
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        worker = Processor(InSQLite(), store, checkpoints)
        await worker.pipeline.assignment.take_all()
    assert await environment(event_of(store, stream)) == {"batchItemFailures": [{"itemIdentifier": "101"}]}
    async with asyncio.timeout(60):
        while await environment(event_of(store, stream)) != NONE:  # AWS Lambda sends them again
            pass
    assert await environment.read_handled() == {"one": ids(stream)}


async def test_several_processors_share_an_event(
    store: DynamoDBStore, dynamodb_endpoint: str, table: str, tmp_path: Path
) -> None:
    class Second(InSQLite, tag="second"):
        pass

    @asynccontextmanager
    async def app() -> AsyncIterator[Sequence[Processor[Any]]]:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(store_on(dynamodb_endpoint, table))
            checkpoints = await stack.enter_async_context(SQLiteCheckpoints(tmp_path / "model.db"))
            yield [Processor(InSQLite(), store, checkpoints), Processor(Second(), store, checkpoints)]

    [stream] = (await accounts(store, one=3)).values()
    handler = lambda_handler(app)
    try:
        assert await asyncio.to_thread(handler, event_of(store, stream), Clock()) == NONE
    finally:
        handler.close()
    async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        for projection in (InSQLite(), Second()):
            projection.bind(checkpoints, MemoryStore())
            assert await projection.read_handled() == {"one": ids(stream)}


async def test_two_processors_of_one_name_are_refused(store: DynamoDBStore, tmp_path: Path) -> None:
    """They would share their positions, so each would handle some of the commits."""

    @asynccontextmanager
    async def app() -> AsyncIterator[Sequence[Processor[Any]]]:
        async with SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
            yield [Processor(InSQLite(), store, checkpoints), Processor(InSQLite(), store, checkpoints)]

    handler = lambda_handler(app)
    try:
        with pytest.raises(ValueError, match="same tag and version"):
            await asyncio.to_thread(handler, {"Records": []}, Clock())
    finally:
        handler.close()


@pytest.mark.parametrize("source", ["lambda-dynamodb", "lambda-kinesis", "pipes-dynamodb", "pipes-kinesis"])
async def test_records_of_another_table_are_reported_as_failed(
    source: str, store: DynamoDBStore, deploy: Deploy
) -> None:
    """They are of another history: to handle them would pass over commits of this one."""
    environment = deploy(tenant="acme")
    event = json.loads((SAMPLES / f"{source}.json").read_text())  # of the table `ledger`
    failures = [{"itemIdentifier": identifier} for identifier in IDENTIFIERS[source]]
    answer = await environment(event)
    assert answer["batchItemFailures"][: len(failures)] == failures
    assert await environment.read_handled() == {}


async def test_own_records_beside_those_of_another_table_are_handled(
    store: DynamoDBStore, table: str, deploy: Deploy
) -> None:
    one, two = (await accounts(store, one=2, two=2)).values()
    event = event_of(store, [*one, *two])
    for record, name in zip(event["Records"], [table, table, "staging", table], strict=True):
        record["eventSourceARN"] = f"arn:aws:dynamodb:eu-west-1:111122223333:table/{name}/stream/2026"
    environment = deploy()
    told = await environment(event["Records"])
    assert told == {"batchItemFailures": [{"itemIdentifier": "event-102"}]}
    assert await environment(event) == {"batchItemFailures": [{"itemIdentifier": "102"}]}
    assert await environment.read_handled() == {"one": ids(one), "two": ids(two)}


class Newer(InSQLite, tag="in-sqlite"):
    version = 2


async def test_a_warm_environment_of_a_replaced_version_answers_records_as_failed(
    store: DynamoDBStore, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the new version would never learn of them."""
    monkeypatch.setattr("eventsrc.processing.aws_lambda.CONFIRM_SECONDS", 0.05)
    [stream] = (await accounts(store, one=4)).values()
    warm = deploy()
    assert await warm(event_of(store, stream[:2])) == NONE
    async with SQLiteCheckpoints(warm.folder / "model.db") as checkpoints:
        await rebuild(Processor(Newer(), store, checkpoints))
        await asyncio.sleep(0.1)  # what it believes is at most that old
        assert await warm(event_of(store, stream)) == {"batchItemFailures": [{"itemIdentifier": "100"}]}
    fresh = deploy()
    fresh.projection = Newer()
    assert await fresh(event_of(store, stream)) == NONE
    async with SQLiteCheckpoints(warm.folder / "model.db") as checkpoints:
        (projection := Newer()).bind(checkpoints, store)
        assert await projection.read_handled() == {"one": ids(stream)}


async def test_a_cold_environment_of_a_replaced_version_answers_records_as_failed(
    store: DynamoDBStore, deploy: Deploy
) -> None:
    [stream] = (await accounts(store, one=4)).values()
    first = deploy()
    assert await first(event_of(store, stream[:2])) == NONE
    async with SQLiteCheckpoints(first.folder / "model.db") as checkpoints:
        await rebuild(Processor(Newer(), store, checkpoints))
    cold = deploy()
    for _ in range(2):
        assert await cold(event_of(store, stream)) == {"batchItemFailures": [{"itemIdentifier": "100"}]}


async def test_a_paused_processor_answers_records_as_failed_until_it_is_resumed(
    store: DynamoDBStore, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.processing.aws_lambda.CONFIRM_SECONDS", 0.0)
    [stream] = (await accounts(store, one=4)).values()
    environment = deploy()
    assert await environment(event_of(store, stream[:2])) == NONE
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        operator = Processor(InSQLite(), store, checkpoints)
        await operator.pause()
        assert await environment(event_of(store, stream)) == {"batchItemFailures": [{"itemIdentifier": "102"}]}
        assert await environment.read_handled() == {"one": ids(stream[:2])}
        await operator.resume()
        assert await environment(event_of(store, stream)) == NONE
    assert await environment.read_handled() == {"one": ids(stream)}


async def test_a_handler_that_hangs_does_not_block_its_shard(store: DynamoDBStore, deploy: Deploy) -> None:
    """The time that is left bounds it. After its attempts its stream is parked, and the others continue."""

    class Hanging(Outside, tag="hanging"):
        async def handle_movement(self, event: Movement, context: Context) -> None:
            if context.stream == "hangs":
                await asyncio.Event().wait()
            self.seen[context.stream].append(context.id)

    streams = await accounts(store, x=1, hangs=1, y=1)
    environment = deploy(attempts=2)
    environment.projection = projection = Hanging()
    event = event_of(store, [streams["x"][0], streams["hangs"][0], streams["y"][0]])
    answers = []
    for _ in range(4):
        answers.append(await environment(event, seconds=2.2))
        if answers[-1] == NONE:
            break
        first = answers[-1]["batchItemFailures"][0]["itemIdentifier"]
        event["Records"] = [each for each in event["Records"] if each["dynamodb"]["SequenceNumber"] >= first]
    assert answers == [{"batchItemFailures": [{"itemIdentifier": "101"}]}, NONE]
    assert dict(projection.seen) == {name: ids(streams[name]) for name in ("x", "y")}
    async with SQLiteCheckpoints(environment.folder / "model.db") as checkpoints:
        [parked] = await checkpoints.parked("hanging@1")
    assert (parked.stream, parked.version, parked.attempts, parked.state) == ("hangs", 1, 2, "parked")


async def test_a_store_without_change_records_is_refused() -> None:
    @asynccontextmanager
    async def app() -> AsyncIterator[Processor[Any]]:
        async with MemoryStore() as store:
            yield Processor(InMemory(), store)

    handler = lambda_handler(app)
    try:
        with pytest.raises(TypeError, match="MemoryStore"):
            await asyncio.to_thread(handler, {"Records": []}, Clock())
    finally:
        handler.close()


class InDynamoDB(DynamoDBProjection, tag="in-dynamodb"):
    """Counts how often each event was handled."""

    def __init__(self, model: str) -> None:
        self.model = model

    def handle_movement(self, event: Movement, context: DynamoDBContext) -> None:
        context.add(self.model, {"PK": "times", "SK": context.id}, times=1)


async def test_each_event_is_handled_once_despite_outages(
    store: DynamoDBStore, dynamodb_endpoint: str, table: str
) -> None:
    """Responses are lost, and three times no request gets through. Failed records are delivered again."""
    dice, model = Random(6), fresh_name()
    streams = await accounts(store, **{f"account-{number}": 6 for number in range(8)})
    commits = [commit for stream in streams.values() for commit in stream]
    dice.shuffle(commits)
    async with checkpoints_on(dynamodb_endpoint, model) as checkpoints, proxy_to(dynamodb_endpoint) as proxy:
        await checkpoints.create_table()

        @asynccontextmanager
        async def app() -> AsyncIterator[Processor[Any]]:
            store = store_on(proxy.url, table, deadline=0.5)
            async with store, checkpoints_on(proxy.url, model, deadline=0.5) as checkpoints:
                yield Processor(InDynamoDB(model), store, checkpoints)

        outages = [15, 30, 45]  # begin with these requests, and last until somebody has given up

        def choose() -> str:
            if outages and len(proxy.operations) >= outages[0]:
                return LOST
            return dice.choice([ANSWER_LOST, TWICE]) if dice.random() < 0.1 else PASS

        proxy.choose = choose
        handler = lambda_handler(app)
        try:
            for first in range(0, len(commits), 4):
                event = event_of(store, commits[first : first + 4])
                while event["Records"]:
                    failures = (await asyncio.to_thread(handler, event, Clock()))["batchItemFailures"]
                    numbers = [record["dynamodb"]["SequenceNumber"] for record in event["Records"]]
                    at = numbers.index(failures[0]["itemIdentifier"]) if failures else len(numbers)
                    event["Records"] = event["Records"][at:]
                    if failures:
                        outages[:] = [max(each, len(proxy.operations) + 10) for each in outages[1:]]
        finally:
            handler.close()
        assert not outages
        async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
            asked = {"KeyConditionExpression": "PK = :pk", "ExpressionAttributeValues": {":pk": {"S": "times"}}}
            items = (await client.query(TableName=model, **asked))["Items"]
    expected = dict.fromkeys(sorted(each for stream in streams.values() for each in ids(stream)), "1")
    assert {item["SK"]["S"]: item["times"]["N"] for item in items} == expected
