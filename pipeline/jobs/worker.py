"""Works requested slices, package by package, for whoever holds the writer lock: the `backfill` verb, or a loop between
its cycles.

Threads read ahead all the time; `work` lands what they have, one load package at a time, and settles it. A slice is
written down as done once its last page is in a package that is loaded and stands in the ledger. When anything goes
wrong before that, all that was read is forgotten and read again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping

from ingest.errors import IngestError
from ingest.progress import Progress
from ingest.queue.backlog import TRIES, Backlog
from ingest.queue.fetching import FetchPool
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.slices import PIPELINE, ArchiveReader, ChainReader, Page, Reader, Slice, slices
from pipeline.console import Step
from pipeline.derive.settle import settle
from pipeline.jobs.cycle import load_source
from pipeline.jobs.slicing import whole_seconds
from pipeline.jobs.sources import chain_endpoints, http_client
from pipeline.settings import Settings
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.run import Run
from pipeline.warehouse.slices import SliceBooks

# Shorter packages cost more than they bring, and make a cycle late.
SHORTEST_S = 1.0
log = logging.getLogger(__name__)


class BackfillWorker:
    """Lands requested slices; use as a context manager, on a prepared run under the writer lock.

    Args:
        for_ever: never give up on a slice; else those that fail too often stay requested.

    Attributes:
        failures: the last failure of each slice that is not done, in the order in which they first failed.
    """

    def __init__(self, run: Run, *, for_ever: bool = False) -> None:
        self._run = run
        self._books = SliceBooks(run.client, run.settings.raw_database, run.lock)
        # Made here, not in the threads, so that all of them share the limits of one.
        self._archive = http_client(run, "goldsky")
        self._endpoints = chain_endpoints(run)
        self._bounds: dict[int, int] = {}
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

    def work(self, lock: WriterLock, until: float, shown: Step) -> bool:
        """Land one package of what was read, waiting for more of it until `until` (of time.monotonic).

        Returns:
            False if there is nothing to land yet.

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
                return False
            lock.check()
            self._land(until, shown)
        except BaseException:
            self._pool.start_over()
            raise
        lock.check()
        settle(
            self._run.client,
            self._run.ledger,
            self._run.statements,
            max_rows=self._run.settings.settle_max_rows,
            on_batch=lambda batch: shown.update("settling"),
        )
        return True

    def wait(self, until: float) -> None:
        """Wait until something was read, at most until `until` (of time.monotonic)."""
        self._pool.wait(until)

    def _is_worth_it(self, until: float) -> bool:
        """Whether a package now is of useful size, or there is time for it to become so."""
        has_time = until - time.monotonic() >= SHORTEST_S
        return self._pool.wants_emptying or (has_time and self._pool.has_pages)

    def _land(self, until: float, shown: Step) -> None:
        """Load one package, write it into the ledger, and then its slices as done."""
        deadline = max(until, time.monotonic() + SHORTEST_S)
        ended: list[Page] = []
        source = slices(
            lambda: self._pool.take(deadline),
            most_rows=self._run.settings.backfill_package_rows,
            ended=ended,
        )
        packages = load_source(self._run, PIPELINE, source, Progress(), Counter(), shown)
        if packages:
            self._load_id = packages[-1].load_id
        self._finish(ended)

    def _finish(self, ended: list[Page]) -> None:
        self._books.finish(ended, self._load_id)
        for page in ended:
            self.failures.pop(page.slice, None)

    def _note_failures(self) -> None:
        for part, error in self._pool.take_failures():
            if part not in self.failures:
                log.warning("backfill: %s: %s", part, error)
            self.failures[part] = error
            self._books.note(part, str(error))

    def _readers(self) -> Mapping[str, Reader]:
        """Readers of one thread, which leave the live sources their share of every limit."""
        settings = self._run.settings
        horizon = whole_seconds(settings.goldsky_horizon)
        return {
            "goldsky": ArchiveReader(
                self._archive.in_background(),
                settings.goldsky_url,
                horizon,
                settings.goldsky_page_size,
            ),
            "polygon": chain_reader(settings, self._endpoints, self._bounds),
        }


def chain_reader(settings: Settings, endpoints: Endpoints, bounds: dict[int, int]) -> ChainReader:
    """A reader of the chain's past for one thread."""
    return ChainReader(
        endpoints.for_backfill(),
        tuple(settings.polygon_versions.split(",")),
        settings.polygon_confirmations,
        bounds,
    )
