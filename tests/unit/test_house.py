"""The layout of the code: the packages for users, the length of the path of a load, the size of classes."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from eventsrc import Event, MemoryStore
from eventsrc.processing import MemoryProjection, Processor

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "eventsrc"

DOORS = {
    f"eventsrc{door}"
    for door in (
        "",
        ".stores",
        ".processes",
        ".processing",
        ".publishing",
        ".messaging",
        ".testing",
        ".local",
        ".telemetry",
        ".tracing",
        ".transactions",
        ".inspection",
        ".studio",
    )
}
"""The packages that users import from. Their files are private."""

SHOWN = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.py"),
    *(ROOT / "tests" / "typing").rglob("*.py"),
]

PATH = ["repository/repository.py", "aggregates/aggregate.py", "aggregates/codec.py", "store.py", "stores/memory.py"]
"""The files of load, fold and save, which newcomers read first."""


class Happened(Event, tag="house.happened"):
    pass


class Nothing(MemoryProjection, tag="house-nothing"):
    version = 1

    def handle_happened(self, event: Happened) -> None: ...


@pytest.mark.parametrize("page", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_shown_code_imports_only_from_the_doors(page: Path) -> None:
    imported = re.findall(r"^\s*(?:from|import) (eventsrc[\w.]*)", page.read_text(), re.MULTILINE)
    assert set(imported) <= DOORS


@pytest.mark.parametrize("door", sorted(DOORS))
def test_every_name_that_a_door_lists_is_available(door: str) -> None:
    module = import_module(door)
    assert list(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        with suppress(ModuleNotFoundError):
            import_module(f"{door}.{name}")  # a module of the same name must not hide it
        assert not isinstance(getattr(module, name), ModuleType)


def test_the_code_path_of_a_load_and_a_save_has_at_most_900_lines() -> None:
    lines = {name: len((PACKAGE / name).read_text().splitlines()) for name in PATH}
    assert sum(lines.values()) <= 900, lines


def test_no_class_has_more_than_20_methods() -> None:
    large: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
                if len(methods) > 20:
                    large[f"{path.relative_to(ROOT)}:{node.name}"] = len(methods)
    assert not large


def test_a_processor_has_at_most_20_public_names() -> None:
    processor = Processor(Nothing(), MemoryStore())
    names = [name for name in dir(processor) if not name.startswith("_")]
    assert len(names) <= 20, names
