"""Settling in a process that goes on: what cannot be settled is left alone for a while, and stops nothing else.

A load that fails is tried alone, then again after pauses that grow. A model that fails for one load after another is
left alone itself, together with those that read it: the others are recomputed for every load as it comes. A load counts
as settled when every model was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from ingest.events import Event, span
from pipeline.derive.settle import Statement, execute, take
from pipeline.errors import ModelsError
from pipeline.warehouse.ledger import Ledger
from pipeline.warehouse.loads import Load

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
LoadKey = tuple[int, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pause:
    """Failures in a row, the clock's time until which it is left alone, and what was said."""

    failures: int
    until: float
    problem: str


class Settler:
    """Settles what is unsettled whenever it is asked to; only under the lock and the door.

    Args:
        max_rows: most rows that are settled at once.
        clock: seconds that only grow, replaceable for tests.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        statements: list[Statement],
        *,
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._ledger, self._statements = client, ledger, statements
        self._max_rows, self._clock = max_rows, clock
        self._loads: dict[LoadKey, _Pause] = {}
        self._models: dict[str, _Pause] = {}
        self._blamed: dict[str, LoadKey] = {}  # model -> the load it failed for last
        self._alone: set[LoadKey] = set()  # were in a batch that failed

    @property
    def problems(self) -> list[str]:
        """What is not settled and why, one line each."""
        models = [pause.problem for pause in self._models.values()]
        return list(dict.fromkeys(models or [pause.problem for pause in self._loads.values()]))

    def settle(self) -> int:
        """Settle every load that is not left alone; return the rows of those that are settled now.

        Raises:
            LockHeld: the writer lock was lost.
        """
        rows = 0
        with span(Event.SETTLED):
            while batch := self._take():
                if self._is_settled(batch):
                    self._ledger.finish_settling(batch)
                    rows += sum(load.loaded_rows for load in batch)
        if self._loads:  # some may have been settled by others, such as a rebuild
            left = {load.key for load in self._ledger.unsettled()}
            self._loads = {key: pause for key, pause in self._loads.items() if key in left}
        return rows

    def _take(self) -> list[Load]:
        now = self._clock()
        waiting = {key for key, pause in self._loads.items() if pause.until > now}
        batch = take(self._ledger, self._max_rows, waiting | self._alone)
        if not batch and self._alone:  # one after the other, once everything else is settled
            first = min(self._alone)
            self._alone.discard(first)
            batch = take(self._ledger, 0, waiting | self._alone)
        return batch

    def _is_settled(self, batch: list[Load]) -> bool:
        """Execute every statement that may be; whether all were and none failed."""
        settle_id, skipped = batch[0].settle_id, self._left_alone()
        failed: set[str] = set()
        problem = ""
        for statement in self._statements:
            if statement.landing_table != batch[0].table_name:
                continue
            if statement.model in skipped or failed.intersection(statement.reads):
                failed.add(statement.model)
                problem = problem or self._problem_of(skipped)
                continue
            self._ledger.prove()
            try:
                execute(self._client, statement, settle_id)
            except ModelsError as error:
                failed.add(statement.model)
                problem = str(error)
                self._note_failure(statement.model, batch, problem)
            else:
                self._models.pop(statement.model, None)
                self._blamed.pop(statement.model, None)
        if failed:
            self._put_aside(batch, problem)
            return False
        for load in batch:
            self._loads.pop(load.key, None)
        return True

    def _left_alone(self) -> set[str]:
        now = self._clock()
        return {model for model, pause in self._models.items() if pause.until > now}

    def _problem_of(self, models: set[str]) -> str:
        return next((self._models[model].problem for model in sorted(models)), "")

    def _note_failure(self, model: str, batch: list[Load], problem: str) -> None:
        """Leave a model alone that fails for one load after another."""
        log.error("%s", problem)
        key = batch[0].key
        if model in self._models or (len(batch) == 1 and self._blamed.get(model, key) != key):
            self._models[model] = self._longer(self._models.get(model), problem)
        if len(batch) == 1:
            self._blamed[model] = key

    def _put_aside(self, batch: list[Load], problem: str) -> None:
        self._ledger.back_to_loaded(batch)
        if len(batch) > 1 and not self._left_alone():
            self._alone |= {load.key for load in batch}
            return
        for load in batch:
            self._loads[load.key] = self._longer(self._loads.get(load.key), problem)

    def _longer(self, before: _Pause | None, problem: str) -> _Pause:
        failures = before.failures + 1 if before else 1
        pause = min(FIRST_PAUSE_S * 2 ** min(failures - 1, 10), LONGEST_PAUSE_S)
        return _Pause(failures, self._clock() + pause, problem)
