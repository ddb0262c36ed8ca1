"""The language of docs, docstrings, comments and messages: plain technical English, held by a short list of words.

`python tests/unit/test_language.py FILE ...` lists what it finds in these files.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INSTEAD = {
    r"anew": "again",
    r"beside": "alongside, next to, except",
    r"behind": "after, older than, in the background",
    r"(is|are|was|were) told|tells?|telling|told": "report, emit, deliver, say",
    r"(go|goes|going|gone|went) on": "continue, resume",
    r"(?<!there )(is|are|was|were|be) no (?!longer\b|more\b|later\b|earlier\b)\w+": "is not a",
    r"meanwhile": "in the meantime, since then, while …",
    r"mend(s|ed|ing)?": "fix",
    r"to be had": "available",
    r"who(ever|m)?": "a caller that, the worker that, a name",
}
"""Words that are not used, and what says it plainly."""

PATTERNS = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): plain for words, plain in INSTEAD.items()}


def read_prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that people read, by number: comments and strings of a program, all of a page but its code blocks."""
    text = path.read_text()
    if path.suffix != ".py":
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            if line.lstrip().startswith(("```", "~~~")):
                fenced = not fenced
            elif not fenced:
                yield number, re.sub(r"`[^`]*`", "", line)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or "STRING" in tokenize.tok_name[token.type]:
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                yield number, line


def find_words(path: Path) -> list[str]:
    return [
        f"{path}:{number}: {match[0]!r}; write: {plain}"
        for number, line in read_prose(path)
        for pattern, plain in PATTERNS.items()
        for match in pattern.finditer(line)
    ]


def pages() -> list[Path]:
    """All that people read, except CONTRIBUTING.md and this file, which list the words."""
    found = list(ROOT.glob("*.md"))
    for folder in ("benchmarks", "campaigns", "docs", "eventsrc", "examples", "tests"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py")]
    return sorted(set(found) - {ROOT / "CONTRIBUTING.md", Path(__file__)})


def test_plain_words() -> None:
    assert [finding for page in pages() for finding in find_words(page)] == []


@pytest.mark.parametrize("sentence", ["It goes on anew.", "Whoever waits is told.", "It is no checkpoint."])
def test_the_words_are_found(sentence: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f'beside = behind = 1  # names are free\nraise ValueError("{sentence}")\n')
    assert find_words(program)
    page = tmp_path / "page.md"
    page.write_text(f"```python\nanew = 1\n```\n\n{sentence} There is no gap, and it is no longer `told`.\n")
    assert all(":5:" in finding for finding in find_words(page))
    assert find_words(page)


if __name__ == "__main__":
    found = [finding for name in sys.argv[1:] for finding in find_words(Path(name))]
    sys.stdout.write("".join(f"{finding}\n" for finding in found))
    sys.exit(bool(found))
