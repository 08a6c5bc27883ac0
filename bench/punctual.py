"""`python -m bench.punctual`: how late jobs of a loop start while an upstream hangs, and what an idle loop costs.

The real `loop` with default schedules reads the sandbox, in which a block appears every two seconds. With
`--hang /gamma` every request to that path is taken and never answered. How late each run started is read from
`job_runs`; CPU seconds are those of the loop's process and of the ClickHouse beside it. It ends with 1 if a job that
does not hang was more than 2 s late.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from bench.place import prepared
from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR
from sandbox.clock import BLOCK_SECONDS
from sandbox.server import AppServer, Urls, build_app
from sandbox.world import World

LATE_BAR_S = 2.0
STOP_TIMEOUT_S = 60
_TICKS = os.sysconf("SC_CLK_TCK")
_LATE = """
    select job, count() as runs, round(quantile(0.5)(late_s), 2), round(max(late_s), 2), countIf(outcome = 'failed')
    from (
        select
            job,
            outcome,
            (toUnixTimestamp64Micro(started_at) - lagInFrame(toUnixTimestamp64Micro(next_at), 1, 0) over (
                partition by job order by started_at rows between unbounded preceding and current row
            )) / 1e6 as late_s,
            row_number() over (partition by job order by started_at) as number
        from {raw}.job_runs
    )
    where number > 1
    group by job
    order by job
"""


class Hanging:
    """Passes requests on, but for those to one path, which it keeps."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._path and scope["type"] == "http" and scope["path"].startswith(self._path):
            while (await receive())["type"] != "http.disconnect":
                pass
            return  # else the server would wait for its answer when it is stopped
        await self._app(scope, receive, send)


def main(arguments: list[str]) -> int:
    """Run the loop for so long and print what was measured."""
    parser = argparse.ArgumentParser(prog="bench.punctual", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="How long the loop runs.")
    parser.add_argument("--hang", default="", help="Path of which no request is answered.")
    parser.add_argument("--still", action="store_true", help="No new blocks: the loop is idle.")
    options = parser.parse_args(arguments)
    world = World.generate(1, now=datetime.now(UTC), markets=200, matches=2000, matches_per_block=5)
    with AppServer(Hanging(build_app(world), options.hang)) as server, prepared() as place:
        urls = Urls.at(server.port).environment()
        stop = threading.Event()
        miner = threading.Thread(target=_mine, args=(world, stop), daemon=True)
        if not options.still:
            miner.start()
        cpu = _run_loop(
            place.run.settings, place.clickhouse_pid, place.folder, urls, options.minutes
        )
        stop.set()
        raw = place.run.settings.raw_database
        late = place.run.client.query(_LATE.replace("{raw}", raw)).result_rows
    print(f"{'job':12}{'runs':>6}{'late p50 s':>12}{'late max s':>12}{'failed':>8}")
    for job, runs, median, worst, failed in late:
        print(f"{job:12}{runs:6}{median:12}{worst:12}{failed:8}")
    seconds = options.minutes * 60
    for name, used in cpu.items():
        print(f"{name}: {used:.1f} CPU s in {seconds:.0f} s, {used / seconds:.1%} of a core")
    hanging = options.hang.strip("/")
    return int(any(worst > LATE_BAR_S for job, _, _, worst, _ in late if job != hanging))


def _mine(world: World, stop: threading.Event) -> None:
    while not stop.wait(BLOCK_SECONDS):
        world.advance(1)


def _run_loop(
    settings, clickhouse_pid: int, folder: Path, urls: dict, minutes: float
) -> dict[str, float]:
    """Run the loop; CPU seconds by process, those of the first minute (or quarter) left out."""
    environment = {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "DLT_PIPELINES_DIR": str(settings.dlt_pipelines_dir),
        "POLYGON_STALE_AFTER_S": "1000000000",
        ENV_FILE_VARIABLE: "",
        **urls,
    }
    with (folder / "loop.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, PROJECT_DIR / "run_pipeline.py", "loop"],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
        waiting = threading.Event()
        try:
            waiting.wait(min(60.0, minutes * 15))  # the first runs read what there is
            before = _cpu(process.pid), _cpu(clickhouse_pid)
            waiting.wait(minutes * 60)
            after = _cpu(process.pid), _cpu(clickhouse_pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)
    print((folder / "loop.log").read_text(errors="replace")[-1500:], file=sys.stderr)
    return {"loop": after[0] - before[0], "ClickHouse": after[1] - before[1]}


def _cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
