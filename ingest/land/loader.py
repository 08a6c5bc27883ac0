"""Runs of one source: finish what an earlier run left, read, extract, normalize, load.

Promises that a cursor never gets ahead of ClickHouse. dlt writes the state that holds it into the
load package of the rows it follows; here the working folder is only believed as far as ClickHouse
confirms it or a pending package will bring it, and given up otherwise (state is then restored from
ClickHouse). A package that could not be loaded stays pending and goes first in the next run.

A run that brings no row is not handed to dlt: its cursor is kept in memory, and stored now and then.
Losing it means reading again what held nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import dlt
import pyarrow.parquet as pq
from clickhouse_connect.driver.exceptions import ClickHouseError
from dlt.common.destination.exceptions import DestinationException, DestinationUndefinedEntity
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.pipeline.state_sync import decompress_state

from ingest.errors import IngestError, LoadError, one_line
from ingest.events import Event, span
from ingest.land.landing import load_id_as_integer, load_id_of_rows, take_load_id
from ingest.land.reading import Reading
from ingest.land.working_folder import forget_old_packages, give_up, make_room, mend
from ingest.page import Stream
from ingest.progress import Progress

# dlt asks of each object whether it is a data frame of a library that it finds among the imported modules, and
# clickhouse-connect imports them when it first needs them. A thread that does so while another one extracts would show dlt
# half a library; so they are imported here, before there are threads.
for _library in ("pandas", "polars"):
    with suppress(ImportError):
        import_module(_library)

KEPT_PACKAGES = 20
STORE_EVERY_S = 60.0


@dataclass(frozen=True)
class LoadPackage:
    """What one dlt load package brings: rows by landing table.

    `load_id` is that of the rows; see `ingest.land.landing.current_load_id`.
    """

    load_id: int
    rows: dict[str, int]

    @property
    def rows_in_all(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def open_pipeline(
    name: str, destination: Any, *, database: str, pipelines_dir: str | Path
) -> dlt.Pipeline:
    """The dlt pipeline `name`, loading into `database`; its working folder is made if needed."""
    return dlt.pipeline(
        pipeline_name=name,
        destination=destination,
        dataset_name=database,
        pipelines_dir=str(Path(pipelines_dir).resolve()),
        progress=None,
    )


class Books(Protocol):
    """Where packages are written down."""

    def take_id(self, package_id: str) -> int:
        """The load id of the rows of a new package, once it has rows; `package_id` is dlt's load id."""

    def loading(self, packages: Sequence[LoadPackage]) -> AbstractContextManager[None]:
        """Entered before a row of the packages is inserted, left when all are in ClickHouse or with the failure."""

    def stored_cursor(self, pipeline: str) -> object:
        """Something that changes whenever the stored state of the pipeline does."""


class NoBooks:
    """Books of a caller who keeps none."""

    def take_id(self, package_id: str) -> int:
        """See `Books`."""
        return load_id_as_integer(package_id)

    def loading(self, packages: Sequence[LoadPackage]) -> AbstractContextManager[None]:
        """See `Books`."""
        return nullcontext()

    def stored_cursor(self, pipeline: str) -> object:
        """See `Books`: nobody knows."""
        return object()


class Loader:
    """Lands what streams bring through one dlt pipeline; kept between runs, used by one thread at a time.

    Args:
        books: told of every package.
        store_every_s: seconds after which cursors are stored although no row came.
        clock: seconds that only grow, replaceable for tests.
    """

    def __init__(
        self,
        pipeline: dlt.Pipeline,
        books: Books | None = None,
        *,
        store_every_s: float = STORE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._books = pipeline, books or NoBooks()
        self._store_every_s, self._clock = store_every_s, clock
        self._cursors: dict[str, dict[str, Any]] | None = None  # None: what is stored counts
        self._stored: object = None
        self._stored_at = -math.inf

    def run(self, name: str, streams: Sequence[Stream], progress: Progress) -> list[LoadPackage]:
        """Load pending packages, then what the streams have to give.

        Args:
            name: of the dlt source.
            progress: the one that the streams were made with.

        Returns:
            The packages that were loaded, pending ones included.

        Raises:
            LoadError: rows did not get into ClickHouse; running again loads them.
            IngestError: the source's first failure, after everything that was read is loaded.
        """
        loaded: list[LoadPackage] = []
        if self._cursors is None or self._books.stored_cursor(self._name) != self._stored:
            self._cursors = None
            loaded = self._catch_up()
        cursors, self._cursors = self._cursors, None  # whatever fails now, what is stored counts
        reading = Reading(streams, cursors or resource_states(self._pipeline))
        if _step(self._pipeline, reading.finds_a_page) or (reading.has_moved and self._is_due()):
            token = take_load_id.set(self._books.take_id)
            try:
                with span(Event.PACKAGE_EXTRACTED, pipeline=self._name):
                    _step(
                        self._pipeline, lambda: self._pipeline.extract(reading.as_dlt_source(name))
                    )
            finally:
                take_load_id.reset(token)
            loaded += self._finish()
            self._stored, self._stored_at = self._books.stored_cursor(self._name), self._clock()
        self._cursors = reading.cursors
        if progress.failures:
            raise progress.failures[0]
        return loaded

    @property
    def _name(self) -> str:
        return self._pipeline.pipeline_name

    def _is_due(self) -> bool:
        return self._clock() - self._stored_at >= self._store_every_s

    def _catch_up(self) -> list[LoadPackage]:
        """Bring the working folder in line with ClickHouse, and load the packages that are left in it."""
        mend(self._pipeline)
        self._take_over_state()
        loaded = self._finish()
        if loaded:  # a kill right after a package was finished leaves its cursor in there alone
            self._take_over_state()
        self._stored = self._books.stored_cursor(self._name)
        return loaded

    def _take_over_state(self) -> None:
        with span(Event.STATE_TAKEN_OVER, pipeline=self._name):
            _take_over_state_of_destination(self._pipeline)

    def _finish(self) -> list[LoadPackage]:
        """Normalize and load every package there is."""
        pipeline = self._pipeline
        if pipeline.list_extracted_load_packages():
            with span(Event.PACKAGE_NORMALIZED, pipeline=self._name):
                _step(pipeline, pipeline.normalize)
        packages = [_describe(pipeline, x) for x in pipeline.list_normalized_load_packages()]
        if packages:
            with self._books.loading(packages):
                make_room(pipeline)
                rows = sum(package.rows_in_all for package in packages)
                with span(Event.PACKAGE_LOADED, pipeline=self._name, rows=rows):
                    _step(pipeline, pipeline.load)
        forget_old_packages(pipeline, KEPT_PACKAGES)
        return packages


def resource_states(pipeline: dlt.Pipeline) -> dict[str, dict[str, Any]]:
    """The stored state of each resource of the pipeline: cursors, watermarks."""
    states = {}
    for source in pipeline.state.get("sources", {}).values():
        states.update(source.get("resources", {}))
    return states


def _take_over_state_of_destination(pipeline: dlt.Pipeline) -> None:
    """Make the cursors those that ClickHouse has, but for those that a pending package brings.

    dlt alone keeps a local state that ClickHouse does not have (tables dropped, an older backup
    restored), and would never read again what is missing there.
    """
    # dlt puts the stored state in the place of a local one of the same version.
    before = pipeline.state["_state_version"], pipeline.state["_version_hash"]
    _step(pipeline, pipeline.sync_destination)
    version, content = _step(pipeline, lambda: _stored_state(pipeline))
    if pipeline.has_pending_data:
        # A pending package brings one version of the state, or none if nothing in it changed. Any other is of the past:
        # another machine has read on from the same place since.
        is_known = before[0] == version + 1 or before == (version, content or before[1])
    else:
        is_known = pipeline.state["_state_version"] == version
    if not is_known:
        give_up(pipeline)
        _step(pipeline, pipeline.sync_destination)


def _stored_state(pipeline: dlt.Pipeline) -> tuple[int, str]:
    """Version and content hash of the pipeline's state in ClickHouse; 0 and nothing if there is none."""
    with pipeline.destination_client() as client:
        try:
            stored = client.get_stored_state(pipeline.pipeline_name)
        except DestinationUndefinedEntity:
            return 0, ""
    return (stored.version, decompress_state(stored.state)["_version_hash"]) if stored else (0, "")


def _describe(pipeline: dlt.Pipeline, load_id: str) -> LoadPackage:
    """Rows by landing table, counted in the package's files, those loaded already included."""
    rows: dict[str, int] = {}
    for jobs in pipeline.get_load_package_info(load_id).jobs.values():
        for job in jobs:
            table = job.job_file_info.table_name
            if job.job_file_info.file_format == "parquet" and not table.startswith("_dlt"):
                rows[table] = rows.get(table, 0) + pq.read_metadata(job.file_path).num_rows
    state = pipeline.get_load_package_state(load_id)
    return LoadPackage(load_id_of_rows(load_id, state), rows)


def _step(pipeline: dlt.Pipeline, step: Callable[[], Any]) -> Any:
    """Run one dlt step and turn dlt's many-lined failures into one line; return what it returns.

    Raises:
        IngestError, KeyboardInterrupt: what the step's code raised, if it was one.
        LoadError: anything else that failed in dlt or in ClickHouse.
    """
    try:
        return step()
    except (PipelineStepFailed, DestinationException, ClickHouseError) as failure:
        causes = list(_causes(failure))
        for cause in causes:
            if isinstance(cause, IngestError | KeyboardInterrupt):
                raise cause from failure
        name = getattr(failure, "step", "reading")
        raise LoadError(
            f"{pipeline.pipeline_name}: {name} failed: {_reason(causes)}; run again when"
            " that is fixed, nothing was lost"
        ) from failure


def _reason(causes: Sequence[BaseException]) -> str:
    """One line: ClickHouse's words if it said any, else those of the error dlt wrapped."""
    told = [cause for cause in causes if isinstance(cause, ClickHouseError | DestinationException)]
    cause = told[-1] if told else causes[min(1, len(causes) - 1)]
    return one_line(f"{type(cause).__name__}: {cause}", 500)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "exception", None) or seen.__cause__ or seen.__context__
