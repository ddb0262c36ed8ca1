"""The client for reads and writes: it sends signed requests without the SDK.

The SDK spends most of its time on what these requests do not need: hooks, endpoint rules, generic parsing. It is still
used to find the credentials, the region and the endpoint, and to administer tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ssl import SSLContext
from time import time
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from .bodies import read_body, read_error
from .client import CLOCK_CORRECTED, Reply, ServiceError, TransportError, divide
from .credentials import CredentialSource
from .http import BadResponse, HttpResponse, Pool
from .signature import Signer

T = TypeVar("T")

_API = "DynamoDB_20120810."
_MAX_CLOCK_ERROR = 4 * 60  # seconds; the service refuses signatures that are older than five minutes
_CLOCK_CODES = frozenset({"InvalidSignatureException", "RequestTimeTooSkewed", "RequestExpired"})


class JSONReply:
    """A response with a JSON body. The names of its headers are in lower case."""

    def __init__(self, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self._body, self._headers = body, headers

    @property
    def date(self) -> str:
        return self._headers.get("date", "")

    @property
    def request_id(self) -> str:
        return self._headers.get("x-amzn-requestid", "")

    def read(self, kind: type[T]) -> T:
        response: T = _decoder(kind).decode(self._body)  # type: ignore[arg-type]  # classes are hashable
        return response


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> Any:
    return msgspec.json.Decoder(kind)


class SignedClient:
    """Sends each request once, over a pool of connections. It belongs to one event loop, which also closes it.

    - `tls` says which certificates it trusts. It is None for an endpoint without encryption.
    - If the clock is wrong, requests are signed with the service's time.
    - It does not support proxies: see `endpoints.is_proxied`.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: CredentialSource,
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
        credentials, ahead = await self._credentials.get(), self._ahead
        headers = self._signer.headers(_API + operation, body, credentials, time() + ahead)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        # Without `identity`, a server may choose any encoding (RFC 9110, section 12.5.3).
        head = f"POST / HTTP/1.1\r\n{lines}accept-encoding: identity\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        try:
            response = await self._pool.exchange(head + body)
        except (BadResponse, OSError) as error:
            failure = TransportError(type(error).__name__)
        else:
            return self._read(response, ahead)
        raise failure  # outside the handlers, because the original error may contain the request

    def _read(self, response: HttpResponse, ahead: float) -> Reply:
        headers = response.headers
        body = read_body(headers, response.body)
        reply = JSONReply(body, headers)
        if response.status == 200:
            return reply
        code, _ = read_error(headers, body)
        if code in _CLOCK_CODES and self._correct_clock(ahead, reply.date):
            raise ServiceError(CLOCK_CORRECTED, response.status)
        raise ServiceError(code, response.status, reply)

    def _correct_clock(self, signed_ahead: float, date: str) -> bool:
        """Correct the clock from the service's time, and return whether it was wrong.

        The refused request was signed with a time `signed_ahead` seconds ahead of our clock.
        """
        try:
            service_time = parsedate_to_datetime(date).replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return False
        ahead = (service_time - datetime.now(UTC)).total_seconds()
        if abs(ahead - signed_ahead) < _MAX_CLOCK_ERROR:
            return False
        self._ahead = ahead
        return True
