"""The DynamoDB store: numbers of requests, layouts, tables, tenants, clients."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import localcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.bank import Account
from support.proxy import HOLD, LOST, PASS, Answer, Fault, Proxy, error, proxy_to
from support.tables import CREDENTIALS, fresh_name, session, store_on

from eventsrc import (
    AggregateNotFound,
    DynamoDBStore,
    InvalidStreamId,
    Repository,
    SnapshotPolicy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    Throttled,
    WrongStore,
)
from eventsrc.store import Commit, Loaded
from eventsrc.stores.dynamodb.layouts import LAYOUTS
from eventsrc.testing.contract.samples import expect_stored, fill, fresh_stream, make_commit, make_snapshot
from eventsrc.uuid7 import uuid7

EAGER = SnapshotPolicy(floor=0, inline=True)
NONE = SnapshotPolicy(enabled=False)
every_layout = pytest.mark.parametrize("layout", list(LAYOUTS))


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@pytest.fixture
async def table(dynamodb_endpoint: str) -> str:
    table = fresh_name()
    async with store_on(dynamodb_endpoint, table) as store:
        assert await store.create_table()
        assert not await store.create_table()
    return table


async def requests(proxy: Proxy, call: Callable[[], Awaitable[object]]) -> list[str]:
    """Return the operations that a call sends."""
    proxy.operations.clear()
    await call()
    return list(proxy.operations)


async def filled(accounts: Repository[Account], commits: int) -> Account:
    account = Account.open("a-1", owner="ann")
    await accounts.save(account)
    for _ in range(commits - 1):
        account.deposit(1)
        await accounts.save(account)
    return account


@pytest.mark.parametrize("policy", [EAGER, NONE], ids=["snapshots", "no snapshots"])
@pytest.mark.parametrize("commits", [1, 5, 20])
async def test_one_request_saves_and_one_loads(proxy: Proxy, table: str, policy: SnapshotPolicy, commits: int) -> None:
    async with store_on(proxy.url, table) as store:
        account = await filled(Repository(Account, store, snapshots=policy), commits)
    async with store_on(proxy.url, table) as store:  # cold: it has learnt nothing
        accounts = Repository(Account, store, snapshots=NONE)
        assert await requests(proxy, lambda: accounts.load("a-1")) == ["Query"]
        loaded = await accounts.load("a-1")
        assert loaded == account
        loaded.deposit(1)
        assert await requests(proxy, lambda: accounts.save(loaded)) == ["PutItem"]
        assert await requests(proxy, lambda: accounts.execute("a-1", Account.deposit, 1)) == ["Query", "PutItem"]


@every_layout
async def test_a_warm_command_is_one_request_and_one_more_for_a_conflict(proxy: Proxy, table: str, layout: Any) -> None:
    async with store_on(proxy.url, table, layout=layout) as store:
        here, there = (Repository(Account, store, snapshots=NONE) for _ in range(2))
        await here.save(Account.open("a-1", owner="ann"))
        await here.execute("a-1", Account.deposit, 5)
        assert await requests(proxy, lambda: here.execute("a-1", Account.deposit, 5)) == ["PutItem"]
        await there.execute("a-1", Account.deposit, 5)
        assert await requests(proxy, lambda: here.execute("a-1", Account.deposit, 5)) == ["PutItem", "PutItem"]
        assert await requests(proxy, lambda: here.execute("a-1", lambda account: account.balance)) == ["Query"]
        assert (await there.load("a-1")).balance == 20


@pytest.mark.parametrize("tail", [0, 1, 10, 20])
async def test_a_cold_load_reads_the_snapshot_and_its_tail_in_one_request(proxy: Proxy, table: str, tail: int) -> None:
    stream = fresh_stream()
    async with store_on(proxy.url, table) as store:
        commits = await fill(store, stream, 40 + tail)
        await store.put_snapshot(make_snapshot(stream, 40))
    async with store_on(proxy.url, table) as store:
        proxy.operations.clear()
        loaded = await store.load(stream)
        assert loaded.snapshot == make_snapshot(stream, 40)
        assert list(loaded.commits) == commits[39:]
        assert proxy.counts == {"Query": 1}


async def test_the_layout_of_the_article_needs_two_requests(proxy: Proxy, table: str) -> None:
    async with store_on(proxy.url, table, layout="snapshot-first") as store:
        accounts = Repository(Account, store, snapshots=EAGER)
        account = await filled(accounts, 20)
        assert (await store.load(account.stream)).snapshot is not None
        assert await requests(proxy, lambda: accounts.load("a-1")) == ["GetItem", "Query"]
        assert await accounts.load("a-1") == account


async def test_a_tail_longer_than_expected_is_read_to_its_end_and_expected_next_time(proxy: Proxy, table: str) -> None:
    async with store_on(proxy.url, table) as store:
        account = await filled(Repository(Account, store, snapshots=NONE), 150)
    async with store_on(proxy.url, table) as store:
        accounts = Repository(Account, store, snapshots=NONE)
        assert await requests(proxy, lambda: accounts.load("a-1")) == ["Query", "Query"]
        assert await accounts.load("a-1") == account
        assert await requests(proxy, lambda: accounts.load("a-1")) == ["Query"]


@pytest.mark.parametrize("snapshot", [None, 150], ids=["no snapshot", "snapshot"])
async def test_a_limit_learned_from_short_streams_does_not_cut_a_long_one(
    proxy: Proxy, table: str, snapshot: int | None
) -> None:
    stream = fresh_stream()
    commits = [make_commit(stream, version, payload=os.urandom(5_000)) for version in range(1, 401)]
    async with store_on(proxy.url, table) as store:
        await asyncio.gather(*map(store.append, commits))
        if snapshot:
            await store.put_snapshot(make_snapshot(stream, snapshot))
        await store.append(make_commit(short := fresh_stream()))
        for _ in range(40):
            await store.load(short)
        proxy.operations.clear()
        loaded = await store.load(stream)
        assert list(loaded.commits) == commits[snapshot - 1 if snapshot else 0 :]
        assert proxy.counts == {"Query": 3}  # the limit's few, then 1 MB, then the rest


@pytest.mark.parametrize("layout", ["snapshot-last", "interleaved"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
async def test_a_stream_with_a_long_tail_does_not_make_loads_of_others_dearer(
    dynamodb_endpoint: str, table: str, layout: Any, share: float
) -> None:
    """Loads of streams of one category: most have 3 commits after their snapshot, one has 400 and no snapshot."""
    dice = random.Random(1)
    async with store_on(dynamodb_endpoint, table, layout=layout) as store:
        short, long = [fresh_stream() for _ in range(3)], fresh_stream()
        await asyncio.gather(
            *(fill(store, stream, 100, size=150) for stream in short), fill(store, long, 400, size=150)
        )
        for stream in short:
            await store.put_snapshot(make_snapshot(stream, 98))
        for _ in range(20):
            await store.load(dice.choice(short))
        loads, units, requests = 200, 0.0, 0
        for _ in range(loads):
            while dice.random() < share:
                await store.load(long)
            units, requests = units - store.usage.read_units, requests - store.usage.requests
            await store.load(dice.choice(short))
            units, requests = units + store.usage.read_units, requests + store.usage.requests
    assert (units, requests) == (loads, loads)


async def test_nearly_all_loads_of_streams_with_different_tails_take_one_request(
    dynamodb_endpoint: str, table: str
) -> None:
    """Their tails differ by less than a second request is worth."""
    dice = random.Random(1)
    async with store_on(dynamodb_endpoint, table) as store:
        streams = [fresh_stream() for _ in range(20)]
        await asyncio.gather(*(fill(store, stream, 20 + dice.randrange(40), size=300) for stream in streams))
        for stream in streams:
            await store.put_snapshot(make_snapshot(stream, 20))
        for stream in streams:
            await store.load(stream)
        before, loads = store.usage.requests, 200
        for _ in range(loads):
            await store.load(dice.choice(streams))
        assert loads <= store.usage.requests - before <= 1.06 * loads


@every_layout
async def test_megabytes_are_paged(proxy: Proxy, table: str, layout: Any) -> None:
    async with store_on(proxy.url, table, layout=layout) as store:
        payloads = [os.urandom(300_000) for _ in range(12)]
        for version, payload in enumerate(payloads, 1):
            await store.append(
                Commit(
                    stream="big-1",
                    version=version,
                    id=uuid7(),
                    time=version,
                    events=1,
                    tags=("big.grown",),
                    payload=payload,
                )
            )
        loaded = await store.load("big-1")
        assert [commit.payload for commit in loaded.commits] == payloads
        assert [commit.payload async for commit in store.read("big-1", after=2)] == payloads[2:]
        assert [commit.payload async for commit in store.read("big-1", backward=True)] == payloads[::-1]
    assert proxy.operations.count("Query") >= 9  # three reads of more than 3 MB


async def test_interleaved_snapshots_are_one_request_to_load_and_two_to_write(proxy: Proxy, table: str) -> None:
    stream = fresh_stream()
    async with store_on(proxy.url, table, layout="interleaved") as store:
        commits = await fill(store, stream, 40)
        for version in (10, 20, 30):
            proxy.operations.clear()
            assert await store.put_snapshot(make_snapshot(stream, version)) is True
            assert proxy.operations == ["Query", "PutItem"]
        assert await store.put_snapshot(make_snapshot(stream, 15)) is False
        proxy.operations.clear()
        loaded = await store.load(stream)
        assert loaded == Loaded(make_snapshot(stream, 30), commits[29:])
        assert proxy.counts == {"Query": 1}
        assert [commit.version async for commit in store.read(stream)] == list(range(1, 41))
        assert [commit.version async for commit in store.read(stream, backward=True)] == list(range(40, 0, -1))


async def test_an_interleaved_snapshot_beyond_the_limit_is_found(proxy: Proxy, table: str) -> None:
    stream = fresh_stream()
    async with store_on(proxy.url, table, layout="interleaved") as store:
        commits = await fill(store, stream, 200)
        await store.put_snapshot(make_snapshot(stream, 100))
        proxy.operations.clear()
        assert await store.load(stream) == Loaded(make_snapshot(stream, 100), commits[99:])
        assert proxy.counts == {"Query": 2}  # 30, and then up to 120
        proxy.operations.clear()
        assert await store.load(stream) == Loaded(make_snapshot(stream, 100), commits[99:])
        assert proxy.counts == {"Query": 1}


@every_layout
async def test_the_decimal_context_of_the_program_has_no_effect(
    dynamodb_endpoint: str, table: str, layout: Any
) -> None:
    stream = fresh_stream()
    with localcontext(prec=2):
        async with store_on(dynamodb_endpoint, table, layout=layout) as store:
            commits = [make_commit(stream, version, payload=os.urandom(30_000)) for version in range(1, 121)]
            await asyncio.gather(*map(store.append, commits))
            assert await store.put_snapshot(make_snapshot(stream, 101)) is True
            assert await store.load(stream) == Loaded(make_snapshot(stream, 101), commits[100:])
            assert [commit.version async for commit in store.read(stream)] == list(range(1, 121))
            assert [commit.version async for commit in store.read(stream, backward=True)] == list(range(120, 0, -1))


async def test_a_newer_snapshot_is_written_after_a_change_to_interleaved(dynamodb_endpoint: str, table: str) -> None:
    stream = fresh_stream()
    async with (
        store_on(dynamodb_endpoint, table) as last,
        store_on(dynamodb_endpoint, table, layout="interleaved") as interleaved,
    ):
        commits = await fill(last, stream, 20)
        assert await last.put_snapshot(make_snapshot(stream, 5)) is True
        assert await interleaved.put_snapshot(make_snapshot(stream, 4)) is False
        assert await interleaved.put_snapshot(make_snapshot(stream, 20)) is True
        for store in (last, interleaved):
            assert await store.load(stream) == Loaded(make_snapshot(stream, 20), commits[19:])


async def test_a_snapshot_never_replaces_a_commit(dynamodb_endpoint: str, table: str) -> None:
    stream = fresh_stream()
    async with store_on(dynamodb_endpoint, table, layout="interleaved") as store:
        commits = await fill(store, stream, 3)
        with patch.object(type(store._layout), "key", lambda self, version: version + 1):
            assert await store.put_snapshot(make_snapshot(stream, 2)) is False
        assert [commit.id async for commit in store.read(stream)] == [commit.id for commit in commits]


async def test_the_layout_can_be_changed(dynamodb_endpoint: str, table: str) -> None:
    stores = [store_on(dynamodb_endpoint, table, layout=layout) for layout in LAYOUTS]
    async with stores[0], stores[1], stores[2]:
        accounts = [Repository(Account, store, snapshots=EAGER) for store in stores]
        account = await filled(accounts[0], 30)
        for turn, (repository, store) in enumerate(zip(accounts * 2, stores * 2, strict=True), 1):
            assert await repository.load("a-1") == account
            for _ in range(30):
                await repository.execute("a-1", Account.deposit, 1)
            assert (await store.load("account-a-1")).snapshot is not None
            account = await repository.load("a-1")
            assert (account.version, account.balance) == (30 + 30 * turn, 29 + 30 * turn)
        for store in stores:
            assert [commit.version async for commit in store.read("account-a-1")] == list(range(1, 211))


async def test_an_object_of_another_tenant_is_refused(dynamodb_endpoint: str, table: str) -> None:
    async with (
        store_on(dynamodb_endpoint, table, tenant="acme") as acme,
        store_on(dynamodb_endpoint, table, tenant="globex") as globex,
        store_on(dynamodb_endpoint, table, tenant="acme") as acme_again,
    ):
        for store, amounts in ((acme, (1, 2, 3)), (globex, (1,))):
            for amount in amounts:
                account = (
                    await Repository(Account, store).load("a-1") if amount > 1 else Account.open("a-1", owner="ann")
                )
                account.deposit(amount)
                await Repository(Account, store).save(account)
        account = await Repository(Account, acme).load("a-1")
        account.deposit(4)
        with pytest.raises(WrongStore):
            await Repository(Account, globex).save(account)
        assert (await Repository(Account, globex).load("a-1")).balance == 1
        await Repository(Account, acme_again).save(account)
        assert (await Repository(Account, acme).load("a-1")).balance == 10


async def test_tenants_share_a_table_but_no_streams(dynamodb_endpoint: str, table: str) -> None:
    names = ("a", "ab", None)
    for name in names:
        async with store_on(dynamodb_endpoint, table, tenant=name) as store:
            accounts = Repository(Account, store)
            with pytest.raises(AggregateNotFound):
                await accounts.load("a-1")
            await accounts.save(Account.open("a-1", owner=str(name)))
    for name in names:
        async with store_on(dynamodb_endpoint, table, tenant=name) as store:
            assert (await Repository(Account, store).load("a-1")).owner == str(name)


@every_layout
async def test_no_call_reaches_another_tenant(dynamodb_endpoint: str, table: str, layout: Any) -> None:
    stream = fresh_stream()
    async with (
        store_on(dynamodb_endpoint, table, tenant="a", layout=layout) as a,
        store_on(dynamodb_endpoint, table, tenant="ab", layout=layout) as ab,
        store_on(dynamodb_endpoint, table, layout=layout) as nobody,
    ):
        commits = await fill(a, stream, 3)
        await a.put_snapshot(make_snapshot(stream, 2))
        for other in (ab, nobody):
            await expect_stored(other, stream, [])
            assert (await other.load(stream)).snapshot is None
            with pytest.raises(InvalidStreamId):
                await other.load(f"a|{stream}")
        with pytest.raises(InvalidStreamId):
            await a.load(f"b|{stream}")
        await ab.append(make_commit(stream))
        assert await ab.put_snapshot(make_snapshot(stream, 1))
        assert [commit async for commit in a.read(stream)] == commits
        assert (await a.load(stream)).snapshot == make_snapshot(stream, 2)


@every_layout
async def test_keys_may_have_other_names(dynamodb_endpoint: str, layout: Any) -> None:
    keys = {"partition_key": "stream id", "sort_key": "data"}  # a space, and a reserved word
    stream = fresh_stream()
    async with store_on(dynamodb_endpoint, fresh_name(), layout=layout, **keys) as store:
        assert await store.create_table()
        commits = await fill(store, stream, 3)
        await expect_stored(store, stream, commits)
        assert await store.put_snapshot(make_snapshot(stream, 2))
        assert not await store.put_snapshot(make_snapshot(stream, 1))
        assert await store.load(stream) == (make_snapshot(stream, 2), commits[1:])


async def test_create_table_options(dynamodb_endpoint: str) -> None:
    table = fresh_name()
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        async with DynamoDBStore(table, client=client, partition_key="stream", sort_key="version") as store:
            assert await store.create_table(stream=True, deletion_protection=True)
            with pytest.raises(StoreRejected, match="UnknownOperation"):  # DynamoDB Local does not offer it
                await store.create_table(point_in_time_recovery=True)
        described = (await client.describe_table(TableName=table))["Table"]  # the client given is still open
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert described["StreamSpecification"]["StreamViewType"] == "NEW_IMAGE"
    assert described["DeletionProtectionEnabled"]
    assert [key["AttributeName"] for key in described["KeySchema"]] == ["stream", "version"]
    async with store_on(dynamodb_endpoint, table) as store:
        with pytest.raises(StoreRejected, match="other keys"):
            await store.create_table()


async def test_a_client_of_the_caller_is_used_and_not_closed(proxy: Proxy, table: str) -> None:
    async with session().client("dynamodb", endpoint_url=proxy.url) as client:
        async with DynamoDBStore(table, client=client) as store:
            await store.append(make_commit(fresh_stream()))
            proxy.arrived.clear()
            proxy.faults = [HOLD]
            described = asyncio.create_task(client.describe_table(TableName=table))
            await proxy.arrived.wait()
        proxy.go_on.set()  # closing the client would have ended the user's own call
        assert (await described)["Table"]["TableName"] == table
    assert proxy.counts == {"PutItem": 1, "DescribeTable": 1}


TRANSIENT: list[tuple[list[Fault], type[StoreError]]] = [
    ([error("ThrottlingException")], Throttled),
    ([error("InternalServerError", 500)], StoreUnavailable),
    ([LOST], StoreUnavailable),
    ([PASS, error("ThrottlingException")], Throttled),
    ([PASS, error("InternalServerError", 500)], StoreUnavailable),
    ([Answer(200, b"{}")], StoreUnavailable),
    ([PASS, Answer(200, b"{}")], StoreUnavailable),
]


@pytest.mark.parametrize(("faults", "expected"), TRANSIENT, ids=str)
async def test_a_table_that_could_not_be_created_now_can_be_created_later(
    proxy: Proxy, faults: list[Fault], expected: type[StoreError]
) -> None:
    async with store_on(proxy.url, fresh_name()) as store:
        proxy.faults = list(faults)
        with pytest.raises(expected):
            await store.create_table()
        await store.create_table()
        await store.append(make_commit(fresh_stream()))


async def test_create_table_waits_until_a_new_table_is_known(proxy: Proxy) -> None:
    async with store_on(proxy.url, fresh_name()) as store:
        proxy.faults = [PASS, error("ResourceNotFoundException")]
        assert await store.create_table()
        assert proxy.counts == {"CreateTable": 1, "DescribeTable": 2}


async def test_create_table_waits_until_backups_of_a_new_table_are_ready(proxy: Proxy) -> None:
    enabled = Answer(200, b'{"ContinuousBackupsDescription": {"ContinuousBackupsStatus": "ENABLED"}}')
    async with store_on(proxy.url, fresh_name()) as store:
        proxy.faults = [PASS, PASS, error("ContinuousBackupsUnavailableException"), enabled]
        assert await store.create_table(point_in_time_recovery=True)
        assert proxy.counts == {"CreateTable": 1, "DescribeTable": 1, "UpdateContinuousBackups": 2}


async def test_the_error_for_a_missing_table_names_create_table(dynamodb_endpoint: str) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        accounts = Repository(Account, store)
        for call in (accounts.load("a-1"), accounts.save(Account.open("a-1", owner="ann"))):
            with pytest.raises(StoreRejected, match="create_table"):
                await call


def test_a_store_belongs_to_one_loop(dynamodb_endpoint: str) -> None:
    store = store_on(dynamodb_endpoint, fresh_name())
    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(store.open())
        with pytest.raises(StoreClosed, match="another event loop"):
            other.run(store.load("account-a-1"))
        one.run(store.aclose())
        with pytest.raises(StoreClosed, match="async with"):
            one.run(store.load("account-a-1"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "sideways"}, "snapshot-last"),
        ({"partition_key": "p"}, "key names"),
        ({"sort_key": "PK"}, "key names"),
        ({"tenant": "a|b"}, "tenants"),
        ({"tenant": ""}, "empty"),
        ({"client": "one that is open", "region_name": "eu-west-1"}, "client"),
        ({"deadline": 0}, "deadline"),
        ({"max_connections": 0}, "max_connections"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DynamoDBStore("ledger", **options)


@pytest.mark.parametrize("table", ["", "ab", "a b c", "x" * 256])
def test_bad_table_names_are_refused(table: str) -> None:
    with pytest.raises(ValueError, match="not a table name"):
        DynamoDBStore(table)


async def test_missing_credentials_are_rejected(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    region = CREDENTIALS["region_name"]
    async with DynamoDBStore("ledger", endpoint_url=dynamodb_endpoint, region_name=region) as store:
        with pytest.raises(StoreRejected, match="credentials"):
            await store.load("account-a-1")


REMOTE = "http://192.0.2.1:8000"  # nobody's, RFC 5737


async def test_an_endpoint_without_encryption_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(**options: Any) -> None:
        with pytest.raises(StoreRejected, match="PLAIN_HTTP") as raised:
            await DynamoDBStore("events", session=session(), **options).open()
        assert "plain_http=True" in str(raised.value)

    await refused(endpoint_url=REMOTE)
    await refused(endpoint_url="http://dynamodb:8000")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", REMOTE)
    await refused()


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        (REMOTE, {"plain_http": True}),
        ("https://dynamodb.eu-west-1.amazonaws.com", {}),
        ("http://localhost:1", {}),
        ("http://127.1.2.3:1", {}),
        ("http://[::1]:1", {}),
        (None, {}),
    ],
)
async def test_an_endpoint_that_is_encrypted_or_local_is_accepted(
    endpoint: str | None, options: dict[str, Any]
) -> None:
    async with DynamoDBStore("events", session=session(), endpoint_url=endpoint, **options):
        pass


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "region"),
        ({"region_name": "no region"}, "region"),
        ({"endpoint_url": "nowhere"}, "cannot parse"),
    ],
)
async def test_settings_that_the_sdk_refuses_are_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    if "endpoint_url" in options:
        options = {**options, "region_name": "eu-west-1"}
    with pytest.raises(StoreRejected, match=reason):
        await DynamoDBStore("events", **options).open()


async def test_a_container_whose_variables_the_sdk_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://secret-91.example/credentials")
    with pytest.raises(StoreRejected, match="AWS_CONTAINER_CREDENTIALS_FULL_URI") as raised:
        async with DynamoDBStore("events", region_name="eu-west-1") as store:
            await store.load("account-1")
    assert "secret-91" not in str(raised.value)
