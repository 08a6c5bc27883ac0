"""How rows are handed to dlt: under the load's id, in batches of useful size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.storages.load_package import commit_load_package_state

from ingest.page import Page
from ingest.records import DeadLetter, dead_letters_table, with_load_id
from ingest.tables import DEAD_LETTERS

# Landing tables are made by migrations: a column that dlt does not know yet is an error.
RESOURCE_OPTIONS: dict[str, Any] = {
    "write_disposition": "append",
    "schema_contract": {"tables": "evolve", "columns": "freeze", "data_type": "freeze"},
}

# A file of this many rows is one insert of useful size; larger ones only take more memory.
BATCH_ROWS = 100_000
BATCH_BYTES = 64 << 20


def load_id_as_integer(load_id: str) -> int:
    """dlt's load id, seconds since 1970 with a fraction, as integer microseconds."""
    return int(Decimal(load_id) * 1_000_000)


# Gives the rows of a new package their load id. dlt's own id is the clock of this machine, so the caller of a run takes
# one that is later than every load before it; where nobody does, dlt's has to serve.
TakeLoadId = Callable[[str], int]
take_load_id: ContextVar[TakeLoadId] = ContextVar("take_load_id", default=load_id_as_integer)
_ROWS_LOAD_ID = "rows_load_id"


def current_load_id() -> int:
    """Load id of the rows of the package that is being extracted; call it in a resource.

    It is kept in the package, so that a package that is loaded again brings the same rows.
    """
    package = dlt.current.load_package_state()
    state: dict[str, Any] = package["state"]
    if _ROWS_LOAD_ID not in state:
        state[_ROWS_LOAD_ID] = take_load_id.get()(package["load_id"])
        commit_load_package_state()
    return state[_ROWS_LOAD_ID]


def load_id_of_rows(load_id: str, package_state: Mapping[str, Any]) -> int:
    """Load id of the rows of a package, from its dlt load id and its state."""
    return package_state.get(_ROWS_LOAD_ID) or load_id_as_integer(load_id)


class Landing:
    """Collects pages and yields them as Arrow tables of useful size, under this load's id.

    Args:
        reshape: makes of landing rows what the destination takes.
    """

    def __init__(self, reshape: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> None:
        self._reshape = reshape
        self._rows: dict[str, list[pa.Table]] = {}
        self._dead: dict[str, list[DeadLetter]] = {}
        self._count = self._bytes = 0

    def add(self, page: Page) -> Iterator[Any]:
        """Take a page; yields tables for dlt when enough has come together."""
        for rows in filter(len, page.rows):
            self._rows.setdefault(page.table.name, []).append(rows)
            self._count += len(rows)
            self._bytes += rows.nbytes
        if page.dead:
            self._dead.setdefault(page.source, []).extend(page.dead)
        if self._count >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[Any]:
        """Yield everything that was collected."""
        collected, letters = self._rows, self._dead
        self._rows, self._dead, self._count, self._bytes = {}, {}, 0, 0
        for name, tables in collected.items():
            yield self._of_table(name, pa.concat_tables(tables).combine_chunks())
        for source, dead in letters.items():
            yield self._of_table(DEAD_LETTERS.name, dead_letters_table(dead, source=source))

    def _of_table(self, name: str, rows: pa.Table) -> Any:
        """Rows for dlt to load into a landing table, as rows of the load that is being extracted."""
        hints = dlt.mark.make_hints(table_name=name, **RESOURCE_OPTIONS)
        rows = self._reshape(with_load_id(rows, current_load_id()))
        return dlt.mark.with_hints(rows, hints, create_table_variant=True)


def portable(rows: pa.Table) -> pa.Table:
    """Landing rows for any destination of dlt: unsigned 64-bit numbers, which few have, as decimals of 20 digits."""
    fields = [
        field.with_type(pa.decimal128(20, 0)) if field.type == pa.uint64() else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))
