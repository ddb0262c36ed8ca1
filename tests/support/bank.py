"""The example domain of tests, README and benchmarks: bank accounts."""

from __future__ import annotations

from typing import Self

from eventsrc import Aggregate, Event


class Opened(Event, tag="account.opened"):
    owner: str


class Deposited(Event, tag="account.deposited"):
    amount: int


class Withdrawn(Event, tag="account.withdrawn"):
    amount: int


class InsufficientFunds(Exception):
    pass


class Account(Aggregate, tag="account"):
    owner: str = ""
    balance: int = 0

    @classmethod
    def open(cls, id: str, owner: str) -> Self:
        account = cls(id=id)
        account.record(Opened(owner=owner))
        return account

    def deposit(self, amount: int) -> int:
        self.record(Deposited(amount=amount))
        return self.balance

    def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise InsufficientFunds(f"{self.id} holds {self.balance}, not {amount}")
        self.record(Withdrawn(amount=amount))
        return self.balance

    def apply_opened(self, event: Opened) -> None:
        self.owner = event.owner

    def apply_movement(self, event: Deposited | Withdrawn) -> None:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
