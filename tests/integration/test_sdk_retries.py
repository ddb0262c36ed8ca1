"""A client that was passed and sends requests again by itself: its last answer says nothing about earlier attempts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import CredentialRetrievalError
from support.bank import Account
from support.proxy import ANSWER_LOST, Proxy, error, proxy_to
from support.tables import fresh_name, session, store_on

from eventsrc import (
    CommitOutcomeUnknown,
    DynamoDBStore,
    Repository,
    SnapshotPolicy,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from eventsrc.processing import DynamoDBCheckpoints

REFUSALS = [
    "AccessDeniedException",
    "ExpiredTokenException",
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
]
RETRYING = {"default": None, "standard": AioConfig(retries={"mode": "standard", "total_max_attempts": 2})}
ONCE = AioConfig(retries={"mode": "standard", "total_max_attempts": 1})


class Bench(NamedTuple):
    proxy: Proxy
    table: str
    accounts: Repository[Account]  # directly


@pytest.fixture
async def bench(dynamodb_endpoint: str) -> AsyncIterator[Bench]:
    table = fresh_name()
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(dynamodb_endpoint, table) as direct:
        await direct.create_table()
        accounts = Repository(Account, direct, snapshots=SnapshotPolicy(enabled=False))
        await accounts.save(Account.open("a-1", owner="ann"))
        yield Bench(proxy, table, accounts)


@pytest.mark.parametrize("config", RETRYING)
@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refusal_after_a_lost_answer_proves_nothing(bench: Bench, code: str, config: str) -> None:
    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url, config=RETRYING[config]) as client,
        DynamoDBStore(bench.table, client=client, deadline=2.0) as store,
    ):
        accounts = Repository(Account, store)
        bench.proxy.faults, bench.proxy.then = ["pass", ANSWER_LOST], error(code)
        with pytest.raises(CommitOutcomeUnknown) as raised:
            await accounts.execute("a-1", Account.deposit, 5)
        bench.proxy.then = "pass"
        receipt = await accounts.settle(raised.value)
        assert receipt is not None
    assert (receipt.version, (await bench.accounts.load("a-1")).balance) == (2, 5)


async def test_credentials_that_expire_between_two_attempts_prove_nothing(bench: Bench) -> None:
    def fail(request: Any, **_: object) -> None:
        if len(bench.proxy.operations) > 1:
            raise CredentialRetrievalError(provider="test", error_msg="expired")

    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url) as client,
        DynamoDBStore(bench.table, client=client, deadline=1.0) as store,
    ):
        client.meta.events.register("before-sign", fail)
        accounts = Repository(Account, store)
        bench.proxy.faults = ["pass", ANSWER_LOST]
        with pytest.raises(CommitOutcomeUnknown):
            await accounts.execute("a-1", Account.deposit, 5)
        with pytest.raises(StoreUnavailable, match="no credentials"):
            await accounts.execute("a-1", Account.deposit, 5)
    assert (await bench.accounts.load("a-1")).balance == 5


async def test_a_refusal_of_the_only_attempt_is_definite(bench: Bench) -> None:
    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url) as client,
        DynamoDBStore(bench.table, client=client, deadline=2.0) as store,
    ):
        bench.proxy.faults = ["pass", error("AccessDeniedException")]
        with pytest.raises(StoreRejected, match="AccessDenied"):
            await Repository(Account, store).execute("a-1", Account.deposit, 5)
    assert bench.proxy.operations == ["Query", "PutItem"]


@pytest.mark.parametrize("retries", [True, False])
async def test_a_client_that_sends_again_by_itself_is_reported(
    bench: Bench, retries: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = RETRYING["standard"] if retries else ONCE
    async with session().client("dynamodb", endpoint_url=bench.proxy.url, config=config) as client:
        for owner in (DynamoDBStore(bench.table, client=client), DynamoDBCheckpoints("read-side", client=client)):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "eventsrc"):
                async with owner:
                    pass
            assert ("total_max_attempts" in caplog.text) == retries


async def test_a_conflict_with_an_own_earlier_attempt_is_a_success(bench: Bench) -> None:
    async with (
        session().client("dynamodb", endpoint_url=bench.proxy.url) as client,
        DynamoDBStore(bench.table, client=client, deadline=4.0) as store,
    ):
        bench.proxy.faults = ["pass", ANSWER_LOST]
        try:
            await Repository(Account, store).execute("a-1", Account.deposit, 5)
        except StoreError as failed:
            pytest.fail(str(failed))
    assert (await bench.accounts.load("a-1")).balance == 5
