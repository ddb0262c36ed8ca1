"""A proxy in front of a service, DynamoDB Local mostly, that counts requests and does to each what a script says."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

PASS, LOST, ANSWER_LOST, HALF_ANSWER, STALL = "pass", "lost", "answer lost", "half an answer", "stall"
FLIP = "flip"  # a bit of the answer's body
RESET = "reset"  # the service has done it; the client sees the connection reset, not closed
TWICE = "twice"  # the service gets it twice, and the first answer counts
LATE = "late"  # the connection breaks, and the service gets it afterwards
SLOW = "slow"
CRAWL = "crawl"  # so slowly that whoever has a short deadline has given up, and it is done all the same
HOLD = "hold"  # until `go_on`; then the service gets it, also when nobody waits for the answer any more

_SLOWNESS, _CRAWLING = 0.3, 1.5  # seconds

_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends RST instead of FIN


class Answer(NamedTuple):
    """What the proxy answers instead of the service; `forwarded` first or not."""

    status: int
    body: bytes
    forwarded: bool = False
    date: str = ""  # what the service's clock says


def error(code: str, status: int = 400, *, forwarded: bool = False) -> Answer:
    """An error as the service words it."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "scripted"}
    return Answer(status, json.dumps(body).encode(), forwarded)


def condition_failed(*, forwarded: bool = False) -> Answer:
    """A failed condition without the item that stood there, as older emulators answer."""
    return error("ConditionalCheckFailedException", forwarded=forwarded)


Fault = str | Answer


class Proxy:
    """`faults` is taken from the front, a fault a request; when it is empty, `then` holds."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.operations: list[str] = []
        self.heads: list[dict[str, str]] = []  # the headers of each request
        self.faults: list[Fault] = []
        self.then: Fault = PASS
        self.forwarded = 0
        self.choose: Callable[[], Fault] | None = None  # instead of the script
        self.late: set[asyncio.Task[bytes]] = set()  # requests that are still to be carried out
        self.go_on = asyncio.Event()
        self.arrived = asyncio.Event()
        self.url = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many requests there were of each operation."""
        return dict(Counter(self.operations))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while request := await _message(reader):
                    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
                    self.heads.append({name.lower(): value for name, value in (line.split(": ", 1) for line in lines)})
                    self.operations.append(self.heads[-1].get("x-amz-target", "").rpartition(".")[2])
                    self.arrived.set()
                    scripted = self.faults.pop(0) if self.faults else self.then
                    fault = self.choose() if self.choose else scripted
                    if not await self._answer(request, writer, fault):
                        break
        finally:
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
        if fault == HALF_ANSWER:
            writer.write(answer[: len(answer) - 20])
            await writer.drain()
            return False
        if isinstance(fault, Answer):
            head = f"HTTP/1.1 {fault.status} scripted\r\nContent-Length: {len(fault.body)}\r\n"
            head += f"Date: {fault.date}\r\n" if fault.date else ""
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
            return await _message(reader)
        finally:
            self.forwarded += 1
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message, its body in chunks or of a length; empty when the connection ends."""
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
