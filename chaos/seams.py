"""The places in the pipeline's code at which a process is killed or stopped.

A seam is an event that the code announces (`ingest/events.py`), or a function of dlt where no code of ours runs at that
moment. `docs/reliability.md` says for each seam what is on disk and in ClickHouse.
"""

from __future__ import annotations

import functools
import pkgutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from ingest.events import Event, Moment, Stage, listen

When = Literal["before", "during", "after"]
STAGES: dict[When, tuple[Stage, ...]] = {
    "before": (Stage.BEGINS,),
    "during": (Stage.BEGINS,),
    "after": (Stage.ENDS, Stage.HAPPENED),
}


@dataclass(frozen=True)
class Seam:
    """An event at which to kill.

    Attributes:
        event: what is announced, or the name of a function of dlt.
        when: right before or after a span (after a point), or `during` it: some milliseconds after it began.
        calls: it comes at least this often within a few cycles; the kill falls on one of these times.
        longest_ms: `during` only: the kill comes this long after the span began at the latest.
        verb: the verb of `run_pipeline.py` that gets there.
        rebuilds: it is only passed while the models are built.
        every: it is drawn in every n-th round of seams only; building the models takes its time.
        only: only events with this fact count; empty: all.
    """

    event: Event | str
    when: When
    calls: int = 1
    longest_ms: int = 20
    verb: str = "loop"
    rebuilds: bool = False
    every: int = 1
    only: str = ""


SEAMS: dict[str, Seam] = {
    # Start of a run.
    "lock taken": Seam(Event.LOCK_TAKEN, "after"),
    "applying migrations": Seam(Event.MIGRATION_EXECUTED, "after"),
    "building models": Seam(
        Event.MODELS_BUILT, "during", longest_ms=15_000, rebuilds=True, every=4
    ),
    "models built, not recorded": Seam(Event.MODELS_BUILT, "after", rebuilds=True, every=4),
    "taking over state": Seam(Event.STATE_TAKEN_OVER, "during", calls=3),
    # A load.
    "page read": Seam(Event.PAGE_READ, "after", calls=8),
    # dlt commits a package and then saves its state, all in one call of ours (`Pipeline.extract`).
    "package committed, state not saved": Seam(
        "dlt.extract.extract:Extract.commit_packages", "after", calls=4
    ),
    "extracted": Seam(Event.PACKAGE_EXTRACTED, "after", calls=4),
    "normalizing": Seam(Event.PACKAGE_NORMALIZED, "during", calls=4, longest_ms=100),
    # dlt commits the normalized package and then deletes the extracted one, in one call (`Pipeline.normalize`).
    "normalized, extracted files not deleted": Seam(
        "dlt.common.storages.load_storage:LoadStorage.commit_new_load_package", "after", calls=4
    ),
    "normalized": Seam(Event.PACKAGE_NORMALIZED, "after", calls=4),
    "load opened": Seam(Event.LOAD_OPENED, "after", calls=4),
    "inserting": Seam(Event.FILE_INSERTED, "during", calls=8),
    "one file inserted": Seam(Event.FILE_INSERTED, "after", calls=8),
    "all files inserted": Seam(Event.PACKAGE_COMPLETED, "before", calls=4),
    "package completed": Seam(Event.PACKAGE_COMPLETED, "after", calls=4),
    # dlt marks a package as done and then moves it away, in one call (`Pipeline.load`).
    "package marked, not moved": Seam(
        "dlt.common.storages.load_package:PackageStorage.complete_loading_package",
        "after",
        calls=4,
    ),
    "load closed": Seam(Event.LOAD_CLOSED, "after", calls=4),
    # Settling.
    "settle marked": Seam(Event.SETTLE_MARKED, "after", calls=6),
    "settle statement": Seam(Event.STATEMENT_EXECUTED, "during", calls=20),
    "between settle statements": Seam(Event.STATEMENT_EXECUTED, "after", calls=20),
    "settled, not recorded": Seam(Event.SETTLE_RECORDED, "before", calls=6),
    # End of a run.
    "job ended, not noted": Seam(Event.JOB_RUN, "after", calls=3, only="polygon"),
    "releasing the lock": Seam(Event.LOCK_RELEASED, "during", verb="once"),
}

# Where a run is stopped for longer than its lock lives, and where its successor is held while it goes on.
MORE_PLACES: dict[str, Seam] = {
    "before inserting fills": Seam(Event.FILE_INSERTED, "before", calls=4, only="order_filled"),
    "writing the ledger": Seam(Event.LEDGER_WRITTEN, "before", calls=8),
    "backfill package": Seam(Event.SLICES_LANDED, "after", verb="backfill"),
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


def arm(
    seam: Seam,
    nth: int,
    delay_s: float,
    strike: Callable[[], None],
    counts: Callable[[], bool] = lambda: True,
) -> ExitStack:
    """Have the `nth` time (from 1) that a seam is passed call `strike`, as the seam says when.

    Args:
        delay_s: `during` only: seconds from the beginning to the strike.
        counts: whether a time that begins now counts.

    Returns:
        Disarms it when it is closed.
    """
    times = count(1)  # its next() cannot be interrupted by another thread

    def pass_by(moment: Moment) -> None:
        is_one = moment.event == seam.event and moment.stage in STAGES[seam.when]
        if not is_one or (seam.only and seam.only not in moment.facts.values()):
            return
        if not counts() or next(times) != nth:
            return
        if seam.when == "during":
            threading.Timer(delay_s, strike).start()
        else:
            strike()

    stack = ExitStack()
    if isinstance(seam.event, Event):
        stack.enter_context(listen(pass_by, strict=True))
    else:
        stack.callback(_announce_calls(seam.event, pass_by))
    return stack


def _announce_calls(name: str, listener: Callable[[Moment], None]) -> Callable[[], None]:
    """Tell a listener of the end of every call of a function of dlt; returns what puts the function back.

    Raises:
        ImportError, AttributeError: there is no such function.
    """
    holder = pkgutil.resolve_name(name.rpartition(".")[0])
    attribute = name.rpartition(".")[2]
    function = getattr(holder, attribute)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        listener(Moment(name, Stage.ENDS))
        return result

    setattr(holder, attribute, wrapper)
    return lambda: setattr(holder, attribute, function)
