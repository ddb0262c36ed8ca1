"""The pictures of a small map are those in golden/. `python tests/unit/tracing/test_golden_maps.py` draws them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from support.maps import small_map  # noqa: E402

from eventsrc.tracing import Map, draw_map, draw_map_mermaid, draw_map_table  # noqa: E402

PICTURES: dict[str, Callable[[Map], str]] = {
    "map.txt": draw_map_table,
    "map.svg": draw_map,
    "map.mmd": draw_map_mermaid,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_maps_are_as_they_were(name: str) -> None:
    drawn = PICTURES[name](small_map())
    assert (GOLDEN / name).read_text(encoding="utf-8") == f"{drawn}\n", f"if it is meant, run python {__file__}"


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (GOLDEN / name).write_text(f"{draw(small_map())}\n", encoding="utf-8")
