"""`replay`: lands dead letters once what was wrong with them is fixed.

Each goes through the parser of its source as it is now, and what comes out is landed as a load, in the ledger and
settled like any other. Fills that only SQL refused stand in their landing table already: their hours are derived again
once the models know their exchange. Doing it twice, or being killed in between, changes nothing: a record that is
landed is never replaced by its letter. The module is longer than 300 lines because parsing, landing and closing a
letter are one promise: none is lost or counted twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa

from ingest.errors import IngestError
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.records import NO_LOAD, DeadLetter, fill_keys
from ingest.sources import SOURCES
from ingest.sources.base import Parsed
from ingest.sources.gamma.entities import (
    EVENT,
    MARKET,
    Entity,
    among_versions,
)
from ingest.sources.gamma.landed import known_versions
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.polygon.endpoints import endpoints_of
from ingest.sources.polygon.log_places import quantity
from ingest.tables import TABLES
from pipeline.derive.cutting import FILLS, plan_fills
from pipeline.derive.prepare import prepare
from pipeline.derive.settle import settle
from pipeline.errors import LoadFailed
from pipeline.jobs.load import lander
from pipeline.timerange import TimeRange
from pipeline.warehouse.orphans import adopt_orphans
from pipeline.warehouse.run import REPLAY, Run

BATCH = 1000
# By the name that letters are kept under.
KINDS = {name: kind for source in SOURCES for name, kind in source.letters.items()}
ENTITIES = {entity.table: entity for entity in (MARKET, EVENT)}
# What refused_fills_mv says: the fills are landed, and no parser refused them.
REFUSED_BY_SQL = ("unknown_contract_version", "unknown_exchange")
HOUR = timedelta(hours=1)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Letter:
    """An open dead letter: what names it, the record as received, and when it was last read."""

    source: str
    reason: str
    payload_hash: int
    payload: str
    seen_at: datetime

    @property
    def key(self) -> tuple[str, str, int]:
        """What names it."""
        return self.source, self.reason, self.payload_hash


@dataclass
class Replay:
    """What became of the letters, each count by (source, reason); reasons are those of today.

    Attributes:
        landed: are rows now.
        derived: were landed before and are derived now.
        known: had been landed since in another way; the letter is off the list.
        gone: logs of blocks that have left the chain; the letter is off the list.
        refused: still cannot be used, and stay on the list.
    """

    landed: Counter[tuple[str, str]] = field(default_factory=Counter)
    derived: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: Counter[tuple[str, str]] = field(default_factory=Counter)
    gone: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def letters(self) -> int:
        """Letters that were looked at."""
        counts = (self.landed, self.derived, self.known, self.gone, self.refused)
        return sum(count.total() for count in counts)


def replay(run: Run, source: str | None, reason: str | None, *, dry_run: bool = False) -> Replay:
    """Take up the open dead letters of a source and reason, all of them where none is given.

    With `dry_run` nothing is written and no lock is taken; the models are asked as they are deployed.

    Raises:
        LockHeld: another run is writing.
        ModelsError: settling failed; the rows are landed, and the next run settles them.
        LoadFailed: letters of the chain cannot be compared with it, because the node does not answer.
    """
    if not run.client.command(f"exists table {run.settings.raw_database}.dead_letter_replays"):
        return Replay()
    if dry_run:
        return _replay(run, source, reason, dry_run=True)
    with run.lock.held("replay") as lock:
        prepare(run)
        adopt_orphans(run)
        report = _replay(run, source, reason, dry_run=False)
        lock.check()
        settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)
    return report


def _replay(run: Run, source: str | None, reason: str | None, *, dry_run: bool) -> Replay:
    report = Replay()
    chain = Chain(endpoints_of(run.desk))
    for letters in _batches(run, source, reason):
        try:
            _replay_batch(run, letters, chain, report, dry_run)
        except IngestError as error:
            raise LoadFailed(f"{error}; nothing of these letters was replayed") from error
    _derive_refused(run, source, reason, report, dry_run)
    return report


class Chain:
    """Tells which logs still stand: those whose block the node knows under the hash that they name."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._hashes: dict[int, str] = {}

    def holds(self, log_record: dict) -> bool:
        """Whether the block of a log is on the chain; True if the log does not name its hash.

        Raises:
            IngestError: no endpoint answers, or has a block of that number.
        """
        if "blockHash" not in log_record:
            return True
        number = quantity("blockNumber", log_record["blockNumber"])
        if number not in self._hashes:
            block = self._endpoints.ask(lambda endpoint: endpoint.block(number))
            self._hashes[number] = block.hash
        return self._hashes[number] == str(log_record["blockHash"]).lower()


def parse(letter: Letter) -> Parsed:
    """Landing rows of a letter, or why it still makes none."""
    try:
        record = orjson.loads(letter.payload)
    except orjson.JSONDecodeError as error:
        return [], [DeadLetter("not_json", str(error), letter.payload.encode())]
    if (
        letter.source not in KINDS
    ):  # of an archive, which is read again by `backfill --parquet … --again`
        return [], [DeadLetter(letter.reason, "no parser", letter.payload.encode())]
    return KINDS[letter.source].parse(record, letter.seen_at)


def _replay_batch(
    run: Run, letters: list[Letter], chain: Chain, report: Replay, dry_run: bool
) -> None:
    rows: dict[str, list[pa.Table]] = {}
    closed: list[Letter] = []
    parsed: list[tuple[Letter, str, list[pa.Table]]] = []
    for letter in letters:
        tables, dead = parse(letter)
        if dead:
            report.refused[letter.source, dead[0].reason] += 1
        elif KINDS[letter.source].table.has_blocks and not chain.holds(
            orjson.loads(letter.payload)
        ):
            report.gone[letter.source, letter.reason] += 1
            closed.append(letter)
        else:
            parsed.append((letter, KINDS[letter.source].table.name, tables))
    landed = _landed_keys(
        run, (table for _, name, tables in parsed if name == FILLS for table in tables)
    )
    for letter, name, tables in parsed:
        is_known = name == FILLS and all(landed.issuperset(fill_keys(table)) for table in tables)
        if not is_known:
            rows.setdefault(name, []).extend(tables)
        (report.known if is_known else report.landed)[letter.source, letter.reason] += 1
        closed.append(letter)
    if dry_run:
        return
    for name in ENTITIES.keys() & rows.keys():
        rows[name] = [_among_versions(run, ENTITIES[name], pa.concat_tables(rows[name]))]
    load_id = _land(run, rows) if rows else NO_LOAD
    _close(run, [letter.key for letter in closed], load_id)


def _among_versions(run: Run, entity: Entity, rows: pa.Table) -> pa.Table:
    """Landing rows of letters, each in its place among the versions that are stored."""
    return among_versions(
        rows,
        known_versions(run.desk.landed)(entity.table, rows.column(entity.id_column).to_pylist()),
    )


def _landed_keys(run: Run, tables: Iterable[pa.Table]) -> set[tuple]:
    """Keys of landed fills of the same seconds, those taken back included."""
    seconds = {key[0] for table in tables for key in fill_keys(table)}
    if not seconds:
        return set()
    return set(
        run.client.query(
            "select toUnixTimestamp(timestamp), tx_hash, log_index, order_hash"
            f" from {run.settings.raw_database}.{FILLS}"
            f" where timestamp in ({', '.join(map(str, sorted(seconds)))})"
        ).result_rows
    )


def _land(run: Run, rows: dict[str, list[pa.Table]]) -> int:
    """Land rows as one load; return its id."""

    def pages(_: dict[str, Any]) -> Iterator[Page]:
        for name, tables in rows.items():
            yield Page(TABLES[name], tables)

    stream = Stream("replayed", TABLES[next(iter(rows))], pages)
    packages = lander(run, REPLAY).land("replay", [stream], Progress(), Counter())
    return packages[-1].load_id


def _close(run: Run, keys: list[tuple[str, str, int]], load_id: int) -> None:
    """Take letters off the list; call it when their rows are in the ledger, so that they will be settled."""
    if keys:
        run.client.insert(
            "dead_letter_replays",
            [[*key, load_id, datetime.now(UTC)] for key in keys],
            column_names=["source", "reason", "payload_hash", "load_id", "replayed_at"],
            database=run.settings.raw_database,
        )


def _batches(run: Run, source: str | None, reason: str | None) -> Iterator[list[Letter]]:
    """Open letters of the parsers, in order of their keys."""
    after = ("", "", 0)
    while True:
        rows = run.client.query(
            "select source, reason, payload_hash, payload, last_seen_at"
            f" from {run.settings.raw_database}.dead_letters"
            f" where {_wanted(source, reason)} and reason not in {REFUSED_BY_SQL}"
            " and (source, reason, payload_hash) > ({s:String}, {r:String}, {h:UInt64})"
            f" order by source, reason, payload_hash limit {BATCH}",
            parameters=_parameters(source, reason) | {"s": after[0], "r": after[1], "h": after[2]},
        ).result_rows
        if not rows:
            return
        yield [Letter(*row[:4], row[4].replace(tzinfo=UTC)) for row in rows]
        after = rows[-1][:3]


def _derive_refused(
    run: Run, source: str | None, reason: str | None, report: Replay, dry_run: bool
) -> None:
    """Derive the hours again in which a fill stands that the models refused and know now."""
    models, raw = run.settings.clickhouse_database, run.settings.raw_database
    letters = run.client.query(
        f"""
        with refused as (
            select
                source,
                reason,
                payload_hash,
                toDateTime(JSONExtractString(payload, 'timestamp'), 'UTC') as filled_at
            from {raw}.dead_letters
            where {_wanted(source, reason)} and reason in {REFUSED_BY_SQL}
        )
        select
            source,
            reason,
            payload_hash,
            toStartOfHour(filled_at),
            payload_hash in (
                select cityHash64(filled_at, tx_hash, log_index, order_hash)
                from {models}.stg_polymarket__order_filled
                where filled_at in (select filled_at from refused)
            )
        from refused
        """,
        parameters=_parameters(source, reason),
    ).result_rows
    report.refused.update((letter[0], letter[1]) for letter in letters if not letter[4])
    known = [letter for letter in letters if letter[4]]
    report.derived.update((letter[0], letter[1]) for letter in known)
    if dry_run or not known:
        return
    spans = merge_hours({hour.replace(tzinfo=UTC) for _, _, _, hour, _ in known})
    run.ledger.add_rebuild([part for span in spans for part in plan_fills(run, span)])
    _close(run, [letter[:3] for letter in known], 0)


def merge_hours(hours: Iterable[datetime]) -> list[TimeRange]:
    """The ranges that these hours make, given by their starts: neighbours together, in order."""
    spans: list[TimeRange] = []
    for hour in sorted(hours):
        if spans and spans[-1].end == hour:
            spans[-1] = TimeRange(spans[-1].start, hour + HOUR)
        else:
            spans.append(TimeRange(hour, hour + HOUR))
    return spans


def _wanted(source: str | None, reason: str | None) -> str:
    terms = ["source = {source:String}"] if source else []
    terms += ["reason = {reason:String}"] if reason else []
    return " and ".join(terms) or "1"


def _parameters(source: str | None, reason: str | None) -> dict[str, str]:
    return {"source": source or "", "reason": reason or ""}
