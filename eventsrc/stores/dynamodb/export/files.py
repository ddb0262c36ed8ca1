"""The files of an export: in a folder of this machine, or in a bucket of S3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ....errors import StoreRejected, StoreUnavailable
from ..wire.client import TransportError
from ..wire.sdk import open_client

PART = 4 * 1024 * 1024  # bytes read at once

_TRIES = 8  # for a part of a file: about ten seconds in all
_ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the credentials need s3:GetObject on the export, and s3:ListBucket to be told what is missing",
    "PermanentRedirect": "the bucket is in another region; give region_name",
}


class Files(Protocol):
    """Names are relative to the export's folder, as in `manifest-summary.json` and `../data/file.json.gz`."""

    where: str

    async def part(self, name: str, offset: int) -> bytes:
        """PART bytes of a file from there on; fewer only at its end. Raises StoreRejected and StoreUnavailable."""
        ...


async def read_parts(files: Files, name: str) -> AsyncGenerator[bytes]:
    """A file, part by part."""
    offset = 0
    while part := await files.part(name, offset):
        yield part
        if len(part) < PART:
            return
        offset += len(part)


class Folder:
    """A local copy, as `aws s3 sync` makes it."""

    def __init__(self, path: str) -> None:
        self.where = path
        self._path = Path(path)

    async def part(self, name: str, offset: int) -> bytes:
        return await asyncio.to_thread(self._read, name, offset)

    def _read(self, name: str, offset: int) -> bytes:
        path = self._path / name
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(PART)
        except FileNotFoundError:
            raise missing(str(path)) from None
        except OSError as error:
            raise StoreRejected(type(error).__name__, f"{path}: {error.strerror}") from None


def missing(where: str) -> StoreRejected:
    return StoreRejected(
        "NoSuchKey", f"there is no {where}: the export is not finished, not copied completely, or not there"
    )


class Bucket:
    """Objects below `s3://bucket/prefix`, read by `client`, the SDK's.

    Reading is repeated where it breaks off, by parts: a long file does not begin again.
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
        if name.startswith("../"):  # S3 knows nothing of that, and two slashes are another name there than one
            folder, name = folder.rpartition("/")[0], name[3:]
        key = f"{folder}/{name}" if folder else name
        trying = AsyncRetrying(
            retry=retry_if_exception_type(TransportError),
            wait=wait_random_exponential(multiplier=0.1, max=3.0),
            stop=stop_after_attempt(_TRIES),
            reraise=True,
        )
        try:
            return await trying(self._get, key, offset)
        except TransportError as error:
            failure = StoreUnavailable(f"s3://{self._bucket}/{key}: {error}, {_TRIES} times; try again later")
        raise failure

    async def _get(self, key: str, offset: int) -> bytes:
        wanted = f"bytes={offset}-{offset + PART - 1}"
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted)
            async with answer["Body"] as body:
                part: bytes = await body.read()
        except self._client_error as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code == "InvalidRange":  # that is where it ends
                return b""
            if code == "NoSuchKey":
                raise missing(f"s3://{self._bucket}/{key}") from None
            if status >= 500 or code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed"):
                raise TransportError(code or str(status)) from None
            raise StoreRejected(code or str(status), _ADVICE.get(code, "S3 refuses the request")) from None
        except self._never_sent as error:
            raise StoreRejected(type(error).__name__, "no credentials were found; give the session some") from None
        except self._no_name as error:
            raise StoreRejected(type(error).__name__, f"{self.where} is no name of a bucket and a folder") from None
        except Exception as error:  # noqa: BLE001  # the SDK lets its HTTP library's and parser's errors through
            raise TransportError(type(error).__name__) from None
        if len(part) != int(answer["ContentLength"]):
            raise TransportError("a part of an answer")
        return part


async def open_s3(
    stack: AsyncExitStack, *, session: Any, region_name: str | None, endpoint_url: str | None, plain_http: bool
) -> Any:
    """A client of the SDK, open until `stack` closes. Raises StoreRejected."""
    return await open_client(
        stack,
        "s3",
        session=session,
        region_name=region_name,
        endpoint_url=endpoint_url,
        plain_http=plain_http,
        retries={"mode": "standard", "total_max_attempts": 1},  # what is read may break off too, so they are above it
        connect_timeout=3.0,
        read_timeout=20.0,
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
