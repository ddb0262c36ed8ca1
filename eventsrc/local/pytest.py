"""A pytest plugin: `pytest_plugins = ["eventsrc.local.pytest"]` gives the fixture `dynamodb_endpoint`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import dynamodb_local


@pytest.fixture(scope="session")
def dynamodb_endpoint() -> Iterator[str]:
    """The URL of a DynamoDB Local that is there for the whole session (under xdist: one for each worker).

    It works with any async plugin and with none: the server's own event loop is private, in a thread of its own.
    It fails, and never skips, when no server can be had; `eventsrc.local` says where it comes from.
    """
    with ThreadPoolExecutor(1, "dynamodb-local") as thread:
        server = _served()
        yield thread.submit(next, server).result()
        thread.submit(next, server, None).result()


def _served() -> Iterator[str]:
    with asyncio.Runner() as runner:
        server = dynamodb_local()
        yield runner.run(server.__aenter__()).endpoint_url
        runner.run(server.__aexit__(None, None, None))
