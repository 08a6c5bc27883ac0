"""Loads whose rows may come late or be of blocks that have left the chain: found, named, and checked before they settle.

A run that is paused for longer than the lock lives may go on with an insert after its successor has read the same blocks
again, or has taken back what a reorganisation replaced. Nothing can keep such rows out, so the ledger measures the
loads of such runs again (`Ledger.find_late`), and the next reading of the chain reads their blocks in full: it lands what
is missing, and takes back what is not on the chain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ingest.tables import ORDER_FILLED
from pipeline.warehouse.identities import withdraw_other
from pipeline.warehouse.loads import Load, Unchecked
from pipeline.warehouse.run import Run

log = logging.getLogger(__name__)


def adopt_orphans(run: Run) -> None:
    """Close what earlier runs left half done, and look for rows of theirs that came since; only under the lock.

    Raises:
        LockHeld: the lock was lost.
    """

    def complete(loads: Sequence[Load]) -> None:
        _withdraw_v1(run, loads)

    for load in run.ledger.adopt_orphans(complete):
        log.info("ledger: load %d of %s was left half loaded", load.load_id, load.table_name)
    for load in run.ledger.find_late(complete):
        log.warning(
            "ledger: rows of load %d of %s have come or gone since it was measured; %s",
            load.load_id,
            load.table_name,
            "their blocks are read again before it is settled"
            if load.state == "unchecked"
            else "it is settled again",
        )


def _withdraw_v1(run: Run, loads: Iterable[Load]) -> None:
    """Take back V1 fills that half a load of an archive has brought and that stand under the other identity, too.

    Such a run was killed before it did so itself, or its rows came late. Where days are not moved over, none stand.
    """
    raw = run.settings.raw_database
    for load in loads:
        if load.table_name == ORDER_FILLED.name:
            withdraw_other(run.client, raw, load.load_id, run.lock.sql_is_held())


@dataclass(frozen=True)
class Recheck:
    """What the next reading of the chain has to read again.

    Attributes:
        unchecked: the loads.
        ranges: blocks, both ends inclusive, in order, without overlaps.
    """

    unchecked: Sequence[Unchecked]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, run: Run) -> Recheck:
        """That of the unchecked loads there are."""
        unchecked = run.ledger.unchecked()
        return cls(unchecked, merged(each.blocks for each in unchecked if each.blocks))

    def done(self, run: Run, read_to: int) -> None:
        """Say that the ranges were read again, by a reading of the chain up to `read_to`, unix seconds.

        Loads with a row after that stay unchecked: the endpoint did not have its block.
        """
        until = datetime.fromtimestamp(read_to, UTC)
        checked = [each for each in self.unchecked if each.newest_at <= until]
        if not checked:
            return
        with run.door.one_at_a_time():  # what was loaded or settled meanwhile is another load now
            now = run.ledger.unchecked_loads()
            checked = [each for each in checked if each.load in now]
            run.ledger.checked(checked)
        if checked:
            log.info("ledger: blocks of %s are read again", _named(each.load for each in checked))


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same blocks as ranges that neither overlap nor touch, in order; both ends inclusive."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def _named(loads: Iterable[Load]) -> str:
    return ", ".join(f"load {load.load_id}" for load in loads)
