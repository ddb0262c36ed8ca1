"""The verb that prints a script with which a shell completes verbs and options. It is made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from .output import Output
from .verbs import Needs, VerbParser, Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add the verb of this module to the command line. It knows the verbs that are added later, too."""

    async def show_script(_: object, output: Output, given: argparse.Namespace) -> int:
        output.show("\n".join(_SHELLS[given.shell](verbs.parser)), None)
        return 0

    found = verbs.add(
        "completion",
        show_script,
        "print a script with which a shell completes verbs and options",
        "completion bash > ~/.local/share/bash-completion/completions/eventsrc",
        needs=Needs.NOTHING,
    )
    found.add_argument("shell", choices=tuple(_SHELLS))


def _walk(parser: VerbParser) -> Iterator[VerbParser]:
    """Yield the parser of the command line, of each group and of each verb. `prog` is the words that lead to it."""
    yield parser
    for child in parser.children.values():
        yield from _walk(child)


def _draw_bash(parser: VerbParser) -> Iterator[str]:
    parsers = list(_walk(parser))
    yield "_eventsrc() {"
    yield '  local place="eventsrc" offered="" number'  # not `path`, which is $PATH in zsh
    yield "  for ((number = 1; number < COMP_CWORD; number++)); do"
    yield '    case "$place ${COMP_WORDS[number]}" in'
    yield f'      {"|".join(_quote(each.prog) for each in parsers[1:])}) place="$place ${{COMP_WORDS[number]}}" ;;'
    yield "    esac"
    yield "  done"
    yield '  case "$place ${COMP_WORDS[COMP_CWORD-1]}" in'
    for each in parsers:
        for option, choices in each.values.items():
            here = f"{each.prog} {option}"
            yield f"    {_quote(here)}) offered={_quote(' '.join(choices))} ;;"
    yield '    *) case "$place" in'
    for each in parsers:
        yield f"      {_quote(each.prog)}) offered={_quote(' '.join(each.words))} ;;"
    yield "    esac ;;"
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$offered" -- "${COMP_WORDS[COMP_CWORD]}"))'
    yield "}"
    yield "complete -o default -F _eventsrc eventsrc"


def _draw_zsh(parser: VerbParser) -> Iterator[str]:
    yield "autoload -U +X bashcompinit && bashcompinit"
    yield from _draw_bash(parser)


def _draw_fish(parser: VerbParser) -> Iterator[str]:
    parsers = list(_walk(parser))
    yield "function __eventsrc_place"
    yield "  set -l place eventsrc"
    yield "  for word in (commandline -opc)[2..-1]"
    yield f'    if contains -- "$place $word" {" ".join(_quote(each.prog) for each in parsers[1:])}'
    yield '      set place "$place $word"'
    yield "    end"
    yield "  end"
    yield "  echo $place"
    yield "end"
    yield "complete -c eventsrc -f"
    for each in parsers:
        is_here = f'test (__eventsrc_place) = "{each.prog}"'
        start = f"complete -c eventsrc -n {_quote(is_here)}"
        for word in each.words:
            if not word.startswith("-"):
                child = each.children.get(word)
                about = f" -d {_quote(child.description or '')}" if child is not None else ""
                yield f"{start} -a {word}{about}"
        for option, action in each.options.items():
            if option.startswith("--"):
                choices = each.values.get(option)
                value = "" if choices is None else f" -x -a {_quote(' '.join(choices))}" if choices else " -r -F"
                yield f"{start} -l {option[2:]}{value} -d {_quote(action.help or '')}"


def _quote(text: str) -> str:
    """Return a text in single quotes, as all of these shells read it. Those within it become backquotes."""
    quoted = text.replace("'", "`")
    return f"'{quoted}'"


_SHELLS: dict[str, Callable[[VerbParser], Iterator[str]]] = {
    "bash": _draw_bash,
    "zsh": _draw_zsh,
    "fish": _draw_fish,
}
