"""A server for as long as a block lasts, and not longer: the guard, and the wait until it answers."""

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

State = Callable[[], tuple[bool, str]]  # whether a server may yet answer, and what it printed

START_SECONDS = 60
PING_SECONDS = 2
POLL_SECONDS = 0.05

# The bound on the heap lets one server per test worker fit (data is kept outside of it, by SQLite). The other two
# suit a short life: half the CPU of the JVM's defaults over the first 9,000 puts, and a start in 1.0 s, not 1.6 s.
JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class DynamoDBLocalUnavailable(RuntimeError):
    """No DynamoDB Local can be had. The text says what was tried, why that failed, and what to install."""


@asynccontextmanager
async def guard(program: str, *arguments: str, cwd: Path | None = None) -> AsyncIterator[State]:
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


async def until_it_answers(url: str, seconds: float, state: State) -> None:
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
