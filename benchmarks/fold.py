"""Compare the fold of a stored stream (bytes to events to state) with a bare loop of the same decode and dispatch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import process_time
from typing import Any

import msgspec
from support.bank import Account, Deposited, Opened, Withdrawn

from eventsrc import Commit, MemoryStore, Repository, SnapshotPolicy
from eventsrc.aggregates.codec import unpack

from .measure import Figure, median

COMMITS = 20_000


def figures() -> list[Figure]:
    return [figure for events in (1, 10) for figure in asyncio.run(_fold(events))]


async def _fold(events_per_commit: int) -> list[Figure]:
    commits = COMMITS // events_per_commit
    async with MemoryStore() as store:
        accounts = Repository(Account, store, snapshots=SnapshotPolicy(enabled=False))
        account = Account.open("a-1", owner="ann")
        await accounts.save(account)
        for _ in range(commits):
            for each in range(events_per_commit):
                account.deposit(each + 1)
            await accounts.save(account)
        stored = (await store.load(account.stream)).commits

        def ours() -> object:
            return accounts._fold(Account(id="a-1"), stored)

        bare = _bare(stored)
        assert ours() == bare()
        ratio = median(lambda: _seconds(bare) / _seconds(ours))
        rate = median(lambda: commits * events_per_commit / _seconds(ours))
    name = f"fold, {events_per_commit} event(s) a commit"
    return [
        Figure(f"{name} ÷ bare msgspec decode and dict dispatch", ratio, goal=0.7 if events_per_commit == 1 else None),
        Figure(f"{name}, million events/s", rate / 1e6),
    ]


def _bare(commits: Sequence[Commit]) -> Callable[[], Account]:
    """Return the bare loop: the typed decoder over bodies unpacked beforehand, and one dictionary look-up per event."""
    bodies = [unpack(commit.payload, commit.stream, commit.version) for commit in commits]
    decode = msgspec.msgpack.Decoder(list[Opened | Deposited | Withdrawn]).decode
    handlers: dict[type[Any], Callable[[Account, Any], None]] = {
        Opened: Account.apply_opened,
        Deposited: Account.apply_movement,
        Withdrawn: Account.apply_movement,
    }

    def loop() -> Account:
        account = Account(id="a-1")
        for body in bodies:
            for event in decode(body):
                handlers[type(event)](account, event)
        return account

    return loop


def _seconds(call: Callable[[], object]) -> float:
    start = process_time()
    call()
    return process_time() - start
