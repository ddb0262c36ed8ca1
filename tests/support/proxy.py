"""A proxy in front of a service, mostly DynamoDB Local, that counts requests and injects a scripted fault into each."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit
from zlib import crc32

PASS, LOST, ANSWER_LOST, HALF_ANSWER, STALL = "pass", "lost", "answer lost", "half an answer", "stall"
FLIP = "flip"  # flips a bit of the answer's body
RESET = "reset"  # the service carries out the request; the client's connection is reset, not closed
TWICE = "twice"  # the service gets the request twice; the client gets the first answer
LATE = "late"  # the connection breaks, and the service gets the request later
SLOW = "slow"
CRAWL = "crawl"  # so slow that clients with a short deadline give up; the service still carries out the request
UNMETERED = "unmetered"  # the service's answer without its capacity, as other servers of the protocol send it
ANONYMOUS = "anonymous"  # the same, and without the id of the request
GZIP = "gzip"  # the service's answer, compressed although that was not requested
HOLD = "hold"  # until `go_on` is set; then the service gets the request, even if the client has given up

_SLOWNESS, _CRAWLING = 0.3, 1.5  # seconds

_NO_LINGER = struct.pack("ii", 1, 0)  # makes a close send RST instead of FIN


class Answer(NamedTuple):
    """An answer of the proxy in place of the service's; with `forwarded`, the service gets the request first."""

    status: int
    body: bytes
    forwarded: bool = False
    date: str = ""  # the header Date, which shows the service's clock
    headers: str = ""  # further lines


def error(code: str, status: int = 400, *, forwarded: bool = False) -> Answer:
    """Return an error in the service's format."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "scripted"}
    return Answer(status, json.dumps(body).encode(), forwarded)


def condition_failed(*, forwarded: bool = False) -> Answer:
    """Return a failed condition without the existing item, as older emulators answer."""
    return error("ConditionalCheckFailedException", forwarded=forwarded)


Fault = str | Answer


class Proxy:
    """Each request takes the first of `faults`; when there are none, it takes `then`."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.operations: list[str] = []
        self.heads: list[dict[str, str]] = []  # the headers of each request
        self.faults: list[Fault] = []
        self.then: Fault = PASS
        self.forwarded = 0
        self.choose: Callable[[], Fault] | None = None  # replaces `faults` and `then`
        self.open: set[asyncio.StreamWriter] = set()
        self.silent: set[asyncio.StreamWriter] = set()  # connections on which nothing is answered any more
        self.late: set[asyncio.Task[bytes]] = set()  # requests that are still to be carried out
        self.go_on = asyncio.Event()
        self.arrived = asyncio.Event()
        self.url = ""

    @property
    def counts(self) -> dict[str, int]:
        """The number of requests of each operation."""
        return dict(Counter(self.operations))

    def silence(self) -> None:
        """Answer nothing any more on the connections that are open now, as if a firewall had forgotten them."""
        self.silent |= self.open

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while request := await _read_message(reader):
                    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
                    self.heads.append({name.lower(): value for name, value in (line.split(": ", 1) for line in lines)})
                    self.operations.append(self.heads[-1].get("x-amz-target", "").rpartition(".")[2])
                    self.arrived.set()
                    scripted = self.faults.pop(0) if self.faults else self.then
                    fault = self.choose() if self.choose else scripted
                    if writer in self.silent:
                        await asyncio.Event().wait()
                    if not await self._answer(request, writer, fault):
                        break
        finally:
            self.open.discard(writer)
            writer.close()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        if fault == LOST:
            return False
        if fault == LATE:
            later = asyncio.create_task(self._forward_late(request))
            self.late.add(later)
            later.add_done_callback(self.late.discard)
            return False
        if fault == SLOW:
            await asyncio.sleep(_SLOWNESS)
        if fault == CRAWL:
            await asyncio.sleep(_CRAWLING)
        if fault == STALL:
            await asyncio.Event().wait()
        if fault == HOLD:
            await self.go_on.wait()
        answer = await self._forward(request) if not isinstance(fault, Answer) or fault.forwarded else b""
        if fault == TWICE:
            await self._forward(request)
        if fault == ANSWER_LOST:
            return False
        if fault == RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            return False
        if fault == FLIP and answer.startswith(b"HTTP/1.1 200"):  # the local service's errors have no checksum
            position = len(answer) - 1 - (len(answer.partition(b"\r\n\r\n")[2]) * 2 // 3)
            answer = answer[:position] + bytes([answer[position] ^ 1]) + answer[position + 1 :]
        if fault in (UNMETERED, ANONYMOUS) and answer.startswith(b"HTTP/1.1 200"):
            answer = _strip(answer, keep_id=fault == UNMETERED)
        if fault == GZIP:
            answer = _rewrite(answer, gzip.compress, "content-encoding: gzip")
        if fault == HALF_ANSWER:
            writer.write(answer[: len(answer) - 20])
            await writer.drain()
            return False
        if isinstance(fault, Answer):
            head = f"HTTP/1.1 {fault.status} scripted\r\nContent-Length: {len(fault.body)}\r\n"
            head += (f"Date: {fault.date}\r\n" if fault.date else "") + fault.headers
            answer = head.encode() + b"Content-Type: application/x-amz-json-1.0\r\n\r\n" + fault.body
        writer.write(answer)
        await writer.drain()
        return True

    async def _forward_late(self, request: bytes) -> bytes:
        await asyncio.sleep(_SLOWNESS * 3)
        return await self._forward(request)

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            return await _read_message(reader)
        finally:
            self.forwarded += 1
            writer.close()


def _strip(answer: bytes, *, keep_id: bool) -> bytes:
    """Return the answer without its capacity, with or without the id of the request."""

    def strip(body: bytes) -> bytes:
        return json.dumps(
            {name: value for name, value in json.loads(body).items() if name != "ConsumedCapacity"}
        ).encode()

    return _rewrite(answer, strip, without="" if keep_id else "x-amzn-requestid")


def _rewrite(answer: bytes, change: Callable[[bytes], bytes], *more: str, without: str = "") -> bytes:
    """Return the answer with another body, the right checksum and length, `more` headers and one header less."""
    head, _, body = answer.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    names = {"content-length", "x-amz-crc32", without}
    kept = [line for line in lines if line.partition(":")[0].lower() not in names]
    body = change(body)
    lines = [start, *kept, *more, f"content-length: {len(body)}", f"x-amz-crc32: {crc32(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP message, chunked or with a content length; return b"" when the connection ends."""
    try:
        message = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    headers = dict(line.lower().split(b":", 1) for line in message.split(b"\r\n")[1:] if line)
    if b"content-length" in headers:
        return message + await reader.readexactly(int(headers[b"content-length"]))
    size = None if b"transfer-encoding" in headers else 0  # a GET has no body
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        message += line + await reader.readexactly(size + 2)
    return message


@asynccontextmanager
async def proxy_to(endpoint: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(endpoint)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(proxy.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in (*tasks, *proxy.late):
            task.cancel()
        await asyncio.gather(*tasks, *proxy.late, return_exceptions=True)
