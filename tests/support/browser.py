"""A Chromium for the tests of the studio: the one that is found, or one that is installed.

`python -m support.browser` says in one line if there is none; with `--install` it brings one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
IS_REQUIRED = os.environ.get("EVENTSRC_BROWSER") == "required"
ABSENT = "No Chromium was found, so the studio was not tested in a browser; `make browser` installs one."

_SECONDS = 600.0


def find_chromium() -> str | None:
    """Return the path of a Chromium: of the system, or the one of Playwright."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    return next((str(each) for each in sorted(folder.glob("chromium-*/chrome-linux*/chrome"), reverse=True)), None)


def install_chromium() -> None:
    """Install a Chromium: the distribution's, as root, or the one that Playwright downloads."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "update", "--quiet")
        _run("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium")
    if find_chromium() is None:
        _run(sys.executable, "-m", "playwright", "install", "chromium")


def _run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)


def main() -> int:
    if find_chromium() is None and ("--install" in sys.argv or IS_REQUIRED):
        install_chromium()
    if find_chromium() is None:
        print(ABSENT)
        return int(IS_REQUIRED or "--install" in sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
