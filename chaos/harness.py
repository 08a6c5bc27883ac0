"""A run of crashes: set up, kill after kill with new blocks all the while, then let the pipeline catch up.

The simulated Polymarket lives in this process and moves on in a thread; the database and the pipeline are processes of
their own. When one hangs, gives up or refuses to start, the run ends as `Broken`. What the tables hold in the end is
for `verdict.py` to judge.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from chaos.processes import POLL_S, Broken, Database, Pipeline
from chaos.schedule import Kill
from chaos.seams import SEAMS
from pipeline.settings import ARCHIVE_END
from sandbox.server import SandboxServer
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)  # where the simulated chain's clock begins
HISTORY = timedelta(days=0.25)  # of each generation
BLOCK_EVERY_S = 0.3
REORG_SHARE, DEEPEST_REORG = 0.03, 6  # of the new blocks; blocks that are replaced
REACH_TIMEOUT_S = 300.0  # to get to a seam
RECOVER_TIMEOUT_S = 300.0  # to finish a cycle after the database is back
LONGEST_OUTAGE_S = 1.0
MOST_CATCH_UP_RUNS = 30
DATABASE = "polymarket"


@dataclass
class Tally:
    """What happened in a run.

    Attributes:
        kills: by victim.
        by_place: kills by seam, or `random time`.
        missed: kills by seam that was not reached in time; the kill came then, wherever the pipeline was.
        lost_folders: kills after which dlt's working folder was gone.
        restarts: runs that ended when the database went away, and were started again.
        reorgs: reorganisations of the simulated chain.
        tracebacks: runs that showed one to their user.
    """

    kills: Counter[str] = field(default_factory=Counter)
    by_place: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    lost_folders: int = 0
    restarts: int = 0
    reorgs: int = 0
    tracebacks: int = 0


class Harness:
    """One run over one folder; use as a context manager, which ends every process it has started."""

    def __init__(self, seed: int, folder: Path, *, matches: int) -> None:
        self.tally = Tally()
        self.folder = folder
        self._rng = Random(f"{seed}:outages")
        days = HISTORY / timedelta(days=1)
        self.world = World.generate(
            seed,
            now=NOW,
            markets=40,
            matches=matches,
            v1_days=days,
            v2_days=days,
            matches_per_block=2,
        )
        self._seed = seed
        self._upstream = SandboxServer(self.world)
        self._database = Database(folder)
        self._pipeline: Pipeline | None = None
        self._resources = ExitStack()
        # Set while blocks must not be replaced: fills that landed without their cursor, which went with the folder,
        # would be taken for those of today's chain (docs/reliability.md, what is not covered).
        self._folder_is_lost = threading.Event()

    def __enter__(self) -> Harness:
        self._resources.enter_context(self._upstream)
        self._resources.callback(self._database.kill)
        self._database.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipeline is not None:
            self._pipeline.kill()
        self._resources.close()

    # -- the run -----------------------------------------------------------------------------------

    def run(self, kills: list[Kill], *, on_kill: Callable[[int], None], deadline: float) -> None:
        """Make the kills until all are done or the `deadline` (of the monotonic clock) is over, and catch up.

        Args:
            on_kill: told after each kill how many are done.

        Raises:
            Broken: a process did what it never should.
        """
        self._once(budget_s=0.3)
        with self._moving_on():
            for number, kill in enumerate(kills, start=1):
                if time.monotonic() > deadline:
                    break
                # From the death before, which may leave landed rows in a package, until a later run finished a cycle.
                near = kills[max(number - 2, 0) : number + 1]
                if any(each.loses_folder for each in near):
                    self._folder_is_lost.set()
                elif self._pipeline.cycles() > 0:
                    self._folder_is_lost.clear()
                self._make(kill)
                on_kill(number)
        self._catch_up()

    def client(self) -> Client:
        """A client of the database."""
        return clickhouse_connect.get_client(host="127.0.0.1", port=self._database.port)

    def _make(self, kill: Kill) -> None:
        self._before(kill)
        self._start(kill)
        if kill.seam:
            self._wait_for_seam(kill)
        else:
            self._strike_at_random(kill)
        self._count(kill)
        if kill.victim != "pipeline":
            time.sleep(self._rng.uniform(0, LONGEST_OUTAGE_S))
            self._database.start()
        if kill.victim == "database":
            self._wait_for_recovery()
            self._pipeline.stop()
        self._inspect(kill)
        if kill.loses_folder:
            shutil.rmtree(self.folder / "dlt", ignore_errors=True)

    def _before(self, kill: Kill) -> None:
        """Bring about what the seam needs: a version of the models that is not built yet, as after an update."""
        if kill.seam and SEAMS[kill.seam].rebuilds:
            self.client().command(f"truncate table {DATABASE}_raw.model_deployments")

    def _start(self, kill: Kill) -> None:
        words = []
        if kill.seam:
            words = ["--seam", kill.seam, "--nth", str(kill.nth), "--delay-ms", str(kill.delay_ms)]
        if kill.seam and kill.victim != "pipeline":
            words += ["--database-pid", str(self._database.pid)]
        if kill.victim == "database":
            words.append("--survive")
        self._begin(words, SEAMS[kill.seam].verb if kill.seam else "loop")

    def _begin(self, words: list[str], verb: str, budget_s: float = 0.3) -> None:
        settings = self._settings() | {"CYCLE_BUDGET_S": str(budget_s)}
        self._pipeline = Pipeline(self.folder, settings, [*words, "--", verb])

    def _wait_for_seam(self, kill: Kill) -> None:
        """Wait until the child has killed; if it never gets there, kill from here and say so."""
        deadline = time.monotonic() + REACH_TIMEOUT_S
        while self._pipeline.alive and self._database.alive:
            if time.monotonic() > deadline:
                self._missed(kill)
                return
            time.sleep(POLL_S)
        if kill.victim != "database":
            self._wait_until_dead()
        elif self._database.alive:
            raise Broken(f"the pipeline ended before {kill.seam}: {self._pipeline.said()}")

    def _missed(self, kill: Kill) -> None:
        self.tally.missed[kill.seam] += 1
        self._strike(kill)

    def _strike_at_random(self, kill: Kill) -> None:
        asked = self._upstream.app.counts.total()
        deadline = time.monotonic() + REACH_TIMEOUT_S
        while self._upstream.app.counts.total() == asked and self._pipeline.alive:
            if time.monotonic() > deadline:
                raise Broken(f"the pipeline asked for nothing: {self._pipeline.said()}")
            time.sleep(POLL_S)
        time.sleep(kill.delay_ms / 1000)
        self._strike(kill)

    def _strike(self, kill: Kill) -> None:
        if kill.victim != "pipeline":
            self._database.kill()
        if kill.victim != "database":
            self._pipeline.kill()

    def _wait_until_dead(self) -> None:
        deadline = time.monotonic() + RECOVER_TIMEOUT_S
        while self._pipeline.alive:
            if time.monotonic() > deadline:
                raise Broken("the pipeline outlived its own kill")
            time.sleep(POLL_S)

    def _wait_for_recovery(self) -> None:
        """Wait until a cycle is finished after the database came back; start the pipeline again if it gave up."""
        deadline = time.monotonic() + RECOVER_TIMEOUT_S
        before = self._pipeline.cycles()
        while self._pipeline.cycles() <= before:
            if self._pipeline.ended_as_it_may:
                self._inspect(None)
                self.tally.restarts += 1
                self._begin([], "loop")
                before = 0
            elif not self._pipeline.alive or time.monotonic() > deadline:
                raise Broken(f"no cycle after the database was back: {self._pipeline.said()}")
            time.sleep(POLL_S)

    def _count(self, kill: Kill) -> None:
        self.tally.kills[kill.victim] += 1
        self.tally.by_place[kill.where] += 1
        self.tally.lost_folders += kill.loses_folder

    def _inspect(self, kill: Kill | None) -> None:
        """Note a traceback; raise Broken if the pipeline ended by itself in an unexpected way."""
        said, code = self._pipeline.said(), self._pipeline.exit_code
        if "Traceback" in said:
            self.tally.tracebacks += 1
            print(f"a traceback: {said}", file=sys.stderr)
        if kill is not None and kill.victim != "database" and code != -9:
            raise Broken(f"exit code {code} instead of a kill at {kill.where}: {said}")

    # -- the world around --------------------------------------------------------------------------

    @contextmanager
    def _moving_on(self) -> Iterator[None]:
        """New blocks, and now and then a reorganisation, for the length of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._advance, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _advance(self, stop: threading.Event) -> None:
        rng = Random(f"{self._seed}:blocks")
        while not stop.wait(BLOCK_EVERY_S):
            if rng.random() < REORG_SHARE and not self._folder_is_lost.is_set():
                self.world.reorg(rng.randint(1, DEEPEST_REORG))
                self.tally.reorgs += 1
            self.world.advance(1)

    def _settings(self) -> dict[str, str]:
        """Settings that make many small loads and settles of everything the simulated Polymarket has."""
        return self._upstream.urls.environment() | {
            "CLICKHOUSE_HOST": "127.0.0.1",
            "CLICKHOUSE_PORT": str(self._database.port),
            "CLICKHOUSE_DATABASE": DATABASE,
            "DLT_PIPELINES_DIR": str(self.folder / "dlt"),
            "GOLDSKY_START": (ARCHIVE_END - 2 * HISTORY).isoformat(),
            "GOLDSKY_PAGE_SIZE": "20",
            "FILLS_LOOKBACK_S": str(int(2 * HISTORY.total_seconds())),
            "POLYGON_CONFIRMATIONS": "0",
            "POLYGON_STALE_AFTER_S": "1000000000",  # the simulated clock is not the real one
            "GAMMA_OPEN_EVERY_S": "0.001",
            "POLL_INTERVAL_S": "0.2",
            "SETTLE_MAX_ROWS": "300",
        }

    # -- the end -----------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Run cycles until one brings nothing; no block is mined meanwhile.

        Raises:
            Broken: a cycle fails, or there is no end to what they bring.
        """
        rows = -1
        for _ in range(MOST_CATCH_UP_RUNS):
            self._once(budget_s=60)
            before, rows = rows, self._landed()
            if rows == before:
                return
        raise Broken(f"still new rows after {MOST_CATCH_UP_RUNS} cycles of catching up")

    def _once(self, budget_s: float) -> None:
        self._begin([], "once", budget_s)
        deadline = time.monotonic() + RECOVER_TIMEOUT_S + REACH_TIMEOUT_S
        while self._pipeline.alive:
            if time.monotonic() > deadline:
                raise Broken(f"a cycle did not end: {self._pipeline.said()}")
            time.sleep(POLL_S)
        if self._pipeline.exit_code != 0:
            raise Broken(f"a cycle failed: {self._pipeline.said()}")

    def _landed(self) -> int:
        """Rows that loads have brought so far, by the ledger."""
        query = f"select sum(loaded_rows) from {DATABASE}_raw.loads final"
        return self.client().query(query).result_rows[0][0]
