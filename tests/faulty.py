"""What the proxy cannot do by itself: reset a connection once the service has answered, and count by operation."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy import Fault, Proxy, error

RESET = "reset"  # the service has done it; the client sees the connection reset, not closed

_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends RST instead of FIN


def condition_failed(*, forwarded: bool = False) -> Fault:
    """A failed condition without the item that stood there, as older emulators answer."""
    return error("ConditionalCheckFailedException", forwarded=forwarded)


class FaultyProxy(Proxy):
    @property
    def counts(self) -> dict[str, int]:
        """How many requests there were of each operation."""
        return dict(Counter(self.operations))

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        if fault != RESET:
            return await super()._answer(request, writer, fault)
        await self._forward(request)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return False


@asynccontextmanager
async def faulty_proxy(endpoint: str) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(endpoint)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(proxy.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:  # some stall for ever
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
