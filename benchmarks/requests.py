"""What a request costs in CPU of this process: the store, beside the bare SDK that sends the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import process_time
from typing import Any

from bank import Account
from tables import fresh_name, session, store_on

from eventsrc import Repository, SnapshotPolicy
from eventsrc.local import dynamodb_local
from eventsrc.storetests.samples import make_commit

from .measure import Figure, median

ROUNDS = 5
SAVES = 300
LOADS = 20
LONG = 1_000  # commits of the long stream


def figures() -> list[Figure]:
    return asyncio.run(_figures())


async def _figures() -> list[Figure]:
    async with dynamodb_local() as local:
        table = fresh_name()
        async with (
            session().client("dynamodb", endpoint_url=local.endpoint_url) as sdk,
            store_on(local.endpoint_url, table) as store,
        ):
            await store.create_table()
            for version in range(1, LONG + 1):
                await store.append(make_commit("long", version))
            accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
            await accounts.save(Account.open("warm", owner="ann"))
            rounds = [await _round(store, sdk, accounts, table, number) for number in range(ROUNDS)]
    names = rounds[0].keys()
    medians = {name: _median([each[name] for each in rounds]) for name in names}
    ratio = {name: _median([each[name] / each[other] for each in rounds]) for name, other in RATIOS.items()}
    return [
        *(Figure(f"{name} ÷ {RATIOS[name]}, CPU", value, 1.0, at_most=True) for name, value in ratio.items()),
        *(Figure(f"{name}, ms of CPU", value) for name, value in medians.items()),
    ]


RATIOS = {
    "save, one put": "bare put_item of the SDK",
    "warm execute": "bare put_item of the SDK",
    "load of 1,000 commits": "bare query of the SDK, nothing decoded",
}


async def _round(store: Any, sdk: Any, accounts: Repository[Account], table: str, number: int) -> dict[str, float]:
    """Milliseconds of CPU for each call, all measured one after the other in this process."""
    commits = [make_commit(f"save-{number}", version) for version in range(1, SAVES + 1)]
    items = iter([store._items.from_commit(make_commit(f"bare-{number}", version)) for version in range(1, SAVES + 1)])
    waiting = iter(commits)

    async def save() -> None:
        await store.append(next(waiting))

    async def put() -> None:
        await sdk.put_item(TableName=table, Item=next(items), ConditionExpression="attribute_not_exists(PK)")

    async def query() -> None:
        await sdk.query(
            TableName=table,
            KeyConditionExpression="PK = :p",
            ExpressionAttributeValues={":p": {"S": "long"}},
            ConsistentRead=True,
        )

    return {
        "save, one put": await _cpu(save, SAVES),
        "bare put_item of the SDK": await _cpu(put, SAVES),
        "warm execute": await _cpu(lambda: accounts.execute("warm", Account.deposit, 1), SAVES),
        "load of 1,000 commits": await _cpu(lambda: store.load("long"), LOADS),
        "bare query of the SDK, nothing decoded": await _cpu(query, LOADS),
    }


async def _cpu(call: Callable[[], Awaitable[Any]], times: int) -> float:
    start = process_time()
    for _ in range(times):
        await call()
    return (process_time() - start) / times * 1e3


def _median(values: list[float]) -> float:
    rest = iter(values)
    return median(lambda: next(rest), len(values))
