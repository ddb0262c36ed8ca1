"""A trace that is followed: new steps of several stores, the end of a quiet one, and what is open."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from support.bank import Account, Deposited
from support.maps import caused

from eventsrc import MemoryStore, Repository, SQLiteStore, StoreClosed, StreamsParked, TraceNotFound, trace
from eventsrc.processing import Context, Effects, MemoryCheckpoints, Parked, Processor
from eventsrc.tracing import follow_trace

LONG = 600.0


async def test_new_steps_of_several_stores_are_yielded(tmp_path: Path) -> None:
    async with (
        SQLiteStore(tmp_path / "shop.db") as shop,
        MemoryStore() as stock,
        SQLiteStore(tmp_path / "shop.db") as another,
    ):
        await shop.append(caused("order-7@1"))
        async with aclosing(follow_trace("order-7@1", {"shop": shop, "stock": stock}, quiet=LONG)) as traces:
            assert [step.id for step in (await anext(traces)).steps] == ["order-7@1"]
            reading = asyncio.ensure_future(anext(traces))
            await stock.append(caused("item-1@1", correlation_id="another trace"))
            await stock.append(caused("item-2@1", "order-7@1.0"))
            assert [step.id for step in (await reading).steps] == ["order-7@1", "item-2@1"]
            await another.append(caused("order-7@2", "item-2@1.0", ms=1))  # as another process
            assert [step.id for step in (await anext(traces)).steps] == ["order-7@1", "item-2@1", "order-7@2"]


async def test_a_commit_between_two_looks_is_not_missed() -> None:
    async with MemoryStore() as store:
        await store.append(caused("order-7@1"))
        async with aclosing(follow_trace("request-9", store, quiet=LONG)) as traces:
            await anext(traces)
            await store.append(caused("item-2@1", "order-7@1.0"))  # nobody waits yet
            assert len((await anext(traces)).steps) == 2


async def test_it_ends_when_it_is_quiet_and_nothing_is_open() -> None:
    async with MemoryStore() as store:
        await store.append(caused("order-7@1"))
        assert len([each async for each in follow_trace("request-9", store, quiet=0.01)]) == 1


class Noting(Effects, tag="noting"):
    async def handle_deposited(self, event: Deposited, context: Context) -> None: ...


class WatchedCheckpoints(MemoryCheckpoints):
    """Sets an event when they were asked three times what is parked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.asked_thrice = 0, asyncio.Event()

    async def parked(self, processor: str, streams: Collection[str] | None = None) -> Sequence[Parked]:
        self.asked += 1
        if self.asked == 3:
            self.asked_thrice.set()
        return await super().parked(processor, streams)


async def test_it_does_not_end_while_something_is_open() -> None:
    async with MemoryStore() as store, WatchedCheckpoints() as checkpoints:
        account = Account.open("a", owner="ann")
        account.deposit(5)
        with trace("request-9"):
            await Repository(Account, store).save(account)
        processor = Processor(Noting(), store, checkpoints)
        async with aclosing(follow_trace("request-9", store, processors=[processor], quiet=0.01)) as traces:
            assert (await anext(traces)).open
            reading = asyncio.ensure_future(anext(traces))
            asked = asyncio.ensure_future(checkpoints.asked_thrice.wait())
            done, _ = await asyncio.wait([asked, reading], return_when=asyncio.FIRST_COMPLETED)
            assert done == {asked}
            await processor.run(until_caught_up=True)
            assert not (await reading).open
            assert await anext(traces, None) is None


class Refusing(Effects, tag="refusing"):
    async def handle_deposited(self, event: Deposited, context: Context) -> None:
        raise ValueError("unlucky")


async def test_it_ends_when_only_what_is_parked_is_open() -> None:
    async with MemoryStore() as store, MemoryCheckpoints() as checkpoints:
        account = Account.open("a", owner="ann")
        account.deposit(5)
        with trace("request-9"):
            await Repository(Account, store).save(account)
        processor = Processor(Refusing(), store, checkpoints, attempts=1)
        with suppress(StreamsParked):
            await processor.run(until_caught_up=True)
        [only] = [each async for each in follow_trace("request-9", store, processors=[processor], quiet=0.01)]
        assert only.failed


async def test_what_cannot_be_followed_is_an_error() -> None:
    async with MemoryStore() as store:
        with pytest.raises(TraceNotFound):
            await anext(follow_trace("request-9", store))
        with pytest.raises(ValueError, match="above 0"):
            await anext(follow_trace("request-9", store, quiet=0))
        with pytest.raises(TypeError, match="has no feed"):
            await anext(follow_trace("request-9", object()))  # type: ignore[arg-type]
        await store.append(caused("order-7@1"))
        traces = follow_trace("request-9", store, quiet=LONG)
        await anext(traces)
        reading = asyncio.ensure_future(anext(traces))
        await asyncio.sleep(0)
    with pytest.raises(StoreClosed):
        await reading
