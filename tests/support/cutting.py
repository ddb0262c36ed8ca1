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
        self.tasks = set[asyncio.Task[None]]()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        left = None if self.most is None else self._chance.randrange(self.most)
        with suppress(OSError):
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
            requests = asyncio.create_task(self._copy(reader, there, None))
            answers = asyncio.create_task(self._copy(there_reader, writer, left))
            try:  # the first end is that of both
                await asyncio.wait((requests, answers), return_when=asyncio.FIRST_COMPLETED)
                self.cuts += answers.done() and answers.result()
            finally:
                for copying in (requests, answers):
                    copying.cancel()
                await asyncio.wait((requests, answers))
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
        for task in cutter.tasks:
            task.cancel()
        if cutter.tasks:
            await asyncio.wait(cutter.tasks)
