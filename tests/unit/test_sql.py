"""The SQL of the package runs without warnings on every Python that is supported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import eventsrc

PACKAGE = Path(eventsrc.__file__).parent


def test_no_statement_has_numbered_placeholders() -> None:
    """Python 3.12.0 to 3.12.3 report `?1` with a sequence of values as deprecated."""
    numbered = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\?\d", node.value)
    ]
    assert numbered == []
