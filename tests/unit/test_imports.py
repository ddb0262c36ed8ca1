"""The modules that an import loads, and the public names. import-linter checks which module may import which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eventsrc
import eventsrc.stores

PACKAGE = Path(eventsrc.__file__).parent


def test_importing_the_library_does_not_load_database_clients() -> None:
    code = """
import sys
import eventsrc
eventsrc.Repository, eventsrc.MemoryStore, eventsrc.open_store("memory://")
heavy = ["aiohttp", "aiobotocore", "botocore", "boto3", "sqlite3", "tenacity", "testcontainers"]
print([name for name in heavy if name in sys.modules])
eventsrc.SQLiteStore
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['sqlite3']"]


def test_importing_the_read_side_does_not_load_dynamodb_clients() -> None:
    code = """
import sys
import eventsrc.processing as read_side
heavy = ["aiohttp", "aiobotocore", "botocore", "boto3", "eventsrc.stores.dynamodb"]
print([name for name in heavy if name in sys.modules])
read_side.DynamoDBProjection, read_side.DynamoDBRows, read_side.DynamoDBCheckpoints("models")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['eventsrc.stores.dynamodb']"]


def test_importing_messaging_loads_no_clients() -> None:
    code = """
import sys
import eventsrc.messaging as messaging
messaging.SQSSink(None, "queue")
print([name for name in ("httpx", "aiohttp", "aiobotocore", "botocore", "boto3") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]


@pytest.mark.parametrize("name", eventsrc.__all__)
def test_every_public_name_exists_and_has_a_docstring(name: str) -> None:
    thing = getattr(eventsrc, name)
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__  # not an inherited one
    assert own
    assert own.strip()
    assert not own.startswith(f"{name}("), "this is the signature that dataclasses generate"


def test_public_names_are_sorted_and_unknown_names_raise() -> None:
    assert eventsrc.__all__ == sorted(set(eventsrc.__all__))
    with pytest.raises(AttributeError, match="NoSuchStore"):
        _ = eventsrc.NoSuchStore


@pytest.mark.parametrize(
    "first_uses",
    [
        ("from eventsrc.processing import DynamoDBCheckpoints", "from eventsrc.processing import DynamoDBRows"),
        ("from eventsrc import DynamoDBStore", "from eventsrc.processing import DynamoDBCheckpoints"),
        ("from eventsrc import SQLiteStore", "from eventsrc.processing import SQLiteCheckpoints"),
    ],
    ids=str,
)
def test_two_threads_may_use_lazy_names_first(first_uses: tuple[str, str]) -> None:
    """An import that waits for another thread's package must not be one that this package waits for."""
    code = f"""
import threading
import eventsrc.stores
errors, together = [], threading.Barrier(2)

def use(statement):
    together.wait()
    try:
        exec(statement, {{}})
    except BaseException as error:
        errors.append(repr(error))

threads = [threading.Thread(target=use, args=(statement,)) for statement in {first_uses!r}]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(errors)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("[]\n", "")


def test_lazy_names_are_listed() -> None:
    assert set(eventsrc.__all__) <= set(dir(eventsrc))
    assert set(eventsrc.stores.__all__) <= set(dir(eventsrc.stores))
