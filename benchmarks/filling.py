"""Fill a store with accounts whose saves are interleaved."""

from __future__ import annotations

import asyncio

from support.bank import Account

from eventsrc import Repository, SnapshotPolicy, Store

AT_ONCE = 50  # accounts that are saved to at the same time


async def fill(store: Store, streams: int, commits: int, events: int, prefix: str = "a") -> None:
    """Save `commits` commits of `events` deposits per stream. The first commit also opens the account."""
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))

    async def one(number: int) -> None:
        account = Account.open(f"{prefix}-{number}", owner="ann")
        for _ in range(commits):
            for _ in range(events):
                account.deposit(1)
            await accounts.save(account)

    for start in range(0, streams, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(start, min(start + AT_ONCE, streams))))
