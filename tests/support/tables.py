"""Stores on the DynamoDB Local that the tests share."""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import datetime
from functools import cache
from typing import Any

import boto3.session
from aiobotocore.session import get_session

from eventsrc import DynamoDBStore
from eventsrc.processing import DynamoDBCheckpoints

CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


def new_session(kind: Any = boto3.session.Session, **settings: str) -> Any:
    """Return a session as aioboto3 makes it: one of boto3 that has one of aiobotocore."""
    return kind(**CREDENTIALS, **settings, botocore_session=get_session())


@cache
def session() -> Any:
    """Return a session that all tests share, because reading the service model takes longer than most tests."""
    return new_session()


def store_on(endpoint: str, table: str, **options: Any) -> DynamoDBStore:
    return DynamoDBStore(table, endpoint_url=endpoint, **{"session": session(), "plain_http": True, **options})


def checkpoints_on(endpoint: str, table: str, **options: Any) -> DynamoDBCheckpoints:
    return DynamoDBCheckpoints(table, endpoint_url=endpoint, **{"session": session(), "plain_http": True, **options})


def fresh_name() -> str:
    """Return a name for a table or stream that no other test uses."""
    return f"test-{os.urandom(6).hex()}"


async def records(endpoint: str, table: str) -> list[dict[str, Any]]:
    """Return all records of the table's stream."""
    async with session().client("dynamodbstreams", endpoint_url=endpoint) as client:
        [stream] = (await client.list_streams(TableName=table))["Streams"]
        description = (await client.describe_stream(StreamArn=stream["StreamArn"]))["StreamDescription"]
        found: list[dict[str, Any]] = []
        for shard in description["Shards"]:
            place = {"StreamArn": stream["StreamArn"], "ShardId": shard["ShardId"]}
            iterator = (await client.get_shard_iterator(**place, ShardIteratorType="TRIM_HORIZON"))["ShardIterator"]
            while iterator:
                page = await client.get_records(ShardIterator=iterator)
                if not page["Records"]:
                    break
                found += page["Records"]
                iterator = page.get("NextShardIterator")
        return found


def as_lambda(record: Any) -> Any:
    """Return a record of the SDK as Lambda delivers it."""
    if isinstance(record, dict):
        return {name: as_lambda(value) for name, value in record.items()}
    if isinstance(record, list):
        return [as_lambda(value) for value in record]
    if isinstance(record, datetime):
        return record.timestamp()
    return b64encode(record).decode() if isinstance(record, bytes) else record
