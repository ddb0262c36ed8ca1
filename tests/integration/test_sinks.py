"""The sinks against moto's SQS, SNS, EventBridge and Kinesis over HTTP, and a service that takes batches in part."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from moto.server import ThreadedMotoServer
from support.bank import Account
from support.events_api import PUBLISHED, fill, published_ids
from support.proxy import LOST, RESET, Answer, proxy_to
from tenacity import wait_none

from eventsrc import MemoryStore, Repository, StoreRejected, StreamsParked
from eventsrc.messaging import (
    EventBridgeSink,
    Inbox,
    KinesisSink,
    Message,
    Outbound,
    ReceivedEvent,
    Refusal,
    Sink,
    SNSSink,
    SQSSink,
)
from eventsrc.processing import MemoryCheckpoints, Processor
from eventsrc.publishing import PublishedEvent
from eventsrc.stores.ordered import OrderedStore

FIFO = {"FifoQueue": "true"}


class ToOthers(Outbound, tag="to-others"):
    pass


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@asynccontextmanager
async def client_of(service: str, endpoint: str) -> AsyncIterator[Any]:
    config = AioConfig(retries={"mode": "standard", "total_max_attempts": 1})  # sinks send again by themselves
    settings = {"aws_access_key_id": "made", "aws_secret_access_key": "up", "region_name": "eu-west-1"}
    async with get_session().create_client(service, endpoint_url=endpoint, config=config, **settings) as client:
        yield client


@pytest.fixture
async def sqs(moto: str) -> AsyncIterator[Any]:
    async with client_of("sqs", moto) as client:
        yield client


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def fresh(suffix: str = "") -> str:
    return f"q-{random.randrange(10**12)}{suffix}"


async def send(sink: Sink, store: OrderedStore, published: Sequence[PublishedEvent[Any]] = PUBLISHED) -> None:
    processor = Processor(ToOthers(sink, published, source="/ledger"), store, MemoryCheckpoints(), attempts=1)
    await processor.run(until_caught_up=True)


async def drain(sqs: Any, queue: str) -> list[dict[str, Any]]:
    """Return all messages of a queue, and delete them."""
    found: list[dict[str, Any]] = []
    while batch := (await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["All"])).get(
        "Messages"
    ):
        found += batch
        for each in batch:
            await sqs.delete_message(QueueUrl=queue, ReceiptHandle=each["ReceiptHandle"])
    return found


def ids_of(messages: Sequence[dict[str, Any]]) -> list[str]:
    return [msgspec.json.decode(each["Body"])["id"] for each in messages]


def by_stream(ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(id.rpartition("@")[0], []).append(id)
    return found


async def make_queue(sqs: Any, *, fifo: bool) -> str:
    made = await sqs.create_queue(QueueName=fresh(".fifo" if fifo else ""), Attributes=FIFO if fifo else {})
    return str(made["QueueUrl"])


async def test_a_fifo_queue_gets_each_event_once_in_groups(sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=True)
    await fill(store, 25)
    for _ in range(2):  # the second time, the queue recognises all of them
        await send(SQSSink(sqs, queue), store)
    messages = await drain(sqs, queue)
    published = await published_ids(store)
    assert sorted(ids_of(messages)) == sorted(published)
    assert by_stream(ids_of(messages)) == by_stream(published)
    for each in messages:
        id = msgspec.json.decode(each["Body"])["id"]
        assert each["Attributes"]["MessageGroupId"] == f"/ledger#{id.rpartition('@')[0]}"
        assert each["Attributes"]["MessageDeduplicationId"] == f"/ledger#{id}"


async def test_events_of_a_fifo_queue_fill_an_inbox_once(sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=True)
    await fill(store, 10)
    await send(SQSSink(sqs, queue), store)
    async with MemoryStore() as there, MemoryCheckpoints() as checkpoints:
        inbox = Inbox("/ledger", there, checkpoints)
        for each in await drain(sqs, queue):
            for _ in range(2):
                await inbox.receive(ReceivedEvent.parse(each["Body"].encode()))
        stored = [commit async for batch in there.feed(follow=False) for commit in batch.commits]
        assert sorted(commit.causation_ids[0] for commit in stored) == sorted(await published_ids(store))


async def test_ids_that_a_fifo_queue_does_not_take_are_hashed(sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=True)
    for id in ("x" * 200, "\u00e4 and \u2028"[:5], "x" * 201):
        account = Account(id=id)
        account.deposit(1)
        await Repository(Account, store).save(account)
    await send(SQSSink(sqs, queue), store)
    messages = await drain(sqs, queue)
    assert sorted(ids_of(messages)) == sorted(await published_ids(store))
    keys = [each["Attributes"]["MessageDeduplicationId"] for each in messages]
    assert len(set(keys)) == 3
    assert all(len(key) == 64 for key in keys)


async def test_a_standard_queue_gets_batches(sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=False)
    await fill(store, 25)
    await send(SQSSink(sqs, queue), store)
    assert sorted(ids_of(await drain(sqs, queue))) == sorted(await published_ids(store))


@pytest.mark.parametrize("fifo", [True, False], ids=["fifo", "standard"])
async def test_a_topic_passes_events_on_to_its_queues(fifo: bool, moto: str, sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=fifo)
    arn = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    await fill(store, 15)
    async with client_of("sns", moto) as sns:
        attributes = {"FifoTopic": "true"} if fifo else {}
        topic = (await sns.create_topic(Name=fresh(".fifo" if fifo else ""), Attributes=attributes))["TopicArn"]
        policy = {"RawMessageDelivery": "true", "FilterPolicy": '{"type": ["deposited.v1"]}'}
        await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=policy)
        await send(SNSSink(sns, topic), store)
    messages = await drain(sqs, queue)
    received = [msgspec.json.decode(each["Body"]) for each in messages]
    assert {each["type"] for each in received} == {"deposited.v1"}
    expected = by_stream([id for id in await published_ids(store) if id in {each["id"] for each in received}])
    assert len(received) > 10
    assert not fifo or by_stream([each["id"] for each in received]) == expected


async def test_a_bus_gets_events_that_rules_can_match(moto: str, sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=False)
    arn = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    await fill(store, 15)
    async with client_of("events", moto) as events:
        bus = fresh()
        await events.create_event_bus(Name=bus)
        pattern = '{"source": ["/ledger"], "detail-type": ["deposited.v1"]}'
        await events.put_rule(Name=bus, EventBusName=bus, EventPattern=pattern)
        await events.put_targets(Rule=bus, EventBusName=bus, Targets=[{"Id": "1", "Arn": arn}])
        await send(EventBridgeSink(events, bus), store)
    details = [msgspec.json.decode(each["Body"])["detail"] for each in await drain(sqs, queue)]
    ids = [each["id"] for each in details]
    assert len(ids) > 10
    assert set(ids) <= set(await published_ids(store))
    assert len(ids) == len(set(ids))


async def read_stream(kinesis: Any, arn: str) -> list[tuple[str, str]]:
    """Return the partition key and the id of each event, shard by shard."""
    found: list[tuple[str, str]] = []
    for shard in (await kinesis.list_shards(StreamARN=arn))["Shards"]:
        place = (
            await kinesis.get_shard_iterator(StreamARN=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
        )["ShardIterator"]
        while records := (answer := await kinesis.get_records(ShardIterator=place, StreamARN=arn))["Records"]:
            found += [(each["PartitionKey"], msgspec.json.decode(each["Data"])["id"]) for each in records]
            place = answer["NextShardIterator"]
    return found


class InPart:
    """Passes a random part of each batch on to a service; the rest is refused as by one that throttles."""

    def __init__(self, sink: Any, seed: int) -> None:
        self._sink, self._chance = sink, random.Random(seed)
        self.max_messages, self.max_bytes = sink.max_messages, sink.max_bytes
        self.max_batch_bytes, self.is_ordered = sink.max_batch_bytes, sink.is_ordered
        self.size_of = sink.size_of
        self.refused = 0

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        busy = Refusal("ProvisionedThroughputExceededException", is_final=False)
        found: list[Refusal | None] = [busy if self._chance.random() < 0.4 else None for _ in messages]
        taken = [each for each, refusal in zip(messages, found, strict=True) if refusal is None]
        self.refused += len(messages) - len(taken)
        if taken:
            assert not any(await self._sink.send(taken))
        return found


async def test_a_data_stream_that_takes_batches_in_part_gets_all_in_order(
    moto: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.retrying.wait_random_exponential", lambda **_: wait_none())
    await fill(store, 40)
    async with client_of("kinesis", moto) as kinesis:
        name = fresh()
        await kinesis.create_stream(StreamName=name, ShardCount=3)
        arn = (await kinesis.describe_stream_summary(StreamName=name))["StreamDescriptionSummary"]["StreamARN"]
        sink = InPart(KinesisSink(kinesis, arn), 1)
        await send(sink, store)
        found = await read_stream(kinesis, arn)
    published = await published_ids(store)
    assert sorted(id for _, id in found) == sorted(published)
    assert by_stream([id for _, id in found]) == by_stream(published)
    assert all(key == f"/ledger#{id.rpartition('@')[0]}" for key, id in found)
    assert sink.refused > 10


async def test_an_event_that_is_larger_than_a_message_parks_its_stream(sqs: Any, store: MemoryStore) -> None:
    queue = await make_queue(sqs, fifo=True)
    account = Account(id="a")
    account.deposit(1)
    await Repository(Account, store).save(account)
    published = [PublishedEvent(PUBLISHED[0].event, type="d", data=lambda event: "x" * 1_048_576)]
    with pytest.raises(StreamsParked):
        await send(SQSSink(sqs, queue), store, published)
    assert await drain(sqs, queue) == []


@pytest.mark.filterwarnings("ignore:Sending a large body")  # of the SDK's HTTP library, for each body above 1 MB
@pytest.mark.parametrize("fifo", [True, False], ids=["fifo", "standard"])
async def test_a_message_of_the_largest_size_is_taken(fifo: bool, sqs: Any) -> None:
    queue = await make_queue(sqs, fifo=fifo)
    sink = SQSSink(sqs, queue)
    message = Message("a", "a", "a@1.0", "/", "t", b"{}")
    largest = message._replace(body=b"x" * (sink.max_bytes - sink.size_of(message) + 2))
    assert sink.size_of(largest) == sink.max_bytes
    assert await sink.send([largest]) == [None]


async def test_a_queue_that_does_not_exist_is_a_rejection(sqs: Any, moto: str) -> None:
    with pytest.raises(StoreRejected, match=r"QueueDoesNotExist|NonExistentQueue"):
        await SQSSink(sqs, f"{moto}/123456789012/none").send([Message("a", "a", "a@1.0", "/", "t", b"{}")])


async def test_lost_requests_and_answers_are_sent_again(moto: str, store: MemoryStore) -> None:
    await fill(store, 10)
    async with client_of("sqs", moto) as direct:
        queue = await make_queue(direct, fifo=True)
        async with proxy_to(moto) as proxy:
            busy = Answer(503, b'{"__type": "ServiceUnavailable"}')
            proxy.faults = [LOST, RESET, busy, LOST]
            async with client_of("sqs", proxy.url) as sqs:
                await send(SQSSink(sqs, queue.replace(moto, proxy.url)), store)
            assert not proxy.faults
        assert by_stream(ids_of(await drain(direct, queue))) == by_stream(await published_ids(store))
