"""The content of events is in no error, traceback or log, for any failure."""

from __future__ import annotations

import json
import logging
import sqlite3
import traceback
from base64 import b64encode
from collections.abc import Awaitable
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.bank import Account
from support.proxy import HALF_ANSWER, PASS, Answer, Fault, proxy_to
from support.tables import fresh_name, session, store_on

from eventsrc import (
    Aggregate,
    Commit,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    CorruptPayload,
    Event,
    IdempotencyError,
    InvalidEvent,
    MemoryStore,
    Repository,
    SchemaMismatch,
    SQLiteStore,
    Store,
    StoreClosed,
    StoreRejected,
    StoreUnavailable,
    Throttled,
)
from eventsrc.testing.contract.samples import fresh_stream, make_commit, make_snapshot

SECRET = "ann owes 4711 Euro"  # 18 letters: base64 shows them alike wherever they are repeated
SHOWN_AS = (SECRET, SECRET.encode().hex(), b64encode(SECRET.encode()).decode())


def private(stream: str, size: int = 3) -> Commit:
    return make_commit(stream, payload=SECRET.encode() * size, metadata={"note": SECRET})


def quoting(code: str, status: int = 400) -> Answer:
    """Return an error whose message quotes the request, which the service may do."""
    return Answer(status, json.dumps({"__type": f"x#{code}", "message": SECRET, "Item": {"p": {"S": SECRET}}}).encode())


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "eventsrc")
    return caplog


async def check_silent(call: Awaitable[object], expected: type[Exception], heard: pytest.LogCaptureFixture) -> None:
    """Assert that the call raises the expected error, and that neither it nor the log contains the secret."""
    with pytest.raises(expected) as raised:
        await call
    told = [*traceback.format_exception(raised.value), heard.text]
    errors: list[BaseException | None] = [raised.value]
    while errors:
        if error := errors.pop():
            told += [str(error), repr(error), repr(error.args), repr(vars(error))]
            errors += [error.__cause__, error.__context__]
    assert type(raised.value).__name__ in "".join(told)
    for form in SHOWN_AS:
        assert form not in "".join(told)


FAULTS: dict[str, tuple[Fault, type[Exception], type[Exception] | None]] = {  # and what appends and loads raise
    "none": (PASS, ConflictError, None),
    "cut": (HALF_ANSWER, CommitOutcomeUnknown, StoreUnavailable),
    "throttled": (quoting("ThrottlingException"), Throttled, Throttled),
    "refused": (quoting("ValidationException"), StoreRejected, StoreRejected),
    "failed": (quoting("InternalServerError", 500), CommitOutcomeUnknown, StoreUnavailable),
    "unknown code": (quoting("TeapotException"), CommitOutcomeUnknown, StoreUnavailable),
    "garbage": (Answer(200, SECRET.encode()), CommitOutcomeUnknown, StoreUnavailable),
    "garbage of a gateway": (Answer(502, SECRET.encode()), CommitOutcomeUnknown, StoreUnavailable),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_dynamodb(dynamodb_endpoint: str, heard: pytest.LogCaptureFixture, fault: str) -> None:
    table, stream = fresh_name(), fresh_stream()
    async with store_on(dynamodb_endpoint, table) as store:
        await store.create_table()
        await store.append(private(stream))
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, table, deadline=0.5) as store:
        proxy.then, of_append, of_load = FAULTS[fault]
        await check_silent(store.append(private(stream)), of_append, heard)
        if of_load:
            await check_silent(store.load(stream), of_load, heard)
            snapshot = make_snapshot(stream, 1, payload=SECRET.encode())
            await check_silent(store.put_snapshot(snapshot), of_load, heard)


async def test_dynamodb_items_of_other_programs(dynamodb_endpoint: str, heard: pytest.LogCaptureFixture) -> None:
    table, stream = fresh_name(), fresh_stream()
    async with (
        session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client,
        store_on(dynamodb_endpoint, table) as store,
    ):
        await store.create_table()
        item = {"PK": {"S": stream}, "SK": {"N": "1"}, "p": {"S": SECRET}, "i": {"N": "1"}}
        await client.put_item(TableName=table, Item=item)
        await check_silent(store.append(private(stream)), CorruptPayload, heard)
        await check_silent(store.load(stream), CorruptPayload, heard)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_embedded_stores(kind: str, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.db"
    store: Store = MemoryStore() if kind == "memory" else SQLiteStore(path, deadline=0.05)
    stream = fresh_stream()
    async with store:
        await store.append(private(stream))
        await check_silent(store.append(private(stream)), ConflictError, heard)
        await check_silent(store.append(private(stream, size=10**5)), CommitTooLarge, heard)
        if kind == "sqlite":
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            await check_silent(store.append(private(stream)), Throttled, heard)
            other.close()
    await check_silent(store.append(private(stream)), StoreClosed, heard)


class Opened(Event, tag="account.opened"):
    owner: int


class Changed(Aggregate, tag="account"):
    def apply_opened(self, event: Opened) -> None: ...


async def test_repository(heard: pytest.LogCaptureFixture) -> None:
    async with MemoryStore() as store:
        accounts = Repository(Account, store)
        await accounts.save(Account.open("a-1", owner=SECRET), command_id="c-1")
        await check_silent(accounts.save(Account.open("a-1", owner=SECRET)), ConflictError, heard)
        await check_silent(Repository(Changed, store).load("a-1"), SchemaMismatch, heard)
        again = Account.open("a-1", owner=f"{SECRET}!")
        await check_silent(accounts.save(again, command_id="c-1"), IdempotencyError, heard)
        [commit] = store._streams["account-a-1"]
        store._streams["account-a-1"] = [replace(commit, payload=commit.payload[:-1] + b"?")]
        await check_silent(accounts.load("a-1"), CorruptPayload, heard)


def lend(account: Account, note: str) -> None:
    account.deposit(len(note))


async def opened(owner: str) -> None:
    Account.open("a-1", owner=owner)


async def test_texts_that_are_not_unicode(heard: pytest.LogCaptureFixture) -> None:
    broken = f"{SECRET}\ud800"  # Python's own error about it carries the whole text
    async with MemoryStore() as store:
        accounts = Repository(Account, store)
        await check_silent(opened(broken), InvalidEvent, heard)
        await accounts.save(account := Account.open("a-1", owner="ann"))
        account.deposit(1)
        await check_silent(accounts.save(account, metadata={"note": broken}), ValueError, heard)
        await check_silent(accounts.execute("a-1", lend, broken, command_id="c-1"), ValueError, heard)
