"""Requests to tables, over a client that is made here: each is sent until its answer is definite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from ....errors import StoreRejected
from ....usage import Usage
from ...limits import check_deadline
from .client import Client, ServiceError
from .outcomes import refusal, send
from .responses import Answer, Batch, Transacted, ask
from .sdk import SDKClient, is_of_aws, open_sdk

T = TypeVar("T", bound=Answer | Transacted | Batch)

_READS = frozenset({"GetItem", "Query", "Scan", "BatchGetItem"})


class Requests:
    """For a store, and for what else keeps items: client, connections and deadline. The settings are the store's."""

    def __init__(
        self,
        *,
        region_name: str | None,
        endpoint_url: str | None,
        session: Any,
        client: Any,
        plain_http: bool,
        deadline: float,
        max_connections: int,
    ) -> None:
        if client is not None and (session, region_name, endpoint_url) != (None, None, None):
            raise ValueError("give client, or session, region_name and endpoint_url: a client has its own")
        check_deadline(deadline)
        if max_connections < 1:
            raise ValueError("max_connections must be above 0")
        self.session, self.region_name, self.endpoint_url = session, region_name, endpoint_url
        self.deadline, self.max_connections = deadline, max_connections
        self._given, self._plain_http = client, plain_http
        self._connections = asyncio.Semaphore(max_connections)
        self._stack = AsyncExitStack()
        self.sdk: Any = None  # the SDK's client, which administers tables
        self.client: Client | None = None  # None while it is not open

    async def open(self) -> None:
        async with AsyncExitStack() as stack:  # closes what is open already if the rest fails
            self.sdk, self.client = await self._clients(stack)
            self._stack = stack.pop_all()
        self._connections = asyncio.Semaphore(self.max_connections)

    async def aclose(self) -> None:
        """Nothing may be in flight."""
        self.client = None
        await self._stack.aclose()

    async def send(self, operation: str, request: dict[str, Any], kind: type[T], used: Usage) -> T:
        """Raises ServiceError for a definite refusal, as `outcome.send`, and DeadlinePassed."""
        return await send(self._tries(operation, request, kind, used), self._connections, self.deadline)

    async def batch(self, operation: str, request: dict[str, Any], used: Usage) -> list[Batch]:
        """BatchGetItem or BatchWriteItem, to its end: what the service leaves out is sent again. Raises as `send`."""
        answers: list[Batch] = []
        rest = dict(request)
        sent = self._tries(operation, rest, Batch, used)

        async def once() -> None:
            answers.append(answer := await sent())
            if left := answer.UnprocessedKeys or answer.UnprocessedItems:
                rest["RequestItems"] = left
                raise ServiceError("ThrottlingException", 400)  # which is why it leaves things out

        await send(once, self._connections, self.deadline)
        return answers

    def _tries(self, operation: str, request: dict[str, Any], kind: type[T], used: Usage) -> Callable[[], Awaitable[T]]:
        """What sends it once, and counts."""
        client, tries = self.client, 0
        assert client is not None

        async def once() -> T:
            nonlocal tries
            tries += 1
            used.requests += 1
            used.retries += tries > 1
            try:
                answer = await ask(client, operation, request, kind)
            except ServiceError as error:
                failure = refusal(error)
            else:
                if operation in _READS:
                    used.read_units += answer.units
                else:
                    used.write_units += answer.units
                return answer
            raise failure  # outside the handler: it stands for the other one

        return once

    async def _clients(self, stack: AsyncExitStack) -> tuple[Any, Client]:
        """The SDK's client and the one that is used, open until `stack` closes."""
        if self._given is not None:
            return self._given, SDKClient(self._given)
        from .signed_client import SignedClient, is_proxied  # here: it imports the SDK

        sdk, credentials, ca_bundle = await self._open_sdk(stack, "dynamodb", self.endpoint_url)
        endpoint = sdk.meta.endpoint_url
        if is_proxied(endpoint):
            return sdk, SDKClient(sdk)
        client = SignedClient(endpoint, sdk.meta.region_name, credentials, ca_bundle, timeout=self.deadline / 2)
        stack.push_async_callback(client.aclose)
        return sdk, client

    async def open_streams(self) -> Client:
        """A client of tables' streams, at the same place, open as long as this is. Raises StoreRejected."""
        if self._given is not None:
            raise StoreRejected("STREAMS_CLIENT", "a store that was given a client needs a streams_client for its feed")
        endpoint = self.sdk.meta.endpoint_url  # the service has another for streams; all else serves both at one
        sdk, _, _ = await self._open_sdk(self._stack, "dynamodbstreams", None if is_of_aws(endpoint) else endpoint)
        return SDKClient(sdk)

    async def _open_sdk(self, stack: AsyncExitStack, service: str, endpoint_url: str | None) -> tuple[Any, Any, Any]:
        return await open_sdk(
            stack,
            service=service,
            session=self.session,
            region_name=self.region_name,
            endpoint_url=endpoint_url,
            plain_http=self._plain_http,
            max_connections=self.max_connections,
            timeout=self.deadline / 2,
        )
