"""Reading the files of an export, from a local folder or from a bucket of S3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from ....concurrency import wait_for_thread
from ....errors import StoreRejected, StoreUnavailable
from ....retrying import on_broken_download
from ..wire.certificates import find_refusal
from ..wire.client import TransportError
from ..wire.outcomes import to_certificate_rejection
from ..wire.sdk import open_client
from ..wire.session import new_session

PART = 4 * 1024 * 1024  # bytes read at once

_TRIES = 8  # for one part of a file, in about ten seconds
_ADVICE = {
    "NoSuchBucket": "the bucket does not exist; check its name",
    "AccessDenied": "the credentials need s3:GetObject on the export, and s3:ListBucket to report missing files",
    "PermanentRedirect": "the bucket is in another region; pass region_name",
}


class Files(Protocol):
    """The files of an export. Names are relative to its folder: `manifest-summary.json`, `../data/file.json.gz`."""

    where: str  # the folder, for messages

    async def part(self, name: str, offset: int) -> bytes:
        """Return PART bytes of a file from `offset` on, or fewer at its end.

        Raises StoreRejected if the file is missing or cannot be read, and StoreUnavailable if S3 does not respond.
        """
        ...


async def read_parts(files: Files, name: str) -> AsyncGenerator[bytes]:
    """Iterate over the parts of a file."""
    offset = 0
    while part := await files.part(name, offset):
        yield part
        if len(part) < PART:
            return
        offset += len(part)


class Folder:
    """A local copy of an export, as `aws s3 sync` makes it."""

    def __init__(self, path: str) -> None:
        self.where = path
        self._path = Path(path)

    async def part(self, name: str, offset: int) -> bytes:
        return await wait_for_thread(asyncio.to_thread(self._read, name, offset))

    def _read(self, name: str, offset: int) -> bytes:
        path = self._path / name
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(PART)
        except FileNotFoundError:
            raise _missing(str(path)) from None
        except OSError as error:
            raise StoreRejected(type(error).__name__, f"{path}: {error.strerror}") from None


def _missing(where: str) -> StoreRejected:
    return StoreRejected(
        "NoSuchKey", f"{where} does not exist: the export is not finished, not copied completely, or has another path"
    )


class Bucket:
    """The objects below `s3://bucket/prefix`. `client` is one of the SDK.

    If reading a part fails, it is tried again, so a long file does not start again from its beginning.
    """

    def __init__(self, url: str, client: Any) -> None:
        self.where = url.rstrip("/")
        self._bucket, _, self._prefix = self.where.removeprefix("s3://").partition("/")
        self._client = client
        from botocore import exceptions

        self._client_error = exceptions.ClientError
        self._never_sent = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)
        self._no_name = exceptions.ParamValidationError

    async def part(self, name: str, offset: int) -> bytes:
        folder = self._prefix
        if name.startswith("../"):  # S3 does not resolve "..", and two slashes would be another name
            folder, name = folder.rpartition("/")[0], name[3:]
        key = f"{folder}/{name}" if folder else name
        try:
            part: bytes = await on_broken_download(TransportError, _TRIES)(self._get, key, offset)
            return part
        except TransportError as error:
            failure = StoreUnavailable(f"s3://{self._bucket}/{key}: {error}, {_TRIES} times; try again later")
        raise failure

    async def _get(self, key: str, offset: int) -> bytes:
        wanted = f"bytes={offset}-{offset + PART - 1}"
        try:
            response = await self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted)
            async with response["Body"] as body:
                part: bytes = await body.read()
        except self._client_error as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code == "InvalidRange":  # the offset is at the end of the file
                return b""
            if code == "NoSuchKey":
                raise _missing(f"s3://{self._bucket}/{key}") from None
            if status >= 500 or code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed"):
                raise TransportError(code or str(status)) from None
            raise StoreRejected(code or str(status), _ADVICE.get(code, "S3 refuses the request")) from None
        except self._never_sent as error:
            raise StoreRejected(type(error).__name__, "no credentials were found; configure the session") from None
        except self._no_name as error:
            raise StoreRejected(
                type(error).__name__, f"{self.where} is not a valid name of a bucket and a folder"
            ) from None
        except Exception as error:  # noqa: BLE001  # the SDK also raises errors of its HTTP library and parser
            if refusal := find_refusal(error):
                raise to_certificate_rejection(refusal) from None
            raise TransportError(type(error).__name__) from None
        if len(part) != int(response["ContentLength"]):
            raise TransportError("the response is not complete")
        return part


async def open_s3(
    stack: AsyncExitStack, *, session: Any, region_name: str | None, endpoint_url: str | None, plain_http: bool
) -> Any:
    """Open a client of S3, which is open until `stack` closes. Raises StoreRejected as `open_client`."""
    opened = await open_client(
        stack,
        "s3",
        session=session or new_session(),
        region_name=region_name,
        endpoint_url=endpoint_url,
        plain_http=plain_http,
        retries={"mode": "standard", "total_max_attempts": 1},  # `Bucket` retries, as reading the body can fail too
        connect_timeout=3.0,
        read_timeout=20.0,
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    return opened.client
