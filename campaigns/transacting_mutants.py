"""Ways to break transactions, each of which the simulation of them must detect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eventsrc.stores import memory, transacting
from eventsrc.stores.dynamodb.transactions import TableTransaction
from eventsrc.transactions.joint import Transaction

from .mutants import Patch, Verdict, broken
from .progress import report
from .reading_mutants import edited
from .transacting import simulate


def guards_forgotten() -> list[Patch]:
    """Streams that were only read are not guarded, so two transactions may decide on each other's past."""
    return [edited(Transaction, "_prepare", ("tuple(self._guards(unchanged))", "()"))]


def guards_not_sent() -> list[Patch]:
    """The store on DynamoDB does not send the guards next to commits."""
    return [edited(TableTransaction, "__init__", ("[*puts, *checks, *inline]", "[*puts, *inline] or checks"))]


def reads_not_checked() -> list[Patch]:
    """What was read together is not checked if nothing was recorded."""
    return [edited(Transaction, "check", ("len(guards) > 1", "False"))]


def commit_ids_not_compared() -> list[Patch]:
    """A stored commit counts as another writer's, whatever its id: only the token protects a repetition."""
    return [edited(TableTransaction, "_settle", ("commit.id != standing.id.B", "True"))]


def conflict_taken_for_success() -> list[Patch]:
    """A commit that has the version counts as our own, whatever its id."""
    return [edited(TableTransaction, "_settle", ("commit.id != standing.id.B", "False"))]


def puts_without_conditions() -> list[Patch]:
    """The puts of a transaction overwrite what is stored."""
    put = '{"Item": items.from_commit(commit), **self._condition()}'
    bare = '{"Item": items.from_commit(commit), "TableName": table.name}'
    return [edited(TableTransaction, "__init__", (put, bare))]


def lost_answer_taken_for_a_failure() -> list[Patch]:
    """A transaction without a definite answer counts as not stored."""
    return [edited(TableTransaction, "_send", ("unknown=self._unknown if self._commits else None", "unknown=None"))]


def token_of_guards() -> list[Patch]:
    """Guards alone have a token, so the service may answer them with the outcome of an earlier check."""
    return [edited(TableTransaction, "__init__", ("if commits:", "if True:"))]


def guards_not_compared_in_memory() -> list[Patch]:
    """The store in memory does not look at guards."""
    changed = edited(transacting, "find_outcome", ("for guard in guards:", "for guard in ():"))
    return [changed, (memory, "find_outcome", changed[2])]


MUTANTS: tuple[Callable[[], list[Patch]], ...] = (
    guards_forgotten,
    guards_not_sent,
    reads_not_checked,
    commit_ids_not_compared,
    conflict_taken_for_success,
    puts_without_conditions,
    lost_answer_taken_for_a_failure,
    token_of_guards,
    guards_not_compared_in_memory,
)


def hunt(mutant: Callable[[], list[Patch]], seeds: Sequence[int]) -> Verdict:
    """Return the first of these seeds in which the simulation of transactions detects the mutant."""
    with broken(mutant):
        for tried, seed in enumerate(seeds, 1):
            report(tried, len(seeds))
            if violations := simulate(seed).findings.violations:
                return Verdict(mutant.__name__, tried, f"seed {seed}: {violations[0]}")
    return Verdict(mutant.__name__, None, "")
