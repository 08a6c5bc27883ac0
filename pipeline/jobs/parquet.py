"""`backfill --parquet`: fills of archives of Parquet files, which ClickHouse reads by itself.

A slice is a file, or a part of a large one. Each is a load: written into the ledger, inserted by one statement of
ClickHouse's own, closed, noted as done; loads are settled as they add up. Whatever a kill leaves is read again from the
start of its slice, which changes no number. No row passes through Python, so its memory does not grow with the archive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from clickhouse_connect.driver.exceptions import OperationalError

from ingest.errors import ArchiveError
from ingest.events import Event, happened
from ingest.tables import ORDER_FILLED
from pipeline.console import Step, human, step
from pipeline.derive.cutting import plan_fills
from pipeline.derive.prepare import prepare
from pipeline.errors import LoadFailed, SettingsError
from pipeline.jobs.archive_files import PART_ROWS, Archive, File
from pipeline.jobs.archive_plan import (
    Plan,
    Request,
    V1File,
    make_plan,
    twice_in_request,
    v1_files,
)
from pipeline.jobs.backup import serve_requests
from pipeline.jobs.cycle import finish_earlier, settle_all
from pipeline.timerange import TimeRange
from pipeline.warehouse.archive_books import DONE, FAILED, ArchiveBooks, SliceKey, Tally
from pipeline.warehouse.identities import (
    Identity,
    Span,
    days_of,
    other_than,
    show_days,
    stands,
    withdraw_other,
)
from pipeline.warehouse.loads import Load
from pipeline.warehouse.run import Run

PIPELINE = "polymarket_parquet"
LOG_EVERY_S = 10.0
# Slices of small files are settled together, at the latest after a while.
SETTLE_EVERY_S = 30.0
log = logging.getLogger(__name__)


def backfill_parquet(run: Run, request: Request) -> None:
    """Read an archive, and wait until all of it that can be read is settled.

    Raises:
        SettingsError: the pattern makes no sense, or V1 fills would stand twice.
        LoadFailed: files could not be read, or rows of them were no fills; all others are loaded.
        LockHeld: another run is writing.
    """
    with make_plan(run, request) as plan:
        for name, problem in plan.problems.items():
            log.warning(
                "backfill: %s", problem if problem.startswith(name) else f"{name}: {problem}"
            )
        if not plan.left and not plan.problems and not (plan.done and run.ledger.unsettled()):
            log.info(
                "backfill: all %d slices are done already; --again reads them again",
                len(plan.slices),
            )
            return
        with run.lock.held("backfill"):
            # By it a successor finds what this run has under way, and stops it.
            plan.archive.client.set_client_setting("log_comment", run.lock.comment)
            prepare(run)
            finish_earlier(run)
            _Reader(run, plan, request).read_all()


@dataclass
class _Sum:
    """What was read so far."""

    slices: int = 0
    rows: int = 0
    fills: int = 0
    dead: int = 0
    others: int = 0
    files: set[str] = field(default_factory=set)

    def add(self, file: File, tally: Tally) -> None:
        self.slices += 1
        self.rows += tally.rows
        self.fills += tally.fills
        self.dead += tally.dead
        self.others += tally.others
        self.files.add(file.name)


class _Reader:
    """Reads the slices of a plan, one after the other, under the writer lock."""

    def __init__(self, run: Run, plan: Plan, request: Request) -> None:
        self._run, self._plan, self._request = run, plan, request
        self._archive: Archive = plan.archive
        self._raw = run.settings.raw_database
        self._books = ArchiveBooks(run.client, self._raw, run.lock)
        self._sum = _Sum()
        self._problems = dict(plan.problems)
        self._unsettled = 0
        self._started = self._logged = self._settled = time.monotonic()

    def read_all(self) -> None:
        """Read what is left, and say how it went.

        Raises:
            SettingsError, LoadFailed: see `backfill_parquet`.
        """
        v1 = self._v1_files()
        refuse_both_identities(v1)
        if not self._request.replaces_days:
            refuse_v1_twice(self._run, v1)
        total = sum(file.part_rows for file, _ in self._plan.left)
        log.info(
            "backfill: %d slices of %d files, %s rows%s",
            len(self._plan.left),
            len({file.name for file, _ in self._plan.left}),
            human(total),
            f"; {self._plan.done} slices more are done already" if self._plan.done else "",
        )
        with step("backfill", total=total) as shown:
            for file, part in self._plan.left:
                serve_requests(self._run, lambda: settle_all(self._run))
                self._try(file, part)
                self._settle_in_time()
                self._show(shown, total)
            settle_all(self._run)
        if self._request.replaces_days:
            self._tell_what_stays(v1)
        self._report()

    def _v1_files(self) -> list[V1File]:
        """Files whose V1 fills could stand twice; one that cannot be read is left out and stands in the report."""
        files = v1_files(self._run, self._plan)
        for name, problem in self._plan.problems.items():
            if name not in self._problems:
                self._problems[name] = problem
                log.warning("backfill: %s", problem)
        return files

    def _try(self, file: File, part: str) -> None:
        """Read a slice; one that fails stands in the report."""
        key: SliceKey = (file.name, file.footer, part)
        try:
            tally = self._land(file, part, key)
        except ArchiveError as error:
            self._problems.setdefault(file.name, str(error))
            log.warning("backfill: %s", error)
            self._books.write(key, FAILED, file.mapped.layout.name, Tally(), str(error))
            return
        happened(Event.SLICES_LANDED, rows=tally.fills)
        problem = ""
        if tally.dead > self._run.settings.dead_letters_max:
            problem = (
                f"{file.name}: {human(tally.dead)} of {human(tally.rows)} rows are no fills, more than DEAD_LETTERS_MAX;"
                " they are in dead_letters, the rest is loaded"
            )
            self._problems.setdefault(file.name, problem)
        self._books.write(key, DONE, file.mapped.layout.name, tally, problem)
        self._sum.add(file, tally)
        self._unsettled += tally.rows

    def _settle_in_time(self) -> None:
        is_due = time.monotonic() - self._settled > SETTLE_EVERY_S
        if is_due or self._unsettled >= min(PART_ROWS, self._run.settings.settle_max_rows):
            settle_all(self._run)
            self._unsettled, self._settled = 0, time.monotonic()

    def _land(self, file: File, part: str, key: SliceKey) -> Tally:
        """Land the rows of a slice as one load.

        Raises:
            ArchiveError: they cannot be read; what was landed of them stands, and changes nothing when it comes again.
        """
        ledger = self._run.ledger
        with self._run.door.one_at_a_time():
            ledger.prove()
            load_id = ledger.take_id(f"{key[1]:016x} {part}"[:200], PIPELINE)
            ledger.open(load_id, [ORDER_FILLED.name])
            try:
                tally = self._insert(file, part, load_id)
            except ArchiveError as error:
                # An answer says that nothing is under way any more; without one, rows may still come.
                ledger.prove()
                self._replace(load_id)
                is_answered = not isinstance(error.__cause__, OperationalError)
                ledger.close_loading([load_id], is_whole=is_answered)
                raise
            loads = ledger.close_loading([load_id])
            if self._request.again:
                self._derive_again(loads)
        return tally

    def _derive_again(self, loads: Sequence[Load]) -> None:
        """Have what a slice has brought derived from all raw rows of its time, as `rebuild` does.

        Read in another way, a fill has another token or wallet under the same key, and a settle does not find the rows
        that were derived from the earlier one.
        """
        spans = [
            TimeRange.including(load.from_at, load.to_at) for load in loads if load.loaded_rows
        ]
        self._run.ledger.add_rebuild(
            [part for span in spans for part in plan_fills(self._run, span)]
        )

    def _insert(self, file: File, part: str, load_id: int) -> Tally:
        reading, archive, place = file.reading(self._archive, part), self._archive, file.place
        held = self._run.lock.sql_is_held()
        archive.command(place, reading.insert_fills(self._raw, load_id, held))
        fills, dead, others = self._landed(load_id), 0, 0
        rows = archive.query(place, reading.count())[0][0] if part else file.rows
        if (
            fills != rows
        ):  # some are copies, of other events, or no fills; or an insert was sent twice
            _, right, others = archive.query(place, reading.tally())[0]
            dead, fills = rows - right - others, min(fills, right)
        if dead:
            archive.command(place, reading.insert_letters(self._raw, load_id, held))
        self._replace(load_id)
        return Tally(rows, fills, dead, others, load_id)

    def _landed(self, load_id: int) -> int:
        return self._run.client.query(
            f"select count() from {self._raw}.{ORDER_FILLED.name} where load_id = {load_id}"
        ).result_rows[0][0]

    def _replace(self, load_id: int) -> None:
        """Take back the V1 fills of the other identity that a load has brought, if days are moved over."""
        if self._request.replaces_days:
            withdraw_other(self._archive.client, self._raw, load_id, self._run.lock.sql_is_held())

    def _tell_what_stays(self, files: Sequence[V1File]) -> None:
        """Name days on which fills of the other identity are left, because the archive lacks them."""
        for identity, spans in _spans(files).items():
            days = stands(self._run.client, self._raw, other_than(identity), spans)
            if days:
                log.warning(
                    "backfill: on %s %s stay that %s",
                    show_days(days),
                    other_than(identity).title,
                    "the archive lacks, or that are in what could not be read"
                    if self._problems
                    else "the archive lacks; no fill stands twice",
                )

    def _show(self, shown: Step, total: int) -> None:
        done, seconds = self._sum, time.monotonic() - self._started
        detail = f"{len(done.files)} files, {done.slices} of {len(self._plan.left)} slices"
        shown.update(detail, done.rows, total)
        if not shown.visible and time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            left_s = seconds / max(done.rows, 1) * max(total - done.rows, 0)
            log.info(
                "backfill: %s, %s rows, %s rows/s, about %.0f s left",
                detail,
                human(done.rows),
                human(done.rows / max(seconds, 0.001)),
                left_s,
            )

    def _report(self) -> None:
        done, seconds = self._sum, time.monotonic() - self._started
        extra = [
            f"{human(count)} {what}"
            for count, what in (
                (done.rows - done.fills - done.dead - done.others, "copies"),
                (done.others, "logs of other events"),
                (done.dead, "dead letters"),
            )
            if count > 0
        ]
        log.info(
            "backfill: %d slices of %d files done in %.1f s, %s rows, %s fills, %s rows/s%s",
            done.slices,
            len(done.files),
            seconds,
            human(done.rows),
            human(done.fills),
            human(done.rows / max(seconds, 0.001)),
            f"; {', '.join(extra)}" if extra else "",
        )
        if self._problems:
            raise LoadFailed(
                f"backfill: {len(self._problems)} files could not be read as they should be; the same command tries"
                f" them again; first {next(iter(self._problems.values()))}"
            )


def refuse_v1_twice(run: Run, files: Sequence[V1File]) -> None:
    """Refuse files whose V1 fills stand under the other identity on any of their days.

    Raises:
        SettingsError: they do.
    """
    for identity, spans in _spans(files).items():
        other = other_than(identity)
        if days := stands(run.client, run.settings.raw_database, other, spans, most=1):
            raise SettingsError(
                f"--parquet: {other.title} stand on {days[0]}, and each fill would count twice; --replace-days moves"
                " whole days over to the archive"
            )


def refuse_both_identities(files: Sequence[V1File]) -> None:
    """Refuse files that would bring V1 fills of the same days under both identities.

    Raises:
        SettingsError: they would.
    """
    if both := twice_in_request(files):
        named = " and ".join(
            f"{file.name} ({file.identity.title}, {' to '.join(days_of(file.span))})"
            for file in both
        )
        raise SettingsError(
            f"--parquet: {named} have days in common, and each fill would count twice; give files of one kind for a day"
        )


def _spans(files: Sequence[V1File]) -> dict[Identity, list[Span]]:
    spans: dict[Identity, list[Span]] = {}
    for file in files:
        spans.setdefault(file.identity, []).append(file.span)
    return spans
