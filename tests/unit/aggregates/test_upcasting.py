"""Upcasters turn an old event into one, several or no events, and an upcaster that breaks its word is a typed error."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsrc import (
    Aggregate,
    Event,
    MemoryStore,
    Repository,
    SnapshotPolicy,
    Store,
    StreamsParked,
    UnhandledEvent,
    UpcasterFailed,
)
from eventsrc.processing import (
    Context,
    Effects,
    Failure,
    MemoryCheckpoints,
    MemoryProjection,
    Processor,
    Slice,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.testing import given

SECRET = "secret-4711"


class Bought(Event, tag="bought"):
    """The old event: several things at once."""

    things: list[str]


class Added(Event, tag="added"):
    thing: str


class Paid(Event, tag="paid"):
    cents: int


class Noted(Event, tag="noted"):
    text: str = ""


class OldBasket(Aggregate, tag="basket"):
    def apply_any(self, event: Bought | Noted) -> None: ...


def to_list(old: Bought) -> list[Added | Paid]:
    return [*(Added(thing=thing) for thing in old.things), Paid(cents=len(old.things))]


def to_nothing(old: Noted) -> None: ...


class Handlers(Aggregate):
    seen: tuple[str, ...] = ()

    def apply_added(self, event: Added) -> None:
        self.seen += (event.thing,)

    def apply_paid(self, event: Paid) -> None:
        self.seen += (f"{event.cents} cents",)


class Basket(Handlers, tag="basket"):
    upcasters = (to_list, to_nothing)

    def add(self, thing: str) -> int:
        self.record(Added(thing=thing))
        return len(self.seen)


def upcast_by(upcaster: Callable[..., Any]) -> type[Handlers]:
    class OtherBasket(Handlers, tag="basket"):
        upcasters = (upcaster, to_nothing)

    return OtherBasket


@asynccontextmanager
async def stored(*commits: Sequence[Event], kind: type[Aggregate] = OldBasket) -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        basket, baskets = kind(id="1"), Repository(kind, store)
        for events in commits:
            for event in events:
                basket.record(event)
            await baskets.save(basket)
        yield store


BUYS = [Bought(things=["pen", "ink"]), Noted(), Bought(things=["cup"])]
SEEN = ("pen", "ink", "2 cents", "cup", "1 cents")


async def test_an_event_may_become_several_or_none() -> None:
    async with stored(BUYS[:1], BUYS[1:]) as store:
        baskets = Repository(Basket, store, snapshots=SnapshotPolicy(floor=0, ratio=0.01, inline=True))
        basket = await baskets.load("1")
        assert (basket.seen, basket.version) == (SEEN, 2)
        assert [len(each.events) async for each in baskets.history("1")] == [3, 2]
        assert await baskets.execute("1", Basket.add, "box") == 6
        assert (await store.load(basket.stream)).snapshot is not None
        assert (await baskets.load("1")).seen == (*SEEN, "box")
        assert (await baskets.load("1", version=1)).seen == SEEN[:3]
    given(Basket, *BUYS).then_state(seen=SEEN)


async def test_a_stream_of_dropped_events_is_an_aggregate_in_its_first_state() -> None:
    async with stored([Noted()]) as store:
        basket = await Repository(Basket, store).load("1")
        assert (basket.seen, basket.version) == ((), 1)


def test_a_dropped_event_cannot_be_recorded() -> None:
    with pytest.raises(UnhandledEvent, match="Noted is upcast by to_nothing; record nothing: it is dropped"):
        Basket(id="1").record(Noted())


def one_or_none(old: Bought) -> Added | None:
    return Added(thing=old.things[0]) if old.things else None


def any_number(old: Bought) -> Paid | tuple[Added, ...] | None:
    if len(old.things) < 2:
        return Paid(cents=0) if old.things else None
    return tuple(Added(thing=thing) for thing in old.things)


def in_sequence(old: Bought) -> Sequence[Added] | Sequence[Paid]:
    return [Added(thing=thing) for thing in old.things] or [Paid(cents=0)]


@pytest.mark.parametrize(
    ("upcaster", "seen"),
    [
        (one_or_none, ("pen", "cup")),
        (any_number, ("pen", "ink", "0 cents")),
        (in_sequence, ("pen", "ink", "cup", "0 cents")),
    ],
)
def test_the_annotation_says_how_many(upcaster: Callable[[Bought], Any], seen: tuple[str, ...]) -> None:
    given(upcast_by(upcaster), *BUYS[::2], Bought(things=[])).then_state(seen=seen)


class First(Event, tag="first"):
    n: int


class Second(Event, tag="second"):
    n: int


class Third(Event, tag="third"):
    n: int


def first_to_seconds(old: First) -> list[Second | Third]:
    return [Second(n=old.n), Third(n=old.n + 1), Second(n=old.n + 2)]


def second_to_thirds(old: Second) -> list[Third]:
    return [Third(n=old.n), Third(n=-old.n)]


class Chained(Aggregate, tag="chained"):
    upcasters = (second_to_thirds, first_to_seconds)
    seen: tuple[int, ...] = ()

    def apply_third(self, event: Third) -> None:
        self.seen += (event.n,)


def test_chains_keep_the_order() -> None:
    given(Chained, First(n=1), Third(n=7)).then_state(seen=(1, -1, 2, 3, -3, 7))


# --- upcasters that break their word


def gives_none(old: Bought) -> Added:
    return None  # type: ignore[return-value]


def gives_a_list(old: Bought) -> Added:
    return [Added(thing="pen")]  # type: ignore[return-value]


def gives_one(old: Bought) -> list[Added]:
    return Added(thing="pen")  # type: ignore[return-value]


def gives_another_class(old: Bought) -> Added:
    return Paid(cents=1)  # type: ignore[return-value]


def lists_another_class(old: Bought) -> list[Added]:
    return [Added(thing="pen"), Paid(cents=1)]  # type: ignore[list-item]


def gives_its_input(old: Bought) -> Added:
    return old  # type: ignore[return-value]


def lists_its_input(old: Bought) -> list[Added]:
    return [old]  # type: ignore[list-item]


def gives_the_class(old: Bought) -> Added:
    return Added  # type: ignore[return-value]


def gives_wrong_types(old: Bought) -> Paid:
    return Paid(cents=old.things[0])  # type: ignore[arg-type]


def lists_wrong_types(old: Bought) -> list[Paid]:
    return [Paid(cents=old.things[0])]  # type: ignore[arg-type]


def gives_an_iterator(old: Bought) -> list[Added]:
    return (Added(thing=thing) for thing in old.things)  # type: ignore[return-value]


def raises(old: Bought) -> Added:
    raise KeyError(old.things[0])


BROKEN = [
    (gives_none, "returned None, which its annotation does not allow"),
    (gives_a_list, "returned an object of type list, which"),
    (gives_one, "returned an object of type Added, which"),
    (gives_another_class, "returned an object of type Paid, which"),
    (lists_another_class, "returned a list with an object of type Paid, which"),
    (gives_its_input, "returned an object of type Bought, which"),
    (lists_its_input, "returned a list with an object of type Bought, which"),
    (gives_the_class, "returned the class Added, which"),
    (gives_wrong_types, "returned an event 'paid' that cannot be stored: .*cents"),
    (lists_wrong_types, "returned an event 'paid' that cannot be stored: .*cents"),
    (gives_an_iterator, "returned an object of type generator, which"),
    (raises, r"raised KeyError at test_upcasting.py:\d+; fix the upcaster"),
]
broken = pytest.mark.parametrize(("upcaster", "said"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))


def check(error: BaseException, upcaster: Callable[..., Any]) -> None:
    assert isinstance(error, UpcasterFailed)
    assert (error.stream, error.version, error.upcaster) == ("basket-1", 2, upcaster.__name__)
    assert SECRET not in "".join(traceback.format_exception(error))


@broken
async def test_a_load_names_stream_version_and_upcaster(upcaster: Callable[..., Any], said: str) -> None:
    async with stored([Noted()], [Bought(things=[SECRET])]) as store:
        baskets = Repository(upcast_by(upcaster), store)
        for attempt in (baskets.load("1"), baskets.load("1", version=2), baskets.execute("1", lambda basket: None)):
            with pytest.raises(UpcasterFailed, match=said) as raised:
                await attempt
            check(raised.value, upcaster)


@broken
async def test_a_projection_parks_the_stream_with_that_error(upcaster: Callable[..., Any], said: str) -> None:
    class Reader(MemoryProjection, tag="reader"):
        upcasters = (upcaster, to_nothing)

        def handle_any(self, event: Added | Paid) -> None: ...

    async with stored([Noted()], [Bought(things=[SECRET])]) as store:
        processor = Processor(Reader(), store, attempts=1)
        with pytest.raises(StreamsParked):
            await processor.run(until_caught_up=True)
        [parked] = await processor.parked()
        assert (parked.stream, parked.version) == ("basket-1", 2)
        assert f"the upcaster {upcaster.__name__} " in parked.error
        assert SECRET not in parked.error


# --- ids of the parts of a stored event


async def follow(projection: Any, store: Store, checkpoints: Any = None) -> None:
    await Processor(projection, store, checkpoints).run(until_caught_up=True)


IDS = ["basket-1@1.0", "basket-1@1.0.1", "basket-1@1.0.2", "basket-1@1.2", "basket-1@1.2.1"]


async def test_each_part_has_its_own_idempotency_key() -> None:
    class Sent(Effects, tag="sent"):
        upcasters = (to_list, to_nothing)

        def __init__(self) -> None:
            self.ids: list[str] = []

        async def handle_any(self, event: Added | Paid, context: Context) -> None:
            self.ids.append(context.id)

    async with stored(BUYS) as store, MemoryCheckpoints() as checkpoints:
        sent = Sent()
        await follow(sent, store, checkpoints)
        assert sent.ids == IDS


async def test_ids_do_not_depend_on_which_parts_a_reader_takes() -> None:
    class Payments(Effects, tag="payments"):
        upcasters = (to_list,)

        def __init__(self) -> None:
            self.ids: list[str] = []

        async def handle_paid(self, event: Paid, context: Context) -> None:
            self.ids.append(context.id)

    async with stored(BUYS) as store, MemoryCheckpoints() as checkpoints:
        payments = Payments()
        await follow(payments, store, checkpoints)
        assert payments.ids == ["basket-1@1.0.2", "basket-1@1.2.1"]


async def test_a_retry_resumes_with_the_part_that_failed() -> None:
    class Counting(MemoryProjection, tag="counting"):
        upcasters = (to_list, to_nothing)

        def __init__(self) -> None:
            self.ids: list[str] = []
            self.failures = 1

        def handle_any(self, event: Added | Paid, context: Context) -> None:
            if isinstance(event, Paid) and self.failures:
                self.failures -= 1
                raise RuntimeError
            self.ids.append(context.id)

    async with stored(BUYS) as store:
        counting = Counting()
        processor = Processor(counting, store, attempts=1)
        with pytest.raises(StreamsParked):
            await processor.run(until_caught_up=True)
        await processor.retry("basket-1")
        await processor.run(until_caught_up=True)
        assert counting.ids == IDS


async def test_a_projection_on_sqlite_gets_the_parts(tmp_path: Any) -> None:
    class Rows(SQLiteProjection, tag="rows"):
        upcasters = (to_list, to_nothing)

        def create(self, db: Any) -> None:
            db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} (id TEXT PRIMARY KEY)")

        def handle_any(self, event: Added | Paid, context: SQLiteContext) -> None:
            context.db.execute(f"INSERT INTO {self.table} VALUES (?)", (context.id,))

    async with stored(BUYS) as store, SQLiteCheckpoints(tmp_path / "read.db") as checkpoints:
        await follow(Rows(), store, checkpoints)
        found = await checkpoints.read(lambda db: db.execute("SELECT id FROM rows_1 ORDER BY id").fetchall())
        assert [id for (id,) in found] == IDS


async def test_a_handler_of_a_sequence_gets_the_parts_together() -> None:
    class Lists(MemoryProjection, tag="lists"):
        upcasters = (to_list, to_nothing)

        def __init__(self) -> None:
            self.lists: list[tuple[int, str]] = []

        def handle_any(self, events: Sequence[Added | Paid], context: Context) -> None:
            self.lists.append((len(events), context.id))

    async with stored(BUYS) as store:
        lists = Lists()
        await follow(lists, store)
        assert lists.lists == [(5, IDS[-1])]


async def test_a_kind_of_ones_own_gets_the_parts() -> None:
    class Plain(Effects, tag="plain"):
        upcasters = (to_list, to_nothing)

        def __init__(self) -> None:
            self.ids: list[str] = []

        async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
            for run in runs:
                await self.call_handlers(run, lambda commit, index, muted: Context(commit, index, muted))
                await self.advance(run)
            return []

        def handle_any(self, event: Added | Paid, context: Context) -> None:
            self.ids.append(context.id)

    async with stored(BUYS) as store, MemoryCheckpoints() as checkpoints:
        plain = Plain()
        await follow(plain, store, checkpoints)
        assert plain.ids == IDS
