"""`eventsrc completion`: bash completes verbs, options and their choices, and the other scripts name all of them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from eventsrc.command_line.main import main, make_parser
from eventsrc.command_line.verbs import VerbParser


def draw_script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "eventsrc.bash"
    path.write_text(draw_script("bash", capsys))
    return path


def complete(script: Path, *words: str) -> set[str]:
    """Return what bash offers in place of the last word."""
    line = " ".join(shlex.quote(word) for word in ("eventsrc", *words))
    code = f"""
    set -u
    source {shlex.quote(str(script))}
    [[ $(complete -p eventsrc) == *"-F _eventsrc eventsrc" ]] || exit 1
    COMP_WORDS=({line}) COMP_CWORD={len(words)}
    _eventsrc
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_verbs_options_and_choices(script: Path) -> None:
    assert complete(script, "str") == {"streams"}
    assert complete(script, "t") == {"tail", "trace", "table"}
    assert {"streams", "parked", "rebuild", "completion", "--help"} <= complete(script, "")
    assert complete(script, "parked", "") == {"list", "show", "retry", "skip", "-h", "--help"}
    assert complete(script, "parked", "skip", "--d") == {"--dry-run"}
    assert complete(script, "parked", "skip", "mail@1", "order-7", "--r") == {"--reason"}
    assert complete(script, "parked", "list", "--rea") == set()
    assert complete(script, "rebuild", "--on-error", "") == {"stop", "park"}
    assert complete(script, "rebuild", "--on-error", "park", "--ra") == {"--rate"}
    assert complete(script, "table", "doctor", "--side", "w") == {"write"}
    assert complete(script, "completion", "") == {"bash", "zsh", "fish", "-h", "--help"}
    assert complete(script, "trace", "--svg", "") == set()  # files, by the default of the shell


def test_a_stream_may_have_the_name_of_a_verb(script: Path) -> None:
    assert complete(script, "show", "streams", "--a") == {"--app", "--at"}


def walk(parser: VerbParser) -> list[VerbParser]:
    return [parser, *(each for child in parser.children.values() for each in walk(child))]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_has_every_verb_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = draw_script(shell, capsys)
    parsers = walk(make_parser())
    assert {"eventsrc parked skip", "eventsrc table terraform"} < {each.prog for each in parsers}
    for parser in parsers:
        here = [line for line in text.splitlines() if f'"{parser.prog}"' in line or f"'{parser.prog}')" in line]
        options = {option.lstrip("-") for option in parser.options if option.startswith("--")}
        found = {word for line in here for word in re.findall(r"(?:--|-l )([a-z-]+)", line)}
        assert options <= found, parser.prog
        assert parser.children.keys() <= {word for line in here for word in re.findall(r"[a-z]+", line)}


def test_bash_reads_the_script_for_zsh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """zsh has the functions of bash that it needs from bashcompinit."""
    first, _, rest = draw_script("zsh", capsys).partition("\n")
    assert first == "autoload -U +X bashcompinit && bashcompinit"
    assert rest == draw_script("bash", capsys)
