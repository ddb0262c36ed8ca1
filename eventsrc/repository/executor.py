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
    """Executes commands on the aggregates of a repository, on the terms that `Repository.executor` was given."""

    def __init__(self, steps: Steps[A], terms: Terms) -> None:
        self._steps, self._terms = steps, terms

    async def execute(
        self, id: str, command: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Executed[T | None]:
        """Do as `Repository.execute`, and return the command's result together with the receipt of the save.

        The result is None if the command was applied before.

        Raises as `Repository.execute`.
        """
        return await execute(self._steps, id, command, args, kwargs, self._terms)
