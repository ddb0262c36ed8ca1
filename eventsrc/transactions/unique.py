"""Unique values: a stream for each value, which says whose it is."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

from ..aggregates.aggregate import Aggregate
from ..aggregates.event import Event
from ..errors import AggregateNotFound, AlreadyReserved
from ..repository.repository import Repository
from ..store import Store
from ..stream_id import stream_id
from ..trace_context import check_text
from .joint import Transaction


class Claimed(Event, tag="eventsrc.reservation.claimed"):
    """The value belongs to an owner from now on."""

    owner: str


class Released(Event, tag="eventsrc.reservation.released"):
    """The value is free again."""

    owner: str


class Reservation(Aggregate, tag="eventsrc.reservation"):
    """One value. `owner` is empty while it is free."""

    owner: str = ""

    def claim(self, owner: str) -> None:
        if owner != self.owner:
            self.record(Claimed(owner=owner))

    def release(self) -> None:
        self.record(Released(owner=self.owner))

    def apply_claimed(self, event: Claimed) -> None:
        self.owner = event.owner

    def apply_released(self, _: Released) -> None:
        self.owner = ""


class Reservations:
    """Values of one kind, each of which has one owner at most, such as the e-mail addresses of accounts.

    ```python
    emails = Reservations(store, "email", key=secret, normalize=str.casefold)

    async with transaction(store) as tx:
        await emails.claim(tx, "ann@example.com", owner="a-1")
        tx.add(accounts, Account.open("a-1", owner="ann"))
    ```

    - `name` is that of the kind. It never changes.
    - A value is any text. Values are the same if their texts are, after `normalize`, which must never change either.
    - Streams are named after a hash of the value, so the value itself is not stored. Without `key` it is SHA-256, by
      which a guess can be checked: a reader of the store may try a list of addresses. With `key`, at least 16 secret
      bytes, it is HMAC-SHA-256, and a guess needs the key. A key that is lost or changed loses all reservations.
    - An owner is an id that you choose. It is stored as it is.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        key: bytes | None = None,
        normalize: Callable[[str], str] = str,
    ) -> None:
        if key is not None and len(key) < 16:
            raise ValueError("the key has less than 16 bytes; give secret ones, as of secrets.token_bytes(32)")
        self.name = name
        self._key, self._normalize = key, normalize
        self._repository = Repository(Reservation, store)
        stream_id("eventsrc.reservation", self._id_of(""))  # raises InvalidStreamId

    async def claim(self, tx: Transaction, value: str, owner: str) -> None:
        """Reserve a value for an owner, when the transaction commits. Nothing is recorded if the owner has it already.

        Raises AlreadyReserved if another owner has it, and as `Transaction.load`.
        """
        _check_owner(owner)
        reservation = await self._load(tx, value)
        self._check_owned(reservation, owner)
        reservation.claim(owner)

    async def release(self, tx: Transaction, value: str, owner: str) -> None:
        """Make a value free, when the transaction commits. Nothing is recorded if it is free already.

        Raises AlreadyReserved if another owner has it, and as `Transaction.load`.
        """
        _check_owner(owner)
        reservation = await self._load(tx, value)
        self._check_owned(reservation, owner)
        if reservation.owner:
            reservation.release()

    async def change(self, tx: Transaction, old: str, new: str, owner: str) -> None:
        """Release one value and reserve another one for an owner, when the transaction commits.

        Raises AlreadyReserved if another owner has one of them, and as `Transaction.load`.
        """
        if self._id_of(old) != self._id_of(new):
            await self.release(tx, old, owner)
        await self.claim(tx, new, owner)

    async def owner_of(self, value: str) -> str | None:
        """Return the owner of a value now, or None if it is free. A transaction makes sure of it when it commits."""
        try:
            return (await self._repository.load(self._id_of(value))).owner or None
        except AggregateNotFound:
            return None

    async def _load(self, tx: Transaction, value: str) -> Reservation:
        id = self._id_of(value)
        found = await tx.find(self._repository, id)
        return found if found is not None else tx.add(self._repository, Reservation(id=id))

    def _check_owned(self, reservation: Reservation, owner: str) -> None:
        if reservation.owner not in ("", owner):
            raise AlreadyReserved(self.name, reservation.stream, reservation.owner)

    def _id_of(self, value: str) -> str:
        check_text("a value", value)
        content = self._normalize(value).encode()
        digest = sha256(content) if self._key is None else hmac.new(self._key, content, sha256)
        return f"{self.name}-{digest.hexdigest()}"


def _check_owner(owner: str) -> None:
    check_text("an owner", owner)
    if not owner:
        raise ValueError("the owner is empty; give the id of what the value belongs to")
