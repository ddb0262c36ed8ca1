"""Reading and checking the manifests of an export to S3.

Source: "DynamoDB table export output format" in the Amazon DynamoDB Developer Guide. The names of the files with the
checksums end with `.md5`, although that page names them differently.
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

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)  # cannot name a file outside the folder, on any system

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Summary(msgspec.Struct, rename="camel"):
    """The fields of `manifest-summary.json` that are used."""

    export_arn: str
    table_arn: str
    item_count: int
    output_format: str
    export_type: str = "FULL_EXPORT"  # missing in the older version of the format
    export_time: Time | None = None
    export_from_time: Time | None = None
    export_to_time: Time | None = None
    export_status: str = "COMPLETED"  # only emulators write it; the service writes the file last


class DataFile(msgspec.Struct):
    """A line of `manifest-files.json`."""

    items: int = msgspec.field(name="itemCount")
    md5: str = msgspec.field(name="md5Checksum")
    key: str = msgspec.field(name="dataFileS3Key")


class Manifest(NamedTuple):
    """The manifest of an export. An incremental one has the changes from `begin` to `end`. A full one has no begin."""

    id: str
    table: str
    begin: datetime | None
    end: datetime
    files: Sequence[DataFile]


async def read_manifest(files: Files) -> Manifest:
    """Return the manifest of an export.

    Raises:
        StoreRejected: a file is missing, or the export is not finished or not in DynamoDB's JSON.
        CorruptPayload: a file is damaged.
    """
    try:
        summary = msgspec.json.decode(await _read_checked(files, "manifest-summary"), type=Summary)
    except (msgspec.MsgspecError, UnicodeError):
        raise CorruptPayload("", 0, f"{files.where}/manifest-summary.json is not a manifest of DynamoDB") from None
    if summary.export_status != "COMPLETED":
        raise StoreRejected("ExportStatus", f"the export is {summary.export_status}; wait until it is COMPLETED")
    if summary.output_format != "DYNAMODB_JSON":
        raise StoreRejected("OutputFormat", f"{summary.output_format} is not supported; export again as DYNAMODB_JSON")
    if summary.export_type == "FULL_EXPORT":
        begin, end = None, summary.export_time
    elif summary.export_type == "INCREMENTAL_EXPORT":
        begin, end = summary.export_from_time, summary.export_to_time
    else:
        raise StoreRejected(
            "ExportType", f"{summary.export_type} is not supported; export FULL_EXPORT or INCREMENTAL_EXPORT"
        )
    if end is None or (begin is None and summary.export_type != "FULL_EXPORT"):
        raise CorruptPayload("", 0, f"{files.where}/manifest-summary.json has no time of the export")
    try:
        lines = (await _read_checked(files, "manifest-files")).splitlines()
        data_files = [msgspec.json.decode(line, type=DataFile) for line in lines]
    except (msgspec.MsgspecError, UnicodeError):
        raise CorruptPayload("", 0, f"{files.where}/manifest-files.json is not a manifest of DynamoDB") from None
    if sum(file.items for file in data_files) != summary.item_count:
        raise CorruptPayload(
            "",
            0,
            f"{files.where}: the manifests disagree: {summary.item_count:,} items, but other numbers by file",
        )
    return Manifest(summary.export_arn.rpartition("/")[2], summary.table_arn, begin, end, data_files)


def relative_name(file: DataFile, export: str) -> str:
    """Return the name of a data file relative to the folder of its export, which may have been copied.

    The files of a full export are below that folder. Incremental exports share a folder next to it.

    Raises CorruptPayload if the name is not valid.
    """
    _, found, name = file.key.rpartition("AWSDynamoDB/")
    if not found or not _NAME.fullmatch(name):
        raise CorruptPayload("", 0, "manifest-files.json names a file outside the export")
    return name.removeprefix(f"{export}/") if name.startswith(f"{export}/") else f"../{name}"


async def _read_checked(files: Files, stem: str) -> bytes:
    content = b"".join([part async for part in read_parts(files, f"{stem}.json")])
    expected = b"".join([part async for part in read_parts(files, f"{stem}.md5")])
    if b64encode(md5(content, usedforsecurity=False).digest()) != expected.strip():
        raise CorruptPayload(
            "", 0, f"{files.where}/{stem}.json does not have the checksum in {stem}.md5; copy the export again"
        )
    return content
