"""Stores on the DynamoDB Local that the tests share."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import aioboto3

from eventsrc import DynamoDBStore

CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@cache
def session() -> Any:
    """One for all: it keeps the service model, whose reading takes longer than most tests."""
    return aioboto3.Session(**CREDENTIALS)


def store_on(endpoint: str, table: str, **options: Any) -> DynamoDBStore:
    return DynamoDBStore(table, endpoint_url=endpoint, **{"session": session(), "plain_http": True, **options})


def fresh_name() -> str:
    """A table or stream that no other test uses."""
    return f"test-{os.urandom(6).hex()}"
