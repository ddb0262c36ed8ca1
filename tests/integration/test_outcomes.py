"""Every append has a known outcome, even if its requests arrive late, are cancelled, or fail in any order."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import pytest
from support.bank import Account
from support.proxy import (
    ANONYMOUS,
    ANSWER_LOST,
    FLIP,
    HALF_ANSWER,
    HOLD,
    LOST,
    PASS,
    RESET,
    STALL,
    Answer,
    Fault,
    Proxy,
    condition_failed,
    error,
    proxy_to,
)
from support.tables import fresh_name, session, store_on

from campaigns.clock import VirtualLoop, run, virtual_time
from eventsrc import (
    CommitOutcomeUnknown,
    ConflictError,
    DynamoDBStore,
    Repository,
    SnapshotPolicy,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    Throttled,
)
from eventsrc.stores.dynamodb.wire.client import NotSent, ServiceError, TransportError
from eventsrc.stores.dynamodb.wire.limits import PER_SECOND, RESERVE, Limits
from eventsrc.stores.dynamodb.wire.outcomes import DeadlinePassed
from eventsrc.stores.dynamodb.wire.sending import send
from eventsrc.testing.contract.samples import (
    expect_same_commit,
    expect_stored,
    fresh_stream,
    make_commit,
    make_snapshot,
    read_all,
)

THROTTLE = error("ThrottlingException")
FAULTS: tuple[Fault, ...] = (
    LOST,
    ANSWER_LOST,
    RESET,
    HALF_ANSWER,
    FLIP,
    STALL,
    ANONYMOUS,
    THROTTLE,
    error("InternalServerError", 500),
    error("InternalServerError", 500, forwarded=True),
    error("TransactionInProgressException"),
    error("TeapotException", 418, forwarded=True),
    Answer(200, b"{}"),
    Answer(200, b"{", forwarded=True),
    Answer(400, b"<html>"),
    Answer(503, b"", forwarded=True),
)


class Bench(NamedTuple):
    """Stores of one table: through the proxy, through it with a short deadline, and directly."""

    proxy: Proxy
    store: DynamoDBStore
    hasty: DynamoDBStore
    direct: DynamoDBStore


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(dynamodb_endpoint, table) as direct:
        await direct.create_table()
        async with (
            store_on(proxy.url, table, deadline=3.0) as store,
            store_on(proxy.url, table, deadline=0.4) as hasty,
        ):
            yield Bench(proxy, store, hasty, direct)


@asynccontextmanager
async def meeting(
    faults: Iterable[Fault], endpoint: str, table: str
) -> AsyncIterator[list[tuple[Proxy, DynamoDBStore]]]:
    """Open a store for each fault, which has no other faults. Opening takes time, so all are opened before any call."""
    async with AsyncExitStack() as stack:
        each: list[tuple[Proxy, DynamoDBStore]] = []
        for fault in faults:
            proxy = await stack.enter_async_context(proxy_to(endpoint))
            proxy.then = fault
            each.append((proxy, await stack.enter_async_context(store_on(proxy.url, table, deadline=1.2))))
        yield each


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the proxy only counts
            await asyncio.sleep(0.002)


async def release(proxy: Proxy) -> None:
    """Send the service all requests that were held."""
    proxy.go_on.set()
    await until(lambda: proxy.forwarded == len(proxy.operations))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_an_append_with_a_fault_is_stored_once(bench: Bench, fault: Fault) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.faults = [fault]
    assert (await bench.store.append(commit)).commit_id == commit.id
    assert bench.proxy.counts == {"PutItem": 2}
    await expect_stored(bench.direct, commit.stream, [commit])


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_reads_are_repeated_after_a_fault(bench: Bench, fault: Fault) -> None:
    await bench.direct.append(commit := make_commit(fresh_stream()))
    bench.proxy.faults = [fault, fault]
    loaded, read = await asyncio.gather(bench.store.load(commit.stream), read_all(bench.store, commit.stream))
    assert loaded.commits == read == [commit]
    assert bench.proxy.counts == {"Query": 4}


async def test_reads_that_always_fail_raise_the_reason(bench: Bench, dynamodb_endpoint: str) -> None:
    async def check(proxy: Proxy, store: DynamoDBStore) -> None:
        while len(proxy.operations) <= (1 if proxy.then == STALL else 2):  # one deadline is short on a busy machine
            with pytest.raises(Throttled if proxy.then == THROTTLE else StoreUnavailable):
                await store.load(fresh_stream())

    async with meeting(FAULTS, dynamodb_endpoint, bench.store.table.name) as each:
        await asyncio.gather(*(check(proxy, store) for proxy, store in each))


async def test_the_stored_commit_is_read_if_the_service_does_not_return_it(bench: Bench) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.faults = [ANSWER_LOST, condition_failed()]
    assert (await bench.store.append(commit)).commit_id == commit.id
    assert bench.proxy.operations == ["PutItem", "PutItem", "GetItem"]
    bench.proxy.faults = [condition_failed(forwarded=True)]
    with pytest.raises(ConflictError) as raised:
        await bench.store.append(make_commit(commit.stream))
    expect_same_commit(raised.value.winner, commit, "as the winner")
    await expect_stored(bench.direct, commit.stream, [commit])


@pytest.mark.parametrize("fault", [LOST, THROTTLE, error("AccessDeniedException")], ids=str)
async def test_a_stored_commit_that_cannot_be_read_leaves_the_outcome_unknown(bench: Bench, fault: Fault) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.faults, bench.proxy.then = [ANSWER_LOST, condition_failed()], fault
    with pytest.raises(CommitOutcomeUnknown):
        await bench.hasty.append(commit)
    bench.proxy.then = PASS
    assert (await bench.store.append(commit)).commit_id == commit.id
    await expect_stored(bench.direct, commit.stream, [commit])


async def test_a_commit_stored_after_its_deadline_is_recognised(bench: Bench) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.then = HOLD
    with pytest.raises(CommitOutcomeUnknown):
        await bench.hasty.append(commit)
    await expect_stored(bench.direct, commit.stream, [])
    await release(bench.proxy)
    await expect_stored(bench.direct, commit.stream, [commit])
    assert (await bench.store.append(commit)).commit_id == commit.id
    await expect_stored(bench.direct, commit.stream, [commit])


async def test_a_commit_that_arrives_too_late_overwrites_nothing(bench: Bench) -> None:
    late = make_commit(fresh_stream())
    other = make_commit(late.stream)
    bench.proxy.then = HOLD
    with pytest.raises(CommitOutcomeUnknown):
        await bench.hasty.append(late)
    await bench.direct.append(other)
    await release(bench.proxy)
    with pytest.raises(ConflictError) as raised:
        await bench.store.append(late)
    expect_same_commit(raised.value.winner, other, "as the winner")
    await expect_stored(bench.direct, late.stream, [other])


@pytest.mark.parametrize("lands", ["before", "after"])
async def test_a_cancelled_append_made_again_is_stored_once_whenever_the_first_arrives(
    bench: Bench, lands: str
) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.faults = [HOLD]
    appending = asyncio.create_task(bench.store.append(commit))
    await until(lambda: len(bench.proxy.operations) == 1)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    if lands == "before":
        await release(bench.proxy)
        await expect_stored(bench.direct, commit.stream, [commit])
    assert (await bench.store.append(commit)).commit_id == commit.id
    await release(bench.proxy)
    await expect_stored(bench.direct, commit.stream, [commit])


async def test_calls_in_flight_end_with_their_own_result_when_the_store_closes(bench: Bench) -> None:
    taken = make_commit(fresh_stream())
    await bench.direct.append(taken)
    commits = [make_commit(fresh_stream()) for _ in range(8)]
    bench.proxy.faults = [HOLD] * 10
    appending = [asyncio.create_task(bench.store.append(commit)) for commit in commits]
    losing = asyncio.create_task(bench.store.append(make_commit(taken.stream)))
    loading = asyncio.create_task(bench.store.load(taken.stream))
    await until(lambda: len(bench.proxy.operations) == 10)
    closing = asyncio.create_task(bench.store.aclose())
    await asyncio.sleep(0)
    with pytest.raises(StoreClosed):
        await bench.store.append(commits[0])
    await release(bench.proxy)
    await closing
    assert [task.result().commit_id for task in appending] == [commit.id for commit in commits]
    assert isinstance(losing.exception(), ConflictError)
    assert [commit.id for commit in loading.result().commits] == [taken.id]


async def test_calls_without_a_response_end_when_the_store_closes(bench: Bench) -> None:
    bench.proxy.then = STALL
    appending = [asyncio.create_task(bench.hasty.append(make_commit(fresh_stream()))) for _ in range(5)]
    loading = [asyncio.create_task(bench.hasty.load(fresh_stream())) for _ in range(5)]
    await until(lambda: len(bench.proxy.operations) >= 10)
    await bench.hasty.aclose()
    assert {type(task.exception()) for task in appending} == {CommitOutcomeUnknown}
    assert {type(task.exception()) for task in loading} == {StoreUnavailable}


async def test_calls_to_a_stalled_endpoint_end_at_the_deadline(bench: Bench) -> None:
    bench.proxy.then = STALL
    async with store_on(bench.proxy.url, bench.store.table.name, deadline=0.6, max_connections=1) as narrow:
        loads = [narrow.load(fresh_stream()) for _ in range(50)]
        appends = [narrow.append(make_commit(fresh_stream())) for _ in range(50)]
        outcomes = await asyncio.gather(*loads, *appends, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {StoreUnavailable, CommitOutcomeUnknown, Throttled}
        assert 1 <= len(bench.proxy.operations) < 10  # they waited side by side, not one after another
        bench.proxy.then = PASS
        await narrow.append(commit := make_commit(fresh_stream()))  # and the connection is free again
    await expect_stored(bench.direct, commit.stream, [commit])


async def test_a_call_cancelled_while_it_waits_for_a_connection_keeps_none(bench: Bench) -> None:
    commits = [make_commit(fresh_stream()) for _ in range(10)]
    bench.proxy.faults = [HOLD]
    async with store_on(bench.proxy.url, bench.store.table.name, max_connections=1) as narrow:
        appending = [asyncio.create_task(narrow.append(commit)) for commit in commits]
        await until(lambda: len(bench.proxy.operations) == 1)
        for task in appending[:5]:
            task.cancel()
        await asyncio.gather(*appending[5:])
        await release(bench.proxy)
    assert [task.cancelled() for task in appending] == [True] * 5 + [False] * 5
    for commit in commits[5:]:
        await expect_stored(bench.direct, commit.stream, [commit])


async def test_a_command_issued_again_before_its_first_write_arrives_is_applied_once(bench: Bench) -> None:
    id = fresh_name()
    policy = SnapshotPolicy(enabled=False)
    hasty, direct = (Repository(Account, store, snapshots=policy) for store in (bench.hasty, bench.direct))
    await direct.save(Account.open(id, owner="ann"))
    bench.proxy.faults, bench.proxy.then = [PASS], HOLD
    with pytest.raises(CommitOutcomeUnknown):
        await hasty.execute(id, Account.deposit, 5, command_id="c-1")
    assert (await direct.execute(id, Account.deposit, 5, command_id="c-1")).result == 5
    await release(bench.proxy)
    assert (await direct.execute(id, Account.deposit, 5, command_id="c-1")).duplicate
    account = await direct.load(id)
    assert (account.version, account.balance) == (2, 5)


@pytest.mark.parametrize("seed", range(3))
async def test_with_faults_and_cancellations_each_commit_is_stored_once(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    bench.proxy.faults = [dice.choice(FAULTS) if dice.random() < 0.35 else PASS for _ in range(3000)]
    stream, acknowledged = fresh_stream(), list[bytes]()

    async def write(commits: int) -> None:
        version = 0
        while commits:
            commit = make_commit(stream, version + 1)
            settled = unsure = False
            while not settled:
                try:
                    async with asyncio.timeout(dice.choice([None, 0.001, 0.005, 0.02])):
                        await bench.hasty.append(commit)
                    acknowledged.append(commit.id)
                    version, commits, settled = version + 1, commits - 1, True
                except ConflictError as conflict:
                    version, settled = conflict.actual, True
                except (CommitOutcomeUnknown, TimeoutError):
                    unsure = True  # so the same commit again
                except Throttled:
                    settled = not unsure

    await asyncio.gather(*(write(6) for _ in range(5)))
    found = [commit async for commit in bench.direct.read(stream)]
    assert len(acknowledged) == 30
    assert Counter(commit.id for commit in found) == Counter(acknowledged)
    assert [commit.version for commit in found] == list(range(1, 31))


async def test_codes_to_try_again_are_definite_failures(bench: Bench) -> None:
    codes = (
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "LimitExceededException",
        "ReplicatedWriteConflictException",
        "TransactionConflictException",
    )
    commits = [make_commit(fresh_stream()) for _ in range(12)]
    bench.proxy.faults.extend([error(code) for code in codes] * 500)
    async with store_on(bench.proxy.url, bench.store.table.name, deadline=1.5) as store:
        outcomes = await asyncio.gather(*map(store.append, commits), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Throttled}
    assert len(bench.proxy.operations) > 2 * len(commits)
    for commit in commits:
        await expect_stored(bench.direct, commit.stream, [])


def test_no_try_starts_too_late_for_its_response() -> None:
    """In virtual time, so that a busy machine cannot make an answer late."""

    async def throttled() -> None:
        await asyncio.sleep(0.05)
        raise ServiceError("ThrottlingException", 400)

    async def send_many() -> list[BaseException | None]:
        sends = [send(throttled, Limits(2.0, 1)) for _ in range(300)]
        return await asyncio.gather(*sends, return_exceptions=True)

    loop = VirtualLoop()
    with virtual_time(loop):
        outcomes = run(send_many(), loop)
    assert [outcome for outcome in outcomes if not isinstance(outcome, DeadlinePassed) or outcome.ambiguous] == []


@pytest.mark.parametrize("deadline", [10.0, 60.0])
def test_the_pauses_between_tries_grow(deadline: float) -> None:
    """In virtual time. Pauses of up to 50 ms throughout would be 400 requests in 10 seconds."""
    tries = 0

    async def broken() -> None:
        nonlocal tries
        tries += 1
        assert tries < 1000
        raise TransportError("reset")

    loop = VirtualLoop()
    with virtual_time(loop), pytest.raises(DeadlinePassed):
        run(send(broken, Limits(deadline, 1)), loop)
    assert deadline / 2 < tries < 10 + 3 * deadline


def test_a_throttled_store_sends_few_requests_beyond_those_of_its_calls() -> None:
    """In virtual time. Without a budget, each call would send some fifteen requests in ten seconds."""

    tries = 0

    async def throttled() -> None:
        nonlocal tries
        tries += 1
        raise ServiceError("ThrottlingException", 400)

    async def send_many() -> list[BaseException | None]:
        return await asyncio.gather(*(send(throttled, limits) for _ in range(1000)), return_exceptions=True)

    loop, limits = VirtualLoop(), Limits(10.0, 64)
    with virtual_time(loop):
        outcomes = run(send_many(), loop)
    assert {type(outcome) for outcome in outcomes} == {DeadlinePassed}
    assert 1000 + RESERVE <= tries <= 1000 + RESERVE + 10 * PER_SECOND


def test_a_call_that_waits_for_long_succeeds_when_throttling_ends() -> None:
    """In virtual time. Other calls have used up the budget, and there are no new ones that would renew it."""

    async def throttled_for_a_minute() -> float:
        if (now := loop.time()) < 60:
            raise ServiceError("ThrottlingException", 400)
        return now

    async def wait_in_line() -> float:
        waiting = [asyncio.create_task(send(throttled_for_a_minute, limits)) for _ in range(200)]
        return max(await asyncio.gather(*waiting))

    loop, limits = VirtualLoop(), Limits(600.0, 64)
    with virtual_time(loop):
        assert run(wait_in_line(), loop) < 120


async def test_a_permanent_refusal_is_raised_at_once(bench: Bench) -> None:
    commit = make_commit(fresh_stream())
    for code in (
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "ItemCollectionSizeLimitExceededException",
        "RequestTimeTooSkewed",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    ):
        bench.proxy.operations.clear()
        bench.proxy.then = error(code)
        with pytest.raises(StoreRejected) as raised:
            await bench.store.append(commit)
        assert (raised.value.code, bench.proxy.operations) == (code, ["PutItem"])
    bench.proxy.then = Answer(413, b"<html>too large</html>")
    with pytest.raises(StoreRejected, match="413"):
        await bench.store.append(commit)
    await expect_stored(bench.direct, commit.stream, [])


async def test_other_responses_prove_nothing(bench: Bench, dynamodb_endpoint: str) -> None:
    async def check(proxy: Proxy, store: DynamoDBStore) -> None:
        commit = make_commit(fresh_stream())
        failure: object = None
        while len(proxy.operations) < 2:  # one deadline is short on a busy machine
            with pytest.raises(StoreError) as raised:
                await store.append(commit)
            failure = raised.value
        assert isinstance(failure, CommitOutcomeUnknown)
        assert failure.commit == commit
        assert (await bench.store.append(commit)).commit_id == commit.id
        await expect_stored(bench.direct, commit.stream, [commit])

    # Local's errors carry no checksum, so a failed condition is recognised despite a flipped bit.
    faults = [fault for fault in FAULTS if fault not in (THROTTLE, FLIP, ANONYMOUS)]
    async with meeting(faults, dynamodb_endpoint, bench.store.table.name) as each:
        await asyncio.gather(*(check(proxy, store) for proxy, store in each))


async def test_an_endpoint_without_a_listener_is_unavailable(bench: Bench) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with store_on(url, "ledger", deadline=0.3) as store:
            with pytest.raises(StoreUnavailable, match="reachable"):
                await store.load(fresh_stream())
            with pytest.raises(StoreUnavailable, match="reachable"):  # no try was ever sent
                await store.append(make_commit(fresh_stream()))
        async with (
            session().client("dynamodb", endpoint_url=url) as client,
            DynamoDBStore("ledger", client=client, deadline=0.3) as store,
        ):
            with pytest.raises(
                CommitOutcomeUnknown
            ):  # the SDK raises the same error for a refused connection and a lost one
                await store.append(make_commit(fresh_stream()))


@pytest.mark.parametrize("first", [[], [TransportError("reset")]], ids=["never sent", "sent once"])
async def test_only_requests_that_were_never_sent_are_definite_failures(first: list[Exception]) -> None:
    tries = iter(first)

    async def call() -> None:
        raise next(tries, NotSent("refused"))

    with pytest.raises(DeadlinePassed) as raised:
        await send(call, Limits(0.3, 1))
    assert raised.value.ambiguous == bool(first)


@pytest.mark.parametrize("given", ["/path", "?a=b", ":0", ":99999", ":port"])
async def test_an_endpoint_is_a_scheme_a_host_and_a_port(given: str) -> None:
    with pytest.raises(StoreRejected, match="ENDPOINT"):
        async with DynamoDBStore("ledger", session=session(), endpoint_url=f"http://127.0.0.1{given}"):
            pass


async def test_the_deadline_holds_for_a_client_with_longer_timeouts(bench: Bench) -> None:
    bench.proxy.then = STALL
    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url) as client,
        DynamoDBStore(bench.store.table.name, client=client, deadline=0.3) as store,
        asyncio.timeout(30),  # the client itself would wait for minutes
    ):
        with pytest.raises(StoreUnavailable, match="no response"):
            await store.load(fresh_stream())
        with pytest.raises(CommitOutcomeUnknown):
            await store.append(make_commit(fresh_stream()))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_snapshot_is_put_despite_a_fault(bench: Bench, fault: Fault) -> None:
    stream = fresh_stream()
    bench.proxy.faults = [fault]
    await bench.store.put_snapshot(make_snapshot(stream, 5))
    assert (await bench.direct.load(stream)).snapshot == make_snapshot(stream, 5)
    assert not await bench.store.put_snapshot(make_snapshot(stream, 4))
    assert bench.proxy.operations == ["PutItem"] * 3
