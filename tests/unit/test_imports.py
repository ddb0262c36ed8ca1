"""What imports what: the domain knows no I/O, stores know no domain, and nobody pays for a store he does not use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import eventsrc

PACKAGE = Path(eventsrc.__file__).parent

PURE = [
    "errors",
    "stream_id",
    "tracing",
    *(f"aggregates/{path.stem}" for path in (PACKAGE / "aggregates").glob("*.py")),
]
STORES = ["store", *(str(path.relative_to(PACKAGE).with_suffix("")) for path in (PACKAGE / "stores").rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, by their full names; also inside functions."""
    found: set[str] = set()
    package = ("eventsrc", *path.relative_to(PACKAGE).parts[:-1])

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def reach(module: str) -> set[str]:
    """All that a module of ours imports, also through others of ours."""
    reached: set[str] = set()
    todo = {f"eventsrc.{module.replace('/', '.').removesuffix('.__init__')}"}
    while todo:
        name = todo.pop()
        reached.add(name)
        path = PACKAGE.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name.startswith("eventsrc.") and path.is_file():
            todo |= imports(path) - reached
    return reached


def test_the_reader_of_imports_sees_them_all() -> None:
    codec = imports(PACKAGE / "aggregates" / "codec.py")
    assert {"lz4.block", "eventsrc.aggregates.event_values", "eventsrc.aggregates.event.tag_of"} <= codec
    assert "eventsrc.store" not in codec  # only under TYPE_CHECKING
    assert "tenacity.AsyncRetrying" in imports(PACKAGE / "repository" / "execution.py")  # inside a function
    outcomes = imports(PACKAGE / "stores" / "dynamodb" / "wire" / "outcomes.py")
    assert {"eventsrc.stores.dynamodb.wire.client", "eventsrc.errors"} <= outcomes
    assert {"asyncio", "eventsrc.aggregates.codec", "eventsrc.store", "msgspec"} <= reach("repository/repository")


@pytest.mark.parametrize("module", PURE)
def test_the_domain_knows_neither_stores_nor_io(module: str) -> None:
    forbidden = {"eventsrc.store", "eventsrc.stores", "eventsrc.repository"}
    assert not reach(module) & (forbidden | {"asyncio", "sqlite3", "aioboto3", "botocore", "threading"})


@pytest.mark.parametrize("module", STORES)
def test_stores_know_neither_aggregates_nor_the_codec(module: str) -> None:
    assert not [name for name in reach(module) if name.startswith(("eventsrc.aggregates", "eventsrc.repository"))]


@pytest.mark.parametrize("module", ["testing/scenario", "testing/contract"])
def test_what_users_test_with_needs_no_test_framework(module: str) -> None:
    reached = reach(module)
    assert "eventsrc.aggregates.codec" in reached or "eventsrc.store" in reached  # it does see something
    assert not {name.partition(".")[0] for name in reached} & {"pytest", "unittest", "hypothesis", "pytest_asyncio"}


def test_importing_the_library_loads_no_client_of_a_database() -> None:
    code = """
import sys
import eventsrc
eventsrc.Repository, eventsrc.MemoryStore, eventsrc.open_store("memory://")
heavy = ["aioboto3", "aiobotocore", "botocore", "boto3", "sqlite3", "tenacity", "asyncio", "testcontainers"]
print([name for name in heavy if name in sys.modules])
eventsrc.SQLiteStore
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['sqlite3', 'asyncio']"]


def test_importing_the_read_side_loads_no_client_of_dynamodb() -> None:
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
def test_every_public_name_is_there_and_told(name: str) -> None:
    thing = getattr(eventsrc, name)
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__  # not what is inherited
    assert own
    assert own.strip()
    assert not own.startswith(f"{name}("), "that is the signature dataclasses make up"


def test_public_names_are_sorted_and_no_other_is_made_up() -> None:
    assert eventsrc.__all__ == sorted(set(eventsrc.__all__))
    with pytest.raises(AttributeError, match="NoSuchStore"):
        _ = eventsrc.NoSuchStore
