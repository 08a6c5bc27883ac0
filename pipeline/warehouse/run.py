"""What every verb needs: the settings, a ClickHouse that is up, and the books kept in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clickhouse_connect.driver.client import Client

from ingest.sources import SOURCES
from ingest.sources.desk import Desk
from pipeline.errors import RestoreUnfinished
from pipeline.settings import Settings
from pipeline.warehouse.client import Server, connect, server
from pipeline.warehouse.door import Door
from pipeline.warehouse.landed import ClickHouseLanded
from pipeline.warehouse.ledger import Ledger
from pipeline.warehouse.lock import WriterLock

if TYPE_CHECKING:
    from pipeline.derive.settle import Statement
    from pipeline.jobs.load import Lander

# A table that is there for as long as a restore goes on.
UNFINISHED = "restore_unfinished"
BACKFILL, REPLAY = "polymarket_backfill", "polymarket_replay"
PIPELINES = (*(source.pipeline for source in SOURCES), BACKFILL, REPLAY)


@dataclass
class Run:
    """An open run. `pipeline.derive.prepare` makes it ready to load; without that it can only read.

    Attributes:
        settings: all settings.
        server: the ClickHouse in use.
        client: a client of it; threads may share it.
        statements: settling statements of the models, once prepared.
        door: which of this run's threads may write.
        landers: one per dlt pipeline and hold of the lock.
    """

    settings: Settings
    server: Server
    client: Client
    statements: list[Statement] = field(default_factory=list)
    door: Door = field(default_factory=Door)
    landers: dict[tuple[str, int], Lander] = field(default_factory=dict)

    @cached_property
    def desk(self) -> Desk:
        """What sources share while this run reads."""
        raw, models = self.settings.raw_database, self.settings.clickhouse_database
        return Desk(self.settings, ClickHouseLanded(self.client, raw, models))

    @cached_property
    def lock(self) -> WriterLock:
        """The writer lock, as this run holds it or does not."""
        return WriterLock(self.client, self.settings.raw_database, self.settings.lock_ttl_s)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of loads, which this run writes under its lock."""
        return Ledger(self.client, self.settings.raw_database, self.lock)

    @property
    def pipelines_dir(self) -> Path:
        """dlt's working folder of this run; one of its own while it holds the lock."""
        folder = self.settings.dlt_pipelines_dir
        if not self.lock.number:
            return folder
        from ingest.land.working_folder import of_writer  # dlt takes a second to import

        return of_writer(folder, self.settings.raw_database, self.lock.number, PIPELINES)

    def refuse_unfinished(self) -> None:
        """Make sure that no restore was cut off.

        Raises:
            RestoreUnfinished: one was, so the databases hold a part of a backup.
        """
        if self.client.command(f"exists table {self.settings.raw_database}.{UNFINISHED}"):
            raise RestoreUnfinished(
                "a restore was cut off, so data are missing: run `restore FILE --replace` again"
            )

    def has_database(self, name: str) -> bool:
        """True if a database of this name exists."""
        found = self.client.query(
            "select count() from system.databases where name = {name:String}",
            parameters={"name": name},
        )
        return bool(found.result_rows[0][0])


@contextmanager
def open_run(settings: Settings) -> Iterator[Run]:
    """Open a run against the configured ClickHouse, or the embedded one kept up meanwhile.

    Raises:
        ClickHouseUnavailable: it cannot be reached or started.
    """
    with server(settings) as target:
        client = connect(target)
        try:
            yield Run(settings, target, client)
        finally:
            client.close()
