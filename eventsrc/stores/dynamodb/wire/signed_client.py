"""The client for reads and writes: it sends signed requests without the SDK.

The SDK spends most of its time on what these requests do not need: hooks, endpoint rules, generic parsing. It is still
used to find the credentials, the region and the endpoint, and to administer tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ssl import SSLContext
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from .client import CLOCK_CORRECTED, NotSent, Reply, ServiceError, TransportError, divide
from .http import BadResponse, HttpResponse, Pool
from .signature import Credentials, Signer

T = TypeVar("T")

_API = "DynamoDB_20120810."
_MAX_CLOCK_ERROR = 4 * 60  # seconds; the service refuses signatures that are older than five minutes
_CLOCK_CODES = frozenset({"InvalidSignatureException", "RequestTimeTooSkewed", "RequestExpired"})


class JSONReply:
    """A response with a JSON body."""

    def __init__(self, body: bytes, date: str = "") -> None:
        self._body = body
        self.date = date

    def read(self, kind: type[T]) -> T:
        response: T = _decoder(kind).decode(self._body)  # type: ignore[arg-type]  # classes are hashable
        return response


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> Any:
    return msgspec.json.Decoder(kind)


class _Error(msgspec.Struct):
    """The field that all errors of the service have."""

    type: str = msgspec.field(name="__type", default="")


class SignedClient:
    """Sends each request once, over a pool of connections. It belongs to one event loop, which also closes it.

    - `credentials` are an object of the SDK, which renews them.
    - `tls` says which certificates it trusts. It is None for an endpoint without encryption.
    - If the clock is wrong, requests are signed with the service's time.
    - It does not support proxies: see `endpoints.is_proxied`.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Any,
        *,
        tls: SSLContext | None,
        deadline: float,
    ) -> None:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if tls else 80)
        connect_timeout, timeout = divide(deadline)
        self._pool = Pool(parts.hostname or "", port, tls, connect_timeout=connect_timeout, timeout=timeout)
        self._signer = Signer(parts.netloc, region)
        self._credentials = credentials
        self._ahead = 0.0  # seconds by which the service's clock is ahead of ours
        self._encode = msgspec.json.Encoder().encode

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        body = self._encode(request)
        credentials, ahead = await self._get_credentials(), self._ahead
        headers = self._signer.headers(_API + operation, body, credentials, time() + ahead)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
        try:
            response = await self._pool.exchange(head + body)
        except (BadResponse, OSError) as error:
            failure = TransportError(type(error).__name__)
        else:
            return self._read(response, ahead)
        raise failure  # outside the handlers, because the original error may contain the request

    def _read(self, response: HttpResponse, ahead: float) -> Reply:
        expected = response.headers.get("x-amz-crc32")
        if expected is not None and expected != str(crc32(response.body)):
            raise TransportError("the response has a wrong checksum")
        if response.status == 200:
            return JSONReply(response.body, response.headers.get("date", ""))
        raise self._to_service_error(response.status, response.body, ahead, response.headers.get("date"))

    async def _get_credentials(self) -> Credentials:
        if self._credentials is None:
            raise ServiceError("NoCredentialsError", 0)
        try:
            credentials = await self._credentials.get_frozen_credentials()
        except asyncio.CancelledError as cancelled:
            raise cancelled from NotSent("no credentials")
        except Exception as error:  # noqa: BLE001  # any error of the credentials' source; nothing was sent
            reason = type(error).__name__
        else:
            in_headers = f"{credentials.access_key}{credentials.token or ''}"
            if in_headers.isascii() and in_headers.isprintable():
                return Credentials(credentials.access_key, credentials.secret_key, credentials.token)
            reason = "the credentials have a character that a header cannot contain"
        raise ServiceError("CredentialRetrievalError", 0) from RuntimeError(reason)

    def _to_service_error(self, status: int, body: bytes, ahead: float, date: str | None) -> ServiceError:
        reply = JSONReply(body)
        try:
            code = reply.read(_Error).type.rpartition("#")[2]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            code = ""
        if code in _CLOCK_CODES and self._correct_clock(ahead, date):
            return ServiceError(CLOCK_CORRECTED, status)
        return ServiceError(code, status, reply)

    def _correct_clock(self, signed_ahead: float, date: str | None) -> bool:
        """Correct the clock from the service's time, and return whether it was wrong.

        The refused request was signed with a time `signed_ahead` seconds ahead of our clock.
        """
        try:
            service_time = parsedate_to_datetime(date or "").replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return False
        ahead = (service_time - datetime.now(UTC)).total_seconds()
        if abs(ahead - signed_ahead) < _MAX_CLOCK_ERROR:
            return False
        self._ahead = ahead
        return True
