"""DynamoDB Local as a container, started by testcontainers."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from ..log import log
from .guard import JVM, PING_SECONDS, START_SECONDS, DynamoDBLocalUnavailable, guard, wait_until_answering

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "amazon/dynamodb-local:3.3.1"

_GUARD_CONTAINER = """
import os, sys, time
asked = os.read(0, 1)
from testcontainers.core.docker_client import DockerClient
containers, named = DockerClient().client.containers, {"name": sys.argv[1]}
give_up = time.monotonic() + (0 if asked else 30)  # a process that was killed may have been creating it
while not (found := containers.list(all=True, ignore_removed=True, filters=named)) and time.monotonic() < give_up:
    time.sleep(0.2)
for container in found:
    container.remove(force=True, v=True)
"""


@asynccontextmanager
async def docker_server(port: int) -> AsyncIterator[str]:
    name = f"eventsrc-dynamodb-{uuid4().hex}"
    container = await asyncio.to_thread(_make_container, name, port)

    def state() -> tuple[bool, str]:
        running = container.get_wrapped_container()
        running.reload()
        return running.status == "running", _read_logs(container)

    with closing(container.get_docker_client().client):
        await asyncio.to_thread(_pull, container)
        async with guard(_GUARD_CONTAINER, name):
            starting = asyncio.ensure_future(asyncio.to_thread(_start, container))
            try:
                url = await asyncio.shield(starting)
            finally:
                await asyncio.wait([starting])  # cancelling does not stop the thread; the guard acts after it
            await wait_until_answering(url, START_SECONDS, state)
            yield url


def _make_container(name: str, port: int) -> DockerContainer:
    """Return the container to start, if an engine answers."""
    try:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError:
        raise DynamoDBLocalUnavailable("the package testcontainers is not installed") from None
    with _raise_unavailable("no Docker engine answers", logging.DEBUG):
        scheme, _, address = (get_docker_host() or "unix:///var/run/docker.sock").partition("://")
        if scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:  # if this fails, docker would leave a socket open and warn
                probe.connect(address)
        DockerClient(timeout=PING_SECONDS).client.close()
        command = [*JVM, "-jar", "DynamoDBLocal.jar", "-inMemory", "-disableTelemetry"]
        return DockerContainer(IMAGE).with_name(name).with_command(command).with_bind_ports(8000, port or None)


def _pull(container: DockerContainer) -> None:
    docker = container.get_docker_client().client
    with _raise_unavailable(f"a Docker engine answers, but the image {container.image} is not available"):
        if not docker.images.list(name=container.image):
            log.info("pulling %s", container.image)
            docker.images.pull(container.image)


def _start(container: DockerContainer) -> str:
    """Start the container and return its URL. Ryuk is off: the guard does the same, without image and privilege."""
    from testcontainers.core.config import testcontainers_config as config

    with _ryuk_switch, _raise_unavailable("the container does not start"):
        configured, config.ryuk_disabled = config.ryuk_disabled, True
        try:
            container.start()
        finally:
            config.ryuk_disabled = configured
        try:
            port = int(container.get_exposed_port(8000))
        except OSError as error:  # the container has ended already
            raise OSError(f"{error}; it printed:\n{_read_logs(container)}") from None
        return f"http://{_find_host(container, port)}:{port}"


def _find_host(container: DockerContainer, port: int) -> str:
    """Return the host of the published port: this one, or testcontainers' answer if the engine runs elsewhere."""
    try:
        socket.create_connection(("127.0.0.1", port), PING_SECONDS).close()
    except OSError:
        return str(container.get_container_host_ip())
    return "127.0.0.1"


def _read_logs(container: DockerContainer) -> str:
    logs: bytes = container.get_wrapped_container().logs()
    return logs.decode(errors="replace")


_ryuk_switch = threading.Lock()


@contextmanager
def _raise_unavailable(what: str, level: int = logging.WARNING) -> Iterator[None]:
    """Log any error, and raise DynamoDBLocalUnavailable: docker, requests, ssh and testcontainers raise their own."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # see above
        log.log(level, "%s (%s)", what, error)
        raise DynamoDBLocalUnavailable(f"{what} ({error})") from None
