"""A proxy in front of DynamoDB that counts requests, units and bytes in the same way for every library.

It can add a delay. It requests the consumed capacity where the client does not. DynamoDB Local accepts such a changed
request because it does not check signatures. DynamoDB bills a refused write but does not report its units, so they are
missing from the counts.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

_READS = frozenset({"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"})
_STREAMS = frozenset({"ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"})
_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"})


@dataclass
class Counts:
    """Requests, units and bytes that passed the proxy."""

    operations: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)  # requests to DynamoDB Streams
    read_units: float = 0.0
    write_units: float = 0.0
    bytes_sent: int = 0  # bodies of requests
    bytes_received: int = 0

    @property
    def requests(self) -> int:
        return self.operations.total()


class CountingProxy:
    """Forward requests and count them. `delay` is added to each request, in seconds, like a longer network path."""

    def __init__(self, endpoint: str, http: aiohttp.ClientSession) -> None:
        self._endpoint, self._http = endpoint, http
        self.delay = 0.0
        self.counts = Counts()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        body = await request.read()
        if operation in _STREAMS:
            self.counts.streams[operation] += 1
        if operation in _READS | _WRITES:
            self.counts.operations[operation] += 1
            self.counts.bytes_sent += len(body)
            if b'"ReturnConsumedCapacity"' not in body:
                body = json.dumps({**json.loads(body), "ReturnConsumedCapacity": "TOTAL"}).encode()
        if self.delay:
            await asyncio.sleep(self.delay)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _BETWEEN}
        async with self._http.post(self._endpoint, data=body, headers=headers) as answer:
            content = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _BETWEEN}
        if operation in _READS | _WRITES:
            self._count(operation, content)
        return web.Response(status=answer.status, body=content, headers=kept)

    def _count(self, operation: str, content: bytes) -> None:
        self.counts.bytes_received += len(content)
        consumed: Any = json.loads(content).get("ConsumedCapacity", [])
        units = sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else [consumed]))
        if operation in _READS:
            self.counts.read_units += units
        else:
            self.counts.write_units += units


_BETWEEN = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


@asynccontextmanager
async def counting(endpoint: str) -> AsyncIterator[CountingProxy]:
    """Run a proxy on this machine that forwards to `endpoint`."""
    async with aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=512)) as http:
        proxy = CountingProxy(f"{endpoint}/", http)
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_post("/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()
