"""Outbound: batches, the order of streams, batches that are taken in part, positions, parking and stable ids."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bank import Account, Deposited, Opened, Withdrawn
from support.events_api import PUBLISHED, fill, published_ids
from tenacity import wait_none

from eventsrc import (
    DeclarationError,
    Fenced,
    MemoryStore,
    MessageRefused,
    MessageTooLarge,
    Repository,
    StoreRejected,
    StreamsParked,
    Throttled,
    trace,
)
from eventsrc.messaging import EventBridgeSink, KinesisSink, Message, Outbound, Refusal, SNSSink, SQSSink
from eventsrc.messaging.sinks.sink import to_key
from eventsrc.processing import Fence, MemoryCheckpoints, Processor, Slice, rebuild
from eventsrc.publishing import PublishedEvent
from eventsrc.stores.ordered import OrderedStore

Decide = Callable[[Message], Refusal | None]
BUSY = Refusal("ThrottlingException", is_final=False)
FINAL = Refusal("InvalidMessageContents", is_final=True)


class Tray:
    """A sink in memory. `decide` says what becomes of a message; by default, it is taken."""

    max_messages, max_bytes, max_batch_bytes = 10, 1000, 2000

    def __init__(self, decide: Decide = lambda message: None, *, is_ordered: bool = True) -> None:
        self.decide, self.is_ordered = decide, is_ordered
        self.batches: list[Sequence[Message]] = []
        self.taken: list[Message] = []

    def size_of(self, message: Message) -> int:
        return len(message.body)

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        self.batches.append(messages)
        found = [self.decide(message) for message in messages]
        self.taken += [each for each, refusal in zip(messages, found, strict=True) if refusal is None]
        return found

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.taken]


class ToTray(Outbound, tag="to-tray"):
    pass


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def processor_of(tray: Any, store: OrderedStore, checkpoints: MemoryCheckpoints, **options: Any) -> Processor[ToTray]:
    return Processor(ToTray(tray, PUBLISHED, source="/ledger", **options), store, checkpoints, attempts=1)


async def send(tray: Tray, store: OrderedStore, checkpoints: MemoryCheckpoints | None = None) -> None:
    await processor_of(tray, store, checkpoints or MemoryCheckpoints()).run(until_caught_up=True)


async def save(store: OrderedStore, id: str, *amounts: int) -> None:
    account = Account(id=id)
    for amount in amounts:
        account.deposit(amount)
    await Repository(Account, store).save(account)


def by_stream(ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(id.rpartition("@")[0], []).append(id)
    return found


def unrepeated(ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ids))


@pytest.mark.parametrize("is_ordered", [True, False])
async def test_all_published_events_are_sent_once_in_the_order_of_their_streams(
    is_ordered: bool, store: MemoryStore
) -> None:
    await fill(store, 60)
    tray, checkpoints = Tray(is_ordered=is_ordered), MemoryCheckpoints()
    await send(tray, store, checkpoints)
    published = await published_ids(store)
    assert sorted(tray.ids) == sorted(published)
    assert by_stream(tray.ids) == by_stream(published)
    for batch in tray.batches:
        assert len(batch) <= 10
        assert sum(map(tray.size_of, batch)) <= 2000
        assert not is_ordered or len({each.stream for each in batch}) == len(batch)
    assert len(tray.batches) < len(published) / 3, "batches are used"
    await save(store, "more", 1)
    await send(tray, store, checkpoints)
    assert tray.ids[len(published) :] == ["account-more@1.0"]


async def test_a_message_is_the_event_of_the_api(store: MemoryStore) -> None:
    with trace("request-9"):
        await save(store, "a-1", 5)
    tray = Tray()
    await processor_of(tray, store, MemoryCheckpoints(), tracing=True).run(until_caught_up=True)
    [message] = tray.taken
    content = msgspec.json.decode(message.body)
    assert {name: content[name] for name in ("id", "source", "type", "subject", "correlationid", "data")} == {
        "id": "account-a-1@1.0",
        "source": "/ledger",
        "type": "deposited.v1",
        "subject": "account-a-1",
        "correlationid": "request-9",
        "data": {"amount": 5},
    }
    assert (message.id, message.source, message.type) == ("account-a-1@1.0", "/ledger", "deposited.v1")
    assert message.group_key == "/ledger#account-a-1"
    assert message.deduplication_key == "/ledger#account-a-1@1.0"


async def test_a_hidden_stream_is_not_named_to_the_sink(store: MemoryStore) -> None:
    await save(store, "ann", 5, 6)
    tray, hidden = Tray(), [PublishedEvent(Deposited, type="d", hide_stream=True)]
    await Processor(ToTray(tray, hidden, source="/ledger"), store, MemoryCheckpoints()).run(until_caught_up=True)
    assert len(tray.taken) == 2
    for message in tray.taken:
        assert "ann" not in message.text + message.group_key + message.deduplication_key + message.id
    assert len({message.group_key for message in tray.taken}) == 1
    assert len({message.deduplication_key for message in tray.taken}) == 2


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_batches_that_are_taken_in_part_lose_nothing_and_keep_the_order(seed: int, is_ordered: bool) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        tray = Tray(lambda message: BUSY if chance.random() < 0.3 else None, is_ordered=is_ordered)
        async with MemoryStore() as store:
            await fill(store, 12, seed=seed)
            await send(tray, store)
            published = await published_ids(store)
        if is_ordered:
            assert by_stream(tray.ids) == by_stream(published)
        assert sorted(tray.ids) == sorted(published)

    with patch("eventsrc.retrying.wait_random_exponential", lambda **_: wait_none()):
        asyncio.run(run())


async def test_an_event_that_is_too_large_parks_its_stream_and_no_other(store: MemoryStore) -> None:
    owner = PublishedEvent(Opened, type="opened", data=lambda event: event.owner)
    repository = Repository(Account, store)
    for id, owners in (("a", ["x"]), ("b", ["x", "y" * 2000]), ("c", ["x"])):
        for each in owners:
            account = Account.open(id, each) if each == "x" else await repository.load(id)
            if each != "x":
                account.deposit(1)
                account.record(Opened(owner=each))
            await repository.save(account)
    await repository.execute("b", Account.deposit, 7)
    tray, checkpoints = Tray(), MemoryCheckpoints()
    deposited = PublishedEvent(Deposited, type="deposited")
    processor = Processor(ToTray(tray, [owner, deposited], source="/"), store, checkpoints, attempts=1)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    assert sorted(tray.ids) == ["account-a@1.0", "account-b@1.0", "account-c@1.0"], "nothing of the commit is sent"
    [parked] = await processor.parked()
    assert (parked.stream, parked.version) == ("account-b", 2)
    assert MessageTooLarge.__name__ in parked.error
    tray.max_bytes = 5000
    tray.max_batch_bytes = 5000
    await processor.retry("account-b")
    assert tray.ids[3:] == ["account-b@2.0", "account-b@2.1", "account-b@3.0"]


async def test_an_event_that_is_refused_parks_its_stream_before_later_ones(store: MemoryStore) -> None:
    for _ in range(3):
        for id in ("a", "b"):
            account = (await Repository(Account, store).load_many([id])).get(id, Account(id=id))
            account.deposit(1)
            await Repository(Account, store).save(account)
    tray = Tray(lambda message: FINAL if message.id == "account-a@2.0" else None)
    processor = processor_of(tray, store, MemoryCheckpoints())
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    assert by_stream(tray.ids) == {
        "account-a": ["account-a@1.0"],
        "account-b": ["account-b@1.0", "account-b@2.0", "account-b@3.0"],
    }
    [parked] = await processor.parked()
    assert (parked.stream, parked.version) == ("account-a", 2)
    assert MessageRefused.__name__ in parked.error
    assert dict(await processor.positions(["account-a", "account-b"])) == {"account-a": 1, "account-b": 3}
    tray.decide = lambda message: None
    await processor.retry("account-a")
    assert by_stream(tray.ids)["account-a"] == ["account-a@1.0", "account-a@2.0", "account-a@3.0"]


async def test_a_sink_that_refuses_a_request_parks_the_streams_in_it(store: MemoryStore) -> None:
    class Missing(Tray):
        async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
            raise StoreRejected("QueueDoesNotExist", "scripted")

    await save(store, "a", 1)
    processor = processor_of(Missing(), store, MemoryCheckpoints())
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    [parked] = await processor.parked()
    assert "QueueDoesNotExist" in parked.error


@pytest.mark.parametrize("returned", [ConnectionResetError("reset"), [], [None, None], None, ["taken"]])
async def test_an_error_of_a_sink_of_your_own_parks_the_streams_of_its_batch(store: MemoryStore, returned: Any) -> None:
    class Broken(Tray):
        max_messages = 1

        async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
            if messages[0].stream != "account-b":
                return await super().send(messages)
            if isinstance(returned, Exception):
                raise returned
            return returned  # type: ignore[no-any-return]

    for id in "abc":
        await save(store, id, 1)
    tray, checkpoints = Broken(), MemoryCheckpoints()
    for _ in range(2):  # the second time, nothing is sent again
        with pytest.raises(StreamsParked):
            await processor_of(tray, store, checkpoints).run(until_caught_up=True)
        assert sorted(tray.ids) == ["account-a@1.0", "account-c@1.0"]
    [parked] = await processor_of(tray, store, checkpoints).parked()
    assert parked.stream == "account-b"
    assert ("reset" if isinstance(returned, Exception) else "the sink returned") in parked.error


async def test_a_sink_that_is_away_is_waited_for_and_parks_nothing(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.messaging.delivery.PATIENCE", 0.01)
    await fill(store, 5)
    failures = iter([Throttled("scripted"), TimeoutError(), Throttled("scripted")])

    class Away(Tray):
        async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
            if (error := next(failures, None)) is not None:
                raise error
            return await super().send(messages)

    tray = Away()
    await send(tray, store)
    assert by_stream(tray.ids) == by_stream(await published_ids(store))


async def test_what_was_taken_before_an_outage_is_not_sent_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.messaging.delivery.PATIENCE", 0.01)
    await fill(store, 40)
    count = 0

    def decide(message: Message) -> Refusal | None:
        nonlocal count
        count += 1
        return BUSY if 20 < count < 60 else None

    tray = Tray(decide)
    await send(tray, store)
    published = await published_ids(store)
    assert by_stream(unrepeated(tray.ids)) == by_stream(published)
    assert len(tray.ids) > len(published), "a commit was taken in part"
    seen: set[str] = set()
    for id in tray.ids:
        of_commit = {each for each in published if each.rpartition(".")[0] == id.rpartition(".")[0]}
        assert id not in seen or not of_commit <= seen, "only commits that were taken in part are sent again"
        seen.add(id)


async def test_of_a_commit_that_is_interrupted_all_is_sent_again_with_the_same_ids(store: MemoryStore) -> None:
    await save(store, "a", 1, 2, 3)

    class Killed(MemoryCheckpoints):
        async def advance(self, processor: str, run: Any) -> None:
            raise StoreRejected("Killed", "scripted")

    tray = Tray()
    with pytest.raises(StoreRejected):
        await send(tray, store, Killed())
    await send(tray, store)
    assert tray.ids == [f"account-a@1.{index}" for index in range(3)] * 2
    assert [each.body for each in tray.taken[:3]] == [each.body for each in tray.taken[3:]]
    assert [each.deduplication_key for each in tray.taken[:3]] == [each.deduplication_key for each in tray.taken[3:]]


async def test_a_worker_whose_slot_was_taken_over_sends_nothing(store: MemoryStore) -> None:
    await save(store, "a", 1)
    tray, checkpoints = Tray(), MemoryCheckpoints()
    first, second = (processor_of(tray, store, checkpoints) for _ in range(2))
    await first.run(until_caught_up=True)

    async def lost() -> None:
        raise Fenced("to-tray@1", 0)

    commits = (await store.load("account-a")).commits
    with pytest.raises(Fenced):
        await second.projection.apply([Slice("account-a", 0, commits, Fence(0, 1), confirm=lost)])
    assert tray.ids == ["account-a@1.0"]


async def test_in_a_rebuild_nothing_is_sent_again(store: MemoryStore) -> None:
    class ToTray2(ToTray, tag="to-tray"):
        version = 2

    await save(store, "a", 1)
    tray, checkpoints = Tray(), MemoryCheckpoints()
    await send(tray, store, checkpoints)
    await rebuild(Processor(ToTray2(tray, PUBLISHED, source="/ledger"), store, checkpoints))
    assert tray.ids == ["account-a@1.0"]


async def test_data_that_fails_parks_the_stream_after_what_can_be_sent(store: MemoryStore) -> None:
    def fail(event: Withdrawn) -> object:
        raise ZeroDivisionError

    await save(store, "a", 5)
    await Repository(Account, store).execute("a", Account.withdraw, 1)
    tray = Tray()
    published = [*PUBLISHED, PublishedEvent(Withdrawn, type="w", data=fail)]
    processor = Processor(ToTray(tray, published, source="/"), store, MemoryCheckpoints(), attempts=1)
    with pytest.raises(StreamsParked):
        await processor.run(until_caught_up=True)
    assert tray.ids == ["account-a@1.0"]
    assert [each.version for each in await processor.parked()] == [2]


def test_what_is_declared_is_checked() -> None:
    with pytest.raises(DeclarationError, match="nothing is published"):
        ToTray(Tray(), [], source="/")


@pytest.mark.parametrize("text", ["a b", "\u00e4", "x" * 129, "a\n", "a\x7f"])
def test_a_key_that_a_service_refuses_is_replaced_by_its_hash(text: str) -> None:
    assert to_key("/ledger#order-7@1.0") == "/ledger#order-7@1.0"
    assert to_key(text) == to_key(text)
    assert len(to_key(text)) == 64
    assert to_key(text).isalnum()
    assert to_key(text) != to_key(text + "x")


def message(id: str = "a@1.0", source: str = "/ledger", body: bytes = b"{}") -> Message:
    return Message("a", "a", id, source, "t", body)


def test_two_services_with_the_same_ids_have_keys_of_their_own() -> None:
    assert message().deduplication_key != message(source="/stock").deduplication_key
    assert message().group_key != message(source="/stock").group_key


def test_characters_that_sqs_refuses_are_written_otherwise() -> None:
    body = msgspec.json.encode({"text": "\ufffe\uffff\u0001\u00e4"})
    text = message(body=body).text
    assert not {"\ufffe", "\uffff", "\u0001"} & set(text)
    assert msgspec.json.decode(text) == msgspec.json.decode(body)


class Client:
    """A client of the SDK that answers with what it is given."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        async def call(**request: Any) -> Any:
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer

        return call


@pytest.mark.parametrize("make", [SQSSink, SNSSink])
async def test_an_answer_of_a_queue_names_what_was_taken(make: Callable[[Any, str], Any]) -> None:
    failed = [
        {"Id": "1", "Code": "InternalError", "SenderFault": False},
        {"Id": "2", "Code": "InvalidMessageContents", "SenderFault": True},
        {"Id": "3", "Code": "RequestThrottled", "SenderFault": True},
    ]
    sink = make(Client({"Successful": [{"Id": "0"}], "Failed": failed}), "name.fifo")
    assert await sink.send([message()] * 5) == [
        None,
        Refusal("InternalError", is_final=False),
        Refusal("InvalidMessageContents", is_final=True),
        Refusal("RequestThrottled", is_final=False),
        Refusal("NoAnswer", is_final=False),
    ]


@pytest.mark.parametrize(("make", "name"), [(EventBridgeSink, "Entries"), (KinesisSink, "Records")])
async def test_an_answer_of_a_bus_has_an_entry_for_each_message(make: Callable[[Any, str], Any], name: str) -> None:
    entries = [
        {"EventId": "1", "SequenceNumber": "1"},
        {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "secret"},
        {"ErrorCode": "NotAuthorizedForSource", "ErrorMessage": "secret"},
        {"ErrorCode": "InternalFailure"},
    ]
    assert await make(Client({name: entries}), "name").send([message()] * 5) == [
        None,
        Refusal("ProvisionedThroughputExceededException", is_final=False),
        Refusal("NotAuthorizedForSource", is_final=True),
        Refusal("InternalFailure", is_final=False),
        Refusal("NoAnswer", is_final=False),
    ]
