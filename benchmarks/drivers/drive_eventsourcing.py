"""eventsourcing, as its documentation shows: an application, over SQLite or eventsourcing-dynamodb."""

from __future__ import annotations

import os
import sys
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError
from protocol import MEMO, Conflict, serve


class Account(Aggregate):
    @event("Opened")
    def __init__(self, name: str, owner: str) -> None:
        self.name = name
        self.owner = owner
        self.balance = 0

    @event("Deposited")
    def deposit(self, amount: int, memo: str) -> None:
        self.balance += amount

    @staticmethod
    def create_id(name: str) -> Any:
        return uuid5(NAMESPACE_URL, f"/accounts/{name}")


class Eventsourcing:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def open(self, where: str) -> None:
        if self._kind == "sqlite":
            # It sets journal_mode=WAL itself, and leaves synchronous at SQLite's default, which is FULL.
            settings = {
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": where,
                "SQLITE_LOCK_TIMEOUT": "30",
            }
            settings["IS_SNAPSHOTTING_ENABLED"] = "yes"
        else:
            settings = self._dynamodb(where)
        self._application: Application = Application(env=settings)

    def close(self) -> None:
        self._application.close()

    def create(self, id: str) -> Account:
        account = Account(name=id, owner="ann")
        self._save(account)
        return account

    def deposit(self, account: Account, amount: int) -> None:
        account.deposit(amount=amount, memo=MEMO)
        self._save(account)

    def load(self, id: str) -> Account:
        return self._application.repository.get(Account.create_id(id))

    def balance(self, account: Account) -> int:
        return account.balance

    def snapshot(self, account: Account) -> None:
        if self._kind == "dynamodb":
            raise NotImplementedError  # snapshots would go into the table of the events, at the same keys
        self._application.take_snapshot(account.id)

    def _save(self, account: Account) -> None:
        try:
            self._application.save(account)
        except IntegrityError as error:
            raise Conflict from error

    def _dynamodb(self, where: str) -> dict[str, str]:
        """Create a table and return its settings. The library creates none; its documentation names the keys."""
        import boto3

        os.environ |= {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        name = f"eventsourcing-{os.urandom(4).hex()}"
        boto3.client("dynamodb", endpoint_url=where).create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": "originator_id", "KeyType": "HASH"},
                {"AttributeName": "originator_version", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "originator_id", "AttributeType": "S"},
                {"AttributeName": "originator_version", "AttributeType": "N"},
            ],
        )
        return {"PERSISTENCE_MODULE": "eventsourcing_dynamodb", "DYNAMO_TABLE": name, "DYNAMO_ENDPOINT_URL": where}


serve(Eventsourcing(sys.argv[1]))
