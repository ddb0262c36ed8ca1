"""The exact append, on the real DynamoDB Local through a proxy that loses, damages and invents responses."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
import pytest
from support.bank import Account
from support.proxy import ANSWER_LOST, HALF_ANSWER, LOST, STALL, Answer, Proxy, error, proxy_to
from support.tables import fresh_name, store_on

from eventsrc import (
    CommitOutcomeUnknown,
    ConflictError,
    DynamoDBStore,
    Repository,
    SnapshotPolicy,
    StoreClosed,
    StoreRejected,
    StoreUnavailable,
    Throttled,
)
from eventsrc.testing.contract.samples import make_commit

THROTTLE = error("ProvisionedThroughputExceededException")
NO_SNAPSHOTS = SnapshotPolicy(enabled=False)


class Bench(NamedTuple):
    """Two stores of one table: through the proxy, and directly."""

    proxy: Proxy
    store: DynamoDBStore
    accounts: Repository[Account]
    direct: Repository[Account]

    async def deposits(self) -> int:
        return (await self.direct.load("a-1")).balance

    async def versions(self) -> list[int]:
        return [commit.version async for commit, _ in self.direct.history("a-1")]


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(dynamodb_endpoint, table) as direct:
        await direct.create_table()
        accounts = Repository(Account, direct, snapshots=NO_SNAPSHOTS)
        await accounts.save(Account.open("a-1", owner="ann"))
        async with store_on(proxy.url, table, deadline=1.0) as store:
            yield Bench(proxy, store, Repository(Account, store, snapshots=NO_SNAPSHOTS), accounts)


async def deposited(bench: Bench, amount: int = 5) -> Account:
    """Return an account with a deposit that is not saved yet."""
    account = await bench.accounts.load("a-1")
    bench.proxy.operations.clear()
    account.deposit(amount)
    return account


LOST_ANSWERS = [ANSWER_LOST, HALF_ANSWER, error("InternalServerError", 500, forwarded=True), Answer(200, b"{", True)]


@pytest.mark.parametrize("fault", [LOST, *LOST_ANSWERS, Answer(502, b"<html>"), THROTTLE], ids=str)
async def test_a_save_succeeds_despite_a_fault_and_is_stored_once(bench: Bench, fault: str | Answer) -> None:
    account = await deposited(bench)
    bench.proxy.faults = [fault, fault]
    receipt = await bench.accounts.save(account)
    assert (receipt.version, receipt.duplicate) == (2, False)
    assert bench.proxy.operations == ["PutItem"] * 3
    assert (await bench.versions(), await bench.deposits()) == ([1, 2], 5)


async def test_a_save_without_faults_is_one_request(bench: Bench) -> None:
    await bench.accounts.save(await deposited(bench))
    assert bench.proxy.operations == ["PutItem"]


async def test_throttling_until_the_deadline_is_a_definite_failure(bench: Bench) -> None:
    account = await deposited(bench)
    bench.proxy.then = THROTTLE
    with pytest.raises(Throttled, match="ProvisionedThroughputExceeded"):
        await bench.accounts.save(account)
    assert await bench.versions() == [1]
    with pytest.raises(Throttled):
        await bench.accounts.load("a-1")


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
async def test_an_unknown_outcome_stays_unknown_and_saving_again_settles_it(bench: Bench, fault: str | Answer) -> None:
    account = await deposited(bench)
    bench.proxy.faults, bench.proxy.then = [fault], THROTTLE
    with pytest.raises(CommitOutcomeUnknown) as raised:
        await bench.accounts.save(account)
    assert (raised.value.stream, raised.value.version) == ("account-a-1", 2)
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.save(account)
    bench.proxy.then = "pass"
    assert (await bench.accounts.save(account)).version == 2
    assert (await bench.versions(), account.uncommitted) == ([1, 2], ())


async def test_a_conflict_takes_one_request_and_brings_the_winner(bench: Bench) -> None:
    account = await deposited(bench)
    await bench.direct.execute("a-1", Account.deposit, 7)
    with pytest.raises(ConflictError) as raised:
        await bench.accounts.save(account)
    assert raised.value.winner is not None
    assert raised.value.winner.version == 2
    assert bench.proxy.operations == ["PutItem"]


async def test_a_commit_is_recognised_by_its_id_whatever_its_bytes(bench: Bench) -> None:
    """Another release may encode the same events in another way."""
    commit = make_commit("account-b-2")
    await bench.store.append(commit)
    bench.proxy.operations.clear()
    receipt = await bench.store.append(msgspec.structs.replace(commit, payload=commit.payload + b"!"))
    assert receipt.commit_id == commit.id
    assert bench.proxy.operations == ["PutItem"]


async def test_unknown_codes_prove_nothing(bench: Bench) -> None:
    account = await deposited(bench)
    bench.proxy.then = error("TeapotException", 418)
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.save(account)
    assert len(bench.proxy.operations) > 1


async def test_another_commit_at_the_version_of_a_lost_request_is_a_conflict(bench: Bench) -> None:
    account = await deposited(bench)
    bench.proxy.faults, bench.proxy.then = [LOST], THROTTLE
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.save(account)
    await bench.direct.execute("a-1", Account.deposit, 7)
    bench.proxy.then = "pass"
    with pytest.raises(ConflictError) as raised:
        await bench.accounts.save(account)
    assert raised.value.winner is not None
    assert (raised.value.winner.version, await bench.deposits()) == (2, 7)


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "ResourceNotFoundException", "UnrecognizedClientException", "ValidationException"]
)
async def test_a_permanent_refusal_is_raised_after_one_request(bench: Bench, code: str) -> None:
    account = await deposited(bench)
    bench.proxy.then = error(code)
    with pytest.raises(StoreRejected, match=code):
        await bench.accounts.save(account)
    with pytest.raises(StoreRejected, match=code):
        await bench.accounts.load("a-1")
    assert bench.proxy.operations == ["PutItem", "Query"]
    bench.proxy.then = "pass"
    await bench.accounts.save(account)
    assert await bench.versions() == [1, 2]


async def test_a_refusal_after_a_lost_response_leaves_the_outcome_unknown(bench: Bench) -> None:
    account = await deposited(bench)
    bench.proxy.faults = [ANSWER_LOST, error("AccessDeniedException")]
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.save(account)
    assert await bench.versions() == [1, 2]


@pytest.mark.parametrize("fault", [LOST, HALF_ANSWER, Answer(200, b"garbage"), THROTTLE], ids=str)
async def test_reads_are_tried_again(bench: Bench, fault: str | Answer) -> None:
    bench.proxy.faults = [fault]
    assert (await bench.accounts.load("a-1")).owner == "ann"
    assert bench.proxy.operations == ["Query", "Query"]


async def test_a_store_that_does_not_respond_is_unavailable(bench: Bench) -> None:
    account = await deposited(bench)
    bench.proxy.then = STALL
    with pytest.raises(StoreUnavailable):
        await bench.accounts.load("a-1")
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.save(account)


async def test_the_deadline_holds_for_calls_that_wait_for_a_connection(bench: Bench) -> None:
    bench.proxy.then = STALL
    async with store_on(bench.proxy.url, bench.store.table.name, deadline=0.5, max_connections=1) as narrow:
        accounts = Repository(Account, narrow)
        saves = [accounts.save(Account.open(f"n-{each}", owner="ann")) for each in range(100)]
        async with asyncio.timeout(5):
            errors = await asyncio.gather(*saves, return_exceptions=True)
    unknown = [each for each in errors if isinstance(each, CommitOutcomeUnknown)]
    never_sent = [each for each in errors if isinstance(each, Throttled | StoreUnavailable)]
    assert len(unknown) >= 1
    assert len(unknown) + len(never_sent) == 100
    assert any("max_connections" in str(each) for each in never_sent)


async def test_a_cancelled_save_can_be_saved_again(bench: Bench) -> None:
    for version in range(2, 8):
        account = await deposited(bench, 1)
        bench.proxy.arrived.clear()
        saving = asyncio.create_task(bench.accounts.save(account))
        await bench.proxy.arrived.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert (await bench.accounts.save(account)).version == version
    assert (await bench.versions(), await bench.deposits()) == ([1, 2, 3, 4, 5, 6, 7], 6)


async def test_closing_waits_for_calls_in_flight(bench: Bench) -> None:
    bench.proxy.faults = [LOST, LOST]
    async with store_on(bench.proxy.url, bench.store.table.name, deadline=30.0) as store:  # long, for a busy machine
        accounts = Repository(Account, store, snapshots=NO_SNAPSHOTS)
        saving = [asyncio.create_task(accounts.save(Account.open(f"n-{each}", owner="ann"))) for each in range(20)]
        await bench.proxy.arrived.wait()
        await store.aclose()
        receipts = await asyncio.gather(*saving)
        assert [receipt.version for receipt in receipts] == [1] * 20
        with pytest.raises(StoreClosed):
            await accounts.load("a-1")


async def test_a_command_issued_again_after_an_unknown_outcome_is_applied_once(bench: Bench) -> None:
    bench.proxy.faults, bench.proxy.then = ["pass", ANSWER_LOST], THROTTLE
    with pytest.raises(CommitOutcomeUnknown):
        await bench.accounts.execute("a-1", Account.deposit, 5, command_id="c-1")
    bench.proxy.then = "pass"
    assert (await bench.accounts.execute("a-1", Account.deposit, 5, command_id="c-1")).duplicate
    assert await bench.deposits() == 5


async def test_errors_and_logs_do_not_contain_events(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "eventsrc")
    secret = "secret-4711"
    await bench.direct.save(Account.open("s-1", owner=secret))
    bench.proxy.faults = [ANSWER_LOST]
    told = [repr(bench.store)]
    for save in (
        bench.accounts.save(Account.open("s-1", owner=secret)),  # the winner comes back in the service's error
        bench.accounts.execute("s-1", Account.withdraw, 10**6),
    ):
        try:
            await save
        except Exception as raised:
            told += [repr(raised), *traceback.format_exception(raised)]
            inner: BaseException | None = raised
            while inner is not None:
                told += [repr(inner), str(inner), repr(inner.args)]
                inner = inner.__cause__ or inner.__context__
    assert len(told) > 6
    assert secret not in "".join([*told, caplog.text])
