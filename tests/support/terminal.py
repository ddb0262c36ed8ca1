"""Run a program on a terminal, a pseudo-terminal of the system, and answer what it asks."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
Process = subprocess.Popen[bytes]


class Ended(NamedTuple):
    code: int
    out: str  # standard output, which is not the terminal
    screen: str  # all that was written on the terminal


def run_on_terminal(
    *arguments: str, answer: str = "", when: str = "to continue: ", act: Callable[[Process], object] | None = None
) -> Ended:
    """Run `eventsrc` with a terminal as its standard input and error. Once `when` is on it, type the answer, or act."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-m", "eventsrc", *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    screen, is_asked = b"", False
    while True:
        try:
            screen += os.read(master, 65536)
        except OSError:  # the program has closed the terminal
            break
        if not is_asked and when.encode() in screen:
            is_asked = True
            act(process) if act is not None else os.write(master, f"{answer}\n".encode())
    out, _ = process.communicate()
    os.close(master)
    return Ended(process.returncode, out.decode(), screen.decode().replace("\r\n", "\n"))
