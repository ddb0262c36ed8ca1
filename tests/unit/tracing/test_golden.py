"""The pictures of a small trace are those in golden/. `python tests/unit/tracing/test_golden.py` draws them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from support.traces import small_trace  # noqa: E402

from eventsrc.tracing import Trace, draw_columns, draw_lanes, draw_mermaid, draw_page, draw_tree  # noqa: E402

PICTURES: dict[str, Callable[[Trace], str]] = {
    "small.txt": draw_tree,
    "small-lanes.txt": draw_columns,
    "small.svg": draw_lanes,
    "small.html": draw_page,
    "small.mmd": draw_mermaid,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_as_they_were(name: str) -> None:
    drawn = PICTURES[name](small_trace())
    assert (GOLDEN / name).read_text(encoding="utf-8") == f"{drawn}\n", f"if it is meant, run python {__file__}"


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (GOLDEN / name).write_text(f"{draw(small_trace())}\n", encoding="utf-8")
