"""How sources hand rows to dlt: load id, batches of useful size.

Promises that rows and the cursor that follows them end up in one load package: a batch is always
flushed before its resource ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.storages.load_package import commit_load_package_state

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
    """Collects pages of one resource and yields them as Arrow tables of useful size, under this load's id.

    Args:
        source: name under which records that cannot be parsed are kept.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._pages: list[pa.Table] = []
        self._dead: list[DeadLetter] = []
        self._rows = self._bytes = 0

    @property
    def load_id(self) -> int:
        """That of the rows; it is taken when there are some."""
        return current_load_id()

    def add(self, pages: list[pa.Table], dead: Sequence[DeadLetter] = ()) -> Iterator[Any]:
        """Take a page; yields tables for dlt when enough has come together."""
        for page in filter(len, pages):
            self._pages.append(page)
            self._rows += len(page)
            self._bytes += page.nbytes
        self._dead.extend(dead)
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[Any]:
        """Yield everything that was collected."""
        if self._pages:
            rows = pa.concat_tables(self._pages).combine_chunks()
            self._pages, self._rows, self._bytes = [], 0, 0
            yield with_load_id(rows, self.load_id)
        if self._dead:
            letters, self._dead = self._dead, []
            table = dead_letters_table(letters, source=self._source, load_id=self.load_id)
            hints = dlt.mark.make_hints(table_name=DEAD_LETTERS.name, **RESOURCE_OPTIONS)
            yield dlt.mark.with_hints(table, hints, create_table_variant=True)
