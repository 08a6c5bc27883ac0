"""The stage of a run: a simulated Polymarket that moves on, a database and a proxy before it, and pipelines that are
started over them.

The simulated Polymarket lives in this process and moves on in a thread; the database and the pipelines are processes of
their own. When one hangs, gives up or refuses to start, the run ends as `Broken`. What is done to them is in `kills.py`,
`pauses.py`, `clocks.py` and `network.py`; what the tables hold in the end is for `verdict.py` to judge.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from chaos.cycles import always_read, cycles_of
from chaos.nursery import Nursery
from chaos.processes import POLL_S, Broken, Database, Pipeline, environment, wait_until
from chaos.proxy import Proxy
from chaos.schedule import HOME
from chaos.tally import Tally
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.settings import Settings
from sandbox.server import SandboxServer
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)  # where the simulated chain's clock begins
HISTORY = timedelta(
    days=0.05
)  # of each generation; quiet blocks cost the reader more than busy ones
BLOCK_EVERY_S = 0.3
REORG_SHARE, DEEPEST_REORG = 0.03, 6  # of the new blocks; blocks that are replaced
REACH_TIMEOUT_S = 600.0  # to get to a seam
RECOVER_TIMEOUT_S = 600.0  # to finish a cycle after the database is back
MOST_CATCH_UP_RUNS = 30
DATABASE = "polymarket"
LOCK_HELD = 3  # exit code
SHORT_S, TO_THE_HEAD_S = (
    0.3,
    30,
)  # budget of a cycle: for many small loads of history, or to get to the head
NEVER_STALE_S = "1000000000"  # the simulated clock is not the real one


class Harness:
    """One run over one folder; use as a context manager, which kills every process it has started."""

    def __init__(self, seed: int, folder: Path, *, matches: int) -> None:
        self.tally = Tally()
        self.folder = folder
        self.rng = Random(f"{seed}:outages")
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
        self.database = Database(folder)
        self.proxy = Proxy(self.database.port)
        self._nursery = Nursery(environment({}))
        self._started = 0
        self._resources = ExitStack()

    def __enter__(self) -> Harness:
        self._resources.enter_context(self._upstream)
        self._resources.enter_context(self.proxy)
        self._resources.callback(self.database.kill)
        self._resources.enter_context(self._nursery)
        self.database.start()
        self._sources = always_read(self.read_settings())
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def client(self) -> Client:
        """A client of the database."""
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.database.port, password=self.database.password
        )

    # -- pipelines ---------------------------------------------------------------------------------

    def start_at_the_head(self, *verb: str, **more: Any) -> Pipeline:
        """Start a pipeline whose cycles read up to the head, where reorganisations are."""
        return self.start(*verb, cycle_budget_s=TO_THE_HEAD_S, **more)

    def start(
        self,
        *verb: str,
        options: list[str] | None = None,
        folder: str = HOME,
        **settings: object,
    ) -> Pipeline:
        """Start a pipeline.

        Args:
            verb: what `run_pipeline.py` takes.
            options: what is to happen in it, as `chaos.child` takes it.
            folder: name of dlt's working folder.
            settings: that differ from `settings`.
        """
        self._started += 1
        changed = {name.upper(): str(value) for name, value in settings.items()}
        log = self.folder / f"{self._started:04d}-{verb[0]}.log"
        values = self.settings(folder) | changed
        return Pipeline(self._nursery, log, values, options or [], list(verb))

    def once(self, **settings: object) -> Pipeline:
        """Run one cycle.

        Raises:
            Broken: it fails or does not end.
        """
        pipeline = self.start("once", **settings)
        if not wait_until(lambda: not pipeline.alive, RECOVER_TIMEOUT_S + REACH_TIMEOUT_S):
            raise Broken(f"a cycle did not end: {pipeline.said()}")
        if pipeline.exit_code != 0:
            raise Broken(f"a cycle failed: {pipeline.said()}")
        return pipeline

    def settings(self, folder: str = HOME) -> dict[str, str]:
        """Settings that make many small loads and settles of everything the simulated Polymarket has."""
        return self._upstream.urls.environment() | {
            "CLICKHOUSE_HOST": "127.0.0.1",
            "CLICKHOUSE_PORT": str(self.database.port),
            "CLICKHOUSE_PASSWORD": self.database.password,
            "CLICKHOUSE_DATABASE": DATABASE,
            "DLT_PIPELINES_DIR": str(self.folder / folder),
            "GOLDSKY_START": (ARCHIVE_END - 2 * HISTORY).isoformat(),
            "GOLDSKY_PAGE_SIZE": "20",
            # Not prices: one that a kill keeps from landing is gone for good.
            "SOURCES": "gamma,goldsky,polygon",
            "FILLS_LOOKBACK_S": str(int(2 * HISTORY.total_seconds())),
            "POLYGON_CONFIRMATIONS": "0",
            "POLYGON_STALE_AFTER_S": NEVER_STALE_S,
            "POLYGON_MAX_LAG_S": NEVER_STALE_S,
            "GAMMA_OPEN_EVERY_S": "0.001",
            "POLL_INTERVAL_S": "0.2",
            "SETTLE_MAX_ROWS": "300",
            "CYCLE_BUDGET_S": str(SHORT_S),
        }

    def read_settings(self, **settings: object) -> Settings:
        """The same settings for a reader in this process."""
        values = {name.lower(): value for name, value in self.settings().items()}
        return Settings(_env_file=None, **(values | settings))

    def wait_for_a_request(self, pipeline: Pipeline) -> None:
        """Wait until an upstream is asked for something.

        Raises:
            Broken: none is.
        """
        asked = self._requests()
        wait_until(lambda: self._requests() > asked or not pipeline.alive, REACH_TIMEOUT_S)
        if self._requests() == asked and pipeline.alive:
            raise Broken(f"the pipeline asked for nothing: {pipeline.said()}")

    def _requests(self) -> int:
        return self._upstream.app.counts.total()

    def wait_for_cycles(
        self,
        pipeline: Pipeline,
        number: int,
        restart: Callable[[], Pipeline],
        *,
        may_lose_lock: bool = False,
    ) -> Pipeline:
        """Wait until a loop has finished so many more cycles, and start it again where it may give up.

        A cycle is a run of each source that went well.

        Returns:
            The loop that has: this one, or the last that was started in its place.

        Raises:
            Broken: it does not, or it has ended as it never should.
        """
        deadline = time.monotonic() + RECOVER_TIMEOUT_S
        before = pipeline.runs()
        while cycles_of(pipeline.runs() - before, self._sources) < number:
            code = pipeline.exit_code
            if pipeline.ended_as_it_may or (may_lose_lock and code == LOCK_HELD):
                self.look_for_tracebacks(pipeline)
                self.tally.restarts += 1
                pipeline, before = restart(), Counter()
            elif code is not None or time.monotonic() > deadline:
                raise Broken(f"no cycle was finished (exit code {code}): {pipeline.said()}")
            time.sleep(POLL_S)
        return pipeline

    def has_finished_a_cycle(self, pipeline: Pipeline) -> bool:
        """Whether a loop has finished a cycle since it was started."""
        return cycles_of(pipeline.runs(), self._sources) > 0

    def look_for_tracebacks(self, pipeline: Pipeline) -> None:
        """Note a traceback in what a pipeline said."""
        if "Traceback" in pipeline.said():
            self.tally.tracebacks += 1
            print(f"a traceback: {pipeline.said()}", file=sys.stderr)

    # -- the world around --------------------------------------------------------------------------

    def reorg(self, depth: int) -> None:
        """Replace the last blocks."""
        self.world.reorg(depth)
        self.tally.reorgs += 1

    @contextmanager
    def moving_on(self) -> Iterator[None]:
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
            if rng.random() < REORG_SHARE:
                self.reorg(rng.randint(1, DEEPEST_REORG))
            self.world.advance(1)

    # -- the end -----------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Run cycles until one brings nothing; no block is mined meanwhile.

        Raises:
            Broken: a cycle fails, or there is no end to what they bring.
        """
        rows = -1
        for _ in range(MOST_CATCH_UP_RUNS):
            self.once(cycle_budget_s=2 * TO_THE_HEAD_S)
            before, rows = rows, self._landed()
            if rows == before:
                return
        raise Broken(f"still new rows after {MOST_CATCH_UP_RUNS} cycles of catching up")

    def _landed(self) -> int:
        """Rows that loads have brought so far, by the ledger."""
        query = f"select sum(loaded_rows) from {DATABASE}_raw.loads final"
        return self.client().query(query).result_rows[0][0]
