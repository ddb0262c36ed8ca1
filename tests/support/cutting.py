"""A proxy of TCP that cuts connections at random, between any two bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Cutter:
    """Forwards connections to a port of this machine. `cuts` counts those that it has cut.

    Of each connection, up to `most` bytes of the answers are forwarded, chosen at random; None: all of them.
    """

    def __init__(self, port: int, seed: int, most: int | None) -> None:
        self.port = 0  # of the proxy
        self.most = most
        self.cuts = 0
        self._target, self._chance = port, random.Random(seed)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = None if self.most is None else self._chance.randrange(self.most)
        with suppress(OSError):
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
            requests = asyncio.create_task(self._copy(reader, there, None))
            try:
                if await self._copy(there_reader, writer, left):
                    self.cuts += 1
            finally:
                requests.cancel()
                await asyncio.wait((requests,))
                there.close()
        writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: int | None) -> bool:
        """Forward bytes until the source ends. Return whether the limit came first."""
        with suppress(OSError):
            while chunk := await source.read(65536):
                if left is not None and len(chunk) > left:
                    target.write(chunk[:left])
                    await target.drain()
                    return True
                left = None if left is None else left - len(chunk)
                target.write(chunk)
                await target.drain()
        return False


@asynccontextmanager
async def cutting(port: int, seed: int = 1, most: int | None = 4000) -> AsyncIterator[Cutter]:
    cutter = Cutter(port, seed, most)
    server = await asyncio.start_server(cutter.handle, "127.0.0.1", 0)
    cutter.port = server.sockets[0].getsockname()[1]
    try:
        yield cutter
    finally:
        server.close()
