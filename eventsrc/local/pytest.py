"""A pytest plugin: `pytest_plugins = ["eventsrc.local.pytest"]` adds the fixture `dynamodb_endpoint`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import dynamodb_local


@pytest.fixture(scope="session")
def dynamodb_endpoint() -> Iterator[str]:
    """The URL of a DynamoDB Local that runs for the whole session (under xdist, one for each worker).

    It works with every async plugin, and without one: the server has its own event loop, in its own thread. If no
    server is available, it fails; it never skips. `eventsrc.local.dynamodb_local` describes how a server is found.
    """
    with ThreadPoolExecutor(1, "dynamodb-local") as thread:
        server = _serve()
        yield thread.submit(next, server).result()
        thread.submit(next, server, None).result()


def _serve() -> Iterator[str]:
    with asyncio.Runner() as runner:
        server = dynamodb_local()
        yield runner.run(server.__aenter__()).endpoint_url
        runner.run(server.__aexit__(None, None, None))
