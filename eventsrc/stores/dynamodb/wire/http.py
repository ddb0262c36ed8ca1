"""HTTP/1.1 over kept-alive connections: each exchange is one whole request and one whole response.

Source: RFC 9112. This module has its own connections, because a general HTTP library would double the CPU time of a
request (figures: docs/performance.md). Responses are parsed by llhttp, through `httptools`. If a connection breaks, the
request may have been carried out or not; callers handle that.
"""

from __future__ import annotations

import asyncio
import re
import socket
from ssl import SSLCertVerificationError, SSLContext
from typing import Any, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from ....concurrency import wait_for_thread
from .certificates import explain_refusal
from .client import NotSent

_ADDRESS_TIMEOUT = 1.0  # seconds to wait for an address of the host while there are others to try
_MAX_IDLE = 20.0  # seconds that a connection may be idle; the service keeps it longer
_START = re.compile(rb"(?>HTTP/1\.[01] 1.*?\r\n\r\n)*HTTP/1\.[01] [2-5]", re.DOTALL)  # with interim responses
_MAX_HEAD = 65_536  # bytes, including interim responses
_MAX_RESPONSE = 64 * 1024 * 1024  # bytes; a page of the service has about one MiB


class HttpResponse(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class BadResponse(Exception):
    """The response is not HTTP, or ended too early."""


class Pool:
    """Connections to one host, one for each concurrent exchange. A pool belongs to one event loop."""

    def __init__(
        self, host: str, port: int, tls: SSLContext | None, *, connect_timeout: float = 3.0, timeout: float = 5.0
    ) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._address: object = None  # the address that was connected to last
        self._open: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []  # the one used last at the end

    async def exchange(self, request: bytes) -> HttpResponse:
        """Send a request, once, and return the response. On an error or when cancelled, close the connection.

        Raises:
            NotSent: no connection was made within `connect_timeout`; CertificateRefused if it is never going to be.
            BadResponse, OSError: the request may have been carried out. TimeoutError, which is an OSError: there was no
                response within `timeout`.
            CancelledError: the cause is NotSent if there was no connection yet.
        """
        connection = self._take_idle() or await self._connect()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                response = await connection.exchange(request)
        except BaseException as error:
            connection.abort()
            if isinstance(error, Exception):
                self._close_idle(begun)  # what broke this connection may have broken them all
            raise
        if connection.is_usable:
            connection.idle_since = loop.time()
            self._idle.append(connection)
        return response

    async def aclose(self) -> None:
        """Close all connections. Abort those that the other side has not closed after one second."""
        for connection in (connections := list(self._open)):
            connection.close()
        try:
            if connections:
                await asyncio.wait([connection.lost for connection in connections], timeout=1.0)
        finally:
            for connection in connections:
                connection.abort()

    def _take_idle(self) -> HttpConnection | None:
        self._close_idle(asyncio.get_running_loop().time() - _MAX_IDLE)
        while self._idle:
            if (connection := self._idle.pop()).is_usable:
                return connection
        return None

    def _close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before this time."""
        while self._idle and self._idle[0].idle_since < before:
            self._idle.pop(0).close()

    async def _connect(self) -> HttpConnection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await self._wrap_socket(await self._connect_socket())
        except asyncio.CancelledError as cancelled:
            raise cancelled from NotSent("no connection")
        except SSLCertVerificationError as error:
            failure: NotSent = explain_refusal(self._host, error)
        except (OSError, ValueError) as error:  # ValueError: the host name is not valid
            failure = NotSent(type(error).__name__)
        raise failure

    async def _connect_socket(self) -> socket.socket:
        """Connect to the first address of the host that answers. Try the address that was used last first.

        asyncio would give the first address all of the time or, with two at a time, leak a socket when cancelled.
        """
        loop = asyncio.get_running_loop()
        found = await wait_for_thread(loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        found.sort(key=lambda each: each[4] != self._address)
        first = min(_ADDRESS_TIMEOUT, self._connect_timeout / 2)  # so that there is time for another address
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            connected = socket.socket(family, kind, protocol)
            try:
                connected.setblocking(False)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                async with asyncio.timeout(first if number < len(found) else None):
                    await loop.sock_connect(connected, address)
            except BaseException as error:
                connected.close()
                if number == len(found) or not isinstance(error, OSError):
                    raise
            else:
                self._address = address
                return connected
        raise OSError("the host has no address")

    async def _wrap_socket(self, connected: socket.socket) -> HttpConnection:
        connection = HttpConnection(self._open)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, sock=connected, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        except BaseException:
            connection.abort()  # also if `connection_made` was not called yet
            self._open.discard(connection)
            connected.close()
            raise
        return connection


class HttpConnection(asyncio.Protocol):
    """A connection for one exchange after the other."""

    def __init__(self, open: set[HttpConnection]) -> None:
        self._open = open
        self._parser = ResponseParser()
        self._waiter: asyncio.Future[HttpResponse] | None = None
        self._transport: Any = None
        self.is_usable = True
        self.idle_since = 0.0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self.is_usable:
            self._open.add(self)
        else:  # it was aborted before it was made
            transport.abort()

    async def exchange(self, request: bytes) -> HttpResponse:
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        self.is_usable = False
        if not self._transport.is_closing():  # a TLS connection of asyncio that is closed twice cannot be aborted
            self._transport.close()

    def abort(self) -> None:
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            if self._waiter is None or self._waiter.done():
                raise BadResponse("a response without a request")
            response = self._parser.feed(data)
        except BadResponse as error:
            self._fail(error)
        else:
            if response is not None:
                self._finish(response)

    def eof_received(self) -> None:
        self.is_usable = False  # closed when this returns; `connection_lost` is called later
        if self._transport.get_write_buffer_size():  # asyncio would first try to send the rest
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self.lost.set_result(None)
        if exc is None and (response := self._parser.end()) is not None:
            self._finish(response)
        self._fail(exc if isinstance(exc, OSError) else BadResponse("the connection was closed"))

    def _finish(self, response: HttpResponse) -> None:
        if self._parser.is_last or self._transport.get_write_buffer_size():
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(response)

    def _fail(self, error: Exception) -> None:
        self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class ResponseParser:
    """A parser of the responses of one connection, one after the other: llhttp with further checks.

    It also refuses:
    - versions other than 1.0 and 1.1, other protocols, and blank lines before a status line;
    - transfer codings other than `chunked`;
    - heads of more than 64 KiB, and responses of more than 64 MiB.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.is_last = False  # the connection cannot be used after the response returned last
        self._start()

    def _start(self) -> None:
        self._head = b""  # as received; the start of the body may follow it
        self._size = 0  # bytes received
        self._status = 0  # until the head is complete
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_complete = False

    def feed(self, data: bytes) -> HttpResponse | None:
        """Return the response if these bytes complete it. Raises BadResponse."""
        self._size += len(data)
        if self._size > _MAX_RESPONSE:
            raise BadResponse("a response that is too large")
        if not self._status:
            self._head += data
        view, has_more = memoryview(data), True
        try:
            self._parser.feed_data(view[:-1])
            has_more = self._is_complete  # complete before the last byte: llhttp would skip a blank line
            self._parser.feed_data(view[-1:])
        except (HttpParserError, HttpParserUpgrade) as error:
            if isinstance(stopped := error.__context__, (KeyboardInterrupt, SystemExit)):  # httptools catches these too
                raise stopped from None
            if not self._is_complete:
                raise BadResponse(str(error.__context__ or error)) from None
        if self._is_complete:
            self.is_last |= has_more
            return self._take()
        if not self._status and self._size > _MAX_HEAD:
            raise BadResponse("a head without an end")
        return None

    def end(self) -> HttpResponse | None:
        """Return the response if the end of the connection completes it."""
        if self._status and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            return self._take()
        return None

    def _take(self) -> HttpResponse:
        response = HttpResponse(self._status, self._headers, bytes(self._body))
        self._start()
        return response

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise BadResponse("a second response")
        self._headers.clear()  # of an interim response

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if 100 <= (status := self._parser.get_status_code()) < 200:
            return
        if not (start := _START.match(self._head)):
            raise BadResponse("a status line that is not HTTP/1")
        if self._head.find(b"\r\n\r\n", start.end(), _MAX_HEAD) < 0:
            raise BadResponse("a head that is too large")
        if self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise BadResponse("a body of unknown length")
        if int(self._headers.get("content-length", 0)) > _MAX_RESPONSE:
            raise BadResponse("a response that is too large")
        self._status = status

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._is_complete = bool(self._status)
        self.is_last = not self._parser.should_keep_alive() or "close" in self._headers.get("connection", "").lower()
