"""The modules that an import loads, and the public names. import-linter checks which module may import which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eventsrc

PACKAGE = Path(eventsrc.__file__).parent


def test_importing_the_library_does_not_load_database_clients() -> None:
    code = """
import sys
import eventsrc
eventsrc.Repository, eventsrc.MemoryStore, eventsrc.open_store("memory://")
heavy = ["aioboto3", "aiobotocore", "botocore", "boto3", "sqlite3", "tenacity", "testcontainers"]
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
heavy = ["aioboto3", "aiobotocore", "botocore", "boto3", "eventsrc.stores.dynamodb"]
print([name for name in heavy if name in sys.modules])
read_side.DynamoDBProjection, read_side.DynamoDBRows, read_side.DynamoDBCheckpoints("models")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['eventsrc.stores.dynamodb']"]


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
