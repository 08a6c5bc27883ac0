"""Markets and events from Gamma, Polymarket's catalogue, by its keyset endpoints.

Loads `markets` and `events`: key columns and the whole record as JSON, one row per change. Gamma
has no change feed, so each resource makes passes: `new` and `just_closed` read the newest records
until they meet what is known, every run; `open` and `closed` read everything on their own cadence,
over several runs if need be, and at once where a listing is not newest first as it was asked to be.
What is stored as open and is not among the open ones any more is asked for by its id: it closed, maybe
without a time, or is listed no more. A record whose content did not change since it was last stored is
not stored again, nor is one that Gamma updated before the stored one. Each version of a record comes
after the one before it, whatever this machine's clock says. Of a market's events and an event's markets
only id and slug are kept: they are records of their own, and would be stored again with every tick of each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ingest.http import HttpClient
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.rate_limits import RateLimit
from ingest.records import decode_batch
from ingest.sources.gamma.entities import (
    EVENT,
    MARKET,
    Entity,
    Version,
    at_micros,
    entities_table,
    is_outdated,
    next_version_us,
    version_of,
    with_fetched_at,
)
from ingest.sources.gamma.gone import Gone
from ingest.sources.gamma.passes import Keyset, Pass, run_pass

SOURCE = "gamma"
LIMITS = (
    RateLimit(requests=4000),
    RateLimit(requests=900, paths=("/markets", "/events")),
    RateLimit(requests=300, paths=("/markets",)),
    RateLimit(requests=500, paths=("/events",)),
)
TOKENS_PER_REQUEST = 40  # longer URLs are refused with 414
IDS_PER_REQUEST = 100  # more than a page holds would need a cursor
OPEN_CADENCE = 30 * 60.0
CLOSED_CADENCE = 7 * 24 * 3600.0
# Records appear in listings a while after the time they carry.
OVERLAP = 3600.0
MARKETS_SHARE = 0.6  # of the budget; events get the rest, and what markets leave

# (table, ids) -> the current version of each, for those that are stored.
KnownVersions = Callable[[str, Sequence[str]], dict[str, Version]]
# table -> ids whose current version is open.
KnownOpen = Callable[[str], Iterable[str]]
logger = logging.getLogger(__name__)


def streams(
    url: str,
    *,
    progress: Progress,
    known_versions: KnownVersions = lambda table, ids: {},
    known_open: KnownOpen = lambda table: (),
    tokens: Sequence[str] = (),
    positions: Sequence[str] = (),
    open_cadence: float = OPEN_CADENCE,
    closed_cadence: float = CLOSED_CADENCE,
    overlap: float = OVERLAP,
    now: Callable[[], float] = time.time,
    client: HttpClient | None = None,
) -> Sequence[Stream]:
    """Markets and events.

    Args:
        url: base URL of Gamma.
        progress: budget of this run; says afterwards by stream whether it is caught up.
        known_versions: asked for every page which versions of its records are the current ones.
        known_open: asked in a run that reads all open records: those of its ids that are not among them are read too.
        tokens: outcome tokens (decimal) whose markets are wanted at once, before any pass.
        positions: the same for tokens of ExchangeV3, which Gamma knows as position ids.
        open_cadence, closed_cadence: seconds between two starts of the full passes.
        overlap: seconds by which `new` and `just_closed` go back before what they have seen.
        now: this machine's clock, unix seconds.

    Failures recorded in `progress`: OrderIgnored, RepeatedCursor, RepeatedPage, WrongShape, and what `HttpClient`
    raises. A failure of one pass or resource does not stop the others, unless Gamma is down.
    """
    client = client or HttpClient(SOURCE, limits=LIMITS)
    passes = _passes(open_cadence, closed_cadence)

    def stream(entity: Entity, share: float, lookups: Mapping[str, Sequence[str]]) -> Stream:
        def pages(state: dict[str, Any]) -> Iterator[Page]:
            run = _Run(
                Keyset(client, url, entity, entity.page_limit),
                _Sink(entity, known_versions, now),
                state,
                progress=progress,
                has_time=lambda: progress.has_time(share),
                now=now,
                overlap=overlap,
            )
            yield from run.pages(entity.table, passes, lookups, known_open)

        return Stream(entity.table, entity.landing, pages)

    lookups = {"clob_token_ids": tokens, "position_ids": positions}
    return stream(MARKET, MARKETS_SHARE, lookups), stream(EVENT, 1.0, {})


def _passes(open_cadence: float, closed_cadence: float) -> tuple[Pass, ...]:
    """The passes of each resource, in the order in which they are made."""
    return (
        Pass("new", closed=False, newest_by="createdAt", instead="open"),
        Pass("just_closed", closed=True, newest_by="closedTime", instead="closed"),
        Pass("open", closed=False, cadence=open_cadence, finds_closed=True),
        Pass("closed", closed=True, cadence=closed_cadence),
    )


class _Run:
    """One run over markets or events. A failure of one part of it is recorded, and does not stop the others."""

    def __init__(
        self,
        keyset: Keyset,
        sink: _Sink,
        state: dict[str, Any],
        *,
        progress: Progress,
        has_time: Callable[[], bool],
        now: Callable[[], float],
        overlap: float,
    ) -> None:
        self._keyset, self._sink = keyset, sink
        self._state = state  # that of each pass by its name, and whether all are caught up
        self._progress, self._has_time = progress, has_time
        self._now, self._overlap = now, overlap

    def pages(
        self,
        table: str,
        passes: Sequence[Pass],
        lookups: Mapping[str, Sequence[str]],
        known_open: KnownOpen,
    ) -> Iterator[Page]:
        """What is looked up by its token, then every pass that is due; says in `progress` how far they are."""
        states = [self._state.setdefault(each.name, {}) for each in passes]
        failed_before = len(self._progress.failures)
        with self._progress.recording_failures():
            for records in _markets_by_token(self._keyset, lookups):
                yield self._sink.page(records)
        for a_pass in passes:
            is_due = a_pass.is_due(self._state[a_pass.name], self._now())
            if is_due and not self._progress.upstream_is_down:
                yield from self._passed(a_pass, lambda: known_open(table))
        self._sink.finish()
        under_way = any({"cursor", "again"} & state.keys() for state in states)
        failed = len(self._progress.failures) > failed_before
        self._state["caught_up"] = not (under_way or failed)
        self._progress.caught_up[table] = self._state["caught_up"]
        self._progress.watermark[table] = int(self._state["new"].get("watermark", 0))

    def _passed(self, a_pass: Pass, known_open: Callable[[], Iterable[str]]) -> Iterator[Page]:
        """The pages of a pass, and the records that it shows to be open no more."""
        state = self._state[a_pass.name]
        # A pass that fails, over an order that is refused say, must not stop the others.
        with self._progress.recording_failures():
            gone = Gone(state, known_open()) if a_pass.finds_closed else None
            for records in run_pass(
                self._keyset,
                a_pass,
                state,
                has_time=self._has_time,
                now=self._now,
                overlap=self._overlap,
            ):
                yield self._sink.page(records)
                if gone:
                    gone.add(records)
            for records in _by_id(self._keyset, gone.ids() if gone else (), self._has_time):
                yield self._sink.page(records)
        if a_pass.instead and state.pop("missed", False):
            self._state[a_pass.instead]["again"] = True


class _Sink:
    """Makes pages of the records that changed since they were stored."""

    def __init__(
        self, entity: Entity, known_versions: KnownVersions, now: Callable[[], float]
    ) -> None:
        self._entity, self._known_versions, self._now = entity, known_versions, now
        self._stored: dict[str, Version] = {}  # by this run, so not yet known to ClickHouse
        self._outdated = 0

    def page(self, records: Sequence[Any]) -> Page:
        """The page that these records make."""
        read_us = int(self._now() * 10**6)

        def to_table(batch: Sequence[Any]) -> pa.Table:
            return entities_table(self._entity, batch, fetched_at=at_micros(read_us))

        tables, dead = decode_batch(records, to_table)
        rows = [self._changed(table, read_us) for table in tables]
        return Page(self._entity.landing, rows, f"{SOURCE}_{self._entity.table}", dead)

    def finish(self) -> None:
        """Say what was skipped."""
        if self._outdated:
            logger.info(
                "%s: %d records of cached pages were older than what is stored, and skipped",
                self._entity.table,
                self._outdated,
            )

    def _changed(self, rows: pa.Table, read_us: int) -> pa.Table:
        versions = self._versions(rows, read_us)
        known = self._known_versions(self._entity.table, list(versions)) | self._stored
        changed: dict[str, int] = {}  # id -> row
        for key, (at, version) in versions.items():
            current = known.get(key)
            if current and current.content_hash == version.content_hash:
                continue
            if current and is_outdated(version, current, read_us):
                self._outdated += 1
                continue
            changed[key] = at
            self._stored[key] = replace(version, fetched_us=next_version_us(read_us, current))
        times = [self._stored[key].fetched_us for key in changed]
        return with_fetched_at(rows.take(pa.array(list(changed.values()), pa.int64())), times)

    def _versions(self, rows: pa.Table, read_us: int) -> dict[str, tuple[int, Version]]:
        """Row and version of each id; of one that stands twice on a page the last that is not outdated by the other."""
        columns = (
            rows.column(name) for name in (self._entity.id_column, "content_hash", "payload")
        )
        found: dict[str, tuple[int, Version]] = {}
        for at, (key, value, payload) in enumerate(
            zip(*(c.to_pylist() for c in columns), strict=True)
        ):
            version = version_of(value, read_us, payload)
            if key not in found or not is_outdated(version, found[key][1], read_us):
                found[key] = at, version
        return found


def _markets_by_token(keyset: Keyset, lookups: Mapping[str, Sequence[str]]) -> Iterator[list[Any]]:
    """Pages with the markets of tokens, by parameter; open and closed ones have to be asked for apart.

    Source of `position_ids`: Polymarket/py-sdk, `list_markets` of actions/gamma.py.
    """
    for parameter, tokens in lookups.items():
        for at in range(0, len(tokens), TOKENS_PER_REQUEST):
            batch = [(parameter, token) for token in tokens[at : at + TOKENS_PER_REQUEST]]
            for closed in ("false", "true"):
                records, _ = keyset.page([*batch, ("closed", closed)])
                yield records


def _by_id(keyset: Keyset, ids: Sequence[str], has_time: Callable[[], bool]) -> Iterator[list[Any]]:
    """Pages with these records, closed or not; what there is no time for, the next pass finds again."""
    for at in range(0, len(ids), IDS_PER_REQUEST):
        batch = [("id", each) for each in ids[at : at + IDS_PER_REQUEST]]
        for closed in ("true", "false"):
            records, _ = keyset.page([*batch, ("closed", closed)])
            yield records
        if not has_time():
            return
