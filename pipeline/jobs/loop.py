"""When jobs run: all of them once, or each at its own times until a signal comes.

What fails is noted and tried again; only `once` ends with it. The writer lock is held for as long as this process runs,
so that two loops do not take turns by accident. Slices that `backfill` has requested, and backups that `backup` has
requested, are jobs like any other.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.sources.base import Source
from pipeline.derive.owed import derive_owed, owed
from pipeline.derive.prepare import prepare
from pipeline.derive.settler import Settler
from pipeline.errors import ClickHouseUnavailable, SettingsError
from pipeline.jobs.backup import serve_requests
from pipeline.jobs.cycle import prepare_books, run_cycle
from pipeline.jobs.job import Job, Outcome, Schedule, next_tick
from pipeline.jobs.reading import make_settler, read_source, settle
from pipeline.jobs.runner import Runner
from pipeline.jobs.worker import BackfillWorker
from pipeline.settings import Settings
from pipeline.warehouse.client import first_line
from pipeline.warehouse.jobs import read_jobs
from pipeline.warehouse.run import Run, open_run

SETTLING, UPGRADE, BACKFILL, BACKUP = "settling", "upgrade", "backfill", "backup"
SETTLING_EVERY_S = 30.0
# How long a request of `backfill` or `backup` may go unnoticed.
REQUESTS_EVERY_S = 2.0
# After so long a backfill looks for pages again; packages get so long to fill.
BACKFILL_PAUSE_S = 0.1
PACKAGE_S = 10.0
log = logging.getLogger(__name__)


def run_once(settings: Settings, only: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
    """Read every source once.

    Args:
        only, skip: names of sources; see `chosen`.

    Raises:
        SettingsError: there is no such source.
        LoadFailed: a source failed; the others were loaded and settled.
        ModelsError: what was loaded could not be settled; the next run settles it.
        LockHeld: another run is writing.
        ClickHouseUnavailable: ClickHouse failed or went away.
    """
    sources = chosen(settings, only, skip)
    with _naming_clickhouse(), open_run(settings) as run, run.lock.held("run"):
        prepare(run)
        run_cycle(run, sources).raise_failures()


def run_loop(
    settings: Settings,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    *,
    verb: str = "loop",
    cron: str = "",
) -> None:
    """Run every job at its own times until a signal comes.

    Args:
        only, skip: names of sources; see `chosen`.
        verb: what this run does, for others to read.
        cron: expression for the sources that have none of their own; empty: they are read every POLL_INTERVAL_S.

    Raises:
        SettingsError: there is no such source, or the expression makes no sense.
        LockHeld: another run is writing.
        ClickHouseUnavailable: it failed before the first run, or it is the embedded one and went away.
    """
    sources = chosen(settings, only, skip)
    if cron:
        pause_s = (next_tick(cron, datetime.now(UTC)) - datetime.now(UTC)).total_seconds()
    with _naming_clickhouse(), open_run(settings) as run, run.lock.held(verb):
        prepare(run)
        if cron:
            log.info("cron: %s, first cycle in %.0f s", cron, pause_s)
        settler = make_settler(run)
        with BackfillWorker(run, partial(settle, run, settler), for_ever=True) as worker:
            states = dict(read_jobs(run.client, settings.raw_database))
            jobs = [*_source_jobs(run, sources, settler, cron), *_tasks(run, settler, worker)]
            with Runner(run, jobs, states) as runner:
                runner.wait()


def run_cron(
    settings: Settings, expression: str, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> None:
    """Run every job at the times of a cron expression (UTC, seconds as an optional sixth field) until a signal comes.

    A time that passes while a job runs is skipped.

    Raises:
        SettingsError, LockHeld, ClickHouseUnavailable: see `run_loop`.
    """
    run_loop(settings, only, skip, verb="cron", cron=expression)


def chosen(settings: Settings, only: Sequence[str], skip: Sequence[str]) -> list[Source]:
    """The sources of the settings, or of them those that are named.

    Args:
        only: names of those that are read; empty: all.
        skip: names of those that are not.

    Raises:
        SettingsError: one is not a source of the settings, or none is left.
    """
    active = settings.active_sources
    names = [source.name for source in active]
    if unknown := [name for name in (*only, *skip) if name not in names]:
        raise SettingsError(
            f"{', '.join(unknown)}: not read by these settings (SOURCES, GOLDSKY_START); there are {', '.join(names)}"
        )
    left = [each for each in active if each.name not in skip and (not only or each.name in only)]
    if not left:
        raise SettingsError("no source is left to read; see SOURCES, --only and --skip")
    return left


def _source_jobs(run: Run, sources: Sequence[Source], settler: Settler, cron: str) -> list[Job]:
    """A job for each source; new tokens are looked up at once by a source that would come to it much later."""
    settings = run.settings
    schedules = {
        each.name: Schedule(settings.poll_interval_s, each.schedule(settings) or cron)
        for each in sources
    }
    looks_up = [each.name for each in sources if each.looks_up_tokens and schedules[each.name].cron]
    return [
        Job(
            source.name,
            schedules[source.name],
            partial(read_source, run, source, settler),
            then=looks_up if source.finds_tokens else (),
        )
        for source in sources
    ]


def _tasks(run: Run, settler: Settler, worker: BackfillWorker) -> list[Job]:
    """What runs beside the sources."""
    return [
        Job(SETTLING, Schedule(SETTLING_EVERY_S), partial(_settle_the_rest, run, settler)),
        Job(
            UPGRADE, Schedule(SETTLING_EVERY_S), partial(_derive_owed, run, settler), is_quiet=True
        ),
        Job(BACKFILL, Schedule(BACKFILL_PAUSE_S), partial(_backfill, worker), is_quiet=True),
        Job(BACKUP, Schedule(REQUESTS_EVERY_S), partial(_backup, run, settler), is_quiet=True),
    ]


def _settle_the_rest(run: Run, settler: Settler) -> Outcome:
    """Close what was left half loaded, and settle what is left, again what failed before."""
    with run.door.one_at_a_time():
        prepare_books(run)
    settle(run, settler)
    return Outcome(failure="; ".join(settler.problems))


def _derive_owed(run: Run, settler: Settler) -> Outcome:
    """Derive a slice again that an upgrade has left, unless something cannot be settled."""
    if not owed(run):
        return Outcome()
    with run.door.one_at_a_time():
        if settler.problems:
            return Outcome()
        return Outcome(caught_up=not derive_owed(run, budget_s=0.0))


def _backfill(worker: BackfillWorker) -> Outcome:
    """Land a package of what was read of slices, or wait a little for some."""
    rows = worker.work(time.monotonic() + PACKAGE_S)
    if rows is None:
        worker.wait(time.monotonic() + REQUESTS_EVERY_S)
        return Outcome()
    return Outcome(Counter(order_filled=rows), caught_up=False)


def _backup(run: Run, settler: Settler) -> Outcome:
    serve_requests(run, settler.settle)
    return Outcome()


@contextmanager
def _naming_clickhouse() -> Iterator[None]:
    try:
        yield
    except ClickHouseError as error:
        raise ClickHouseUnavailable(
            f"ClickHouse failed: {first_line(error)}; run again when that is fixed, nothing was lost"
        ) from error
