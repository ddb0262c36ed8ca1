"""Read models in memory: the order of calls across streams, failures, positions, replay of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from support.bank import Account, Deposited, Opened
from support.ledger import InMemory, commits_of, fill
from support.slices import FENCE, slices

from eventsrc import Commit, CorruptPayload, MemoryStore, Repository
from eventsrc.processing import Context, MemoryCheckpoints, MemoryProjection
from eventsrc.processing.slice import HandlerFailed, PositionMoved


async def interleaved(rounds: int = 3, accounts: int = 3) -> list[Commit]:
    """Commits of several accounts that took turns: each is opened, and then has deposits of 1, 2 and so on."""
    async with MemoryStore() as store:
        repository = Repository(Account, store)
        opened = [Account.open(f"a-{number}", owner="ann") for number in range(accounts)]
        for amount in range(rounds):
            for account in opened:
                if amount:
                    account.deposit(amount)
                await repository.save(account)
        return await commits_of(store)


class Order(MemoryProjection, tag="order"):
    def __init__(self, poison: str = "") -> None:
        self.seen: list[tuple[str, int]] = []
        self.poison = poison

    def handle_movement(self, event: Opened | Deposited, context: Context) -> None:
        if f"{context.stream}@{context.commit.version}" == self.poison:
            raise ValueError("refused")
        self.seen.append((context.stream, context.commit.version))

    def forget_stream(self, stream: str) -> None:
        self.seen = [each for each in self.seen if each[0] != stream]


def bound(projection: MemoryProjection) -> None:
    projection.bind(MemoryCheckpoints(), MemoryStore())


async def test_handlers_are_called_in_the_order_of_the_feed_across_streams() -> None:
    commits = await interleaved()
    projection = Order()
    bound(projection)
    assert not await projection.apply(slices(commits))
    assert projection.seen == [(commit.stream, commit.version) for commit in commits]


async def test_with_the_order_of_streams_one_stream_follows_the_other() -> None:
    class ByStream(Order, tag="by-stream"):
        order = "stream"

    projection = ByStream()
    bound(projection)
    await projection.apply(slices(await interleaved()))
    assert projection.seen == sorted(projection.seen)


async def test_a_stream_that_fails_is_left_out_and_the_others_continue_in_order() -> None:
    commits = await interleaved()
    projection = Order(poison="account-a-1@2")
    bound(projection)
    [failure] = await projection.apply(slices(commits))
    assert (failure.run.stream, type(failure.error)) == ("account-a-1", HandlerFailed)
    left = [(commit.stream, commit.version) for commit in commits]
    assert projection.seen == [each for each in left if each not in {("account-a-1", 2), ("account-a-1", 3)}]
    positions = await projection.positions(["account-a-0", "account-a-1", "account-a-9"])
    assert {stream: position.version for stream, position in positions.items()} == {"account-a-0": 3, "account-a-1": 1}
    first = next(commit for commit in commits if commit.stream == "account-a-1")
    assert (positions["account-a-1"].id, positions["account-a-1"].time) == (first.id, first.time)


@pytest.mark.parametrize("place", [0, 1, 4, 149])
async def test_a_commit_that_cannot_be_read_fails_alone(place: int) -> None:
    commits = await interleaved(rounds=50)
    broken = commits[place]
    commits[place] = msgspec.structs.replace(broken, payload=b"damaged")
    projection = Order()
    bound(projection)
    [failure] = await projection.apply(slices(commits))
    assert failure.run.stream == broken.stream
    assert isinstance(failure.error, HandlerFailed)
    assert isinstance(failure.error.error, CorruptPayload)
    expected = [c for c in commits if c.stream != broken.stream or c.version < broken.version]
    assert projection.seen == [(each.stream, each.version) for each in expected]
    positions = await projection.positions({each.stream for each in commits})
    last = {each.stream: each.version for each in expected}
    assert {stream: position.version for stream, position in positions.items()} == last


async def test_a_handler_that_raises_a_cancellation_has_failed() -> None:
    class Cancelled(Order, tag="cancelled"):
        def handle_movement(self, event: Opened | Deposited, context: Context) -> None:
            if context.stream == "account-a-1":
                raise asyncio.CancelledError
            self.seen.append((context.stream, context.commit.version))

    projection = Cancelled()
    bound(projection)
    [failure] = await projection.apply(slices(await interleaved()))
    assert isinstance(failure.error, HandlerFailed)
    assert "raised CancelledError" in str(failure.error.error)
    assert {stream for stream, _ in projection.seen} == {"account-a-0", "account-a-2"}


async def test_a_handler_of_sequences_gets_events_of_one_stream() -> None:
    class Together(MemoryProjection, tag="together"):
        def __init__(self) -> None:
            self.seen: list[tuple[str, list[int]]] = []

        def handle_deposits(self, events: Sequence[Deposited], context: Context) -> None:
            self.seen.append((context.stream, [event.amount for event in events]))

    projection = Together()
    bound(projection)
    commits = await interleaved(rounds=3, accounts=2)
    await projection.apply(slices(commits))
    assert projection.seen == [
        ("account-a-0", [1]),
        ("account-a-1", [1]),
        ("account-a-0", [2]),
        ("account-a-1", [2]),
    ]


async def test_a_slice_that_does_not_begin_at_the_position_is_refused() -> None:
    commits = await interleaved(accounts=1)
    projection = Order()
    bound(projection)
    [run] = slices(commits)
    await projection.apply([run.part(0, 2)])
    for stale in (run, run.part(1, 3), run.part(2, 3)._replace(is_first=True)):
        [failure] = await projection.apply([stale])
        assert isinstance(failure.error, PositionMoved)
        with pytest.raises(PositionMoved):
            await projection.advance(stale)
    assert not await projection.apply([run.part(2, 3)])
    assert [version for _, version in projection.seen] == [1, 2, 3]


async def test_reset_handles_a_stream_again() -> None:
    commits = await interleaved()
    projection = Order()
    bound(projection)
    await projection.apply(slices(commits))
    await projection.reset("account-a-1", FENCE)
    assert not await projection.positions(["account-a-1"])
    again = slices([commit for commit in commits if commit.stream == "account-a-1"])
    assert not await projection.apply(again)
    assert sorted(projection.seen) == sorted((commit.stream, commit.version) for commit in commits)


async def test_what_a_read_model_in_memory_cannot_do() -> None:
    projection = InMemory()
    bound(projection)
    with pytest.raises(TypeError, match="create a new one"):
        await projection.discard()
    with pytest.raises(TypeError, match=r"InMemory\.forget_stream is not written"):
        await projection.reset("account-a-1", FENCE)


async def test_the_second_event_of_a_commit_resumes_alone() -> None:
    async with MemoryStore() as store:
        await fill(store, accounts=1, deposits=1)
        commits = await commits_of(store)
    projection = InMemory()
    bound(projection)
    projection.poison = {100}
    assert await projection.apply(slices(commits))
    projection.poison = set()
    assert not await projection.apply(slices(commits))
    assert projection.seen == {"account-a-0": ["account-a-0@1.0", "account-a-0@1.1"]}
