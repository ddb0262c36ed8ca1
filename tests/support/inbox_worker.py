"""Another service: it receives the deposits of a bank, and executes a command for each.

`python -m support.inbox_worker URL FOLDER [inbox]` runs until it is killed; with `inbox`, it only receives.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from eventsrc import Aggregate, Event, Repository, SQLiteStore
from eventsrc.messaging import Inbox, Received, events_client
from eventsrc.processing import EffectContext, Effects, Processor, SQLiteCheckpoints


class Deposit(msgspec.Struct):
    amount: int


class PointsEarned(Event, tag="member.points"):
    points: int
    cause: str


class Member(Aggregate, tag="member"):
    points: int = 0

    def earn(self, points: int, cause: str) -> None:
        self.record(PointsEarned(points=points, cause=cause))

    def apply_points(self, event: PointsEarned) -> None:
        self.points += event.points


class Points(Effects, tag="points"):
    """Gives the owner of an account a point for each unit of a deposit."""

    categories = ("inbox",)

    def __init__(self, members: Repository[Member]) -> None:
        self._members = members

    async def handle_received(self, event: Received, context: EffectContext) -> None:
        if event.type != "deposited.v1":
            return
        id, amount = event.subject or "", event.read(Deposit).amount
        await context.create_or_execute(self._members, id, Member.earn, amount, event.id)


def open_store(folder: Path) -> SQLiteStore:
    return SQLiteStore(folder / "loyalty.db")


def open_checkpoints(folder: Path) -> SQLiteCheckpoints:
    return SQLiteCheckpoints(folder / "loyalty-checkpoints.db")


async def work(url: str, folder: Path, *, follow: bool = True, handles: bool = True) -> None:
    """Receive and handle events. Without `follow`, until all that are stored are handled."""
    async with open_store(folder) as store, open_checkpoints(folder) as checkpoints:
        inbox = Inbox("/ledger", store, checkpoints, save_every=0.05)
        points = Processor(Points(Repository(Member, store)), store, checkpoints)
        async with events_client(url, follow=follow) as events:
            if not follow:
                await inbox.run(events)
                await points.run(until_caught_up=True)
            elif handles:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(inbox.run(events))
                    tasks.create_task(points.run())
            else:
                await inbox.run(events)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2]), handles="inbox" not in sys.argv))
