"""The rights that the library needs on a table, and the IAM policies that grant them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from .description import TRACES

STREAM_PLACE, TRACES_PLACE = "/stream/*", f"/index/{TRACES}"


class Grant(NamedTuple):
    """Actions on a table or, with `place`, on a part of it. `name` is the id of the statement in a policy."""

    name: str
    actions: tuple[str, ...]
    place: str = ""


SIDES: dict[str, tuple[Grant, ...]] = {
    "write": (Grant("EventsrcWrite", ("PutItem", "GetItem", "Query")),),
    "transactions": (Grant("EventsrcTransactions", ("ConditionCheckItem",)),),
    "read": (
        Grant("EventsrcRead", ("DescribeTable", "GetItem", "Query", "Scan")),
        Grant("EventsrcStream", ("DescribeStream", "GetShardIterator", "GetRecords"), STREAM_PLACE),
    ),
    "traces": (Grant("EventsrcTraces", ("Query",), TRACES_PLACE),),
    "checkpoints": (
        Grant(
            "EventsrcCheckpoints",
            ("UpdateItem", "PutItem", "DeleteItem", "ConditionCheckItem", "GetItem", "Query", "BatchGetItem"),
        ),
    ),
    "create": (Grant("EventsrcCreate", ("CreateTable", "DescribeTable", "UpdateTable", "UpdateContinuousBackups")),),
    "doctor": (Grant("EventsrcDoctor", ("DescribeTable", "DescribeContinuousBackups", "DescribeTimeToLive")),),
}
"""What a program does with a table, and what it needs for that."""


def make_policy(
    table: str, sides: Collection[str], *, region: str = "*", account: str = "*", partition: str = "aws"
) -> dict[str, Any]:
    """Return the IAM policy for these SIDES. `table` is a name, or an ARN, which has the region and the account."""
    arn = table if table.startswith("arn:") else f"arn:{partition}:dynamodb:{region}:{account}:table/{table}"
    statements = [
        {
            "Sid": grant.name,
            "Effect": "Allow",
            "Action": [f"dynamodb:{action}" for action in grant.actions],
            "Resource": f"{arn}{grant.place}",
        }
        for side, grants in SIDES.items()
        if side in sides
        for grant in grants
    ]
    return {"Version": "2012-10-17", "Statement": statements}
