"""The guard that ends a server with its user, and the wait until a server answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from ..log import log

State = Callable[[], tuple[bool, str]]  # whether a server may still start to answer, and its output

START_SECONDS = 60
PING_SECONDS = 2
POLL_SECONDS = 0.05

# The bound on the heap leaves room for one server per test worker (data is outside the heap, in SQLite). The other
# options suit a short life: the first 9,000 puts take half the CPU that they take with the JVM's defaults, and a start
# takes 1.0 s, not 1.6 s.
JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class DynamoDBLocalUnavailable(RuntimeError):
    """DynamoDB Local is not available. The text says what was tried, why it failed, and what to install."""


@asynccontextmanager
async def guard(program: str, *arguments: str, cwd: Path | None = None) -> AsyncIterator[State]:
    """Run a guard until the block ends. It has its own session, so that Ctrl-C does not reach it."""
    with tempfile.TemporaryFile() as output:
        guard = subprocess.Popen(  # noqa: ASYNC220  # synchronous, so that it cannot be cancelled halfway
            [sys.executable, "-P", "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )

        def state() -> tuple[bool, str]:
            printed = os.pread(output.fileno(), 1 << 16, 0).decode(errors="replace")  # keeps the writer's offset
            failed = 'Exception in thread "main"' in printed  # the JVM keeps running after it
            return guard.poll() is None and not failed, printed

        try:
            yield state
        finally:
            # A byte, because a forked child of this process may keep the pipe open.
            await asyncio.to_thread(guard.communicate, b"\n")
            if guard.returncode:
                log.warning("DynamoDB Local was not ended: %s", state()[1])


async def wait_until_answering(url: str, seconds: float, state: State) -> None:
    """Wait until `url` answers HTTP.

    Raises:
        DynamoDBLocalUnavailable: the server has ended, or `seconds` have passed. The text has the server's output.
    """
    give_up = time.monotonic() + seconds
    while failure := await asyncio.to_thread(_probe, url):
        may_answer, output = await asyncio.to_thread(state)
        if not may_answer or time.monotonic() > give_up:
            printed = f"; the server printed:\n{output.strip()}" if output else ""
            raise DynamoDBLocalUnavailable(f"no answer from {url} ({failure}){printed}")
        await asyncio.sleep(POLL_SECONDS)


def _probe(url: str) -> Exception | None:
    """Return why `url` does not answer HTTP; None if it does, with any status."""
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
