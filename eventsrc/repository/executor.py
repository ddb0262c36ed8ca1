"""Execute commands on terms: under an id, however late it is delivered again, or on an aggregate that may not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from ..aggregates.aggregate import Aggregate
from .execution import Executed, Steps, Terms, execute

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
P = ParamSpec("P")


class Executor(Generic[A]):
    """Executes commands on the aggregates of a repository, on the terms that `Repository.executor` was given:

    - `command_id`, as in `Repository.execute`, and `since`, a version of the stream from before the first delivery, or
      0: the id is looked up in all commits after it, so it is found after any number of other commands. While the
      stream remembers the ids of all commits since then, that needs no read.
    - `create`: a command is called on a new aggregate, if there is none with the id.
    - `content`: what is the same at each delivery, and different for another command under the same id. By default the
      name of the command and its arguments; give it if the same command may have another name or form by then.
    - `final`: a command has one outcome, whenever and how often it is delivered. See below.

    Of final commands:

    - If one raises, that is stored as a commit without events under its id, and CommandRefused is raised, with the type
      and the text of the error. It is never applied.
    - If it records nothing, that is stored as well.
    - TypeError, AttributeError, NameError, AssertionError, NotImplementedError, OSError and the like are faults of the
      program, and errors of this library are failures: nothing is stored, and the command is decided again.
    - Nothing is stored for an aggregate that does not exist.
    """

    def __init__(self, steps: Steps[A], terms: Terms) -> None:
        if terms.final and terms.command_id is None:
            raise ValueError("final is set without a command_id, by which a refusal is found again; give one")
        self._steps, self._terms = steps, terms

    async def execute(
        self, id: str, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Executed[T | None]:
        """Do as `Repository.execute`, and return the command's result together with the receipt of the save.

        The result is None if the command was applied before.

        Raises as `Repository.execute`.
        """
        return await execute(self._steps, id, command, args, kwargs, self._terms)
