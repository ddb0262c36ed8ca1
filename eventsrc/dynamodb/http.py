"""HTTP/1.1 for one kind of exchange: a whole request, a whole answer, over connections that are kept.

Source: RFC 9112. Half of a request's CPU would else be that of a general HTTP library; the figures are in
docs/performance.md. A connection that breaks proves nothing about its request: callers settle that.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ssl import SSLContext
from typing import Any, NamedTuple

_KEPT = 20.0  # seconds a connection may rest; the service keeps it longer
_MAX_HEAD = 65_536
_MAX_BODY = 64 * 1024 * 1024  # bytes; a page of the service has about one MiB


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class BadResponse(Exception):
    """What came is not HTTP, or ended too early."""


class Pool:
    """Connections to one host: as many as there are exchanges at a time. Belongs to one event loop."""

    def __init__(self, host: str, port: int, tls: SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._open: set[Connection] = set()
        self._resting: list[Connection] = []  # the one used last at the end

    async def exchange(self, request: bytes) -> Response:
        """Send a request, once. Raises BadResponse or OSError; the connection is then closed, as when cancelled."""
        connection = self._rested() or await self._connect()
        try:
            response = await connection.exchange(request)
        except BaseException:
            connection.abort()
            raise
        if connection.is_good:
            connection.rests_since = asyncio.get_running_loop().time()
            self._resting.append(connection)
        return response

    async def aclose(self) -> None:
        """Close all connections; the other side has a second to agree."""
        for connection in (connections := list(self._open)):
            connection.close()
        try:
            if connections:
                await asyncio.wait([connection.lost for connection in connections], timeout=1.0)
        finally:
            for connection in connections:
                connection.abort()

    def _rested(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - _KEPT
        while self._resting:
            connection = self._resting.pop()
            if connection.is_good and connection.rests_since >= oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._open),
            self._host,
            self._port,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return connection


class Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, open: set[Connection]) -> None:
        self._open = open
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None  # status and headers, once they are there
        self._waiter: asyncio.Future[Response] | None = None
        self.is_good = True
        self.rests_since = 0.0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._open.add(self)
        if (raw := transport.get_extra_info("socket")) is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def exchange(self, request: bytes) -> Response:
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        self.is_good = False
        if not self._transport.is_closing():  # closed twice, asyncio's TLS could not be aborted any more
            self._transport.close()

    def abort(self) -> None:
        self.is_good = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._advance(ended=False)
        except (BadResponse, ValueError) as error:
            self._fail(BadResponse(type(error).__name__))

    def eof_received(self) -> None:
        self.is_good = False  # it is closed once this returns, and lost in a later turn of the loop

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self.lost.set_result(None)
        with suppress(BadResponse, ValueError):
            self._advance(ended=exc is None)
        self._fail(exc if isinstance(exc, OSError) else BadResponse("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _advance(self, *, ended: bool) -> None:
        """Look at what is there: is it an answer?"""
        if self._waiter is None or self._waiter.done():
            if self._buffer:
                raise BadResponse("an answer to no request")
            return
        if self._head is None and not self._read_head():
            return
        assert self._head is not None
        status, headers = self._head
        if (body := self._read_body(headers, ended=ended)) is None:
            return
        self._head = None
        if self._buffer or "close" in headers.get("connection", "").lower():
            self.close()
        self._waiter.set_result(Response(status, headers, body))

    def _read_head(self) -> bool:
        """Whether status and headers are there, and are taken. Preliminary answers are passed over."""
        while (end := self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD)) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            if not first.startswith("HTTP/1."):
                raise BadResponse(first[:20])
            status = int(first[9:12])
            if status >= 200:
                fields = (line.partition(":") for line in lines)
                self._head = status, {name.lower(): value.strip() for name, _, value in fields}
                if first.startswith("HTTP/1.0"):
                    self._head[1].setdefault("connection", "close")
                return True
        if len(self._buffer) >= _MAX_HEAD:
            raise BadResponse("headers without end")
        return False

    def _read_body(self, headers: dict[str, str], *, ended: bool) -> bytes | None:
        """The body, if all of it is there; it is taken from the buffer."""
        if (coding := headers.get("transfer-encoding")) is not None:
            if coding.lower() != "chunked":
                raise BadResponse("an unknown transfer encoding")
            return self._read_chunks()
        length = headers.get("content-length")
        if length is None:
            if not ended:
                self._bound(len(self._buffer))
                return None
            expected = len(self._buffer)
        else:
            expected = self._bound(int(length))
            if len(self._buffer) < expected:
                return None
        body = bytes(memoryview(self._buffer)[:expected])
        del self._buffer[:expected]
        return body

    def _read_chunks(self) -> bytes | None:
        chunks: list[bytes] = []
        at = 0
        while (end := self._buffer.find(b"\r\n", at)) >= 0:
            size = self._bound(int(self._buffer[at:end].partition(b";")[0], 16))
            if size == 0:
                if (last := self._buffer.find(b"\r\n\r\n", end)) < 0:  # behind trailers, if there are any
                    break
                del self._buffer[: last + 4]
                return b"".join(chunks)
            at = end + 2 + size + 2
            chunks.append(bytes(self._buffer[end + 2 : at - 2]))
        self._bound(len(self._buffer))
        return None

    def _bound(self, size: int) -> int:
        if not 0 <= size <= _MAX_BODY:
            raise BadResponse("too large")
        return size
