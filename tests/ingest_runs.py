"""What the tests of `ingest` share: a landing database, and dlt runs of a source into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from embedded_clickhouse import Endpoint
from ingest.land.destination import clickhouse_destination
from ingest.land.loader import Books, Loader, LoadPackage, NoBooks, open_pipeline, resource_states
from ingest.progress import Progress
from ingest.sources.gamma.entities import Version
from ingest.sources.gamma.landed import current_versions_sql, open_ids_sql
from ingest.tables import TABLES

SCHEMA = Path(__file__).parent.parent / "schema"
LANDING = re.compile(r"000[123]_|\d{4}_(gamma_|late_fills|market_prices)")


def make_landing_tables(client: Client, prefix: str) -> str:
    """Apply the migrations that make landing tables; returns the landing database's name."""
    names = {"raw": f"{prefix}_raw", "models": prefix, "on_cluster": "", "replicated": ""}
    paths = [path for path in SCHEMA.glob("*.sql") if LANDING.match(path.name)]
    for path in sorted(paths):
        text = re.sub(r"\$\{(\w+)\}", lambda match: names[match[1]], path.read_text())
        code = "\n".join(x for x in text.splitlines() if not x.lstrip().startswith("--"))
        for statement in filter(str.strip, re.split(r";\s*\n", code)):
            client.command(statement)
    return names["raw"]


@dataclass
class Lake:
    """A landing database and the dlt working folder of whoever loads into it."""

    endpoint: Endpoint
    database: str
    folder: Path
    client: Client
    events: list[tuple[str, LoadPackage]] = field(default_factory=list)

    def load(
        self,
        name: str,
        make_streams: Callable,
        *,
        budget: float | None = None,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> Progress:
        """Run one source, made by `make_streams(progress)`; its packages are noted in `events`.

        Args:
            before, after: called before and after packages are loaded.
        """
        progress = Progress(budget)
        books = _Notes(self.events, before, after)
        self.loader(name, books).run(name, make_streams(progress), progress)
        return progress

    def loader(self, name: str, books: Books | None = None) -> Loader:
        """A new loader, which stores every cursor that moves."""
        return Loader(self.pipeline(name), books or _Notes(self.events), store_every_s=0)

    def pipeline(self, name: str):
        destination = clickhouse_destination(
            self.endpoint.host,
            self.endpoint.port,
            "default",
            self.endpoint.password,
            False,
            self.database,
        )
        return open_pipeline(name, destination, database=self.database, pipelines_dir=self.folder)

    def state(self, name: str) -> dict[str, dict]:
        """Stored state of each resource of a pipeline."""
        return resource_states(self.pipeline(name))

    def rows(self, query: str) -> list[tuple]:
        """Rows of a query in which `{db}` is the landing database."""
        return [
            tuple(row)
            for row in self.client.query(query.replace("{db}", self.database)).result_rows
        ]

    def count(self, table: str, *, final: bool = False) -> int:
        return self.rows(f"select count() from {{db}}.{table} {'final' if final else ''}")[0][0]

    def known_versions(self, table: str, ids: list[str]) -> dict[str, Version]:
        query = current_versions_sql(f"{self.database}.{table}", TABLES[table].id_column)
        rows = self.client.query(query, parameters={"ids": ids}).result_rows
        return {key: Version(*version) for key, *version in rows}

    def known_open(self, table: str) -> list[str]:
        query = open_ids_sql(f"{self.database}.{table}", TABLES[table].id_column)
        return sorted((row[0] for row in self.client.query(query).result_rows), key=int)

    def known_fills(self, first: int, last: int) -> pa.Table:
        return self.client.query_arrow(
            f"select * from {self.database}.order_filled final"
            " where source = 'polygon' and block_number between %(first)s and %(last)s",
            parameters={"first": first, "last": last},
            use_strings=True,
        )


class _Notes(NoBooks):
    """Notes packages before and after they are loaded."""

    def __init__(
        self,
        events: list[tuple[str, LoadPackage]],
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        self._events, self._before, self._after = events, before, after

    @contextmanager
    def loading(self, packages: Sequence[LoadPackage]) -> Iterator[None]:
        self._events += [("before", package) for package in packages]
        self._before()
        yield
        self._events += [("after", package) for package in packages]
        self._after()


def open_lake(endpoint: Endpoint, prefix: str, folder: Path) -> Lake:
    """A fresh landing database and an empty working folder."""
    client = clickhouse_connect.get_client(
        host=endpoint.host, port=endpoint.port, password=endpoint.password
    )
    return Lake(endpoint, make_landing_tables(client, prefix), folder, client)
