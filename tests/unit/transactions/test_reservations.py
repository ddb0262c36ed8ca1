"""Unique values: one owner for each, also if several ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bank import Account

from eventsrc import AlreadyReserved, InvalidStreamId, MemoryStore, Repository, SQLiteStore
from eventsrc.transactions import Reservations, Transaction, transact, transaction

ANN = "ann@example.com"
KEY = b"made up for the tests"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemoryStore | SQLiteStore]:
    made: MemoryStore | SQLiteStore = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "bank.db")
    async with made as store:
        yield store


@pytest.fixture
def emails(store: MemoryStore | SQLiteStore) -> Reservations:
    return Reservations(store, "email", key=KEY, normalize=str.casefold)


async def test_a_value_has_one_owner(store: MemoryStore | SQLiteStore, emails: Reservations) -> None:
    assert await emails.owner_of(ANN) is None
    async with transaction(store) as tx:
        await emails.claim(tx, ANN, "a-1")
        await emails.claim(tx, ANN, "a-1")
    assert await emails.owner_of("Ann@Example.com") == "a-1"
    with pytest.raises(AlreadyReserved) as raised:
        async with transaction(store) as tx:
            await emails.claim(tx, "ANN@example.com", "a-2")
    assert (raised.value.name, raised.value.owner) == ("email", "a-1")
    assert "example" not in str(raised.value)
    with pytest.raises(AlreadyReserved):
        async with transaction(store) as tx:
            await emails.release(tx, ANN, "a-2")
    async with transaction(store) as tx:
        await emails.claim(tx, ANN, "a-1")
    assert not tx.receipts


async def test_a_released_value_is_free(store: MemoryStore | SQLiteStore, emails: Reservations) -> None:
    for owner in ("a-1", "a-2", "a-1"):
        async with transaction(store) as tx:
            await emails.claim(tx, ANN, owner)
        assert await emails.owner_of(ANN) == owner
        for _ in range(2):
            async with transaction(store) as tx:
                await emails.release(tx, ANN, owner)
        assert await emails.owner_of(ANN) is None


async def test_a_change_moves_the_owner(store: MemoryStore | SQLiteStore, emails: Reservations) -> None:
    async with transaction(store) as tx:
        await emails.claim(tx, ANN, "a-1")
        await emails.claim(tx, "bob@example.com", "a-2")
    with pytest.raises(AlreadyReserved):
        async with transaction(store) as tx:
            await emails.change(tx, ANN, "bob@example.com", "a-1")
    assert await emails.owner_of(ANN) == "a-1"
    async with transaction(store) as tx:
        await emails.change(tx, ANN, "ann@example.org", "a-1")
    assert [await emails.owner_of(each) for each in (ANN, "ann@example.org")] == [None, "a-1"]
    async with transaction(store) as tx:
        await emails.change(tx, "ann@example.org", "ANN@example.org", "a-1")
    assert await emails.owner_of("ann@example.org") == "a-1"


async def test_of_many_that_ask_at_once_one_gets_the_value(
    store: MemoryStore | SQLiteStore, emails: Reservations
) -> None:
    accounts = Repository(Account, store)

    async def register(number: int) -> str:
        async def decide(tx: Transaction) -> str:
            await emails.claim(tx, ANN, f"a-{number}")
            return tx.add(accounts, Account.open(f"a-{number}", owner="ann")).id

        return await transact(store, decide, attempts=100)

    outcomes = await asyncio.gather(*map(register, range(20)), return_exceptions=True)
    [winner] = [each for each in outcomes if isinstance(each, str)]
    assert {type(each) for each in outcomes} == {str, AlreadyReserved}
    assert await emails.owner_of(ANN) == winner
    assert list(await accounts.load_many([f"a-{number}" for number in range(20)])) == [winner]


async def test_neither_streams_nor_events_have_the_value(store: MemoryStore | SQLiteStore) -> None:
    kinds = [Reservations(store, "email", key=KEY), Reservations(store, "email"), Reservations(store, "nick", key=KEY)]
    for kind in kinds:
        async with transaction(store) as tx:
            await kind.claim(tx, ANN, "a-1")
    heads = [head.stream async for page in store.heads() for head in page]
    assert len(heads) == 3
    for stream in heads:
        [commit] = [each async for each in store.read(stream)]
        assert ANN not in stream
        assert ANN.encode() not in commit.payload


@pytest.mark.parametrize("value", ["", " ", "|", "\0", "a-1", "\u00e9" * 5000, "\U0001f600"])
async def test_any_text_is_a_value(store: MemoryStore | SQLiteStore, value: str) -> None:
    texts = Reservations(store, "text")
    async with transaction(store) as tx:
        await texts.claim(tx, value, "a-1")
    assert await texts.owner_of(value) == "a-1"


async def test_bad_settings_and_values_are_refused(store: MemoryStore | SQLiteStore, emails: Reservations) -> None:
    with pytest.raises(ValueError, match="less than 16 bytes"):
        Reservations(store, "email", key=b"short")
    with pytest.raises(InvalidStreamId):
        Reservations(store, "e|mail")
    async with transaction(store) as tx:
        with pytest.raises(ValueError, match="owner is empty"):
            await emails.claim(tx, ANN, "")
        with pytest.raises(TypeError, match="a value is int"):
            await emails.claim(tx, 7, "a-1")  # type: ignore[arg-type]
