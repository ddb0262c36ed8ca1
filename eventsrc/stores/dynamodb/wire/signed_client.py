"""The client of the data plane: signed POSTs, and nothing else.

The SDK spends most of its time on what these requests do not need: hooks, endpoint rules, generic parsing. It still
finds the credentials, the region and the endpoint, and administers tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ssl import create_default_context
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from zlib import crc32

import msgspec
from botocore.httpsession import get_cert_path

from .client import CLOCK_CORRECTED, NotSent, Reply, ServiceError, TransportError
from .http import BadResponse, Pool, Response, Unreachable
from .signature import Credentials, Signer

T = TypeVar("T")

_API = "DynamoDB_20120810."
_SKEWED = 4 * 60  # seconds; the service refuses signatures that are older than five minutes
_CLOCK_CODES = frozenset({"InvalidSignatureException", "RequestTimeTooSkewed", "RequestExpired"})


class JSONReply:
    """The body of an answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, kind: type[T]) -> T:
        answer: T = _decoder(kind).decode(self._body)  # type: ignore[arg-type]  # classes are hashable
        return answer


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> Any:
    return msgspec.json.Decoder(kind)


class _Error(msgspec.Struct):
    """What all errors of the service have in common."""

    type: str = msgspec.field(name="__type", default="")


def is_proxied(endpoint: str) -> bool:
    """Whether the environment sends requests for this endpoint through a proxy."""
    parts = urlsplit(endpoint)
    return not proxy_bypass(parts.hostname or "") and parts.scheme in getproxies()


class SignedClient:
    """Sends each request once, over a pool of connections. Belongs to one event loop; `aclose` it there.

    `credentials` are those of the SDK, which renews them. Certificates are the ones the SDK would trust. A clock that
    is off is corrected from the service's own time. It knows no proxies: see `is_proxied`.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Any,
        ca_bundle: str | None = None,
        *,
        timeout: float,
    ) -> None:
        parts = urlsplit(endpoint)
        trusted = create_default_context(cafile=get_cert_path(ca_bundle or True)) if parts.scheme == "https" else None
        port = parts.port or (443 if trusted else 80)
        self._pool = Pool(parts.hostname or "", port, trusted, connect_timeout=min(timeout, 3.0))
        self._timeout = timeout
        self._signer = Signer(parts.netloc, region)
        self._credentials = credentials
        self._ahead = 0.0  # seconds the service's clock is ahead of ours
        self._encode = msgspec.json.Encoder().encode

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        body = self._encode(request)
        frozen, ahead = await self._frozen(), self._ahead
        headers = self._signer.headers(_API + operation, body, frozen, time() + ahead)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._pool.exchange(head + body)
        except Unreachable as error:
            failure: TransportError = NotSent(*error.args)
        except (BadResponse, TimeoutError, OSError) as error:
            failure = TransportError(type(error).__name__)
        else:
            return self._read(response, ahead)
        raise failure  # outside the handlers: their errors may name what was sent

    def _read(self, response: Response, ahead: float) -> Reply:
        expected = response.headers.get("x-amz-crc32")
        if expected is not None and expected != str(crc32(response.body)):
            raise TransportError("an answer with a wrong checksum")
        if response.status == 200:
            return JSONReply(response.body)
        raise self._refused(response.status, response.body, ahead, response.headers.get("date"))

    async def _frozen(self) -> Credentials:
        if self._credentials is None:
            raise ServiceError("NoCredentialsError", 0)
        try:
            frozen = await self._credentials.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001  # whatever the source of the credentials raises, nothing was sent
            reason = type(error).__name__
        else:
            told = f"{frozen.access_key}{frozen.token or ''}"  # in headers
            if told.isascii() and told.isprintable():
                return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
            reason = "a character in the credentials that no header can hold"
        raise ServiceError("CredentialRetrievalError", 0) from RuntimeError(reason)

    def _refused(self, status: int, body: bytes, ahead: float, date: str | None) -> ServiceError:
        reply = JSONReply(body)
        try:
            code = reply.read(_Error).type.rpartition("#")[2]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            code = ""
        if code in _CLOCK_CODES and self._corrected(ahead, date):
            return ServiceError(CLOCK_CORRECTED, status)
        return ServiceError(code, status, reply)

    def _corrected(self, signed: float, date: str | None) -> bool:
        """Whether the service's time shows that the clock was wrong that a request was signed by, which was `signed`
        seconds ahead of ours. The next one is right then.
        """
        try:
            theirs = parsedate_to_datetime(date or "").replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return False
        ahead = (theirs - datetime.now(UTC)).total_seconds()
        if abs(ahead - signed) < _SKEWED:
            return False
        self._ahead = ahead
        return True
