"""How a run lands what sources read: dlt loads it, the ledger knows every load, one package at a time.

Loads that models are derived from go through the run's door one by one; others may be inserted beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clickhouse_connect.driver.exceptions import DatabaseError

from ingest.errors import IngestError
from ingest.land.destination import ClickHouseHttp, clickhouse_destination
from ingest.land.loader import Loader, LoadPackage, open_pipeline
from ingest.land.sql_client import NO_FENCE, Fence
from ingest.page import Stream
from ingest.progress import Progress
from ingest.tables import SETTLED
from pipeline.warehouse.lock import UNKNOWN_TABLE
from pipeline.warehouse.run import Run


class LedgerBooks:
    """Writes the packages of one dlt pipeline into the ledger; see `ingest.land.loader.Books`."""

    def __init__(self, run: Run, pipeline: str) -> None:
        self._run, self._pipeline = run, pipeline
        self.rows: Counter[str] = Counter()

    def take_id(self, package_id: str) -> int:
        """See `Books`."""
        return self._run.ledger.take_id(package_id, self._pipeline)

    @contextmanager
    def loading(self, packages: Sequence[LoadPackage]) -> Iterator[None]:
        """See `Books`.

        Raises:
            LockHeld: the lock was lost meanwhile.
            Closing: the process is about to end.
        """
        is_settled = any(SETTLED.keys() & package.rows.keys() for package in packages)
        door = self._run.door.one_at_a_time if is_settled else self._run.door.beside
        ledger, load_ids = self._run.ledger, [package.load_id for package in packages]
        with door():
            ledger.prove()
            for package in packages:
                ledger.open(package.load_id, package.rows)
            try:
                yield
            except IngestError:
                ledger.prove()
                ledger.close_loading(load_ids, is_whole=False)
                raise
            ledger.close_loading(load_ids)
        for package in packages:
            self.rows.update(package.rows)

    def stored_cursor(self, pipeline: str) -> object:
        """See `Books`."""
        raw = self._run.settings.raw_database
        try:
            return self._run.client.query(
                "select count(), max(version), argMax(version_hash, version)"
                f" from {raw}._dlt_pipeline_state where pipeline_name = {{name:String}}",
                parameters={"name": pipeline},
            ).result_rows[0]
        except DatabaseError as error:
            if error.code == UNKNOWN_TABLE:  # dlt makes it with the first package
                return None
            raise


class Lander:
    """Lands streams through one dlt pipeline."""

    def __init__(self, run: Run, pipeline: str) -> None:
        self._books = LedgerBooks(run, pipeline)
        self._loader = Loader(
            open_pipeline(
                pipeline,
                destination(run),
                database=run.settings.raw_database,
                pipelines_dir=run.pipelines_dir,
            ),
            self._books,
        )

    def land(
        self, name: str, streams: Sequence[Stream], progress: Progress, rows: Counter[str]
    ) -> list[LoadPackage]:
        """Land what streams have to give; return the packages.

        Args:
            name: of the dlt source.
            progress: the one that the streams were made with.
            rows: gets the rows that were loaded by landing table, also where the source fails in the end.

        Raises:
            IngestError: see `ingest.land.loader.Loader.run`.
            LockHeld: the lock was lost meanwhile.
        """
        try:
            return self._loader.run(name, streams, progress)
        finally:
            rows.update(self._books.rows)
            self._books.rows.clear()


def lander(run: Run, pipeline: str) -> Lander:
    """The lander of a dlt pipeline, the same one for as long as this run holds the lock."""
    key = pipeline, run.lock.number
    if key not in run.landers:
        run.landers[key] = Lander(run, pipeline)
    return run.landers[key]


def destination(run: Run) -> ClickHouseHttp:
    """The dlt destination that loads into the landing database, as the holder of the lock if this run is."""
    server = run.server
    return clickhouse_destination(
        server.host,
        server.port,
        server.user,
        server.password,
        server.secure,
        run.settings.raw_database,
        Fence(run.ledger.prove, run.lock.sql_is_held(), run.lock.comment)
        if run.lock.number
        else NO_FENCE,
    )
