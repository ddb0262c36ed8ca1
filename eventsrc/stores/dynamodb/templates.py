"""Templates of the table that `create_table` makes, for CloudFormation and Terraform."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .description import RECOVERY, TableSettings


def make_cloudformation(settings: TableSettings) -> dict[str, Any]:
    """Return a template with the table, which is kept if the stack is deleted."""
    properties = settings.to_request()
    if settings.stream:
        properties["StreamSpecification"] = {"StreamViewType": properties["StreamSpecification"]["StreamViewType"]}
    if settings.point_in_time_recovery:
        properties["PointInTimeRecoverySpecification"] = RECOVERY
    table = {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": properties,
    }
    name = "".join(word.capitalize() for word in re.split(r"[^A-Za-z0-9]+", settings.name))
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {f"{name}Table": table}}


def make_terraform(settings: TableSettings) -> dict[str, Any]:
    """Return a configuration with the table, which Terraform refuses to destroy, in Terraform's JSON syntax."""
    request = settings.to_request()
    partition, sort = settings.keys
    table: dict[str, Any] = {
        "name": settings.name,
        "billing_mode": request["BillingMode"],
        "hash_key": partition,
        "range_key": sort,
        "attribute": [
            {"name": each["AttributeName"], "type": each["AttributeType"]} for each in request["AttributeDefinitions"]
        ],
    }
    if indexes := request.get("GlobalSecondaryIndexes"):
        table["global_secondary_index"] = [
            {
                "name": index["IndexName"],
                "hash_key": index["KeySchema"][0]["AttributeName"],
                "range_key": index["KeySchema"][1]["AttributeName"],
                "projection_type": index["Projection"]["ProjectionType"],
            }
            for index in indexes
        ]
    if stream := request.get("StreamSpecification"):
        table |= {"stream_enabled": True, "stream_view_type": stream["StreamViewType"]}
    if request.get("DeletionProtectionEnabled"):
        table["deletion_protection_enabled"] = True
    if settings.point_in_time_recovery:
        table["point_in_time_recovery"] = [{"enabled": True}]
    table["lifecycle"] = [{"prevent_destroy": True}]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", settings.name)
    return {"resource": {"aws_dynamodb_table": {name if name[0].isalpha() else f"_{name}": table}}}


def draw_hcl(configuration: Mapping[str, Any]) -> str:
    """Return a configuration of resources in Terraform's own language."""
    lines: list[str] = []
    for kind, resources in configuration["resource"].items():
        for name, resource in resources.items():
            lines += [f"resource {_quote(kind)} {_quote(name)} {{", *_draw_body(resource), "}"]
    return "\n".join(lines)


def _draw_body(body: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Yield the lines of a block: its arguments, aligned as Terraform formats them, and then its blocks."""
    arguments = {name: value for name, value in body.items() if not isinstance(value, list)}
    width = max(map(len, arguments), default=0)
    for name, value in arguments.items():
        yield f"{indent}{name:{width}} = {_quote(value) if isinstance(value, str) else json.dumps(value)}"
    for name, blocks in body.items():
        for block in blocks if isinstance(blocks, list) else ():
            yield ""
            yield f"{indent}{name} {{"
            yield from _draw_body(block, f"{indent}  ")
            yield f"{indent}}}"


def _quote(text: str) -> str:
    """Return a text as HCL quotes it, without a template in it."""
    return json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
