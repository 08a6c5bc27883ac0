"""`backfill`: fills of a time range from the archive and the chain, beside whatever else is loaded.

The range is cut into slices, and the slices are written into ClickHouse as requested. The holder of the writer lock
works them: this run if the lock is free, else a loop between its cycles, while this run watches. Only what is not done
yet is read, so the same command goes on where a kill, a failure or Ctrl-C ended the last one. The module is longer than
300 lines because asking for slices, working them and watching another run work them are one command.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ingest.contracts import V1
from ingest.errors import IngestError
from ingest.queue.slices import Slice
from ingest.sources.polygon.source import slices as chain_slices
from pipeline.console import Step, human, step
from pipeline.derive.prepare import prepare
from pipeline.errors import LoadFailed, LockHeld, NothingLoaded, SchemaError, SettingsError
from pipeline.jobs.backup import serve_requests
from pipeline.jobs.cycle import finish_earlier, settle_all
from pipeline.jobs.slicing import (
    V1_TWICE,
    Plan,
    at,
    cut,
    first_second,
    generations,
    left_of,
    ranges,
    sources_of,
    whole_seconds,
)
from pipeline.jobs.worker import BackfillWorker
from pipeline.signals import Stopped
from pipeline.timerange import parse_range, show
from pipeline.warehouse.holder import Holder
from pipeline.warehouse.identities import WITH_PLACE, WITHOUT_PLACE, stands, whole_days
from pipeline.warehouse.run import Run
from pipeline.warehouse.slices import SliceBooks, Tally

# Verbs that work slices while they hold the lock.
WORKING_VERBS = ("loop", "cron", "backfill")
LOG_EVERY_S = 10.0
LOOK_EVERY_S = 1.0
# A loop that has just started makes the books when it is ready.
PREPARING_S = 120.0
# How long a loop may take to settle what is landed; loads of a backfill are settled as they come.
SETTLING_S = 1800.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        start, end: half-open range; without an end all there is.
        source: goldsky or polygon; None: each for what it has.
        again: read what is done already, too.
    """

    start: datetime
    end: datetime | None
    source: str | None = None
    again: bool = False


def parse_request(
    from_text: str | None, to_text: str | None, source: str | None, again: bool
) -> Request:
    """The request of a command line.

    Raises:
        SettingsError: there is no --from, an option is no date or time, or the range holds nothing.
    """
    if from_text is None:
        raise SettingsError("where does it begin? Give --from, for example --from 2026-05-01")
    start, end = parse_range(from_text, to_text)
    return Request(start, None if to_text is None else end, source, again)


def plan(run: Run, request: Request) -> Plan:
    """Slices of a request, and which of them are done.

    Raises:
        SettingsError: the source would bring V1 a second time.
        NothingLoaded: no source has anything of this range.
        LoadFailed: the chain's head cannot be read.
    """
    settings = run.settings
    sources, versions = sources_of(settings, request.source), settings.polygon_versions
    start, end = whole_seconds(request.start), whole_seconds(request.end or datetime.now(UTC))
    archive_end = whole_seconds(settings.goldsky_horizon) + 1
    spans_chain = "polygon" in sources and end > first_second("polygon", versions)
    confirmed_end = _confirmed_end(run) if spans_chain else 0
    ends = {"goldsky": archive_end, "polygon": confirmed_end}
    wholes = ranges(sources, start, end, versions=versions, ends=ends)
    if not wholes:
        firsts = {name: first_second(name, versions) for name in sources}
        why = ", ".join(
            f"{name} begins at {show(at(first))}"
            if end <= first
            else f"{name} ends at {show(at(ends[name]))}"
            for name, first in firsts.items()
        )
        raise NothingLoaded(f"nothing to backfill from {show(at(start))} to {show(at(end))}: {why}")
    for whole in wholes:
        if request.end and whole == wholes[-1] and whole.end < end:
            log.info("backfill: %s has fills up to %s only", whole.source, show(at(whole.end)))
    _refuse_v1_twice(run, wholes)
    parts = [part for whole in wholes for part in cut(whole, settings.backfill_slice_s)]
    books = SliceBooks(run.client, settings.raw_database)
    done = books.in_state("done") if books.exist() and not request.again else []
    return Plan(parts, left_of(parts, done))


def backfill(run: Run, request: Request) -> None:
    """Have a range read, by this run or by the one that holds the writer lock, and wait until it is.

    Raises:
        SettingsError, NothingLoaded: see `plan`.
        LoadFailed: slices are left that could not be read, or were cancelled.
        SchemaError: the run that holds the lock knows no backfills.
    """
    wanted = plan(run, request)
    if not wanted.left:
        log.info(
            "backfill: all %d slices are done already; --again reads them again",
            len(wanted.slices),
        )
        return
    _Backfill(run, wanted).run_to_the_end()


def cancel(run: Run, source: str | None) -> int:
    """Take back requested slices, of one source or of all; returns how many. What is being read is finished."""
    books = SliceBooks(run.client, run.settings.raw_database)
    return books.cancel(source) if books.exist() else 0


class _Backfill:
    """One run of the verb: works or watches until nothing is left."""

    def __init__(self, run: Run, wanted: Plan) -> None:
        self._run, self._plan = run, wanted
        self._books = SliceBooks(run.client, run.settings.raw_database)
        self._since: datetime | None = None  # of the request, by the books
        self._started = self._logged = time.monotonic()

    def run_to_the_end(self) -> None:
        """Work, or watch the run that works, until no slice is left or those that are cannot be read."""
        waiting_for: Holder | None = None
        try:
            while True:
                holder = self._holder()
                if holder is None:
                    if self._work():
                        return
                elif holder.verb in WORKING_VERBS:
                    if self._watch(holder):
                        return
                else:
                    if waiting_for is None or holder.number != waiting_for.number:
                        log.info("backfill: waiting for %s to end", holder)
                    waiting_for = holder
                time.sleep(LOOK_EVERY_S)
        except Stopped:
            if self._since is not None:
                log.warning(
                    "backfill: what is not done stays requested: a loop works it, the same command goes on with it,"
                    " and `backfill --cancel` takes it back"
                )
            raise

    def _holder(self) -> Holder | None:
        holder = self._run.lock.holder()
        dead = holder is None or holder.is_dead(self._run.settings.lock_ttl_s)
        return None if dead else holder

    def _still_holds(self, holder: Holder) -> bool:
        now = self._holder()
        return now is not None and now.number == holder.number

    def _request(self) -> datetime:
        """Write the slices down, once, and return when that was."""
        if self._since is None:
            left = self._plan.left
            self._since = self._books.request(left)
            self._started = self._logged = time.monotonic()
            log.info(
                "backfill: %d slices, %s to %s%s",
                len(left),
                show(at(min(part.start for part in left))),
                show(at(max(part.end for part in left))),
                f"; {self._plan.done} more are done already" if self._plan.done else "",
            )
        return self._since

    def _work(self) -> bool:
        """Work the slices under the writer lock; False if another run was faster to take it."""
        try:
            with self._run.lock.held("backfill"):
                prepare(self._run)
                since = self._request()
                finish_earlier(self._run)
                with BackfillWorker(self._run, lambda: settle_all(self._run)) as worker:
                    with step(
                        "backfill", total=self._books.tally(since).slices, rate=False
                    ) as shown:
                        self._land_all(worker, since, shown)
                    finish_earlier(self._run)  # loads whose rows were read again meanwhile
                    self._report(self._books.tally(since), list(worker.failures.items()))
        except LockHeld as held:
            log.info("backfill: %s", held)
            return False
        return True

    def _land_all(self, worker: BackfillWorker, since: datetime, shown: Step) -> None:
        while True:
            serve_requests(self._run)
            try:
                landed = worker.work(time.monotonic() + LOG_EVERY_S)
            except IngestError as error:
                raise LoadFailed(str(error)) from error
            self._show(self._books.tally(since), shown)
            if landed is None:
                if not worker.has_hope:
                    return
                worker.wait(time.monotonic() + LOOK_EVERY_S)

    def _watch(self, holder: Holder) -> bool:
        """Watch until everything is done, or `holder` has let go of the lock: then False."""
        deadline = time.monotonic() + PREPARING_S
        while not self._books.exist():
            if time.monotonic() > deadline:
                raise SchemaError(
                    f"{holder} knows no backfills: start it again with this version, or stop it"
                )
            if not self._still_holds(holder):
                return False
            time.sleep(LOOK_EVERY_S)
        since = self._request()
        log.info("backfill: %s does the work", holder)
        with step("backfill", total=self._books.tally(since).slices, rate=False) as shown:
            while (tally := self._books.tally(since)).left:
                self._show(tally, shown)
                if not self._still_holds(holder):
                    return False
                time.sleep(LOOK_EVERY_S)
        if not self._let_settle(holder):
            return False
        self._report(tally, [])
        return True

    def _let_settle(self, holder: Holder) -> bool:
        """Wait until the loads that are unsettled now are settled, or `holder` has let go of the lock: then False.

        Raises:
            LoadFailed: they are not in the time that a settle may take.
        """
        waiting, deadline = self._unsettled(), time.monotonic() + SETTLING_S
        while waiting & self._unsettled():
            if not self._still_holds(holder):
                return False
            if time.monotonic() > deadline:
                raise LoadFailed(
                    f"backfill: all fills are landed, but {len(waiting & self._unsettled())} loads are not settled after"
                    f" {SETTLING_S:.0f} s: `python run_pipeline.py status` says why"
                )
            time.sleep(LOOK_EVERY_S)
        return True

    def _unsettled(self) -> set[tuple[int, str]]:
        ready = ("loaded", "settling")
        return {each.key for each in self._run.ledger.unsettled() if each.state in ready}

    def _show(self, tally: Tally, shown: Step) -> None:
        seconds = time.monotonic() - self._started
        finished = tally.done + tally.cancelled
        detail = f"{finished} of {tally.slices} slices, {_rate(tally.fills, seconds)}"
        shown.update(detail, finished, tally.slices)
        if not shown.visible and time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            left = f", about {_duration(seconds / finished * tally.left)} left" if finished else ""
            problem = f"; {tally.problem}" if tally.problem else ""
            log.info("backfill: %s%s%s", detail, left, problem)

    def _report(self, tally: Tally, failures: list) -> None:
        """Say how it went.

        Raises:
            LoadFailed: something is left.
        """
        seconds = time.monotonic() - self._started
        log.info(
            "backfill: %d slices done in %.1f s, %s",
            tally.done,
            seconds,
            _rate(tally.fills, seconds),
        )
        if tally.done and not tally.fills:
            log.warning("backfill: these %d slices hold no fill at all", tally.done)
        if tally.left:
            first = f"; first {failures[0][0]}: {failures[0][1]}" if failures else ""
            raise LoadFailed(
                f"backfill: {tally.left} slices could not be read and stay requested, the same command tries them"
                f" again{first}"
            )
        if tally.cancelled:
            raise LoadFailed(f"backfill: {tally.cancelled} slices were cancelled")


def _confirmed_end(run: Run) -> int:
    try:
        return chain_slices(run.desk).confirmed_end()
    except IngestError as error:
        raise LoadFailed(str(error)) from error


def _refuse_v1_twice(run: Run, wholes: Iterable[Slice]) -> None:
    """Refuse ranges on whose days V1 fills stand under the other identity.

    Raises:
        SettingsError: they do.
    """
    for whole in wholes:
        if V1 not in generations(whole):
            continue
        other = WITH_PLACE if whole.source == "goldsky" else WITHOUT_PLACE
        span = whole_days((whole.start, whole.end - 1))
        if days := stands(run.client, run.settings.raw_database, other, [span], most=1):
            raise SettingsError(
                f"--source {whole.source}: {V1_TWICE}: it has landed already on {days[0]}; leave such days out, read the"
                " other source alone, or use another CLICKHOUSE_DATABASE"
            )


def _rate(fills: int, seconds: float) -> str:
    return f"{human(fills)} fills, {human(fills / max(seconds, 0.001))} fills/s"


def _duration(seconds: float) -> str:
    """A time span, roughly."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
