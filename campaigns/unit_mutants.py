"""Ways to break the library that no campaign detects within a few hundred histories, but a test does.

`python -m campaigns.unit_mutants` applies each of them, or those that are named, and runs its test, which must fail.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none, wait_random

from eventsrc import DynamoDBStore, SQLiteStore, concurrency, transactions
from eventsrc.aggregates import commands, custom_types, differences, event_values, state
from eventsrc.aggregates.event_reader import EventReader
from eventsrc.aggregates.parts import Trace
from eventsrc.messaging import client as messaging_client
from eventsrc.messaging import delivery, inbox, inbox_stream, order, outbound, resume_token
from eventsrc.messaging.sinks import queues
from eventsrc.processes import deciding as process_deciding
from eventsrc.processes import describing
from eventsrc.processes import steps as process_steps
from eventsrc.processes.firing import Firing
from eventsrc.processes.process import Process
from eventsrc.processing.caution import Caution
from eventsrc.processing.checkpointer import Checkpointer
from eventsrc.processing.checkpoints.sqlite import checkpoints as sqlite_checkpoints
from eventsrc.processing.parking import Parking
from eventsrc.processing.progress import Progress
from eventsrc.processing.projections import calling, memory, sqlite
from eventsrc.processing.projections.issuing import Issuer
from eventsrc.processing.reader import Reader
from eventsrc.processing.retries import Retries
from eventsrc.processing.worker import Worker
from eventsrc.repository import folding, repository, settling
from eventsrc.repository.cache import Cache
from eventsrc.repository.execution import Execution
from eventsrc.retrying import on_indefinite
from eventsrc.stores import causes
from eventsrc.stores.dynamodb import creation, table
from eventsrc.stores.dynamodb.transactions import TableTransaction
from eventsrc.stores.dynamodb.wire import (
    bodies,
    connection,
    credentials,
    endpoints,
    observed_session,
    responses,
    sdk,
    sending,
)
from eventsrc.stores.dynamodb.wire.http import Pool
from eventsrc.stores.dynamodb.wire.limits import Limits
from eventsrc.stores.dynamodb.wire.sdk import SDKClient
from eventsrc.stores.sqlite import connection as sqlite_connection
from eventsrc.stores.sqlite import file, rows, threads
from eventsrc.stores.sqlite import store as sqlite_store
from eventsrc.stores.sqlite.watcher import Watcher
from eventsrc.tracing import processes as traced_processes
from eventsrc.transactions import deciding
from eventsrc.transactions.joint import Transaction

from . import PYTHONPATH
from .mutants import Patch, Verdict, broken
from .reading_mutants import (
    REBUILD,
    claim_that_does_not_wait,
    edited,
    position_not_compared,
    release_without_a_second_look,
    slot_not_confirmed,
    switch_that_does_not_wait,
    worker_that_cannot_beat_goes_on,
)

_TESTS = Path(__file__).parents[1] / "tests"
_OUTCOMES = "integration/test_outcomes.py"
_NEVER_SENT = "integration/test_never_sent.py"
_CERTIFICATES = "integration/test_certificates.py"
_ENDPOINTS = "integration/test_endpoints.py"
_TRANSACTION_OUTCOMES = "integration/test_transaction_outcomes.py"
_TRANSACTION = "unit/transactions/test_transaction.py"
_TABLES = "integration/test_tables.py"
_AGGREGATES = "unit/aggregates"
_RESPONSES = "unit/stores/dynamodb/test_responses.py"
_CREDENTIALS = "integration/test_credentials.py"
_CODEC = "unit/aggregates/test_codec.py"
_FIRE = "unit/processes/test_processes_under_fire.py"
_ISSUING = "unit/processing/test_issuing.py"
_STATUS = "unit/processing/test_status.py"
_INBOX = "unit/messaging/test_inbox.py"
_RECEIVED = "unit/messaging/test_received_events.py"
_OUTBOUND = "unit/messaging/test_outbound.py"
_SEEN = "unit/inspection/test_seen_processes.py"
_EXECUTE = "unit/repository/test_execute.py"
_FOLDING = "unit/repository/test_folding.py::test_a_long_stream_is_folded_and_released_in_parts"


def moved_guard_proves_that_nothing_is_stored() -> list[Patch]:
    """If only a guard has moved, it is not looked whether an earlier try has stored the commits."""
    return [edited(TableTransaction, "_find_outcome", ("if commits and (item", "if not commits and (item"))]


def item_being_written_proves_that_nothing_is_stored() -> list[Patch]:
    """A moved guard is definite, although an item of the transaction is being written."""
    return [edited(TableTransaction, "_find_outcome", ('reason.Code != "None"', "False"))]


def absence_not_guarded() -> list[Patch]:
    """What was not found may be created before the transaction commits."""
    return [edited(Transaction, "_guards", ("sorted(self._absent - self._members.keys())", "()"))]


def member_sent_alone() -> list[Patch]:
    """A save of an object sends its commit of a transaction whose outcome is not known, alone."""
    changed = edited(settling, "check_store", ("isinstance(journal.sent_to, SentTogether)", "False"))
    return [(repository, "check_store", changed[2])]


def failed_transaction_left_in_the_group() -> list[Patch]:
    """A transaction that fails in the middle leaves its first commits in the transaction that others share."""
    changed = edited(rows, "append_all", ("if connection.in_transaction:", "if False:"))
    return [(sqlite_store, "append_all", changed[2])]


def errors_of_a_function_not_checked() -> list[Patch]:
    """`transact` raises an error of its function although the function has seen a state that never was."""
    changed = edited(deciding, "transact", ("await tx.check()", "pass"))
    return [(transactions, "transact", changed[2])]


def parking_without_the_fence() -> list[Patch]:
    """A worker whose slot was taken over still stores a stream as parked."""
    return [edited(sqlite_checkpoints.SQLiteCheckpoints, "park", ("check_fence(db, processor, fence)", "pass"))]


def parking_while_the_stream_is_stored() -> list[Patch]:
    """That a stream is retried may be stored over that it is parked."""
    return [edited(Parking, "park", ("async with entry.writing:", "if True:"))]


def issued_commands_not_stored() -> list[Patch]:
    """The version before a command was issued is not stored, so the one of a later attempt counts."""
    return [edited(Issuer, "issue", ("known, version = ", "known, _ = "))]


def place_set_back() -> list[Patch]:
    """An event that was held sets back the place of its stream, so that the starting event is taken in again."""
    return [edited(Process, "apply_input_taken", ("max(before, event.place)", "event.place"))]


def fired_timer_not_cancelled() -> list[Patch]:
    """A timer that has fired cannot be cancelled any more, though its event was not handled."""
    both = "(process.instance.timers, process.instance.fired)"
    return [edited(process_deciding, "cancel_timer", (both, "(process.instance.timers,)"))]


def records_of_processes_taken_in() -> list[Patch]:
    """What a process records is an input of it."""
    own = "if category_of(context.stream) == declaration_of(self._kind).category:"
    return [edited(process_steps.Steps, "take_event", (own, "if False:"))]


def timer_fired_by_another_time() -> list[Patch]:
    """A timer fires by another look at the clock than the one by which it was due."""
    return [edited(Firing, "_fire_part", ("await self._fire(timer, now)", "await self._fire(timer, self._clock())"))]


def outage_counts_as_failure() -> list[Patch]:
    """A target that cannot be reached parks the processes that command it."""
    return [edited(Retries, "start", ("failed.is_outage", "False")), edited(calling, "call_handler", OUTAGE)]


OUTAGE = ("is_outage=isinstance(error, outages)", "is_outage=False")


def ids_without_the_store() -> list[Patch]:
    """The ids of commands do not name the store of the process."""
    return [edited(process_steps.Steps, "_read_origin", ("return self._origin", 'return ""'))]


def settled_refusal_is_a_receipt() -> list[Patch]:
    """A refusal whose outcome was unknown is settled as if the command was applied."""
    return [edited(repository, "settle", ("check_refused(commit)", "pass"))]


def final_refusals_not_stored() -> list[Patch]:
    """A command whose outcome is final is decided again after it has refused."""
    return [edited(Execution, "_refuse", ("if version:", "if False:"))]


def command_ids_not_looked_up() -> list[Patch]:
    """Only the command ids that a stream remembers are recognised, whatever `since` says."""
    return [edited(Execution, "_find_applied", ("if self._searched < oldest - 1:", "if False:"))]


def command_ids_looked_up_once() -> list[Patch]:
    """A stream that was searched for a command id counts as searched, also where it has grown since then."""
    edit = ("max(self._searched, aggregate.version)", "2**60")
    return [edited(Execution, "_find_applied", edit)]


def subclasses_of_a_field_accepted() -> list[Patch]:
    """An object of a subclass of the annotated class is recorded, and loses what the subclass adds."""
    return [edited(event_values, "find_difference", ("exact or names is not None or not", "exact or not"))]


def stored_values_not_compared() -> list[Patch]:
    """Values of a registered type that are equal count as the same, whatever is stored of them."""
    return [edited(differences, "is_same_custom", ("return msgspec", "return True or msgspec"))]


def changes_by_encode_not_seen() -> list[Patch]:
    """A function that encodes a value may change it."""
    return [edited(Trace, "has_changed", ("return any(", "return False and any("))]


def unset_fields_forgotten() -> list[Patch]:
    """All fields of a model count as set after it was read."""
    return [edited(custom_types, "validate", ("each.model_fields_set.difference_update(names)", "pass"))]


def private_attributes_not_compared() -> list[Patch]:
    """A model is recorded although its private attributes are lost."""
    return [edited(differences, "_find_in_model", ("if counts and", "if False and"))]


def models_shared_in_a_state() -> list[Patch]:
    """A state is kept that holds one model at two places."""
    return [edited(state._Custom, "__call__", ("find_changeable(value)", "()"))]


def captured_iterators_accepted() -> list[Patch]:
    """A command may use up an iterator that it takes from around it."""
    return [edited(commands, "_read_captured", ("if not isinstance(function, FunctionType):", "if True:"))]


def forget_that_deletes_slots() -> list[Patch]:
    """No tombstones are left, so a worker that still runs is not fenced."""
    mutant = edited(
        sqlite_checkpoints,
        "forget",
        ("db.executemany(", "[None for _ in ("),
        ('number = ?", rows)', 'number = ?", rows)]'),
        ('("registrations",', '("slots", "registrations",'),
    )
    return [mutant, (sqlite, "forget", mutant[2])]


def end_of_a_run_that_waits_for_nobody() -> list[Patch]:
    """A run to the end of the feed ends although streams are aside."""

    async def mutant(*_: object) -> bool:
        return True

    return [(Worker, "_drain", mutant)]


def checkpoint_that_waits_for_retries() -> list[Patch]:
    """The checkpoint does not advance while a stream is retried."""
    return [edited(Checkpointer, "save", ("if any(", "if self._catch_up.entries or any("))]


def commits_grouped_by_stream() -> list[Patch]:
    """The handlers see the commits of a batch one stream after the other."""
    return [edited(module, "in_order", ('if order == "feed"', "if False")) for module in (memory, sqlite)]


def end_before_an_outage_counts_after_it() -> list[Patch]:
    """A processor that had caught up before an outage says so after it, though there may be more by now."""
    return [edited(Reader, "_read", ("pipeline.progress.restart()", "pass"))]


def lag_from_the_commit_before() -> list[Patch]:
    """The first commit after a quiet time makes a processor lag by that time."""
    return [
        edited(Progress, "update", ("if self.at_end and not self._waits:", "if False:")),
        edited(Progress, "delivered", ("self._pending =", "_ =")),
    ]


def old_commits_of_other_slots_are_no_lag() -> list[Patch]:
    """A worker that takes over slots with old commits does not lag by them."""
    return [edited(Progress, "restart_elsewhere", ("self._is_complete = False", "pass"))]


def no_backing_off() -> list[Patch]:
    """Streams are parked although no handler succeeds."""
    return [(Retries, "is_backing_off", property(lambda _: False))]


def activation_without_a_look_at_the_slots() -> list[Patch]:
    """A rebuild that was stopped for long switches although the old version has taken its slots back."""
    return [edited(REBUILD._Rebuild, "run", ("await checkpoints.save(old, slot)", "pass"))]


def slot_used_after_it_may_have_been_given_up() -> list[Patch]:
    """A worker that could not give up a slot continues to use it, although the answer may just be lost."""
    return [edited(Checkpointer, "give_up", ("kept.discard(number)", "pass"))]


def commit_whose_position_is_not_stored_counts_as_handled() -> list[Patch]:
    """After a kill, a commit is passed over if the store fails when its position is written."""
    return [edited(Caution, "apply", ("if applied.is_all:", "if not (applied.failures or applied.slow):"))]


def connection_without_a_deadline() -> list[Patch]:
    """A connection that is not made takes the whole deadline of a call."""
    return [edited(Pool, "_connect", ("asyncio.timeout(self._connect_timeout)", "asyncio.timeout(None)"))]


def cancelled_before_it_was_sent_counts_as_sent() -> list[Patch]:
    """A deadline that passes before the request is sent leaves the outcome unknown."""
    return [edited(table, "send", ("if isinstance(cut.__cause__, NotSent):", "if False:"))]


def dead_connections_used_again() -> list[Patch]:
    """A retry takes another connection that was idle when the first one turned out to be dead."""
    return [edited(Pool, "exchange", ("self._close_idle(begun)", "pass"))]


def no_pauses() -> list[Patch]:
    """A request is sent again at once."""
    return [(sending, "on_indefinite", _with_waits(wait_none()))]


def pauses_that_do_not_grow() -> list[Patch]:
    """The pauses between tries stay as short as the first one."""
    return [(sending, "on_indefinite", _with_waits(wait_random(0, 0.05)))]


def _with_waits(wait: Any) -> Any:
    return lambda *arguments: on_indefinite(*arguments).copy(wait=wait)


def no_retry_budget() -> list[Patch]:
    """Each call retries as if it were alone."""
    return [(Limits, "spend_retry", lambda _: True)]


def retries_of_the_sdk_not_counted() -> list[Patch]:
    """The answer to the last attempt of the SDK counts as the answer to all."""
    return [edited(SDKClient, "call", ("repeated=sent.count > 1", "repeated=False"))]


def any_answer_is_the_services() -> list[Patch]:
    """A 200 with the body `{}` counts, also if a gateway has sent it."""
    return [edited(responses, "decode", ("not response.ConsumedCapacity", "False"))]


def capacity_demanded() -> list[Patch]:
    """An answer without the consumed capacity counts as an outage."""
    return [edited(responses, "decode", ("and not reply.request_id", ""))]


def gzip_without_an_end() -> list[Patch]:
    """A body that was compressed may be cut off, or expand without an end."""
    return [edited(bodies, "_decompress", ("if not member.eof or member.unused_data:", "if False:"))]


def failed_source_is_permanent() -> list[Patch]:
    """A source of credentials is not asked again after a failure."""
    mutant = edited(credentials, "explain", ("return NotSent(f", 'return ServiceError("AccessDenied", 0) or NotSent(f'))
    return [mutant]


def output_of_a_command_quoted() -> list[Patch]:
    """The error of a source is shown as the SDK reports it."""
    return [edited(credentials, "explain", ("failed ({name}; {where})", "failed ({error}; {where})"))]


def error_of_sts_is_an_answer() -> list[Patch]:
    """The answer of the service that gives credentials counts as that of DynamoDB."""
    return [edited(SDKClient, "call", ("error.operation_name != operation", "False"))]


def winner_read_again() -> list[Patch]:
    """The item that a failed condition returns is used only if it is the commit itself."""
    found = "stored = self.items.read_stored(failed.reply, commit)"
    check = "if stored is not None and self.items.to_commit(stored, commit.stream).id != commit.id: stored = None"
    return [edited(DynamoDBStore, "append", (found, f"{found}\n            {check}"))]


def states_remembered_for_ever() -> list[Patch]:
    """`max_age` of the cache is ignored."""
    return [edited(Cache, "take", ("if monotonic() - entry.since <= self._policy.max_age:", "if True:"))]


def turn_without_a_deadline() -> list[Patch]:
    """Commands on one id wait for each other for as long as it takes."""
    return [edited(Cache, "_wait_for", ("asyncio.timeout(self._deadline)", "asyncio.timeout(None)"))]


def cancellation_that_says_nothing() -> list[Patch]:
    """A cancelled call does not say what it has sent."""
    return [
        edited(repository.Repository, "_save", ("raise cancelled from explain_cancellation(sent, self.store)", "raise"))
    ]


def certificates_of_any_name() -> list[Patch]:
    """A trusted certificate is accepted for every host."""
    return [edited(sdk, "trust", ("context.check_hostname = True", "pass"))]


def authorities_held_to_more_than_the_sdk_asks() -> list[Patch]:
    """TLS is as strict as Python's default, so an authority that the SDK accepts is refused."""
    strict = "context.check_hostname = True; context.verify_flags |= 0x20"
    return [edited(sdk, "trust", ("context.check_hostname = True", strict))]


def refused_certificate_tried_again() -> list[Patch]:
    """A call tries until the deadline, though the certificate is refused each time."""
    return [edited(sending, "is_worth_repeating", (" and not isinstance(error, CertificateRefused)", ""))]


def endpoint_of_the_older_data() -> list[Patch]:
    """Requests go where the SDK's metadata says, which is not always where it sends them."""
    return [edited(sdk, "find_endpoint", ('found.rstrip("/")', "sdk.meta.endpoint_url"))]


def streams_at_the_endpoint_of_the_table() -> list[Patch]:
    """The feed looks for the streams of AWS at the endpoint of the table."""
    return [edited(connection, "find_streams_settings", ("if variant is None:", "if True:"))]


def streams_of_the_plain_variant() -> list[Patch]:
    """The stream of a table at a FIPS endpoint is read at one that is not."""
    return [edited(connection, "find_streams_settings", ("fips or None", "None"))]


def host_that_begins_as_a_local_one() -> list[Patch]:
    """A name that begins as a local address counts as this machine."""
    return [
        edited(
            endpoints,
            "is_confidential",
            ('ip_address(parts.hostname or "").is_loopback', '(parts.hostname or "").startswith("127.")'),
        )
    ]


def line_break_in_a_header() -> list[Patch]:
    """A token with a line break becomes a header."""
    return [edited(credentials.CredentialSource, "get", ("in_headers.isascii() and in_headers.isprintable()", "True"))]


def waiting_for_a_connection_counts_as_sent() -> list[Patch]:
    """A request of the SDK that had no connection counts as one that may have been carried out."""
    return [edited(observed_session, "note_waiting", ("= is_waiting", "= False"))]


def table_being_updated_waited_for() -> list[Patch]:
    """A table that is being updated counts as one that cannot be used."""
    return [
        edited(creation, "_wait_until_usable", ('("ACTIVE", "UPDATING")', '("ACTIVE",)'), ("_PASSING", '("UPDATING",)'))
    ]


def stream_turned_on_by_another_is_an_error() -> list[Patch]:
    """A process that is second to turn on a stream fails."""
    return [edited(creation, "_update_until", (' or error.code == "ValidationException"', ""))]


def loop_that_gives_no_way() -> list[Patch]:
    """Threads wait for a loop that never sleeps."""
    return [edited(concurrency.Waiting, "_give_way", ("sleep(min(", "max(min(0.0, "))]


def fold_in_one_turn() -> list[Patch]:
    """No other task runs while a long stream is folded."""
    return [edited(concurrency.Turn, "end_if_long", ("await asyncio.sleep(0)", "pass"))]


def long_stream_released_at_once() -> list[Patch]:
    """No other task runs while the commits of a long stream are freed."""
    return [edited(folding, "_release", ("del parts[-_RELEASED:]", "parts.clear()"))]


def withdrawn_call_that_runs() -> list[Patch]:
    """A call that was reported as not written is written later."""
    return [
        edited(threads.Writer, "_explain_late", ("if not call.claim():", "if call.is_claimed():")),
        edited(threads.Writer, "_run_calls", ("call.due > now", "True")),
    ]


def late_call_that_begins() -> list[Patch]:
    """The writer thread begins a call after its deadline, if the event loop was too busy to withdraw it."""
    return [edited(threads.Writer, "_run_calls", ("if call.due > now]", "]"))]


def reader_that_is_not_interrupted() -> list[Patch]:
    """A read that is given up keeps its thread."""
    return [edited(threads.Readers, "_end_late", ("connection.interrupt()", "pass"))]


def file_not_looked_for_after_a_commit() -> list[Patch]:
    """A commit is acknowledged although its file was moved away during it."""
    return [edited(threads.Writer, "_commit", ("self._file.check()", "pass"))]


def replaced_file_not_noticed() -> list[Patch]:
    """Only a file that is gone is noticed, not another one in its place."""
    return [edited(file.DatabaseFile, "_compare", ("if (found.st_dev, found.st_ino) != opened:", "if False:"))]


def commits_settled_in_any_store() -> list[Patch]:
    """A commit of unknown outcome is settled in another store than the one it was sent to, which then has it too."""

    async def check(*_: object) -> None: ...

    return [(settling, "_check_sent", check)]


def folders_not_looked_at() -> list[Patch]:
    """A log that is replaced a moment after it was compared: such appends are acknowledged in the old one."""
    return [edited(file.DatabaseFile, "check", ("not self._folders or self._look_at_folders() != self._folders", "0"))]


def first_calls_with_the_time_to_open() -> list[Patch]:
    """Calls that follow the opening of a file end a second after their deadline."""
    return [edited(threads.Waiting, "add", ("call_later(self._deadline,", "call_later(self._deadline + 1.0,"))]


def fold_of_utc_not_seen() -> list[Patch]:
    """A UTC time with fold=1 is kept, and restored without it."""
    return [edited(state._Times, "__call__", ("if each.fold or", "if"))]


def limits_of_fields_not_seen() -> list[Patch]:
    """Snapshots of states whose declaration refuses them, which no load can use."""
    return [(state, "_is_limited", lambda kind: False)]


def causes_found_by_their_beginning() -> list[Patch]:
    """Effects of a commit among which are those of a stream whose name begins as its identity does."""
    return [edited(causes.Cause, "is_of", ("identity_of(each) == self.text", "each.startswith(f'{self.text}.')"))]


def effects_that_are_not_compared() -> list[Patch]:
    """Effects of a commit on SQLite as the index has them."""
    return [edited(SQLiteStore, "effects_of", ("if wanted.is_of(commit):", "if True:"))]


def damaged_root_that_hides_its_trace() -> list[Patch]:
    """A lookup that ends at a damaged start of a trace."""
    return [edited(SQLiteStore, "correlated", ("error = damaged.with_traceback(None)", "raise"))]


def foreign_file_opened() -> list[Patch]:
    """Another program's file is switched to a write-ahead log before it is refused."""
    return [(sqlite_connection, "_check", lambda *_: None)]


def mode_left_to_the_umask() -> list[Patch]:
    """A new file has fewer permissions than were asked for."""
    return [edited(file, "_create", ("os.fchmod(file, mode)", "pass"))]


def long_log_not_reported() -> list[Patch]:
    """A reader that keeps the write-ahead log from starting again stays unknown."""
    return [edited(threads.Writer, "_look_at_log", ("if merged < pages:", "if False:"))]


def old_file_watched() -> list[Patch]:
    """A feed that follows does not notice that the file was replaced."""
    return [edited(Watcher, "_watch", ("self._file.check()", "pass"))]


_SQLITE_FILES = "integration/test_sqlite_files.py"
_LOOKUPS = "integration/test_lookups.py"
_SQLITE_DEADLINES = "integration/test_sqlite_deadlines.py"


def commits_left_out_of_those_read_together() -> list[Patch]:
    """A reader passes over commits that were not decoded together with others, as they expand to too much."""
    return [edited(EventReader, "read_each", ("start += len(decoded)", "start += len(part)"))]


def damage_that_hides_the_commits_before() -> list[Patch]:
    """A damaged commit keeps a reader from those before it."""
    return [edited(EventReader, "read_each", ("except StoredDataError:", "except ZeroDivisionError:"))]


def old_events_not_upcast() -> list[Patch]:
    """Events that were decoded together keep the indexes of what their upcasters returned."""
    old = " and all(map(self._old_tags.isdisjoint, tags))"
    return [edited(EventReader, "read_each", (old, ""))]


def token_ahead_of_the_events() -> list[Patch]:
    """The token of an inbox is stored although the events before it are not."""
    store = "receipt = await self._receive_in_turn(batch)"
    return [edited(inbox.Inbox, "run", (store, f"stored = events.token; {store}"))]


def token_of_a_lost_event() -> list[Patch]:
    """The token of an inbox is used although its store was restored to a time before it."""
    return [edited(inbox.Inbox, "_find_start", ("await _wait()(self._has, found.mark)", "True"))]


def token_that_goes_back() -> list[Patch]:
    """A worker that lags overwrites the token of one that is ahead."""
    return [edited(resume_token.ResumeToken, "save", ("if _is_after(token, stored.token):", "if True:"))]


def redelivery_received_again() -> list[Patch]:
    """An inbox stream records each event that it is given."""
    return [edited(inbox_stream.InboxStream, "receive", ("if numbers <= self.last:", "if False:"))]


def foreign_names_not_escaped() -> list[Patch]:
    """The stream of another service is in the name of an inbox stream as it is."""
    return [edited(inbox_stream, "_name", ("{escape(text)}", "{text}"))]


def order_of_places_not_verified() -> list[Patch]:
    """An event may come at any place of a feed."""
    return [edited(order.Order, "add", ("if self._last and token.place <=", "if False and token.place <="))]


def order_of_ids_not_verified() -> list[Patch]:
    """The ids of a stream's events may go back."""
    return [edited(order.Order, "add_to_page", ("if last is not None and", "if False and"))]


def gap_of_a_feed_accepted() -> list[Patch]:
    """A stream of events may start after the place that was asked for."""
    return [edited(order.Order, "begin_stream", ("if first.place > expected:", "if False:"))]


def events_before_a_wrong_one_dropped() -> list[Patch]:
    """Of what arrives together, nothing is delivered if one event is wrong."""
    return [edited(messaging_client.EventsClient, "_take", ("if not events:", "if True:"))]


def refusals_of_a_batch_ignored() -> list[Patch]:
    """A batch that was taken in part counts as taken."""
    return [edited(delivery.Delivery, "_send", ("if refusal is None:", "if True:"))]


def messages_that_overtake_others() -> list[Patch]:
    """Several messages of a stream are in one batch, of which a sink may take the last ones only."""
    return [edited(delivery.Delivery, "_candidates", ("if self._sink.is_ordered:", "if False:"))]


def messages_of_a_lost_slot() -> list[Patch]:
    """A worker sends without a look at whether its slot was taken over."""
    return [edited(delivery.Delivery, "_send_waiting", ("await self._confirm()", "pass"))]


def position_after_what_was_refused() -> list[Patch]:
    """The position moves to the end of a slice of which a sink has refused a part."""
    return [edited(outbound.Outbound, "_advance", ("sum(end <= taken for end in draft.ends)", "len(draft.ends)"))]


def waiting_that_is_no_cause() -> list[Patch]:
    """What a process has waited for is not a cause of what it does then."""
    return [edited(process_steps, "_with_causes", ("if has_waited else []", "if False else []"))]


def held_event_that_is_no_cause() -> list[Patch]:
    """An event that a process has held is not a cause of what it leads to."""
    return [edited(process_steps, "_with_causes", ("if taken.cause else []", "if False else []"))]


def command_that_is_no_cause_of_its_outcome() -> list[Patch]:
    """The commit of a command is not a cause of the outcome that its process takes in."""
    return [edited(process_steps.Steps, "issue", ("if is_stored else [context.id]", "if False else [context.id]"))]


def arguments_that_a_mask_cannot_see() -> list[Patch]:
    """Arguments without names are shown, so that a mask by names cannot hide them."""
    return [edited(describing, "_describe_arguments", ("if show is None:", "if show is None or named is None:"))]


def timer_that_is_always_pending() -> list[Patch]:
    """A trace does not notice that a timer was cancelled, in this trace or in another one."""
    return [edited(traced_processes._State, "add", ('self._replace(event.number, state="cancelled")', "pass"))]


def new_key_for_each_attempt() -> list[Patch]:
    """A message that is sent again has another deduplication id."""
    return [edited(queues, "_fields", ("message.deduplication_key", "__import__('uuid').uuid4().hex"))]


MUTANTS: Sequence[tuple[Callable[[], list[Patch]], str]] = (
    (
        withdrawn_call_that_runs,
        f"{_SQLITE_DEADLINES}::test_an_append_that_waits_for_a_hanging_writer_is_withdrawn_and_its_own_is_unknown",
    ),
    (
        late_call_that_begins,
        f"{_SQLITE_DEADLINES}::test_the_thread_does_not_begin_a_late_call_that_a_busy_loop_has_not_withdrawn",
    ),
    (reader_that_is_not_interrupted, f"{_SQLITE_DEADLINES}::test_reads_end_at_the_deadline_and_free_their_threads"),
    (old_file_watched, f"{_SQLITE_DEADLINES}::test_a_follower_of_a_file_that_is_replaced_gets_an_error"),
    (
        file_not_looked_for_after_a_commit,
        f"{_SQLITE_FILES}::test_a_commit_into_a_file_that_is_lost_during_the_commit_is_not_acknowledged",
    ),
    (replaced_file_not_noticed, f"{_SQLITE_FILES}::test_a_file_that_is_lost_while_the_store_is_open_is_noticed"),
    (
        commits_settled_in_any_store,
        "unit/repository/test_settling.py::test_a_commit_is_settled_in_the_store_that_it_was_sent_to",
    ),
    (folders_not_looked_at, f"{_SQLITE_FILES}::test_a_file_that_is_lost_between_two_appends_acknowledges_nothing"),
    (
        first_calls_with_the_time_to_open,
        f"{_SQLITE_DEADLINES}::test_the_first_calls_after_opening_have_the_deadline_and_no_more",
    ),
    (fold_of_utc_not_seen, f"{_AGGREGATES}/test_state.py"),
    (
        limits_of_fields_not_seen,
        "unit/repository/test_snapshots.py::test_a_state_that_its_declaration_refuses_is_not_kept",
    ),
    (causes_found_by_their_beginning, "contract/test_contract.py::test_sqlite[effects_are_found]"),
    (effects_that_are_not_compared, "contract/test_contract.py::test_sqlite[effects_are_found]"),
    (
        damaged_root_that_hides_its_trace,
        f"{_LOOKUPS}::test_a_commit_that_starts_a_trace_and_is_damaged_hides_no_others",
    ),
    (foreign_file_opened, f"{_SQLITE_FILES}::test_a_file_of_another_program_is_refused_and_left_as_it_was"),
    (mode_left_to_the_umask, f"{_SQLITE_FILES}::test_all_files_have_the_mode_that_was_asked_for"),
    (
        long_log_not_reported,
        f"{_SQLITE_FILES}::test_a_log_that_a_reader_keeps_from_starting_again_is_reported",
    ),
    (position_not_compared, "unit/processing/test_sqlite_checkpoints.py::test_slices_advance_together_or_not_at_all"),
    (
        parking_without_the_fence,
        "unit/processing/test_fences.py::test_a_paused_worker_does_not_park_a_stream_that_its_successor_handles",
    ),
    (issued_commands_not_stored, f"{_ISSUING}::test_a_parked_event_is_retried_after_many_other_commands"),
    (place_set_back, "unit/processes/test_inputs_once.py::test_an_input_held_before_the_start_in_the_same_stream"),
    (
        fired_timer_not_cancelled,
        f"{_FIRE}::test_a_timer_that_has_fired_can_be_cancelled_until_it_is_handled",
    ),
    (records_of_processes_taken_in, f"{_FIRE}::test_what_a_process_records_is_not_an_input_of_it"),
    (timer_fired_by_another_time, f"{_FIRE}::test_a_clock_that_is_set_back_while_a_timer_fires_loses_it_not"),
    (outage_counts_as_failure, f"{_FIRE}::test_a_target_that_is_down_parks_nothing"),
    (ids_without_the_store, f"{_FIRE}::test_processes_of_one_name_in_two_stores_share_a_target"),
    (settled_refusal_is_a_receipt, "unit/repository/test_executor.py::test_an_unknown_refusal_is_settled_as_one"),
    (final_refusals_not_stored, "unit/repository/test_executor.py::test_a_final_refusal_stays_one"),
    (
        command_ids_not_looked_up,
        "unit/repository/test_executor.py::test_a_command_is_recognised_after_any_number_of_others",
    ),
    (
        command_ids_looked_up_once,
        "unit/repository/test_executor.py::test_a_command_that_others_applied_while_it_was_decided_is_recognised",
    ),
    (
        parking_while_the_stream_is_stored,
        "unit/processing/test_parking.py::test_a_stream_that_is_parked_while_the_checkpoint_is_written_stays_parked",
    ),
    (slot_not_confirmed, "unit/processing/test_fences.py::test_after_a_takeover_each_effect_is_had_once"),
    (
        worker_that_cannot_beat_goes_on,
        "unit/processing/test_leases.py::test_a_worker_without_heartbeat_stops_and_resumes",
    ),
    (
        claim_that_does_not_wait,
        "unit/processing/test_fences.py::test_a_new_owner_begins_no_act_while_the_old_one_may_begin_one",
    ),
    (
        subclasses_of_a_field_accepted,
        f"{_AGGREGATES}/test_classes.py::test_an_object_that_would_be_read_back_changed_is_refused",
    ),
    (
        stored_values_not_compared,
        f"{_AGGREGATES}/test_custom_types.py::test_values_that_are_equal_but_stored_otherwise_are_refused",
    ),
    (
        changes_by_encode_not_seen,
        f"{_AGGREGATES}/test_custom_types.py::test_functions_that_do_not_keep_the_value_are_refused",
    ),
    (
        unset_fields_forgotten,
        f"{_AGGREGATES}/test_pydantic_models.py::test_a_model_is_read_back_with_all_that_it_has",
    ),
    (
        private_attributes_not_compared,
        f"{_AGGREGATES}/test_pydantic_models.py::test_a_private_attribute_that_is_not_the_default_is_refused",
    ),
    (
        models_shared_in_a_state,
        f"{_AGGREGATES}/test_pydantic_models.py::test_a_model_that_is_at_two_places_of_a_state_is_not_kept",
    ),
    (
        captured_iterators_accepted,
        f"{_AGGREGATES}/test_commands.py::test_a_command_that_captures_an_iterator_is_refused",
    ),
    (forget_that_deletes_slots, "unit/processing/test_fences.py::test_forget_fences_a_worker_that_still_runs"),
    (
        end_of_a_run_that_waits_for_nobody,
        "unit/processing/test_rebuild.py::test_a_run_until_caught_up_waits_for_slow_handlers",
    ),
    (
        checkpoint_that_waits_for_retries,
        "unit/processing/test_advancing.py::test_the_checkpoint_advances_while_a_stream_is_retried",
    ),
    (commits_grouped_by_stream, "unit/processing/test_order.py::test_handlers_are_called_in_the_order_of_the_feed"),
    (
        end_before_an_outage_counts_after_it,
        f"{_STATUS}::test_after_an_outage_a_processor_has_not_caught_up_until_it_has_handled_what_was_stored_in_it",
    ),
    (
        lag_from_the_commit_before,
        f"{_STATUS}::test_the_first_commit_after_hours_does_not_make_a_processor_lag_by_hours",
    ),
    (
        old_commits_of_other_slots_are_no_lag,
        "unit/processing/test_progress.py::test_old_commits_of_other_slots_are_a_lag",
    ),
    (no_backing_off, "unit/processing/test_backing_off.py::test_an_outage_of_what_all_handlers_call_parks_nothing"),
    (
        release_without_a_second_look,
        "unit/processing/test_releasing.py::test_a_commit_delivered_while_a_stream_is_released_is_handled",
    ),
    (
        activation_without_a_look_at_the_slots,
        "unit/processing/test_rebuild.py::test_a_rebuild_that_was_stopped_in_its_switch_doubles_no_effect_when_it_continues",
    ),
    (
        slot_used_after_it_may_have_been_given_up,
        "unit/processing/test_leases.py::test_a_slot_that_may_have_been_given_up_is_not_used",
    ),
    (
        commit_whose_position_is_not_stored_counts_as_handled,
        "unit/processing/test_hanging_handlers.py::test_after_a_kill_a_position_that_could_not_be_written_is_not_passed_over",
    ),
    (
        switch_that_does_not_wait,
        "unit/processing/test_rebuild.py::test_the_old_version_begins_no_act_after_the_new_one",
    ),
    (connection_without_a_deadline, f"{_NEVER_SENT}::test_a_connection_that_is_not_made_leaves_time_for_another"),
    (cancelled_before_it_was_sent_counts_as_sent, f"{_NEVER_SENT}::test_credentials_that_do_not_arrive"),
    (dead_connections_used_again, f"{_NEVER_SENT}::test_connections_that_all_went_dead_cost_one_try"),
    (no_pauses, f"{_OUTCOMES}::test_the_pauses_between_tries_grow"),
    (pauses_that_do_not_grow, f"{_OUTCOMES}::test_the_pauses_between_tries_grow"),
    (no_retry_budget, f"{_OUTCOMES}::test_a_throttled_store_sends_few_requests_beyond_those_of_its_calls"),
    (
        retries_of_the_sdk_not_counted,
        "integration/test_sdk_retries.py::test_a_refusal_after_a_lost_answer_proves_nothing",
    ),
    (any_answer_is_the_services, f"{_RESPONSES}::test_an_answer_without_capacity_and_request_id_proves_nothing"),
    (capacity_demanded, f"{_RESPONSES}::test_an_answer_without_capacity_is_accepted_with_a_request_id"),
    (gzip_without_an_end, f"{_RESPONSES}::test_damaged_gzip_data_is_refused"),
    (failed_source_is_permanent, f"{_CREDENTIALS}::test_a_source_that_fails_once_is_asked_again"),
    (
        output_of_a_command_quoted,
        f"{_CREDENTIALS}::test_a_source_that_always_fails_is_a_definite_failure_that_names_it",
    ),
    (error_of_sts_is_an_answer, f"{_CREDENTIALS}::test_a_failure_of_sts_is_not_taken_for_one_of_dynamodb"),
    (winner_read_again, "integration/test_append.py::test_a_conflict_takes_one_request_and_brings_the_winner"),
    (states_remembered_for_ever, f"{_EXECUTE}::test_a_state_is_remembered_up_to_its_age"),
    (turn_without_a_deadline, f"{_EXECUTE}::test_a_command_waits_for_others_on_its_id_no_longer_than_the_deadline"),
    (
        cancellation_that_says_nothing,
        "unit/repository/test_settling.py::test_a_command_cancelled_at_any_moment_is_settled",
    ),
    (certificates_of_any_name, f"{_CERTIFICATES}::test_every_call_of_checkpoints_is_refused_at_once"),
    (
        authorities_held_to_more_than_the_sdk_asks,
        f"{_CERTIFICATES}::test_an_authority_that_inspects_traffic_need_not_be_strict",
    ),
    (refused_certificate_tried_again, f"{_CERTIFICATES}::test_every_call_of_checkpoints_is_refused_at_once"),
    (endpoint_of_the_older_data, f"{_ENDPOINTS}::test_both_are_where_the_sdk_sends_them"),
    (streams_at_the_endpoint_of_the_table, f"{_ENDPOINTS}::test_both_are_where_the_sdk_sends_them"),
    (
        streams_of_the_plain_variant,
        f"{_ENDPOINTS}::test_the_stream_of_an_endpoint_that_is_named_is_of_the_same_variant",
    ),
    (host_that_begins_as_a_local_one, f"{_ENDPOINTS}::test_only_this_machine_is_confidential_without_encryption"),
    (
        line_break_in_a_header,
        "integration/test_signed_client.py::test_credentials_that_no_header_can_contain_are_not_sent",
    ),
    (
        waiting_for_a_connection_counts_as_sent,
        f"{_NEVER_SENT}::test_an_executor_that_is_busy_before_the_proxy_is_found",
    ),
    (table_being_updated_waited_for, f"{_TABLES}::test_a_table_that_is_being_updated_can_be_used"),
    (stream_turned_on_by_another_is_an_error, f"{_TABLES}::test_a_stream_that_another_process_turns_on_is_waited_for"),
    (
        loop_that_gives_no_way,
        "integration/test_busy_loops.py::test_checkpoints_in_sqlite_in_a_loop_that_never_sleeps",
    ),
    (fold_in_one_turn, _FOLDING),
    (long_stream_released_at_once, _FOLDING),
    (
        commits_left_out_of_those_read_together,
        f"{_CODEC}::test_a_reader_of_many_commits_reads_those_that_expand_to_much_together",
    ),
    (
        damage_that_hides_the_commits_before,
        "unit/processing/test_memory_projection.py::test_a_commit_that_cannot_be_read_fails_alone",
    ),
    (
        moved_guard_proves_that_nothing_is_stored,
        f"{_TRANSACTION_OUTCOMES}::test_an_answer_without_the_stored_items_is_settled_by_a_read",
    ),
    (
        item_being_written_proves_that_nothing_is_stored,
        f"{_TRANSACTION_OUTCOMES}::test_a_moved_guard_next_to_an_item_that_is_being_written_proves_nothing",
    ),
    (absence_not_guarded, f"{_TRANSACTION}::test_what_was_not_found_must_not_be_created"),
    (member_sent_alone, f"{_TRANSACTION}::test_an_unknown_outcome_is_settled"),
    (errors_of_a_function_not_checked, f"{_TRANSACTION}::test_transact_raises_only_errors_of_a_state_that_was_true"),
    (
        failed_transaction_left_in_the_group,
        "unit/transactions/test_inline.py::test_a_projection_that_fails_stores_nothing_and_disturbs_nobody",
    ),
    (old_events_not_upcast, f"{_CODEC}::test_a_reader_of_many_commits_gets_of_each_what_it_gets_of_one"),
    (token_ahead_of_the_events, f"{_INBOX}::test_the_token_is_never_ahead_of_what_is_stored"),
    (token_of_a_lost_event, f"{_INBOX}::test_a_restored_store_is_noticed"),
    (token_that_goes_back, f"{_INBOX}::test_a_token_never_goes_back_unless_it_is_replaced"),
    (redelivery_received_again, f"{_INBOX}::test_what_comes_again_is_a_duplicate"),
    (foreign_names_not_escaped, f"{_INBOX}::test_any_two_texts_name_a_stream_of_their_own"),
    (order_of_places_not_verified, f"{_RECEIVED}::test_another_order_is_refused"),
    (order_of_ids_not_verified, f"{_RECEIVED}::test_another_order_is_refused"),
    (gap_of_a_feed_accepted, f"{_RECEIVED}::test_a_first_stream_that_leaves_out_the_beginning_has_a_gap"),
    (
        events_before_a_wrong_one_dropped,
        "integration/test_events_client.py::test_events_before_one_that_is_wrong_are_delivered",
    ),
    (refusals_of_a_batch_ignored, f"{_OUTBOUND}::test_batches_that_are_taken_in_part_lose_nothing_and_keep_the_order"),
    (
        messages_that_overtake_others,
        f"{_OUTBOUND}::test_batches_that_are_taken_in_part_lose_nothing_and_keep_the_order",
    ),
    (messages_of_a_lost_slot, f"{_OUTBOUND}::test_a_worker_whose_slot_was_taken_over_sends_nothing"),
    (position_after_what_was_refused, f"{_OUTBOUND}::test_an_event_that_is_refused_parks_its_stream_before_later_ones"),
    (waiting_that_is_no_cause, f"{_SEEN}::test_what_has_two_causes_has_both"),
    (held_event_that_is_no_cause, f"{_SEEN}::test_what_was_held_is_a_cause_when_it_is_handled"),
    (command_that_is_no_cause_of_its_outcome, f"{_SEEN}::test_what_has_two_causes_has_both"),
    (arguments_that_a_mask_cannot_see, f"{_SEEN}::test_a_scheduled_command_is_readable"),
    (timer_that_is_always_pending, f"{_SEEN}::test_a_trace_shows_timers_and_what_is_pending"),
    (
        new_key_for_each_attempt,
        "integration/test_sinks.py::test_a_fifo_queue_gets_each_event_once_in_groups",
    ),
)


def detect(index: int) -> Verdict:
    """Return whether the test of a mutant fails, in a process of its own. `seeds` is then 0."""
    mutant, test = MUTANTS[index]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-m", "campaigns.unit_mutants", mutant.__name__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:  # else what the broken code has printed is of no interest
        print(done.stdout + done.stderr, file=sys.stderr)
    return Verdict(mutant.__name__, None if done.returncode else 0, test)


def main(names: Sequence[str]) -> int:
    """Apply these mutants, or all. Return the number of those whose test does not fail."""
    missed = 0
    for mutant, test in MUTANTS:
        if names and mutant.__name__ not in names:
            continue
        printed = io.StringIO()
        with broken(mutant), redirect_stdout(printed), redirect_stderr(printed):
            code = pytest.main(["-x", "-p", "no:cacheprovider", str(_TESTS / test)])
        fails = code == pytest.ExitCode.TESTS_FAILED
        print(f"{mutant.__name__}: {test} {'fails, as it should' if fails else 'does not fail'}", flush=True)
        if not fails:
            print(printed.getvalue())
            missed += 1
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
