"""DynamoDB Local as a container, by testcontainers."""

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
from .guard import JVM, PING_SECONDS, START_SECONDS, DynamoDBLocalUnavailable, guard, until_it_answers

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "amazon/dynamodb-local:3.3.1"

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


@asynccontextmanager
async def docker_server(port: int) -> AsyncIterator[str]:
    name = f"eventsrc-dynamodb-{uuid4().hex}"
    container = await asyncio.to_thread(_container, name, port)

    def state() -> tuple[bool, str]:
        running = container.get_wrapped_container()
        running.reload()
        return running.status == "running", _printed(container)

    with closing(container.get_docker_client().client):
        await asyncio.to_thread(_pull, container)
        async with guard(_GUARD_CONTAINER, name):
            starting = asyncio.ensure_future(asyncio.to_thread(_start, container))
            try:
                url = await asyncio.shield(starting)
            finally:
                await asyncio.wait([starting])  # cancelling does not stop a thread; the guard must not look before
            await until_it_answers(url, START_SECONDS, state)
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
        command = [*JVM, "-jar", "DynamoDBLocal.jar", "-inMemory", "-disableTelemetry"]
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
