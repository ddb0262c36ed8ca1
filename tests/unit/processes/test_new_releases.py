"""A new release continues the processes that an old one has begun, though methods and classes have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventsrc import Aggregate, Commit, Event, MemoryStore, Receipt, Repository, StoreUnavailable
from eventsrc.processes import Asks, Done, Process, ProcessManager, after, create_or_command, end
from eventsrc.processing import MemoryCheckpoints, SQLiteCheckpoints


class Begun(Event, tag="job.begun"):
    pass


class Job(Aggregate, tag="job"):
    def begin(self) -> None:
        self.record(Begun())

    def apply_begun(self, event: Begun) -> None: ...


class Packed(Event, tag="parcel.packed"):
    pass


class OldAddress(msgspec.Struct):
    street: str


class NewAddress(msgspec.Struct):
    street: str
    country: str = "DE"


class OldParcel(Aggregate, tag="parcel"):
    packed: int = 0

    def pack(self, count: int) -> None:
        self.record(Packed())

    def send(self, to: OldAddress) -> None:
        self.record(Packed())

    def apply_packed(self, event: Packed) -> None:
        self.packed += 1


class NewParcel(Aggregate, tag="parcel"):
    packed: int = 0

    def pack_all(self, count: int) -> None:
        self.record(Packed())

    pack = pack_all

    def send(self, to: NewAddress) -> None:
        self.record(Packed())

    def apply_packed(self, event: Packed) -> None:
        self.packed += 1


class Packing(Process, tag="packing"):
    def on_begun(self, event: Begun) -> Asks:
        yield create_or_command(OldParcel, "a", OldParcel.pack, 3)
        yield create_or_command(OldParcel, "b", OldParcel.send, OldAddress("high street"))

    def on_done(self, event: Done) -> Asks:
        if len(self.instance.pending) == 0:
            yield end()


class Fading(MemoryStore):
    """A store in which outcomes of commands are not stored, as if its worker ended before each of them."""

    fades = True

    async def append(self, commit: Commit) -> Receipt:
        if self.fades and "process.done" in commit.tags:
            raise StoreUnavailable("no answer")
        return await super().append(commit)


async def test_a_command_that_was_applied_is_recognised_under_another_name_and_form() -> None:
    async with Fading() as store, MemoryStore() as depot:
        await Repository(Job, store).executor(create=True).execute("j-1", Job.begin)
        old: Repository[Any] = Repository(OldParcel, depot)
        running = asyncio.create_task(
            ProcessManager(Packing, store, MemoryCheckpoints(), targets=[old]).run(), name="the old release"
        )
        async with asyncio.timeout(20):
            while not await old.load_many(["a"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        await old.executor(create=True, command_id="b", since=0).execute("b", lambda parcel: None)
        store.fades = False
        new = Repository(NewParcel, depot)
        manager = ProcessManager(Packing, store, MemoryCheckpoints(), targets=[new])
        await manager.run(until_caught_up=True)
        assert {id: each.packed for id, each in (await new.load_many(["a", "b"])).items()} == {"a": 1, "b": 1}
        assert (await manager.repository.load("j-1")).instance.ended


class Weighed(Event, tag="scale.weighed"):
    pounds: int


class WeighedInKilos(Event, tag="scale.weighed-in-kilos"):
    kilos: int


class Late(Event, tag="late"):
    pass


class LateBy(Event, tag="late-by"):
    days: int


class Scale(Aggregate, tag="scale"):
    def weigh(self, pounds: int) -> None:
        self.record(Weighed(pounds=pounds))

    def apply_weighed(self, event: Weighed) -> None: ...


class Shipping(Process, tag="shipping"):
    starts = (Begun,)

    def on_begun(self, event: Begun) -> Asks:
        yield after(timedelta(days=1), Late(), name="late")

    def on_event(self, event: Weighed | Late) -> Asks:
        yield from ()


class Noted(Event, tag="noted"):
    what: str


def to_kilos(event: Weighed) -> Sequence[WeighedInKilos]:
    return WeighedInKilos(kilos=event.pounds // 2), WeighedInKilos(kilos=0)


def to_days(event: Late) -> LateBy:
    return LateBy(days=1)


class ShippingInKilos(Process, tag="shipping"):
    starts = (Begun,)
    input_upcasters = (to_kilos, to_days)
    notes: list[str] = msgspec.field(default_factory=list)

    def on_begun(self, event: Begun) -> Asks:
        yield after(timedelta(days=1), LateBy(days=1), name="late")

    def on_weighed(self, event: WeighedInKilos) -> Asks:
        self.record(Noted(what=f"{event.kilos} kg"))
        yield from ()

    def on_late(self, event: LateBy) -> Asks:
        self.record(Noted(what=f"late by {event.days} days"))
        yield end()

    def apply_noted(self, event: Noted) -> None:
        self.notes.append(event.what)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.mark.parametrize("is_begun", [False, True], ids=["held", "pending"])
async def test_events_that_a_process_keeps_are_upcast(store: MemoryStore, tmp_path: Path, is_begun: bool) -> None:
    """One that came before the start, and that of a timer."""
    now = [0]

    async def run(process: type[Process]) -> ProcessManager[Any]:
        async with SQLiteCheckpoints(tmp_path / "checkpoints.db") as checkpoints:
            manager = ProcessManager(process, store, checkpoints, clock=lambda: now[0])
            await manager.run(until_caught_up=True)
        return manager

    await Repository(Scale, store).executor(create=True).execute("1", Scale.weigh, 8)
    await run(Shipping)
    if is_begun:
        await Repository(Job, store).executor(create=True).execute("1", Job.begin)
        await run(Shipping)
    else:
        await Repository(Job, store).executor(create=True).execute("1", Job.begin)
    await run(ShippingInKilos)
    now[0] = 2**53
    shipping = await (await run(ShippingInKilos)).repository.load("1")
    assert shipping.notes == ([] if is_begun else ["4 kg", "0 kg"]) + ["late by 1 days"]
    assert shipping.instance.ended
