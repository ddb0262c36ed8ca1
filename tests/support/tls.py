"""Servers with TLS on this machine, and a proxy that leads to them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import trustme

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server(NamedTuple):
    port: int
    connections: list[object]  # one for each connection, also for those whose handshake failed

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@asynccontextmanager
async def serve(accept: Accept) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()
    connections: list[object] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):  # asyncio would log a task that was cancelled
                await accept(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    yield Server(server.sockets[0].getsockname()[1], connections)
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str | None, port: int) -> None:
    there, back = await asyncio.open_connection(host, port)
    try:
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
    finally:
        back.close()


@asynccontextmanager
async def encrypted(endpoint: str, certificate: trustme.LeafCert | ssl.SSLContext) -> AsyncIterator[Server]:
    """Open an https endpoint with this certificate, which forwards to this endpoint."""
    parts = urlsplit(endpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if isinstance(certificate, ssl.SSLContext):
        context = certificate
    else:
        certificate.configure_cert(context)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        await _forward(reader, writer, parts.hostname, parts.port or 80)

    async with serve(accept) as server:
        yield server


@asynccontextmanager
async def tunnel() -> AsyncIterator[Server]:
    """Open a proxy for https."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        host, _, port = head.split()[1].decode().rpartition(":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _forward(reader, writer, host, int(port))

    async with serve(accept) as server:
        yield server
