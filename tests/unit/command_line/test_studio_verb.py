"""`eventsrc studio` as a process: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.program import open_program


@asynccontextmanager
async def started(folder: Path, *options: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Yield the process of a studio, and the address that it prints. It is killed if it still runs at the end."""
    line = [sys.executable, "-m", "eventsrc", "studio", "--store", f"sqlite:///{folder / 'bank.db'}"]
    process = await asyncio.create_subprocess_exec(
        *line,
        "--port",
        "0",
        "--json",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdout is not None
    try:
        address: Any = json.loads(await process.stdout.readline())
        yield process, address["address"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    async with open_program(tmp_path):
        return tmp_path


async def test_it_serves_until_it_is_interrupted(folder: Path) -> None:
    async with started(folder) as (process, address), httpx.AsyncClient(base_url=address) as browser:
        assert address.startswith("http://127.0.0.1:")
        page = await browser.get("/stream", params={"name": "account-a-1"})
        assert "account.opened" in page.text
        assert (await browser.get("/", headers={"host": "evil.example"})).status_code == 421
        assert (await browser.get("/processor/skip", params={"name": "x", "stream": "y"})).status_code == 403
        async with browser.stream("GET", "/live/events") as events:  # a page that is still open
            assert "ready" in await anext(events.aiter_text())
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 30) == 130
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_another_address_than_this_machine_needs_a_token(folder: Path) -> None:
    async with started(folder, "--host", "127.0.0.2") as (_, address), httpx.AsyncClient() as browser:
        plain, _, token = address.partition("?token=")
        assert len(token) >= 16
        assert (await browser.get(plain)).status_code == 401
        assert (await browser.get(address, follow_redirects=True)).status_code == 200
        assert (await browser.get(plain)).status_code == 200  # the browser has the cookie now


async def test_a_port_that_is_in_use_is_named(folder: Path) -> None:
    async with started(folder) as (_, address):
        port = address.rstrip("/").rpartition(":")[2]
        line = [
            sys.executable,
            "-m",
            "eventsrc",
            "studio",
            "--store",
            f"sqlite:///{folder / 'bank.db'}",
            "--port",
            port,
        ]
        second = await asyncio.create_subprocess_exec(*line, stderr=PIPE)
        _, errors = await second.communicate()
        assert second.returncode == 2
        assert f"127.0.0.1 cannot be served at port {port}: Address already in use" in errors.decode()
