"""The commit that an aggregate is saved as, and what is noted in the aggregate once it is stored."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..aggregates.aggregate import Aggregate, journal_of
from ..aggregates.codec import join, pack
from ..aggregates.commands import check_command_id, compute_digest
from ..aggregates.event_values import read_tags
from ..store import Commit, Store
from ..trace_context import current_trace
from ..uuid7 import uuid7


def make_draft(
    aggregate: Aggregate,
    command_id: str | None = None,
    digest: bytes | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Commit:
    """Return a commit of all uncommitted events, with a new id, stamped with the trace of this context.

    Raises PayloadTooLarge, and TypeError or ValueError for an invalid command id or metadata.
    """
    journal, trace = journal_of(aggregate), current_trace().merged(metadata)
    body, version = join(journal.uncommitted), journal.version + 1
    tags = read_tags(body)
    if command_id is not None:
        check_command_id(command_id)
        digest = digest or compute_digest(aggregate.uncommitted)
    return Commit(
        stream=journal.stream,
        version=version,
        id=uuid7(),
        time=max(time.time_ns() // 1000, journal.time),
        events=len(tags),
        tags=tuple(dict.fromkeys(tags)),
        payload=pack(body, journal.stream, version),
        correlation_id=trace.correlation_id,
        causation_ids=trace.causation_ids,
        command_id=command_id,
        command_digest=digest,
        metadata=trace.metadata,
    )


def note_stored(aggregate: Aggregate, draft: Commit, store: Store) -> None:
    """Note that the draft is stored: its events are committed, and the aggregate is at its version."""
    journal = journal_of(aggregate)
    journal.draft = None
    del journal.uncommitted[: draft.events]
    journal.advance_to(draft)
    journal.store, journal.tail = store, journal.tail + draft.size
    journal.remember(draft, type(aggregate).remembered_commands)
