"""The connection to DynamoDB: its settings, and its clients while it is open."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from ....errors import StoreRejected
from ...limits import check_deadline
from .client import Client, divide
from .endpoints import find_streams_settings, is_proxied
from .limits import Limits
from .sdk import OpenedClient, SDKClient, open_sdk, warn_of_retries
from .session import check_installed, core_session, new_session

DEADLINE = 10.0
"""Seconds that a call may take, including retries."""
MAX_CONNECTIONS = 64
"""The limit of requests in flight."""


class Connection:
    """The clients of one owner. While they are open, they belong to one event loop.

    The settings are those of `DynamoDBStore`. A client that the caller passes (`client`, `streams_client`) is never
    closed.

    Raises:
        ValueError: settings contradict each other.
        ModuleNotFoundError: there is no `client`, and the packages for making one are not installed.
    """

    def __init__(
        self,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        client: Any = None,
        streams_client: Any = None,
        plain_http: bool = False,
        deadline: float = DEADLINE,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        if client is not None and (session, region_name, endpoint_url) != (None, None, None):
            raise ValueError(
                "pass either client, or session, region_name and endpoint_url: a client has its own region and endpoint"
            )
        if client is None:
            check_installed()
        check_deadline(deadline)
        if max_connections < 1:
            raise ValueError("max_connections must be above 0")
        self.session, self.region_name, self.endpoint_url = session, region_name, endpoint_url
        self.deadline, self.max_connections = deadline, max_connections
        self._given, self._given_streams, self._plain_http = client, streams_client, plain_http
        self._timeout = sum(divide(deadline))  # seconds of one try
        self._stack = AsyncExitStack()
        self._session: Any = None  # while the connection is open, also if none was passed
        self._endpoint = ""
        self.limits = Limits(deadline, max_connections)
        self.sdk: Any = None  # the SDK's client, which administers tables
        self.client: Client | None = None  # None while the connection is not open

    async def open(self) -> None:
        """Open the clients. Raises StoreRejected as `sdk.open_client`."""
        async with AsyncExitStack() as stack:  # closes the clients that are open if a later one fails
            self.sdk, self.client = await self._open_clients(stack)
            self._stack = stack.pop_all()
        self.limits = Limits(self.deadline, self.max_connections)

    async def aclose(self) -> None:
        """Close the clients. No request may be in flight."""
        self.client = None
        await self._stack.aclose()

    def administer(self) -> Client:
        """Return a client for requests that administer tables. It is the SDK's."""
        return SDKClient(self.sdk, None if self._given is not None else self._timeout)

    async def open_streams(self) -> Client:
        """Return a client of DynamoDB Streams, which is open as long as the connection is.

        Raises StoreRejected if `client` was passed without `streams_client`, and as `sdk.open_client`.
        """
        if self._given_streams is not None:
            return SDKClient(self._given_streams)
        if self._given is not None:
            raise StoreRejected("STREAMS_CLIENT", "a store with a client needs a streams_client for its feed; pass one")
        settings = find_streams_settings(core_session(self._session), self.sdk, self._endpoint)
        opened = await self._open_sdk(self._stack, "dynamodbstreams", **settings)
        return SDKClient(opened.client, self._timeout)

    async def _open_clients(self, stack: AsyncExitStack) -> tuple[Any, Client]:
        """Return the SDK's client and the client for requests. Both are open until `stack` closes."""
        if self._given is not None:
            warn_of_retries(self._given)
            return self._given, SDKClient(self._given)
        from .credentials import CredentialSource  # imported here, because these need packages of the extra
        from .signed_client import SignedClient

        self._session = self.session or new_session()
        sdk, self._endpoint, tls = await self._open_sdk(stack, "dynamodb", endpoint_url=self.endpoint_url)
        if is_proxied(self._endpoint, sdk.meta.config.proxies):
            return sdk, SDKClient(sdk, self._timeout)
        credentials, region = CredentialSource(self._session), sdk.meta.region_name
        client = SignedClient(self._endpoint, region, credentials, tls=tls, deadline=self.deadline)
        stack.push_async_callback(client.aclose)
        return sdk, client

    async def _open_sdk(self, stack: AsyncExitStack, service: str, **settings: Any) -> OpenedClient:
        return await open_sdk(
            stack,
            service,
            session=self._session,
            region_name=self.region_name,
            plain_http=self._plain_http,
            max_connections=self.max_connections,
            deadline=self.deadline,
            **settings,
        )
