"""Transactions on DynamoDB have an exact outcome, even if answers are lost, late, or incomplete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from support.proxy import (
    ANONYMOUS,
    ANSWER_LOST,
    FLIP,
    HALF_ANSWER,
    HOLD,
    LOST,
    PASS,
    RESET,
    TWICE,
    Answer,
    Fault,
    Proxy,
    error,
    proxy_to,
)
from support.tables import fresh_name, records, session, store_on

from eventsrc import (
    Commit,
    ConflictError,
    DynamoDBStore,
    StoreRejected,
    StoreUnavailable,
    Throttled,
    TransactionOutcomeUnknown,
    TransactionsRefused,
)
from eventsrc.stores import Guard
from eventsrc.testing.contract.samples import expect_same_commit, expect_stored, fresh_stream, make_commit

FAULTS: tuple[Fault, ...] = (
    LOST,
    ANSWER_LOST,
    RESET,
    HALF_ANSWER,
    FLIP,
    TWICE,
    ANONYMOUS,
    error("ThrottlingException"),
    error("InternalServerError", 500),
    error("InternalServerError", 500, forwarded=True),
    error("TransactionInProgressException"),
    error("TransactionInProgressException", forwarded=True),
    error("TeapotException", 418, forwarded=True),
    Answer(200, b"{}"),
    Answer(200, b"{", forwarded=True),
    Answer(503, b"", forwarded=True),
)


class Bench(NamedTuple):
    """Stores of one table: through the proxy, through it with a short deadline, and directly."""

    proxy: Proxy
    store: DynamoDBStore
    hasty: DynamoDBStore
    direct: DynamoDBStore


@pytest.fixture(params=["signed", "sdk"])
async def bench(request: pytest.FixtureRequest, dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with (
        proxy_to(dynamodb_endpoint) as proxy,
        store_on(dynamodb_endpoint, table) as direct,
        session().client("dynamodb", endpoint_url=proxy.url, config=_once()) as client,
    ):
        await direct.create_table()
        options: dict[str, Any] = {"client": client, "session": None} if request.param == "sdk" else {}
        endpoint = None if options else proxy.url
        async with (
            store_on(endpoint, table, deadline=3.0, **options) as store,  # type: ignore[arg-type]
            store_on(endpoint, table, deadline=0.4, **options) as hasty,  # type: ignore[arg-type]
        ):
            yield Bench(proxy, store, hasty, direct)


def _once() -> Any:
    from aiobotocore.config import AioConfig

    return AioConfig(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=1)


def pair() -> tuple[list[Commit], list[Guard]]:
    return [make_commit(fresh_stream()), make_commit(fresh_stream())], [Guard(fresh_stream(), 0)]


def cancelled(*codes: str) -> Answer:
    """Return the answer to a transaction that was cancelled for these reasons, one for each action."""
    body = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "message": "scripted",
        "CancellationReasons": [{"Code": code} for code in codes],
    }
    return Answer(400, json.dumps(body).encode())


async def release(proxy: Proxy) -> None:
    """Send the service all requests that were held, of which there is one at least."""
    proxy.go_on.set()
    async with asyncio.timeout(20):
        while "TransactWriteItems" not in proxy.operations or proxy.forwarded < len(proxy.operations):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def expect_both(store: DynamoDBStore, commits: list[Commit], count: int = 1) -> None:
    for commit in commits:
        await expect_stored(store, commit.stream, [commit][:count])


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_transaction_with_a_fault_is_stored_once(bench: Bench, fault: Fault) -> None:
    commits, guards = pair()
    bench.proxy.faults = [fault]
    receipts = await bench.store.append_all(commits, guards)
    assert [receipt.commit_id for receipt in receipts] == [commit.id for commit in commits]
    assert bench.proxy.counts == {"TransactWriteItems": 1 if fault == TWICE else 2}
    await expect_both(bench.direct, commits)


async def test_the_commit_ids_settle_what_the_token_does_not(bench: Bench) -> None:
    """A repetition with other guards has another token, so the service carries it out and its conditions fail."""
    commits, guards = pair()
    await bench.direct.append_all(commits, guards)
    moved = make_commit(guards[0].stream)
    await bench.direct.append(moved)
    for again in ([], [*guards, Guard(fresh_stream(), 0)], [Guard(fresh_stream(), 0)]):
        receipts = await bench.store.append_all(commits, again)
        assert [receipt.commit_id for receipt in receipts] == [commit.id for commit in commits]
    await expect_both(bench.direct, commits)


async def test_an_answer_without_the_stored_items_is_settled_by_a_read(bench: Bench) -> None:
    commits, guards = pair()
    bench.proxy.faults = [ANSWER_LOST, cancelled("ConditionalCheckFailed", "ConditionalCheckFailed", "None")]
    assert len(await bench.store.append_all(commits, guards)) == 2
    assert bench.proxy.operations == ["TransactWriteItems", "TransactWriteItems", "GetItem"]
    bench.proxy.faults = [cancelled("None", "None", "ConditionalCheckFailed")]  # as if the guard had moved since
    assert len(await bench.store.append_all(commits, guards)) == 2
    late = [make_commit(commits[0].stream), make_commit(fresh_stream())]
    bench.proxy.faults = [cancelled("ConditionalCheckFailed", "None", "None")]
    with pytest.raises(ConflictError) as raised:
        await bench.store.append_all(late, guards)
    expect_same_commit(raised.value.winner, commits[0], "as the winner")
    bench.proxy.faults = [error("ConditionalCheckFailedException")]  # without any reason
    with pytest.raises(ConflictError):
        await bench.store.append_all(late, guards)
    await expect_both(bench.direct, commits)


async def test_a_moved_guard_next_to_an_item_that_is_being_written_proves_nothing(bench: Bench) -> None:
    """The item may be that of an earlier try, in the middle of being stored. So it is sent again."""
    commits, guards = pair()
    bench.proxy.faults = [cancelled("TransactionConflict", "None", "ConditionalCheckFailed")]
    assert len(await bench.store.append_all(commits, guards)) == 2
    assert bench.proxy.counts == {"TransactWriteItems": 2, "GetItem": 1}
    await expect_both(bench.direct, commits)
    late, _ = pair()

    def choose() -> Fault:
        reads = bench.proxy.operations[-1] == "GetItem"
        return PASS if reads else cancelled("TransactionConflict", "None", "ConditionalCheckFailed")

    bench.proxy.choose = choose
    with pytest.raises(TransactionOutcomeUnknown, match="TransactionConflict"):
        await bench.hasty.append_all(late, guards)


async def test_a_conflict_of_transactions_stores_nothing_and_is_tried_again(bench: Bench) -> None:
    commits, guards = pair()
    bench.proxy.faults = [
        cancelled("TransactionConflict", "None", "None"),
        cancelled("None", "None", "ThrottlingError"),
    ]
    assert len(await bench.store.append_all(commits, guards)) == 2
    assert bench.proxy.counts == {"TransactWriteItems": 3}
    await expect_both(bench.direct, commits)
    late, _ = pair()
    bench.proxy.then = cancelled("TransactionConflict", "None", "None")
    with pytest.raises(Throttled, match="TransactionConflict"):
        await bench.hasty.append_all(late, guards)
    await expect_both(bench.direct, late, 0)


async def test_an_append_that_meets_a_transaction_is_tried_again(bench: Bench) -> None:
    commit = make_commit(fresh_stream())
    bench.proxy.faults = [error("TransactionConflictException")]
    await bench.store.append(commit)
    await expect_stored(bench.direct, commit.stream, [commit])


async def test_a_transaction_stored_after_its_deadline_is_recognised(bench: Bench) -> None:
    commits, guards = pair()
    await bench.hasty.load(commits[0].stream)  # opens a connection
    bench.proxy.then = HOLD
    with pytest.raises(TransactionOutcomeUnknown) as raised:
        await bench.hasty.append_all(commits, guards)
    assert (raised.value.commits, raised.value.guards) == (tuple(commits), tuple(guards))
    await expect_both(bench.direct, commits, 0)
    await release(bench.proxy)
    await expect_both(bench.direct, commits)
    assert len(await bench.store.append_all(commits, guards)) == 2
    await expect_both(bench.direct, commits)


async def test_a_transaction_that_arrives_after_its_guard_has_moved_stores_nothing(bench: Bench) -> None:
    commits, guards = pair()
    await bench.hasty.load(commits[0].stream)  # opens a connection
    bench.proxy.then = HOLD
    with pytest.raises(TransactionOutcomeUnknown):
        await bench.hasty.append_all(commits, guards)
    await bench.direct.append(make_commit(guards[0].stream))
    await release(bench.proxy)
    bench.proxy.then = PASS
    with pytest.raises(ConflictError) as raised:
        await bench.store.append_all(commits, guards)
    assert raised.value.stream == guards[0].stream
    await expect_both(bench.direct, commits, 0)


async def test_a_definite_refusal_after_a_lost_answer_leaves_the_outcome_unknown(bench: Bench) -> None:
    commits, guards = pair()
    bench.proxy.faults, bench.proxy.then = [ANSWER_LOST], error("AccessDeniedException")
    with pytest.raises(TransactionOutcomeUnknown):
        await bench.store.append_all(commits, guards)
    bench.proxy.then = PASS
    assert len(await bench.store.append_all(commits, guards)) == 2


@pytest.mark.parametrize("code", ["ValidationException", "UnknownOperationException"])
async def test_a_table_without_transactions_is_named(bench: Bench, code: str) -> None:
    commits, guards = pair()
    bench.proxy.faults = [error(code)]
    with pytest.raises(TransactionsRefused, match="multi-Region strong consistency") as raised:
        await bench.store.append_all(commits, guards)
    assert isinstance(raised.value, StoreRejected)
    assert raised.value.code == code
    await expect_both(bench.direct, commits, 0)


async def test_guards_alone_are_not_answered_from_an_earlier_call(bench: Bench) -> None:
    guards = [Guard(fresh_stream(), 0), Guard(fresh_stream(), 0)]
    bench.proxy.faults = [ANSWER_LOST]
    assert not await bench.store.append_all((), guards)
    await bench.direct.append(make_commit(guards[1].stream))
    with pytest.raises(ConflictError) as raised:
        await bench.store.append_all((), guards)
    assert raised.value.stream == guards[1].stream
    bench.proxy.then = LOST
    with pytest.raises(StoreUnavailable):
        await bench.hasty.append_all((), guards)


async def test_usage_counts_twice_the_units(bench: Bench) -> None:
    commits, _ = pair()
    receipts = await bench.store.append_all(commits)
    usage = receipts[0].usage
    assert usage is not None
    assert receipts[1].usage is usage
    assert (usage.calls, usage.requests, usage.write_units) == (1, 1, 4.0)
    single = make_commit(fresh_stream())
    [receipt] = await bench.store.append_all([single])
    assert receipt.usage is not None
    assert (receipt.usage.requests, receipt.usage.write_units) == (1, 1.0)
    with pytest.raises(ConflictError):
        await bench.store.append_all([make_commit(single.stream), make_commit(fresh_stream())])
    assert bench.store.usage.conflicts == 1


async def test_the_stream_of_the_table_has_all_commits(dynamodb_endpoint: str) -> None:
    commits, _ = pair()
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        await store.append_all(commits, [Guard(fresh_stream(), 0)])
        found = [
            change.commit for change in store.changes({"Records": await records(dynamodb_endpoint, store.table.name)})
        ]
    assert sorted(each.id for each in found if each is not None) == sorted(each.id for each in commits)
