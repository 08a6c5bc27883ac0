"""Works requested slices, package by package, for the holder of the writer lock: the `backfill` verb, or a job of a loop.

Threads read ahead all the time; `work` lands what they have, one load package at a time, and settles it. A slice is
written down as done once its last page is in a package that is loaded and stands in the ledger. When anything goes
wrong before that, all that was read is forgotten and read again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from ingest.errors import IngestError
from ingest.events import Event, happened
from ingest.progress import Progress
from ingest.queue.backlog import TRIES, Backlog
from ingest.queue.fetching import FetchPool
from ingest.queue.slices import Slice, SlicePage, SliceReader, slices
from ingest.sources import SOURCES
from pipeline.jobs.load import lander
from pipeline.warehouse.run import BACKFILL, Run
from pipeline.warehouse.slices import SliceBooks

# Shorter packages cost more than they bring, and make a cycle late.
SHORTEST_S = 1.0
log = logging.getLogger(__name__)


class BackfillWorker:
    """Lands requested slices; use as a context manager, on a prepared run under the writer lock.

    Args:
        settle: settles what was landed.
        for_ever: never give up on a slice; else those that fail too often stay requested.

    Attributes:
        failures: the last failure of each slice that is not done, in the order in which they first failed.
    """

    def __init__(self, run: Run, settle: Callable[[], object], *, for_ever: bool = False) -> None:
        self._run, self._settle = run, settle
        self._books = SliceBooks(run.client, run.settings.raw_database, run.lock)
        self._load_id = 0  # of the last package
        backlog = Backlog(tries=None if for_ever else TRIES)
        self._pool = FetchPool(self._readers, run.settings.backfill_workers, backlog)
        self.failures: dict[Slice, IngestError] = {}

    def __enter__(self) -> BackfillWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.__exit__()

    @property
    def has_hope(self) -> bool:
        """Whether slices are left that may still be read."""
        return self._pool.has_hope

    def refresh(self) -> None:
        """Take up slices that were requested meanwhile, and drop those that were cancelled."""
        self._pool.want(self._books.in_state("requested"))

    def work(self, until: float) -> int | None:
        """Land one package of what was read, waiting for more of it until `until` (of time.monotonic); settle it.

        Returns:
            Rows that were landed; None if there is nothing to land yet.

        Raises:
            LoadError: the package did not get into ClickHouse.
            ModelsError: it did, and is not settled yet; the next run settles it.
            LockHeld: the lock was lost meanwhile.
        """
        try:
            self.refresh()
            self._note_failures()
            self._finish(self._pool.take_ended())
            if not self._is_worth_it(until):
                return None
            rows = self._land(until)
        except BaseException:
            self._pool.start_over()
            raise
        self._settle()
        return rows

    def wait(self, until: float) -> None:
        """Wait until something was read, at most until `until` (of time.monotonic)."""
        self._pool.wait(until)

    def _is_worth_it(self, until: float) -> bool:
        """Whether a package now is of useful size, or there is time for it to become so."""
        has_time = until - time.monotonic() >= SHORTEST_S
        return self._pool.wants_emptying or (has_time and self._pool.has_pages)

    def _land(self, until: float) -> int:
        """Load one package, write it into the ledger, and then its slices as done."""
        deadline = max(until, time.monotonic() + SHORTEST_S)
        ended: list[SlicePage] = []
        rows: Counter[str] = Counter()
        stream = slices(
            lambda: self._pool.take(deadline),
            most_rows=self._run.settings.backfill_package_rows,
            ended=ended,
        )
        packages = lander(self._run, BACKFILL).land("slices", [stream], Progress(), rows)
        if packages:
            self._load_id = packages[-1].load_id
        happened(Event.SLICES_LANDED, rows=rows.total())
        self._finish(ended)
        return rows.total()

    def _finish(self, ended: list[SlicePage]) -> None:
        self._books.finish(ended, self._load_id)
        for page in ended:
            self.failures.pop(page.slice, None)

    def _note_failures(self) -> None:
        for part, error in self._pool.take_failures():
            if part not in self.failures:
                log.warning("backfill: %s: %s", part, error)
            self.failures[part] = error
            self._books.note(part, str(error))

    def _readers(self) -> Mapping[str, SliceReader]:
        """Readers of one thread."""
        return {
            source.name: source.slices(self._run.desk)
            for source in SOURCES
            if source.slices is not None
        }
