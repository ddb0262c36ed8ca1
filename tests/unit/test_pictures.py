"""The picture in docs/concepts.md is what its script draws, and the page explains each of its words."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = DOCS / "pictures" / "concepts.svg"
SCRIPT = runpy.run_path(str(DOCS / "pictures" / "draw_concepts.py"))


def test_the_picture_is_up_to_date() -> None:
    assert PICTURE.read_text(encoding="utf-8") == SCRIPT["draw"](), "run `make pictures`"


def test_the_picture_has_a_title_and_a_description() -> None:
    title, description = list(ElementTree.parse(PICTURE).getroot())[:2]
    assert title.tag.endswith("title")
    assert description.tag.endswith("desc")
    assert title.text
    assert description.text


def test_the_glossary_explains_each_box_of_the_picture() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "concepts.md").read_text(), re.MULTILINE)
    words = {word for row in rows for word in row.split(", ")}
    boxes = {box.title.lower() for box in SCRIPT["BOXES"] if box.kind in ("yours", "ours")} - {"your code"}
    assert len(boxes) == 10
    assert boxes <= words
