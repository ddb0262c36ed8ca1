"""HTTP/1.1 for one kind of exchange: a whole request, a whole answer, over connections that are kept.

Source: RFC 9112. Half of a request's CPU would else be that of a general HTTP library; the figures are in
docs/performance.md. A connection that breaks proves nothing about its request: callers settle that.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from ssl import SSLContext
from typing import Any, NamedTuple

_PER_ADDRESS = 1.0  # seconds to wait for a host's address while there are others to try
_KEPT = 20.0  # seconds a connection may rest; the service keeps it longer
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: .*)?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?")
_MAX_HEAD = 65_536
_MAX_BODY = 64 * 1024 * 1024  # bytes; a page of the service has about one MiB


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class BadResponse(Exception):
    """What came is not HTTP, or ended too early."""


class Unreachable(Exception):
    """No connection came about, so that nothing was sent."""


class Pool:
    """Connections to one host: as many as there are exchanges at a time. Belongs to one event loop."""

    def __init__(self, host: str, port: int, tls: SSLContext | None, *, connect_timeout: float = 3.0) -> None:
        self._host, self._port, self._tls, self._connect_timeout = host, port, tls, connect_timeout
        self._address: object = None  # that answered last
        self._open: set[Connection] = set()
        self._resting: list[Connection] = []  # the one used last at the end

    async def exchange(self, request: bytes) -> Response:
        """Send a request, once. Raises BadResponse or OSError; the connection is then closed, as when cancelled. Raises
        Unreachable if nothing was sent.
        """
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
        while self._resting and self._resting[0].rests_since < oldest:
            self._resting.pop(0).close()
        while self._resting:
            if (connection := self._resting.pop()).is_good:
                return connection
        return None

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await self._over(await self._socket())
        except (OSError, ValueError) as error:  # a name that cannot be one is a ValueError
            reason = type(error).__name__
        raise Unreachable(reason)

    async def _socket(self) -> socket.socket:
        """Connected to the first of the host's addresses that answers; the one that did so last is tried first.

        asyncio would wait for the first one only, or, trying two at a time, leak a socket when cancelled.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        found.sort(key=lambda each: each[4] != self._address)
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            connected = socket.socket(family, kind, protocol)
            try:
                connected.setblocking(False)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                async with asyncio.timeout(_PER_ADDRESS if number < len(found) else None):
                    await loop.sock_connect(connected, address)
            except BaseException as error:
                connected.close()
                if number == len(found) or not isinstance(error, OSError):
                    raise
            else:
                self._address = address
                return connected
        raise OSError("the host has no address")

    async def _over(self, connected: socket.socket) -> Connection:
        connection = Connection(self._open)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, sock=connected, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        except BaseException:
            connection.abort()  # also where the loop has not, or not yet, told it that it was made
            self._open.discard(connection)
            connected.close()
            raise
        return connection


class Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, open: set[Connection]) -> None:
        self._open = open
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None  # status and headers, once they are there
        self._body = bytearray()  # of an answer in chunks, as far as it has come
        self._waiter: asyncio.Future[Response] | None = None
        self._transport: Any = None
        self.is_good = True
        self.rests_since = 0.0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self.is_good:
            self._open.add(self)
        else:  # nobody waits for it any more
            transport.abort()

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
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._advance(ended=False)
        except (BadResponse, ValueError) as error:
            self._fail(BadResponse(type(error).__name__))

    def eof_received(self) -> None:
        self.is_good = False  # it is closed once this returns, and lost in a later turn of the loop
        if self._transport.get_write_buffer_size():  # asyncio would wait until all is sent, to nobody
            self.abort()

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
        if (body := b"" if status in (204, 304) else self._read_body(headers, ended=ended)) is None:
            return
        self._head = None
        unsent = self._transport.get_write_buffer_size()
        if unsent or self._buffer or "close" in headers.get("connection", "").lower():
            self.close()
        self._waiter.set_result(Response(status, headers, body))

    def _read_head(self) -> bool:
        """Whether status and headers are there, and are taken. Preliminary answers are passed over."""
        while (end := self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD)) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            if (match := _STATUS.fullmatch(first)) is None:
                raise BadResponse("no status line")
            if (status := int(match[2])) >= 200:
                self._head = status, _fields(lines)
                if match[1] == "0":
                    self._head[1].setdefault("connection", "close")
                return True
        if len(self._buffer) >= _MAX_HEAD:
            raise BadResponse("headers without end")
        return False

    def _read_body(self, headers: dict[str, str], *, ended: bool) -> bytes | None:
        """The body, if all of it is there; it is taken from the buffer."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise BadResponse("a body of unknown length")
            return self._read_chunks()
        if length is None:
            if not ended:
                self._bound(len(self._buffer))
                return None
            expected = len(self._buffer)
        else:
            if not (length.isascii() and length.isdigit()):
                raise BadResponse("a length that is no number")
            expected = self._bound(int(length))
            if len(self._buffer) < expected:
                return None
        body = bytes(memoryview(self._buffer)[:expected])
        del self._buffer[:expected]
        return body

    def _read_chunks(self) -> bytes | None:
        """Chunks are taken from the buffer as they come."""
        while (end := self._buffer.find(b"\r\n")) >= 0:
            if (match := _CHUNK.fullmatch(bytes(self._buffer[:end]))) is None:
                raise BadResponse("a chunk without a size")
            if (size := self._bound(int(match[1], 16))) == 0:
                if (last := self._buffer.find(b"\r\n\r\n", end)) < 0:  # behind trailers, if there are any
                    break
                del self._buffer[: last + 4]
                body, self._body = bytes(self._body), bytearray()
                return body
            stop = end + 2 + size
            if len(self._buffer) < stop + 2:
                break
            if self._buffer[stop : stop + 2] != b"\r\n":
                raise BadResponse("a chunk that does not end")
            self._body += self._buffer[end + 2 : stop]
            self._bound(len(self._body))
            del self._buffer[: stop + 2]
        self._bound(len(self._buffer))
        return None

    def _bound(self, size: int) -> int:
        if not 0 <= size <= _MAX_BODY:
            raise BadResponse("too large")
        return size


def _fields(lines: list[str]) -> dict[str, str]:
    """Headers by their names in lower case. Raises BadResponse for what could be read in two ways."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not name or name != name.strip():
            raise BadResponse("a line that is no header")
        if name in fields:
            if name in ("content-length", "transfer-encoding"):
                raise BadResponse("a body with two lengths")
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return fields
