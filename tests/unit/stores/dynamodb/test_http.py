"""Responses are parsed however they are split, each belongs to its request, and no connection is left open."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc.stores.dynamodb.wire.client import NotSent
from eventsrc.stores.dynamodb.wire.http import BadResponse, HttpConnection, Pool, ResponseParser

BODY = b'{"Item":{}}'
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Amz-Crc32: 7\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-amz-crc32:7 \t\r\n\r\n4\r\n" + BODY[:4] + b"\r\n"
CHUNKED += b"7;name=value\r\n" + BODY[4:] + b"\r\n0\r\n"
WHOLE = {
    "length": LENGTH,
    "chunks": CHUNKED + b"\r\n",
    "trailers": CHUNKED + b"one: 1\r\ntwo: 2\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Amz-Crc32: 8\r\n\r\n" + LENGTH,
}
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nX-Amz-Crc32: 7\r\n\r\n" + BODY


class Wire:
    """A transport that a connection writes to. It closes at once."""

    def __init__(self) -> None:
        self.closed = False

    unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


async def parse_pieces(pieces: list[bytes], *, ends: bool = False) -> tuple[bytes, HttpConnection]:
    """Return the body of a response that arrives in these pieces, and its connection."""
    connection = HttpConnection(set())
    connection.connection_made(Wire())
    waiting = asyncio.ensure_future(connection.exchange(b"request"))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    if ends:
        connection.connection_lost(None)
    status, headers, body = await waiting
    assert (status, headers["x-amz-crc32"]) == (200, "7")
    return body, connection


@settings(max_examples=60)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(0, 200), max_size=6))
def test_a_response_may_be_split_anywhere(kind: str, cuts: list[int]) -> None:
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(WHOLE[kind])}), len(WHOLE[kind])]
    pieces = [WHOLE[kind][start:end] for start, end in itertools.pairwise(places)]
    body, connection = asyncio.run(parse_pieces(pieces))
    assert body == BODY
    assert connection.is_usable


@pytest.mark.parametrize("kind", WHOLE)
async def test_a_response_may_arrive_byte_by_byte(kind: str) -> None:
    body, _ = await parse_pieces([bytes([byte]) for byte in WHOLE[kind]])
    assert body == BODY


async def test_a_response_without_a_length_ends_with_its_connection() -> None:
    body, connection = await parse_pieces([UNTIL_CLOSE[:60], UNTIL_CLOSE[60:]], ends=True)
    assert body == BODY
    assert not connection.is_usable


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH.replace(b"1.1", b"1.0"),
        LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"),
        LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\nConnection: TE\r\n\r\n"),
        LENGTH.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, close\r\n\r\n"),
        LENGTH + b"HTTP/1.1 200 OK",
        LENGTH + LENGTH,
        LENGTH + b"\r\n",
        CHUNKED + b"\r\n\n",
    ],
    ids=[
        "1.0",
        "close",
        "close and more",
        "keep and close",
        "more",
        "two answers",
        "a blank line",
        "half a blank line",
    ],
)
async def test_a_response_that_is_the_last_of_its_connection(answer: bytes) -> None:
    body, connection = await parse_pieces([answer])
    assert body == BODY
    assert not connection.is_usable


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nname: " + b"a" * 70_000,
        LENGTH.replace(b"\r\n", b"\r\nname: " + b"a" * 70_000 + b"\r\n", 1),
        LENGTH.replace(b"\r\n", b"\r\n" + b"a:\r\n" * 20_000, 1),
        LENGTH.replace(b"OK", b"O" * 70_000),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3_000 + LENGTH,
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_1\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nname: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
        # llhttp admits these:
        b"\r\n" + LENGTH,
        b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + LENGTH,
        LENGTH.replace(b"HTTP/1.1", b"HTTP/0.9"),
        LENGTH.replace(b"HTTP/1.1", b"HTTP/2.0"),
        LENGTH.replace(b"HTTP/1.1", b"RTSP/1.0"),
        LENGTH.replace(b"HTTP/1.1", b"ICE/1.1"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH.replace(b"HTTP/1.1", b"ICE/1.1"),
        LENGTH.replace(b"200", b"099"),
        LENGTH.replace(b"200", b"600"),
        *(CHUNKED.replace(b"chunked", coding) for coding in (b"gzip, chunked", b"chunked, gzip", b"xchunked")),
        *(CHUNKED.replace(b"chunked", coding) for coding in (b"chunked, chunked", b"chunked;q=1")),
        CHUNKED.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1),
        # The parser that was here before llhttp admitted these:
        LENGTH.replace(b"X-Amz", b"a: b\nX-Amz"),
        LENGTH.replace(b"X-Amz", b"a: b\rX-Amz"),
        LENGTH.replace(b"X-Amz", b"a: \0\r\nX-Amz"),
        LENGTH.replace(b"X-Amz", b"a b: c\r\nX-Amz"),
        LENGTH.replace(b"200", b"101"),
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + LENGTH,
        CHUNKED.replace(b"7;", b"7 ;"),
        CHUNKED + b"Content-Length: 11\r\n\r\n",
        CHUNKED + b"no trailer\r\n\r\n",
        # Others that could be read in two ways:
        LENGTH.replace(b"\r\n", b"\n"),
        LENGTH.replace(b": 11", b": +11"),
        LENGTH.replace(b": 11", b": 11, 11"),
        LENGTH.replace(b": 11", b": 11\r\n 1"),
        LENGTH.replace(b" 11", b""),
        LENGTH.replace(b": 11", b": 11\r\nContent-Length: 11"),
        LENGTH.replace(b": 11", b": 18446744073709551627"),
        LENGTH.replace(b": 11", b": " + b"0" * 5_000 + b"11"),
        CHUNKED.replace(b"chunked", b"chunked\r\nContent-Length: 11"),
        CHUNKED.replace(b"7;name=value\r\n", b"7;name=value\n"),
        CHUNKED.replace(b"7;name=value\r\n", b'7;name="\r\n'),
    ],
    ids=lambda answer: repr(answer[:60]),
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
async def test_a_malformed_response_is_refused_at_once(answer: bytes, cut: bool) -> None:
    with pytest.raises(BadResponse):
        await asyncio.wait_for(parse_pieces([answer[:7], answer[7:]] if cut else [answer]), 5)


@pytest.mark.parametrize("kind", [*WHOLE, "until close"])
async def test_a_response_that_ends_early_is_refused(kind: str) -> None:
    if kind == "until close":
        cut = UNTIL_CLOSE[:30]
    else:
        cut = WHOLE[kind][:-1]
    with pytest.raises(BadResponse):
        await parse_pieces([cut], ends=True)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED[:60]]))
def test_any_bytes_are_a_response_or_refused(noise: bytes, before: bytes) -> None:
    async def take() -> None:
        connection = HttpConnection(set())
        connection.connection_made(Wire())
        waiting = asyncio.ensure_future(connection.exchange(b"request"))
        await asyncio.sleep(0)
        connection.data_received(before + noise)
        connection.connection_lost(None)
        try:
            await waiting
        except BadResponse:
            assert not connection.is_usable

    asyncio.run(take())


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[tuple[Pool, list[asyncio.StreamWriter]]]:
    """Open a pool of connections to a server with this handler, and return it with the server's writers."""
    connections: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], None)
    try:
        yield pool, connections
    finally:
        await pool.aclose()
        assert not pool._open
        server.close()
        await server.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # nothing reports when the other end of a socket has noticed
        await asyncio.sleep(0.001)


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(answer(line))


async def test_connections_are_used_again_and_opened_as_needed() -> None:
    async with served(echo) as (pool, connections):
        for number in range(5):
            assert (await pool.exchange(b"%d\n" % number)).body == b"%d\n" % number
        assert len(connections) == 1
        answers = await asyncio.gather(*(pool.exchange(b"%d\n" % number) for number in range(8)))
        assert [each.body for each in answers] == [b"%d\n" % number for number in range(8)]
        assert len(connections) == 8
        await pool.exchange(b"again\n")
        assert len(connections) == 8


async def test_after_a_cancellation_the_next_request_gets_its_own_response() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line == b"slow\n":
            await asyncio.wait_for(going_on.wait(), 5)
        writer.write(answer(line))
        await writer.drain()

    going_on = asyncio.Event()
    async with served(late) as (pool, connections):
        slow = asyncio.ensure_future(pool.exchange(b"slow\n"))
        await until(lambda: bool(connections))
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert not pool._open
        going_on.set()
        assert (await pool.exchange(b"next\n")).body == b"next\n"


async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    async with served(echo) as (pool, connections):
        await pool.exchange(b"one\n")
        connections[0].close()
        await until(lambda: not pool._open)
        assert (await pool.exchange(b"two\n")).body == b"two\n"


async def test_a_connection_that_was_idle_for_long_is_not_used() -> None:
    async with served(echo) as (pool, connections):
        await pool.exchange(b"one\n")
        pool._idle[0].idle_since -= 60
        await pool.exchange(b"two\n")
        assert len(connections) == 2


async def test_a_response_without_a_request_closes_the_connection() -> None:
    async with served(echo) as (pool, connections):
        await pool.exchange(b"one\n")
        connections[0].write(answer(b"timed out"))
        await until(lambda: not pool._open)
        assert (await pool.exchange(b"two\n")).body == b"two\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a" * 80])
async def test_a_failed_connection_sends_nothing(host: str) -> None:
    async with served(echo) as (pool, _):
        port = pool._port
    with pytest.raises(NotSent):
        await Pool(host, port, None).exchange(b"one\n")


async def test_an_address_that_does_not_respond_is_skipped_and_the_next_one_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host has several addresses. The first one does not accept connections any more."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as deaf:
        port, address = deaf.getsockname()[1], deaf.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # they fill its queue
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        server = await asyncio.start_server(answering_once, "127.0.0.1", port)
        loop, asked = asyncio.get_running_loop(), []

        async def two_addresses(*_: Any, **__: Any) -> list[Any]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

        async def connect(each: socket.socket, to: Any) -> None:
            asked.append(to[0])
            await connects(each, to)

        connects = loop.sock_connect
        monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
        monkeypatch.setattr(loop, "sock_connect", connect)
        monkeypatch.setattr("eventsrc.stores.dynamodb.wire.http._ADDRESS_TIMEOUT", 0.05)
        pool = Pool("two.example", port, None)
        async with server:
            assert (await pool.exchange(b"one\n")).body == b"one\n"
            await until(lambda: not pool._open)
            assert (await pool.exchange(b"two\n")).body == b"two\n"
        await pool.aclose()
        for each in waiting:
            each.close()
    assert asked == ["127.0.0.2", "127.0.0.1", "127.0.0.1"]


async def answering_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(await reader.readline()))
    writer.close()


async def test_connections_that_were_idle_for_long_are_closed_while_others_are_in_use() -> None:
    async with served(echo) as (pool, connections):
        await asyncio.gather(*(pool.exchange(b"%d\n" % number) for number in range(5)))
        for connection in pool._idle[:4]:
            connection.idle_since -= 60
        await pool.exchange(b"again\n")
        await until(lambda: len(pool._open) == 1)
        assert len(connections) == 5


async def test_a_connection_that_was_aborted_before_it_was_made_is_closed() -> None:
    opened: set[HttpConnection] = set()
    connection, wire = HttpConnection(opened), Wire()
    connection.abort()
    connection.connection_made(wire)
    assert wire.closed
    assert not opened


async def test_a_response_before_the_request_is_sent_is_the_last() -> None:
    connection = HttpConnection(set())
    connection.connection_made(wire := Wire())
    waiting = asyncio.ensure_future(connection.exchange(b"request"))
    await asyncio.sleep(0)
    wire.unsent = 7
    connection.data_received(LENGTH)
    assert (await waiting).body == BODY
    assert not connection.is_usable


async def test_a_server_that_stops_reading_and_closes_is_not_waited_for() -> None:
    connection = HttpConnection(set())
    connection.connection_made(wire := Wire())
    wire.unsent = 7
    connection.eof_received()
    assert wire.closed


async def test_many_small_chunks_are_parsed_as_they_arrive() -> None:
    body = b"0123456789" * 5_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-amz-crc32: 7\r\n\r\n"
    whole = head + chunks + b"0\r\n\r\n"
    found, connection = await parse_pieces([whole[at : at + 1_460] for at in range(0, len(whole), 1_460)])
    assert found == body
    assert connection.is_usable


@pytest.mark.parametrize(
    "head",
    [b"", b"Transfer-Encoding: chunked\r\n\r\nfffffffff", b"Transfer-Encoding: chunked\r\n\r\n0\r\nlong: "],
    ids=["until close", "chunk", "trailer"],
)
async def test_a_response_of_unknown_length_is_refused_when_it_is_too_large(head: bytes) -> None:
    piece = b"a" * 1024 * 1024
    with pytest.raises(BadResponse):
        await asyncio.wait_for(parse_pieces([b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"] + [piece] * 65), 5)


async def test_a_coding_that_llhttp_does_not_read_as_chunked_is_refused_at_the_end_at_the_latest() -> None:
    with pytest.raises(BadResponse):
        await parse_pieces([CHUNKED.replace(b"chunked", b"chunked\t") + b"\r\n"], ends=True)


@pytest.mark.parametrize("end", [b"\r\n", b"X-Amz-Crc32: 8\r\n\r\n"], ids=["none", "the same"])
async def test_trailers_are_not_headers(end: bytes) -> None:
    body, _ = await parse_pieces([CHUNKED + end])
    assert body == BODY


@pytest.mark.parametrize("head", [b"", b"Content-Length: 11\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_needs_no_length(status: int, head: bytes) -> None:
    connection = HttpConnection(set())
    connection.connection_made(Wire())
    waiting = asyncio.ensure_future(connection.exchange(b"request"))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 %d \r\n%b\r\n" % (status, head))
    found = await waiting
    assert (found.status, found.body) == (status, b"")
    assert connection.is_usable


def test_a_signal_during_parsing_ends_the_program() -> None:
    """httptools catches whatever a callback raises."""

    class Interrupted(ResponseParser):
        def on_body(self, body: bytes) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
