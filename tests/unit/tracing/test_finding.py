"""Traces found in stores: a chain of handlers over several stores, what is open, and stores that cannot be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bank import Account, Deposited, Opened

from eventsrc import EventId, MemoryStore, Repository, SQLiteStore, Store, TraceNotFound, trace
from eventsrc.processing import (
    Context,
    Effects,
    MemoryCheckpoints,
    MemoryProjection,
    Processor,
    Runner,
    SQLiteCheckpoints,
    SQLiteContext,
    SQLiteProjection,
)
from eventsrc.tracing import draw_tree, find_trace, finding


class Forward(Effects):
    """Opens an account in another store when one account is opened."""

    def __init__(self, source: str, target: Store, id: str) -> None:
        self.source, self.accounts, self.id = source, Repository(Account, target), id

    async def handle_opened(self, event: Opened, context: Context) -> None:
        if context.stream == f"account-{self.source}":
            await self.accounts.save(Account.open(self.id, owner=event.owner))


class First(Forward, tag="first"): ...


class Second(Forward, tag="second"): ...


class Third(Forward, tag="third"): ...


class Fourth(Forward, tag="fourth"): ...


class Fifth(Forward, tag="fifth"): ...


@pytest.fixture(params=["memory", "sqlite"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Store]]:
    def make(name: str) -> Store:
        return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / f"{name}.db")

    async with make("shop") as shop, make("stock") as stock, make("mail") as mail:
        yield {"shop": shop, "stock": stock, "mail": mail}


async def test_a_chain_of_five_handlers_over_three_stores_is_one_trace(stores: dict[str, Store]) -> None:
    shop, stock, mail = stores.values()
    checkpoints = MemoryCheckpoints()
    await Repository(Account, shop).save(Account.open("a", owner="ann"))
    chain: list[tuple[str, str, type[Forward]]] = [("shop", "a", Forward)]
    for kind, id, target in (
        (First, "b", stock),
        (Second, "c", mail),
        (Third, "d", shop),
        (Fourth, "e", stock),
        (Fifth, "f", mail),
    ):
        source, before, _ = chain[-1]
        processor = Processor(kind(before, target, id), stores[source], checkpoints)
        for _ in range(2):  # all is delivered twice
            await processor.run(until_caught_up=True)
            await processor.resume_from("")
        chain.append((next(name for name, store in stores.items() if store is target), id, kind))
    found = await find_trace("account-a@1", stores)
    assert [step.id for step in found.steps] == [f"account-{id}@1" for _, id, _ in chain]
    assert [step.store for step in found.steps] == [store for store, *_ in chain]
    assert [step.parents for step in found.steps] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert [step.handler for step in found.steps[1:]] == [f"{kind.tag}@1.handle_opened" for *_, kind in chain[1:]]


async def test_any_id_of_a_trace_finds_it(stores: dict[str, Store]) -> None:
    shop, stock, _ = stores.values()
    await Repository(Account, shop).save(Account.open("a", owner="ann"))
    await Processor(First("a", stock, "b"), shop, MemoryCheckpoints()).run(until_caught_up=True)
    traces = [await find_trace(id, stores) for id in ("account-a@1", "account-a@1.0", "account-b@1", "account-b@1.0")]
    assert all(found == traces[0] for found in traces)
    assert [step.id for step in traces[0].steps] == ["account-a@1", "account-b@1"]
    with trace("request 9"):
        await Repository(Account, shop).save(Account.open("x", owner="ann"))
    assert (await find_trace("request 9", shop)).places == ["store"]
    assert (await find_trace("account-x@1.0", shop)).id == "request 9"


async def test_what_processors_have_not_done_is_open(tmp_path: Path) -> None:
    class View(SQLiteProjection, tag="view"):
        def handle_deposited(self, event: Deposited, context: SQLiteContext) -> None:
            if event.amount == 13:
                raise ValueError("unlucky")

    class Slow(MemoryProjection, tag="slow"):
        def handle_opened(self, event: Opened) -> None: ...

    async with MemoryStore() as store, SQLiteCheckpoints(tmp_path / "view.db") as checkpoints:
        repository = Repository(Account, store)
        with trace("request-9"):
            for amounts in ([], [1], [13], [2]):
                account = await repository.load("a") if amounts else Account.open("a", owner="ann")
                for amount in amounts:
                    account.deposit(amount)
                await repository.save(account)
        view = Processor(View(), store, checkpoints, attempts=1)
        slow = Processor(Slow(), store)
        with pytest.raises(Exception, match="account-a"):
            await Runner(view).run(until_caught_up=True)
        found = await find_trace("request-9", store, processors=[view, slow])
        states = [[(each.processor, each.state) for each in step.handled] for step in found.steps]
        assert states == [
            [("slow@1", "pending")],
            [("view@1", "done")],
            [("view@1", "parked")],
            [("view@1", "pending")],
        ]
        assert [step.id for step, _ in found.failed] == ["account-a@3"]
        assert "failed: view@1 at account-a@3: parked after 1 attempt: ValueError: unlucky" in draw_tree(found)
        await view.skip("account-a", "never mind")
        await slow.run(until_caught_up=True)
        found = await find_trace("request-9", store, processors=[view, slow])
        assert found.open == []
        assert [each.state for step in found.steps for each in step.handled] == ["done", "done", "skipped", "done"]


async def test_an_unknown_id_names_what_was_looked_up(stores: dict[str, Store]) -> None:
    with pytest.raises(
        TraceNotFound, match=r"'order-7@3.0'; looked up: the commit order-7@3, the correlation id"
    ) as raised:
        await find_trace("order-7@3.0", stores)
    assert "in shop, stock, mail" in str(raised.value)
    with pytest.raises(TypeError, match="the id of a trace is EventId"):
        await find_trace(EventId("order-7", 3, 0), stores)  # type: ignore[arg-type]


async def test_a_store_that_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    async with MemoryStore() as shop, SQLiteStore(tmp_path / "stock.db") as stock:
        with trace("request-9"):
            await Repository(Account, shop).save(Account.open("a", owner="ann"))
        (tmp_path / "stock.db").unlink()
        found = await find_trace("request-9", {"shop": shop, "stock": stock})
    assert [step.id for step in found.steps] == ["account-a@1"]
    assert [failure.split(":")[0] for failure in found.failures] == ["stock"]
    assert "not read: stock: StoreRejected" in draw_tree(found)


@pytest.mark.parametrize(("commits", "failures"), [(3, 0), (4, 1)])
async def test_a_trace_is_cut_at_a_number_of_steps(
    monkeypatch: pytest.MonkeyPatch, commits: int, failures: int
) -> None:
    monkeypatch.setattr(finding, "MAX_STEPS", 3)
    async with MemoryStore() as store:
        with trace("request-9"):
            for number in range(commits):
                await Repository(Account, store).save(Account.open(f"{number}", owner="ann"))
        found = await find_trace("request-9", store)
    assert (len(found.steps), len(found.failures)) == (3, failures)
