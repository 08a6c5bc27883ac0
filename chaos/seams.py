"""The places in the pipeline's code at which a process is killed or stopped, and the wrapping that does it there.

The code itself knows nothing of this: a seam is a function by its module and name, and the child process that is to
die there replaces that name by a wrapper. `docs/reliability.md` says for each seam what is on disk and in ClickHouse.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

When = Literal["before", "during", "after"]


@dataclass(frozen=True)
class Seam:
    """A function at which to kill.

    Attributes:
        module: where its name is looked up by its caller.
        attribute: its name there; `Class.method` for a method.
        when: right before or after a call, or `during` it: some milliseconds after it began.
        calls: it is called at least this often within a few cycles; the kill falls on one of these calls.
        longest_ms: `during` only: the kill comes this long after the call began at the latest.
        verb: the verb of `run_pipeline.py` that gets there.
        rebuilds: it is only passed while the models are built.
        every: it is drawn in every so-manieth round of seams; building the models takes its time.
        only: only calls with this argument count; empty: all.
    """

    module: str
    attribute: str
    when: When
    calls: int = 1
    longest_ms: int = 20
    verb: str = "loop"
    rebuilds: bool = False
    every: int = 1
    only: str = ""


PIPELINE, STORAGES = "dlt.pipeline.pipeline", "dlt.common.storages"
SEAMS: dict[str, Seam] = {
    # Start of a run.
    "lock taken": Seam("pipeline.warehouse.lock", "WriterLock._acquire", "after"),
    "applying migrations": Seam("pipeline.warehouse.migrations", "_execute", "after"),
    "building models": Seam(
        "pipeline.derive.models", "run_dbt", "during", longest_ms=15_000, rebuilds=True, every=4
    ),
    "models built, not recorded": Seam(
        "pipeline.derive.models", "_compile_statements", "after", rebuilds=True, every=4
    ),
    "taking over state": Seam(
        "ingest.land.loader", "_take_over_state_of_destination", "during", calls=4
    ),
    # A load.
    "page read": Seam("ingest.land.landing", "Landing.add", "before", calls=8),
    "package committed, state not saved": Seam(
        "dlt.extract.extract", "Extract.commit_packages", "after", calls=4
    ),
    "extracted": Seam(PIPELINE, "Pipeline.extract", "after", calls=4),
    "normalizing": Seam(PIPELINE, "Pipeline.normalize", "during", calls=4, longest_ms=100),
    "normalized, extracted files not deleted": Seam(
        f"{STORAGES}.load_storage", "LoadStorage.commit_new_load_package", "after", calls=4
    ),
    "normalized": Seam(PIPELINE, "Pipeline.normalize", "after", calls=4),
    "load opened": Seam("pipeline.warehouse.ledger", "Ledger.open", "after", calls=4),
    "inserting": Seam(
        "ingest.land.destination", "ClickHouseHttpSqlClient.insert_file", "during", calls=8
    ),
    "one file inserted": Seam("ingest.land.destination", "ParquetLoadJob.run", "after", calls=8),
    "all files inserted": Seam(
        "ingest.land.destination", "ClickHouseHttpClient.complete_load", "before", calls=4
    ),
    "package completed": Seam(
        "ingest.land.destination", "ClickHouseHttpClient.complete_load", "after", calls=4
    ),
    "package marked, not moved": Seam(
        f"{STORAGES}.load_package", "PackageStorage.complete_loading_package", "after", calls=4
    ),
    "load closed": Seam("pipeline.warehouse.ledger", "Ledger.close_loading", "after", calls=8),
    # Settling.
    "settle marked": Seam("pipeline.warehouse.ledger", "Ledger.start_settling", "after", calls=6),
    "settle statement": Seam("pipeline.derive.settle", "_execute", "during", calls=30),
    "between settle statements": Seam("pipeline.derive.settle", "_execute", "after", calls=30),
    "settled, not recorded": Seam(
        "pipeline.warehouse.ledger", "Ledger.finish_settling", "before", calls=6
    ),
    # End of a run.
    "releasing the lock": Seam(
        "pipeline.warehouse.lock", "WriterLock._release", "during", verb="once"
    ),
}

# Where a run is stopped for longer than its lock lives, and where its successor is held while it goes on.
MORE_PLACES: dict[str, Seam] = {
    "before inserting fills": Seam(
        "ingest.land.destination",
        "ClickHouseHttpSqlClient.insert_file",
        "before",
        calls=4,
        only="order_filled",
    ),
    "writing the ledger": Seam("pipeline.warehouse.ledger", "Ledger._write", "before", calls=8),
    "backfill package": Seam("pipeline.jobs.worker", "load_source", "after", verb="backfill"),
}
PLACES = SEAMS | MORE_PLACES
PAUSES = (
    "lock taken", "package committed, state not saved", "normalized", "load opened",
    "before inserting fills", "inserting", "one file inserted", "all files inserted",
    "package completed", "load closed", "writing the ledger", "settle marked", "settle statement",
    "between settle statements", "settled, not recorded", "backfill package",
    "releasing the lock",
)  # fmt: skip
MEETINGS = (
    "load opened", "before inserting fills", "one file inserted", "all files inserted",
    "load closed", "settle marked", "between settle statements", "settled, not recorded",
)  # fmt: skip
# Where a run that goes on is stopped a second time, between what it has read of the books and what it writes.
SECOND_PAUSES = ("writing the ledger", "before inserting fills", "settle marked", "load opened")


def owner(seam: Seam) -> tuple[Any, str]:
    """The module or class that holds a seam's function, and the function's name in it.

    Raises:
        ImportError, AttributeError: there is no such function.
    """
    *path, name = seam.attribute.split(".")
    holder = functools.reduce(getattr, path, importlib.import_module(seam.module))
    getattr(holder, name)
    return holder, name


def arm(
    seam: Seam,
    nth: int,
    delay_s: float,
    strike: Callable[[], None],
    counts: Callable[[], bool] = lambda: True,
) -> None:
    """Replace a seam's function by one whose `nth` call (from 1) calls `strike`, as the seam says when.

    Args:
        delay_s: `during` only: seconds from the beginning of the call to the strike.
        counts: whether a call that begins now counts.
    """
    holder, name = owner(seam)
    function = getattr(holder, name)
    calls = count(1)  # its next() cannot be interrupted by another thread

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        is_one = not seam.only or seam.only in args
        due = is_one and counts() and next(calls) == nth
        if due and seam.when == "before":
            strike()
        if due and seam.when == "during":
            threading.Timer(delay_s, strike).start()
        result = function(*args, **kwargs)
        if due and seam.when == "after":
            strike()
        return result

    setattr(holder, name, wrapper)
