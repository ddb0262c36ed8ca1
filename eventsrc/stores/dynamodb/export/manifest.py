"""What an export to S3 says of itself, checked.

Source: "DynamoDB table export output format" in the Amazon DynamoDB Developer Guide. The files with the checksums have
the ending `.md5`, whatever that page calls them.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import md5
from typing import Annotated, NamedTuple

import msgspec

from ....errors import CorruptPayload, StoreRejected
from .files import Files, read_parts

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)  # so it leads nowhere else, on no system

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Summary(msgspec.Struct, rename="camel"):
    """`manifest-summary.json`, as far as it matters."""

    export_arn: str
    table_arn: str
    item_count: int
    output_format: str
    export_type: str = "FULL_EXPORT"  # the older version of the format says nothing
    export_time: Time | None = None
    export_from_time: Time | None = None
    export_to_time: Time | None = None
    export_status: str = "COMPLETED"  # only what imitates the service tells it: the service writes this at the end


class DataFile(msgspec.Struct):
    """A line of `manifest-files.json`."""

    items: int = msgspec.field(name="itemCount")
    md5: str = msgspec.field(name="md5Checksum")
    key: str = msgspec.field(name="dataFileS3Key")


class Manifest(NamedTuple):
    """`begin` is None for a full export; an incremental one has what was written from it on, up to `end`."""

    id: str
    table: str
    begin: datetime | None
    end: datetime
    files: Sequence[DataFile]


async def read_manifest(files: Files) -> Manifest:
    """Raises StoreRejected for what is no finished export in DynamoDB's JSON, and CorruptPayload if it is damaged."""
    try:
        summary = msgspec.json.decode(await _checked(files, "manifest-summary"), type=Summary)
    except (msgspec.MsgspecError, UnicodeError):
        raise CorruptPayload("", 0, f"{files.where}/manifest-summary.json is none of an export of DynamoDB") from None
    if summary.export_status != "COMPLETED":
        raise StoreRejected("ExportStatus", f"the export is {summary.export_status}; wait until it is COMPLETED")
    if summary.output_format != "DYNAMODB_JSON":
        raise StoreRejected("OutputFormat", f"{summary.output_format} is not read; export again as DYNAMODB_JSON")
    if summary.export_type == "FULL_EXPORT":
        begin, end = None, summary.export_time
    elif summary.export_type == "INCREMENTAL_EXPORT":
        begin, end = summary.export_from_time, summary.export_to_time
    else:
        raise StoreRejected(
            "ExportType", f"{summary.export_type} is not known; export FULL_EXPORT or INCREMENTAL_EXPORT"
        )
    if end is None or (begin is None and summary.export_type != "FULL_EXPORT"):
        raise CorruptPayload("", 0, f"{files.where}/manifest-summary.json does not say of which time the export is")
    try:
        lines = (await _checked(files, "manifest-files")).splitlines()
        data = [msgspec.json.decode(line, type=DataFile) for line in lines]
    except (msgspec.MsgspecError, UnicodeError):
        raise CorruptPayload("", 0, f"{files.where}/manifest-files.json is none of an export of DynamoDB") from None
    if sum(file.items for file in data) != summary.item_count:
        raise CorruptPayload(
            "", 0, f"{files.where}: the manifests disagree: {summary.item_count:,} items, but other numbers by file"
        )
    return Manifest(summary.export_arn.rpartition("/")[2], summary.table_arn, begin, end, data)


def name_of(file: DataFile, export: str) -> str:
    """Its name relative to the export's folder, wherever that has been copied to. Raises CorruptPayload.

    A full export has its files below that folder, incremental ones share a folder beside it.
    """
    _, found, name = file.key.rpartition("AWSDynamoDB/")
    if not found or not _NAME.fullmatch(name):
        raise CorruptPayload("", 0, "manifest-files.json names a file that is none of an export")
    return name.removeprefix(f"{export}/") if name.startswith(f"{export}/") else f"../{name}"


async def _checked(files: Files, stem: str) -> bytes:
    content = b"".join([part async for part in read_parts(files, f"{stem}.json")])
    expected = b"".join([part async for part in read_parts(files, f"{stem}.md5")])
    if b64encode(md5(content, usedforsecurity=False).digest()) != expected.strip():
        raise CorruptPayload(
            "", 0, f"{files.where}/{stem}.json has not the checksum of {stem}.md5; copy the export again"
        )
    return content
