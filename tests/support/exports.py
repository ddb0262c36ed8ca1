"""Exports to S3, in the format in which DynamoDB writes them. Items are in the service's own JSON."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from random import Random
from typing import Any

Item = dict[str, Any]
Line = dict[str, Any]

TIME = datetime(2026, 1, 14, 10, 20, tzinfo=UTC)
TABLE = "arn:aws:dynamodb:eu-west-1:123456789012:table/ledger"


def after(minutes: int) -> datetime:
    return TIME + timedelta(minutes=minutes)


def there(items: Iterable[Item]) -> list[Line]:
    """Return the lines of a full export of these items."""
    return [{"Item": item} for item in items]


def put(items: Iterable[Item]) -> list[Line]:
    """Return the lines of an incremental export in which these items were written."""
    return [_make_change(item) | {"NewImage": item} for item in items]


def removed(items: Iterable[Item], *, with_old: bool = True) -> list[Line]:
    """Return the lines of an incremental export in which these items were deleted."""
    return [_make_change(item) | ({"OldImage": item} if with_old else {}) for item in items]


def _make_change(item: Item) -> Line:
    keys = {name: item[name] for name in ("PK", "SK")}
    return {"Metadata": {"WriteTimestampMicros": {"N": "1768386000000000"}}, "Keys": keys}


def write_export(
    root: Path,
    lines: Sequence[Line],
    *,
    id: str = "01768385930622-efd1a093",
    begin: datetime | None = None,
    end: datetime = TIME,
    files: int = 3,
    prefix: str = "",
    random: Random | None = None,
    **summary: object,
) -> Path:
    """Write an export into `root`, which stands for the bucket; return the export's folder.

    The lines are shuffled and spread over `files` data files. With `begin`, the export is incremental. `summary`
    replaces fields of the manifest.
    """
    random = random or Random(0)
    lines = random.sample(lines, len(lines))
    parts: list[list[Line]] = [[] for _ in range(files)]
    for line in lines:
        random.choice(parts).append(line)
    base = f"{prefix}AWSDynamoDB/"
    data = f"{base}{id}/data/" if begin is None else f"{base}data/"
    entries = []
    for number, part in enumerate(parts):
        content = "".join(json.dumps(line, default=_base64) + "\n" for line in part).encode()
        packed = gzip.compress(content, mtime=0)
        key = f"{data}{id[-8:]}{number}.json.gz"
        _write(root / key, packed)
        sums = {"md5Checksum": b64encode(md5(packed).digest()).decode(), "etag": f"{md5(packed).hexdigest()}-1"}
        entries.append({"itemCount": len(part), **sums, "dataFileS3Key": key})
    times = {"exportTime": _format_time(end)}
    kind: dict[str, object] = {}
    if begin is not None:
        times = {"exportFromTime": _format_time(begin), "exportToTime": _format_time(end)}
        kind = {"outputView": "NEW_AND_OLD_IMAGES", "exportType": "INCREMENTAL_EXPORT"}
    fields = {
        "version": "2020-06-30" if begin is None else "2023-08-01",
        "exportArn": f"{TABLE}/export/{id}",
        "startTime": _format_time(end),
        "endTime": _format_time(end + timedelta(minutes=6)),
        "tableArn": TABLE,
        "tableId": "cf263806-6bf1-4e51-a242-7067dcdecc72",
        **times,
        "s3Bucket": "exports",
        "s3Prefix": prefix or None,
        "s3SseAlgorithm": "AES256",
        "s3SseKmsKeyId": None,
        "manifestFilesS3Key": f"{base}{id}/manifest-files.json",
        "billedSizeBytes": 0,
        "itemCount": len(lines),
        "outputFormat": "DYNAMODB_JSON",
        **kind,
        **summary,
    }
    folder = root / base / id
    write_manifest(folder, "manifest-files", "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    write_manifest(folder, "manifest-summary", json.dumps(fields).encode())
    _write(folder / "_started", b"")
    return folder


def write_manifest(folder: Path, stem: str, content: bytes) -> None:
    """Write a manifest and its checksum."""
    _write(folder / f"{stem}.json", content)
    _write(folder / f"{stem}.md5", b64encode(md5(content).digest()))


def data_files(folder: Path) -> list[Path]:
    """Return the data files of a full export that have items."""
    return [path for path in sorted((folder / "data").iterdir()) if gzip.decompress(path.read_bytes())]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _format_time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _base64(value: object) -> str:
    assert isinstance(value, bytes)
    return b64encode(value).decode()
