"""Transactions of aggregates on the real DynamoDB Local, and their inline projections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from support.bank import Account, InsufficientFunds
from support.tables import fresh_name, session, store_on

from eventsrc import (
    AlreadyReserved,
    ConflictError,
    DynamoDBStore,
    Recorded,
    Repository,
    StoreRejected,
    TransactionTooLarge,
)
from eventsrc.transactions import Reservations, Transaction, transact, transaction

Actions = list[Mapping[str, Any]]


@pytest.fixture(params=["snapshot-last", "snapshot-first", "interleaved"])
async def store(request: pytest.FixtureRequest, dynamodb_endpoint: str) -> AsyncIterator[DynamoDBStore]:
    async with store_on(dynamodb_endpoint, fresh_name(), layout=request.param) as store:
        await store.create_table()
        yield store


async def open_accounts(store: DynamoDBStore, *balances: int) -> Repository[Account]:
    accounts = Repository(Account, store)
    async with transaction(store) as tx:
        for number, balance in enumerate(balances, 1):
            tx.add(accounts, Account.open(f"a-{number}", owner="ann")).deposit(balance)
    return accounts


async def test_money_is_conserved_under_concurrency(store: DynamoDBStore) -> None:
    accounts = await open_accounts(store, 100, 100, 100)
    ids = ["a-1", "a-2", "a-3"]

    async def move(source: str, target: str, amount: int) -> bool:
        async def decide(tx: Transaction) -> None:
            (await tx.load(accounts, source)).withdraw(amount)
            (await tx.load(accounts, target)).deposit(amount)

        try:
            await transact(store, decide, attempts=200)
        except InsufficientFunds:
            return False
        return True

    async def audit() -> int:
        async def decide(tx: Transaction) -> int:
            return sum([(await tx.load(accounts, id)).balance for id in ids])

        return await transact(store, decide, attempts=200)

    pairs = [(source, target) for source in ids for target in ids if source != target]
    touches = [accounts.execute(id, Account.deposit, 0) for id in ids * 2]
    outcomes, sums, _ = await asyncio.gather(
        asyncio.gather(*(move(*pair, amount) for amount in (9, 70) for pair in pairs)),
        asyncio.gather(*(audit() for _ in range(4))),
        asyncio.gather(*touches),
    )
    assert sums == [300] * 4
    found = await accounts.load_many(ids)
    assert sum(each.balance for each in found.values()) == 300
    assert sum(each.version for each in found.values()) == 3 + 6 + 2 * sum(outcomes)


async def test_a_value_is_claimed_once(store: DynamoDBStore) -> None:
    emails, accounts = Reservations(store, "email", key=b"made up for the tests"), Repository(Account, store)

    async def register(number: int) -> str:
        async def decide(tx: Transaction) -> str:
            await emails.claim(tx, "ann@example.com", f"a-{number}")
            return tx.add(accounts, Account.open(f"a-{number}", owner="ann")).id

        return await transact(store, decide, attempts=100)

    outcomes = await asyncio.gather(*map(register, range(8)), return_exceptions=True)
    [winner] = [each for each in outcomes if isinstance(each, str)]
    assert {type(each) for each in outcomes} == {str, AlreadyReserved}
    assert await emails.owner_of("ann@example.com") == winner
    assert list(await accounts.load_many([f"a-{number}" for number in range(8)])) == [winner]


async def test_an_inline_projection_writes_items_of_the_same_transaction(
    store: DynamoDBStore, dynamodb_endpoint: str
) -> None:
    async with session().client("dynamodb", endpoint_url=dynamodb_endpoint) as client:
        table = fresh_name()
        await client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

        async def read(id: str) -> str | None:
            item = (await client.get_item(TableName=table, Key={"id": {"S": id}}, ConsistentRead=True)).get("Item")
            return item["n"]["N"] if item else None

        def count(actions: Actions, recorded: Sequence[Recorded]) -> None:
            for commit, events in recorded:
                update = {
                    "TableName": table,
                    "Key": {"id": {"S": commit.stream}},
                    "UpdateExpression": "ADD n :n",
                    "ExpressionAttributeValues": {":n": {"N": str(len(events))}},
                }
                actions.append({"Update": update})

        accounts = await open_accounts(store, 100, 0)
        async with transaction(store, inline=count) as tx:
            (await tx.load(accounts, "a-1")).withdraw(1)
            (await tx.load(accounts, "a-2")).deposit(1)
        async with transaction(store, inline=count) as tx:
            (await tx.load(accounts, "a-1")).withdraw(1)
        assert [await read("account-a-1"), await read("account-a-2")] == ["2", "1"]
        with pytest.raises(ConflictError):
            async with transaction(store, inline=count) as tx:
                (await tx.load(accounts, "a-1")).withdraw(1)
                (await tx.load(accounts, "a-2")).deposit(1)
                await accounts.execute("a-2", Account.deposit, 1)
        assert [await read("account-a-1"), await read("account-a-2")] == ["2", "1"]

        def flood(actions: Actions, recorded: Sequence[Recorded]) -> None:
            actions.extend({"Delete": {"TableName": table, "Key": {"id": {"S": str(n)}}}} for n in range(100))

        def check(actions: Actions, recorded: Sequence[Recorded]) -> None:
            actions.append({"ConditionCheck": {"TableName": table}})

        def mistake(actions: Actions, recorded: Sequence[Recorded]) -> None:
            actions.append({"Put": {"TableName": table, "Item": {"other": {"S": "no key"}}}})

        for inline, error in ((flood, TransactionTooLarge), (check, ValueError), (mistake, StoreRejected)):
            with pytest.raises(error):
                async with transaction(store, inline=inline) as tx:
                    (await tx.load(accounts, "a-1")).withdraw(1)
        assert (await accounts.load("a-1")).version == 3
