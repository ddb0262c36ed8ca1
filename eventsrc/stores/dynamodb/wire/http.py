"""HTTP/1.1 for one kind of exchange: a whole request, a whole answer, over connections that are kept.

Source: RFC 9112. Connections belong to this module, because a general HTTP library would double the CPU of a request
(figures: docs/performance.md); answers are parsed by llhttp, under `httptools`. A connection that breaks proves nothing
about its request: callers settle that.
"""

from __future__ import annotations

import asyncio
import re
import socket
from ssl import SSLContext
from typing import Any, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

_PER_ADDRESS = 1.0  # seconds to wait for a host's address while there are others to try
_KEPT = 20.0  # seconds a connection may rest; the service keeps it longer
_BEGINNING = re.compile(rb"(?>HTTP/1\.[01] 1.*?\r\n\r\n)*HTTP/1\.[01] [2-5]", re.DOTALL)  # interim answers, the answer
_MAX_HEAD = 65_536  # bytes, those of interim answers included
_MAX_ANSWER = 64 * 1024 * 1024  # bytes; a page of the service has about one MiB


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
        self._answers = Answers()
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
        try:
            if self._waiter is None or self._waiter.done():
                raise BadResponse("an answer to no request")
            response = self._answers.feed(data)
        except BadResponse as error:
            self._fail(error)
        else:
            if response is not None:
                self._finish(response)

    def eof_received(self) -> None:
        self.is_good = False  # it is closed once this returns, and lost in a later turn of the loop
        if self._transport.get_write_buffer_size():  # asyncio would wait until all is sent, to nobody
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self.lost.set_result(None)
        if exc is None and (response := self._answers.end()) is not None:
            self._finish(response)
        self._fail(exc if isinstance(exc, OSError) else BadResponse("the connection was closed"))

    def _finish(self, response: Response) -> None:
        if self._answers.is_last or self._transport.get_write_buffer_size():
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(response)

    def _fail(self, error: Exception) -> None:
        self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class Answers:
    """Parser of the answers of one connection, one after the other: llhttp, made stricter.

    It refuses, in addition:
    - versions other than 1.0 and 1.1, other protocols, and blank lines before a status line;
    - transfer codings other than `chunked`;
    - heads of more than 64 KiB, and answers of more than 64 MiB.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.is_last = False  # whether the answer returned most recently ends the use of its connection
        self._start()

    def _start(self) -> None:
        self._head = b""  # as received; the body may have begun in it
        self._size = 0  # bytes received
        self._status = 0  # until the head is complete
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_complete = False

    def feed(self, data: bytes) -> Response | None:
        """Return the answer if these bytes complete it. Raises BadResponse."""
        self._size += len(data)
        if self._size > _MAX_ANSWER:
            raise BadResponse("an answer that is too large")
        if not self._status:
            self._head += data
        view, has_more = memoryview(data), True
        try:
            self._parser.feed_data(view[:-1])
            has_more = self._is_complete  # already before the last byte; llhttp would skip a blank line silently
            self._parser.feed_data(view[-1:])
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._is_complete:
                raise BadResponse(str(error.__context__ or error)) from None
        if self._is_complete:
            self.is_last |= has_more
            return self._take()
        if not self._status and self._size > _MAX_HEAD:
            raise BadResponse("a head that does not end")
        return None

    def end(self) -> Response | None:
        """Return the answer if it ends where its connection ends."""
        if self._status and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            return self._take()
        return None

    def _take(self) -> Response:
        response = Response(self._status, self._headers, bytes(self._body))
        self._start()
        return response

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise BadResponse("a second answer")
        self._headers.clear()  # those of an interim answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if 100 <= (status := self._parser.get_status_code()) < 200:
            return
        if not (begins := _BEGINNING.match(self._head)):
            raise BadResponse("a status line that is not HTTP/1")
        if self._head.find(b"\r\n\r\n", begins.end(), _MAX_HEAD) < 0:
            raise BadResponse("a head that is too large")
        if self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise BadResponse("a body of unknown length")
        if int(self._headers.get("content-length", 0)) > _MAX_ANSWER:
            raise BadResponse("an answer that is too large")
        self._status = status

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._is_complete = bool(self._status)
        self.is_last = not self._parser.should_keep_alive() or "close" in self._headers.get("connection", "").lower()
