"""`status`: what is loaded, how fresh it is, who is writing, and what needs attention.

The module is longer than 300 lines because the answer and the queries that fill it belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from embedded_clickhouse.passwords import OWNER, password_file
from pipeline.derive.owed import owed
from pipeline.jobs.freshness import Freshness, judge, last_reads
from pipeline.settings import Settings
from pipeline.verbs.stored import TableStatus, exists, iso, read_sizes, read_tables
from pipeline.warehouse.disk import TableSize
from pipeline.warehouse.jobs import WAITING, JobState, read_jobs
from pipeline.warehouse.loads import EPOCH
from pipeline.warehouse.run import Run

# A single failure is what retries are for.
FAILURES_IN_A_ROW = 3
# A job that has not begun this long after its time, or that runs for this long, is stuck.
OVERDUE_S, ENDLESS_S = 300.0, 3600.0


@dataclass(frozen=True)
class JobStatus:
    """One job as it was last noted; times are ISO, UTC, None where there is none.

    Attributes:
        state: running (for a while now) or waiting.
        outcome: done or failed: how the last run ended; None: it has not.
        next_at: when it runs next; None while nothing runs it.
        is_run: the run that writes now has noted it.
        is_stuck: it should have begun, or ended, long ago.
    """

    job: str
    state: str
    schedule: str
    started_at: str | None
    ended_at: str | None
    outcome: str | None
    rows: int
    failures: int
    failing_since: str | None
    problem: str | None
    done_at: str | None
    next_at: str | None
    is_run: bool
    is_stuck: bool


@dataclass(frozen=True)
class Status:
    """The answer of `status`.

    Attributes:
        clickhouse: server in use.
        version: its version.
        database: database of the models.
        ready: False until the first run has made the schema.
        writer: who holds the writer lock, or None.
        sources: how fresh each source of a cycle is, and what is derived.
        jobs: every job that a run has noted.
        tables: promised tables.
        unsettled_loads: loads that derived tables do not reflect yet.
        unchecked: rows by landing table of those of them whose blocks are read again first, because they may have come late.
        settled_loads: loads that they do.
        last_load_at: when the newest load was written down, ISO, UTC.
        unknown_tokens: tokens with trades whose market has not landed; combos aside, which have none.
        backfills: per source and contiguous span of slices, how many of them are done and requested, and a problem.
        dead_letters: distinct records that could not be parsed and were not replayed, per source and reason.
        late_fills: what the second reading of the chain found and the first had missed (fills), or had and should not
            have (taken_back), in so many blocks; when it last did, ISO, UTC, or None.
        to_derive_again: fills that stand as an earlier version of the models derived them.
        sizes: what each table of both databases takes on the disk, the largest first.
        password_file: the file with the owner's password of the embedded ClickHouse; None: there is none.
    """

    clickhouse: str
    version: str
    database: str
    ready: bool
    writer: str | None
    sources: list[Freshness]
    jobs: list[JobStatus]
    tables: list[TableStatus]
    unsettled_loads: int
    unchecked: dict[str, int]
    settled_loads: int
    last_load_at: str | None
    unknown_tokens: int
    backfills: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    late_fills: dict[str, Any]
    to_derive_again: int = 0
    sizes: list[TableSize] = field(default_factory=list)
    password_file: str | None = None

    @property
    def stale(self) -> list[str]:
        """Sources that are stale or were never read, and `settling` if what is derived lags behind."""
        return [each.source for each in self.sources if each.is_stale]

    @property
    def bytes(self) -> int:
        """What all tables take on the disk."""
        return sum(each.bytes for each in self.sizes)

    @property
    def bytes_per_fill(self) -> float | None:
        """The same divided by the fills; None: there are none."""
        shares = [each.bytes_per_fill for each in self.sizes if each.bytes_per_fill is not None]
        return round(sum(shares), 2) if shares else None

    @property
    def unhealthy(self) -> list[str]:
        """Why somebody should look at the run that loads, one line each; a first catch-up is no reason."""
        if self.writer is None:
            return ["no run holds the writer lock"]
        running = [each for each in self.jobs if each.is_run]
        return [
            *(
                f"{each.job}: failed {each.failures} times in a row: {each.problem}"
                for each in running
                if each.failures >= FAILURES_IN_A_ROW
            ),
            *(
                f"{each.job}: stuck, {each.state} since {each.started_at}"
                for each in running
                if each.is_stuck
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self) | {
            "bytes": self.bytes,
            "bytes_per_fill": self.bytes_per_fill,
            "stale": self.stale,
            "unhealthy": self.unhealthy,
        }


def read_status(run: Run) -> Status:
    """Ask ClickHouse for the status; works on an empty server too."""
    settings, client = run.settings, run.client
    raw, models = settings.raw_database, settings.clickhouse_database
    ready = run.has_database(raw) and exists(run, models, "trades")
    holder = run.lock.holder()
    writing = holder is not None and not holder.is_dead(settings.lock_ttl_s)
    now = client.query("select now64(6, 'UTC')").result_rows[0][0].replace(tzinfo=UTC)
    unsettled, settled, last_load_at, oldest_unsettled = _loads(run) if ready else (0, 0, None, 0)
    reads = last_reads(client, raw) if ready and exists(run, raw, "source_readings") else {}
    tables = read_tables(run, now) if ready else []
    unsettled_since = (
        datetime.fromtimestamp(oldest_unsettled / 1e6, UTC) if oldest_unsettled else None
    )
    return Status(
        clickhouse=str(run.server),
        version=str(client.server_version),
        database=models,
        ready=ready,
        writer=str(holder) if writing else None,
        sources=judge(settings, reads, unsettled_since, now),
        jobs=_jobs(run, holder.number if writing else None, now),
        tables=tables,
        sizes=read_sizes(run, tables) if ready else [],
        unsettled_loads=unsettled,
        unchecked=_unchecked(run) if ready else {},
        settled_loads=settled,
        last_load_at=iso(last_load_at) if settled or unsettled else None,
        unknown_tokens=_unknown_tokens(run) if ready else 0,
        backfills=_backfills(run) if ready else [],
        dead_letters=_dead_letters(run) if ready else [],
        late_fills=_late_fills(run),
        to_derive_again=sum(each.loaded_rows for each in owed(run)) if ready else 0,
        password_file=_password_file(settings),
    )


def _loads(run: Run) -> Sequence[Any]:
    """How many loads are not settled and settled, when the last one was written down, and the oldest unsettled id."""
    return run.client.query(
        "select countIf(state != 'settled'), countIf(state = 'settled'), max(updated_at),"
        " minIf(load_id, state != 'settled' and not is_rebuild)"
        f" from {run.settings.raw_database}.loads final"
    ).result_rows[0]


def _unchecked(run: Run) -> dict[str, int]:
    return dict(
        run.client.query(
            f"select table_name, sum(loaded_rows) from {run.settings.raw_database}.loads final"
            " where state = 'unchecked' group by table_name"
        ).result_rows
    )


def _unknown_tokens(run: Run) -> int:
    return run.client.query(
        f"select count() from {run.settings.clickhouse_database}.unknown_tokens where module != 'combo'"
    ).result_rows[0][0]


def _is_stuck(state: JobState, now: datetime) -> bool:
    if state.state == WAITING:
        return state.next_at != EPOCH and (now - state.next_at).total_seconds() > OVERDUE_S
    return (now - state.started_at).total_seconds() > ENDLESS_S


def _jobs(run: Run, number: int | None, now: datetime) -> list[JobStatus]:
    """Jobs by name; what a run that has ended had planned is no plan any more.

    Args:
        number: that of the writer lock, if a run holds it.
    """
    return [
        JobStatus(
            each.job,
            each.state if each.fence == number else WAITING,
            each.schedule,
            _moment(each.started_at),
            _moment(each.ended_at),
            each.outcome or None,
            each.rows,
            each.failures,
            _moment(each.failing_since),
            each.problem or None,
            _moment(each.done_at),
            _moment(each.next_at) if each.fence == number else None,
            each.fence == number,
            each.fence == number and _is_stuck(each, now),
        )
        for each in read_jobs(run.client, run.settings.raw_database).values()
    ]


def _moment(at: datetime) -> str | None:
    return None if at == EPOCH else iso(at)


def _password_file(settings: Settings) -> str | None:
    is_kept = settings.embedded and settings.clickhouse_local_access.password is None
    return str(password_file(settings.clickhouse_local_path, OWNER)) if is_kept else None


def _dead_letters(run: Run) -> list[dict[str, Any]]:
    """Records that could not be parsed and were not replayed, by source and reason."""
    rows = run.client.query(
        f"select source, reason, count() from {run.settings.raw_database}.dead_letters"
        " group by source, reason order by 1, 2"
    ).result_rows
    return [
        {"source": source, "reason": reason, "records": records} for source, reason, records in rows
    ]


def _late_fills(run: Run) -> dict[str, Any]:
    """What second readings have found; nothing where the database was made before there were any."""
    raw = run.settings.raw_database
    found: Sequence[Any] = (0, 0, 0, None)
    if exists(run, raw, "late_fills"):
        found = run.client.query(
            f"select sum(fills), sum(taken_back), uniqExact(block_number), max(found_at) from {raw}.late_fills final"
        ).result_rows[0]
    fills, taken_back, blocks, at = found
    return {
        "fills": fills,
        "taken_back": taken_back,
        "blocks": blocks,
        "last_at": iso(at) if blocks else None,
    }


def _backfills(run: Run) -> list[dict[str, Any]]:
    """Backfills by source and contiguous span; none where the database was made before there were any."""
    raw = run.settings.raw_database
    if not exists(run, raw, "backfill_slices"):
        return []
    window = (
        "over (partition by source order by from_at, to_at rows between unbounded preceding and"
    )
    rows = run.client.query(
        "select source, min(from_at) as first, max(to_at), countIf(state = 'done'),"
        " countIf(state = 'requested'), anyIf(problem, state = 'requested' and problem != '')"
        f" from (select *, sum(follows_gap) {window} current row) as span"
        f" from (select *, from_at > max(to_at) {window} 1 preceding) as follows_gap"
        f" from {raw}.backfill_slices final where state != 'cancelled'))"
        " group by source, span order by source, first"
    ).result_rows
    names = ("source", "from_at", "to_at", "done", "requested", "problem")
    return [
        dict(zip(names, (row[0], iso(row[1]), iso(row[2]), *row[3:]), strict=True)) for row in rows
    ]
