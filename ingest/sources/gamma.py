"""Markets and events from Gamma, Polymarket's catalogue, by its keyset endpoints.

Loads `markets` and `events`: key columns and the whole record as JSON, one row per change. Gamma
has no change feed, so each resource makes passes: `new` and `just_closed` read the newest records
until they meet what is known, every run; `open` and `closed` read everything on their own cadence,
over several runs if need be. A record whose content did not change since it was last stored is not
stored again. Of a market's events and an event's markets only id and slug are kept: they are records of
their own, and would be stored again with every tick of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltResource, DltSource

from ingest.http import HttpClient, RateLimit
from ingest.landing import RESOURCE_OPTIONS, Landing
from ingest.progress import Progress
from ingest.records import decode_batch
from ingest.sources.gamma_entities import EVENT, MARKET, Entity, entities_table
from ingest.sources.gamma_passes import Keyset, Pass, run_pass

SOURCE = "gamma"
LIMITS = (
    RateLimit(requests=4000),
    RateLimit(requests=900, paths=("/markets", "/events")),
    RateLimit(requests=300, paths=("/markets",)),
    RateLimit(requests=500, paths=("/events",)),
)
TOKENS_PER_REQUEST = 40  # longer URLs are refused with 414
OPEN_CADENCE = 30 * 60.0
CLOSED_CADENCE = 7 * 24 * 3600.0
# Records appear in listings a while after the time they carry.
OVERLAP = 3600.0
MARKETS_SHARE = 0.6  # of the budget; events get the rest, and what markets leave

# (table, ids) -> content hash of the version stored last, for those that are stored.
KnownHashes = Callable[[str, Sequence[str]], dict[str, int]]


@dlt.source(name=SOURCE, max_table_nesting=0)
def gamma(
    url: str,
    *,
    progress: Progress,
    known_hashes: KnownHashes,
    tokens: Sequence[str] = (),
    open_cadence: float = OPEN_CADENCE,
    closed_cadence: float = CLOSED_CADENCE,
    overlap: float = OVERLAP,
    now: Callable[[], float] = time.time,
    client: HttpClient | None = None,
) -> DltSource:
    """Markets and events.

    Args:
        url: base URL of Gamma.
        progress: budget of this run; says afterwards by resource whether it is caught up.
        known_hashes: asked for every page which version of its records was stored last.
        tokens: outcome tokens (decimal) whose markets are wanted at once, before any pass.
        open_cadence, closed_cadence: seconds between two starts of the full passes.
        overlap: seconds by which `new` and `just_closed` go back before what they have seen.

    Failures recorded in `progress`: RepeatedCursor, RepeatedPage, WrongShape, and what `HttpClient`
    raises. A failure of one pass or resource does not stop the others, unless Gamma is down.
    """
    client = client or HttpClient(SOURCE, limits=LIMITS)
    passes = (
        Pass("new", closed=False, newest_by="createdAt"),
        Pass("just_closed", closed=True, newest_by="closedTime"),
        Pass("open", closed=False, cadence=open_cadence),
        Pass("closed", closed=True, cadence=closed_cadence),
    )

    def resource(entity: Entity, share: float, lookups: Sequence[str]) -> DltResource:
        def rows() -> Iterator[Any]:
            keyset = Keyset(client, url, entity, entity.page_limit)
            sink = _Sink(entity, known_hashes)
            state = dlt.current.resource_state()
            states = [state.setdefault(each.name, {}) for each in passes]
            failed_before = len(progress.failures)
            with progress.recording_failures():
                for records in _markets_by_token(keyset, lookups):
                    yield from sink.add(records)
            for a_pass, its_state in zip(passes, states, strict=True):
                if progress.upstream_is_down or not a_pass.is_due(its_state, now()):
                    continue
                # A pass that fails, over an order that is refused say, must not stop the others.
                with progress.recording_failures():
                    for records in run_pass(
                        keyset,
                        a_pass,
                        its_state,
                        has_time=lambda: progress.has_time(share),
                        now=now,
                        overlap=overlap,
                    ):
                        yield from sink.add(records)
            yield from sink.landing.flush()
            under_way = any("cursor" in its_state for its_state in states)
            state["caught_up"] = not under_way and len(progress.failures) == failed_before
            progress.caught_up[entity.table] = state["caught_up"]
            progress.watermark[entity.table] = int(states[0].get("watermark", 0))

        return dlt.resource(rows, name=entity.table, **RESOURCE_OPTIONS)

    return resource(MARKET, MARKETS_SHARE, tokens), resource(EVENT, 1.0, ())


class _Sink:
    """Takes pages of records and hands on those that changed since they were stored."""

    def __init__(self, entity: Entity, known_hashes: KnownHashes) -> None:
        self.landing = Landing(f"{SOURCE}_{entity.table}")
        self._entity, self._known_hashes = entity, known_hashes
        self._seen: dict[str, int] = {}  # stored in this run, so not yet known to ClickHouse

    def add(self, records: Sequence[Any]) -> Iterator[Any]:
        fetched_at = datetime.now(UTC)

        def to_table(batch: Sequence[Any]) -> pa.Table:
            return entities_table(self._entity, batch, fetched_at=fetched_at)

        tables, dead = decode_batch(records, to_table)
        yield from self.landing.add([self._changed(table) for table in tables], dead)

    def _changed(self, rows: pa.Table) -> pa.Table:
        ids = rows.column(self._entity.id_column).to_pylist()
        hashes = rows.column("content_hash").to_pylist()
        # Of an id that stands twice on a page the last counts: one time cannot have two contents.
        last = {key: at for at, key in enumerate(ids)}
        known = self._known_hashes(self._entity.table, ids) | self._seen
        changed = [
            last[key] == at and known.get(key) != value
            for at, (key, value) in enumerate(zip(ids, hashes, strict=True))
        ]
        self._seen |= {k: v for k, v, new in zip(ids, hashes, changed, strict=True) if new}
        return rows.filter(pa.array(changed, pa.bool_()))


def _markets_by_token(keyset: Keyset, tokens: Sequence[str]) -> Iterator[list[Any]]:
    """Pages with the markets of these tokens; open and closed ones have to be asked for apart."""
    for at in range(0, len(tokens), TOKENS_PER_REQUEST):
        batch = [("clob_token_ids", token) for token in tokens[at : at + TOKENS_PER_REQUEST]]
        for closed in ("false", "true"):
            records, _ = keyset.page([*batch, ("closed", closed)])
            yield records
