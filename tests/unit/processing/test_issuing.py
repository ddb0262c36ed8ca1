"""Commands of handlers: each is applied once, however often and however late its event is handled again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, Deposited, InsufficientFunds, Opened
from support.ledger import run_with_parked

from eventsrc import (
    Commit,
    Event,
    IdempotencyError,
    MemoryStore,
    Repository,
    SnapshotPolicy,
    SQLiteStore,
    trace,
)
from eventsrc.processing import Checkpoints, EffectContext, Effects, MemoryCheckpoints, Processor
from eventsrc.processing.projections import issuing
from eventsrc.stores import OrderedStore
from eventsrc.tracing import find_trace

OTHERS = 200  # other commands in between: more than a stream remembers


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderedStore]:
    made: OrderedStore = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "bank.db")
    async with made:
        yield made


@pytest.fixture
async def accounts(store: OrderedStore) -> Repository[Account]:
    accounts = Repository(Account, store, snapshots=SnapshotPolicy(inline=True, floor=1_000))
    await accounts.save(Account.open("bank", owner="bank"))
    return accounts


class Fees(Effects, tag="fees"):
    """Pays in a fee, and a bonus, for each account that is opened. It fails as often as it is asked to."""

    def __init__(self, accounts: Repository[Account]) -> None:
        self.accounts = accounts
        self.fails, self.bonus, self.target = 0, 2, "bank"
        self.duplicates: list[bool] = []

    async def handle_opened(self, event: Opened, context: EffectContext) -> None:
        if event.owner == "bank":
            return
        fee = await context.execute(self.accounts, self.target, Account.deposit, 1)
        bonus = await context.execute(self.accounts, self.target, Account.deposit, amount=self.bonus)
        self.duplicates += [fee.duplicate, bonus.duplicate]
        if self.fails:
            self.fails -= 1
            raise ConnectionError


async def open_accounts(accounts: Repository[Account], count: int = 3) -> None:
    for number in range(count):
        await accounts.save(Account.open(f"a-{number}", owner="ann"))


async def do_others(accounts: Repository[Account]) -> None:
    for number in range(OTHERS):
        await accounts.execute("bank", Account.deposit, 0, command_id=f"other-{number}")


async def run(fees: Fees, store: OrderedStore, checkpoints: Checkpoints | None = None) -> None:
    await Processor(fees, store, checkpoints or MemoryCheckpoints(), attempts=3).run(until_caught_up=True)


async def test_two_commands_of_one_event_are_two(store: OrderedStore, accounts: Repository[Account]) -> None:
    await open_accounts(accounts)
    await run(fees := Fees(accounts), store)
    assert fees.duplicates == [False] * 6
    assert (await accounts.load("bank")).balance == 9


async def test_a_retried_handler_applies_nothing_again(store: OrderedStore, accounts: Repository[Account]) -> None:
    await open_accounts(accounts, 1)
    fees = Fees(accounts)
    fees.fails = 2
    await run(fees, store)
    assert fees.duplicates == [False, False, True, True, True, True]
    assert (await accounts.load("bank")).balance == 3


async def test_a_parked_event_is_retried_after_many_other_commands(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    await open_accounts(accounts, 1)
    fees = Fees(accounts)
    fees.fails = 1
    processor = Processor(fees, store, MemoryCheckpoints(), attempts=1)
    assert await run_with_parked(processor) == ("account-a-0",)
    await do_others(accounts)
    await processor.retry("account-a-0")
    assert fees.duplicates == [False, False, True, True]
    assert (await accounts.load("bank")).balance == 3


async def test_all_events_that_are_handled_again_apply_nothing(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    """The checkpoints are lost, and the objects are new, as in another process."""
    await open_accounts(accounts)
    await run(Fees(accounts), store)
    await do_others(accounts)
    again = Fees(Repository(Account, store))
    await run(again, store)
    assert again.duplicates == [True] * 6
    assert (await accounts.load("bank")).balance == 9


async def open_and_deposit(accounts: Repository[Account], streams: int, deposits: int) -> None:
    """Deposit into each account in turn."""
    await open_accounts(accounts, streams)
    for _ in range(deposits):
        for number in range(streams):
            await accounts.execute(f"a-{number}", Account.deposit, 1)


async def test_what_was_issued_is_read_once_for_streams_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoints are lost."""
    read, reads = MemoryStore.read, Counter[str]()

    async def counted(store: MemoryStore, stream: str, **options: Any) -> AsyncIterator[Commit]:
        async for commit in read(store, stream, **options):
            reads[stream] += stream.startswith("issued-")
            yield commit

    async with MemoryStore() as store:
        accounts = Repository(Account, store)
        await open_and_deposit(accounts, 70, 5)
        await Processor(Mirroring(accounts), store, MemoryCheckpoints()).run(until_caught_up=True)
        monkeypatch.setattr(MemoryStore, "read", counted)
        await Processor(Mirroring(accounts), store, MemoryCheckpoints()).run(until_caught_up=True)
        assert sum(reads.values()) == 70 * 5
        assert [(await accounts.load(f"account-a-{number}-copy")).balance for number in range(70)] == [5] * 70


async def test_what_was_issued_is_read_again_if_it_is_too_much_to_remember(
    accounts: Repository[Account], store: OrderedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "_HELD", 2)
    monkeypatch.setattr(issuing, "_COMMANDS", 7)
    await open_and_deposit(accounts, 4, 3)
    for _ in range(2):
        await Processor(Mirroring(accounts), store, MemoryCheckpoints()).run(until_caught_up=True)
    assert [(await accounts.load(f"account-a-{number}-copy")).balance for number in range(4)] == [3] * 4


class Renamed(Event, tag="renamed"):
    name: str


async def test_two_workers_that_handle_one_event_at_once_apply_it_once(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    await open_accounts(accounts, 5)
    both = [Fees(Repository(Account, store)) for _ in range(2)]
    await asyncio.gather(*(run(fees, store) for fees in both))
    assert sorted(both[0].duplicates + both[1].duplicates) == [False] * 10 + [True] * 10
    assert (await accounts.load("bank")).balance == 15


async def test_a_handler_that_issues_another_command_when_it_is_called_again_is_refused(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    await open_accounts(accounts, 1)
    fees = Fees(accounts)
    await run(fees, store)
    fees.bonus = 7
    processor = Processor(fees, store, MemoryCheckpoints(), attempts=1)
    await run_with_parked(processor)
    assert IdempotencyError.__name__ in (await processor.parked())[0].error
    fees.bonus, fees.target = 2, "a-0"
    processor = Processor(fees, store, MemoryCheckpoints(), attempts=1)
    await run_with_parked(processor)
    assert "went to account-bank before, and goes to account-a-0 now" in (await processor.parked())[0].error
    assert (await accounts.load("bank")).balance == 3


class Withdrawing(Effects, tag="withdrawing"):
    def __init__(self, accounts: Repository[Account]) -> None:
        self.accounts = accounts

    async def handle_opened(self, event: Opened, context: EffectContext) -> None:
        if event.owner != "bank":
            await context.execute(self.accounts, "bank", Account.withdraw, 5)


async def test_a_refused_command_is_decided_again(store: OrderedStore, accounts: Repository[Account]) -> None:
    await open_accounts(accounts, 1)
    processor = Processor(Withdrawing(accounts), store, MemoryCheckpoints(), attempts=1)
    await run_with_parked(processor)
    assert InsufficientFunds.__name__ in (await processor.parked())[0].error
    await accounts.execute("bank", Account.deposit, 7)
    await processor.retry("account-a-0")
    assert (await accounts.load("bank")).balance == 2


class Mirroring(Effects, tag="mirroring"):
    """Creates a second account for each one."""

    def __init__(self, accounts: Repository[Account], **options: Any) -> None:
        self.accounts = accounts

    async def handle_deposited(self, event: Deposited, context: EffectContext) -> None:
        if not context.stream.endswith("-copy"):
            await context.create_or_execute(self.accounts, f"{context.stream}-copy", Account.deposit, event.amount)


async def test_a_command_creates_its_aggregate_and_is_stamped_with_its_cause(
    store: OrderedStore, accounts: Repository[Account]
) -> None:
    with trace(correlation_id="r-1"):
        await accounts.execute("bank", Account.deposit, 5)
    for _ in range(2):
        await Processor(Mirroring(accounts), store, MemoryCheckpoints()).run(until_caught_up=True)
    assert (await accounts.load("account-bank-copy")).balance == 5
    steps = (await find_trace("r-1", store)).steps
    assert [step.id for step in steps] == ["account-bank@2", "account-account-bank-copy@1"]
    assert [(step.parents, step.handler) for step in steps][1] == ((0,), "mirroring@1.handle_deposited")
