"""What a run prints: log lines on a terminal and in a file, tables on narrow screens and in pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from worlds import PATIENCE_S

from pipeline.settings import PROJECT_DIR

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ INFO    hello\n"
SAY_HELLO = (
    "import logging, sys; from pathlib import Path; from pipeline import console;"
    "console.LOG_FILE_BYTES = 200;"
    "console.setup_logging(as_json='json' in sys.argv, file=Path(sys.argv[1]) if sys.argv[1] else None);"
    "[logging.getLogger('pipeline.jobs.cycle').info('hello') for _ in range(int(sys.argv[2]))]"
)


def say_hello(
    file: str = "", times: int = 1, *flags: str, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess:
    """A process that logs; its clock is in a zone that is not UTC."""
    return subprocess.run(
        [sys.executable, "-c", SAY_HELLO, file, str(times), *flags],
        env=os.environ
        | {"TZ": "America/New_York", "PYTHONPATH": str(PROJECT_DIR), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=PATIENCE_S,
    )


def on_a_terminal(program: Callable[[int], object]) -> str:
    """What a program, which is given a terminal as a file descriptor, shows there, without colours."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # the terminal was closed
            while piece := os.read(ours, 1 << 16):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        program(theirs)
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def test_a_line_is_the_same_on_a_terminal_in_a_pipe_and_in_a_file(tmp_path: Path) -> None:
    """Once, with level and message once, its time in UTC, and a zone."""
    file = tmp_path / "logs" / "elt.log"
    assert re.fullmatch(LINE, on_a_terminal(lambda stderr: say_hello(stderr=stderr)))
    assert re.fullmatch(LINE, say_hello(str(file)).stderr)
    assert re.fullmatch(LINE, file.read_text())


WORK = """
import threading, time
from ingest.events import Event, happened, span
from pipeline.bars import showing_jobs
from pipeline.warehouse.loads import Load

def read(source):
    with span(Event.JOB_RUN, job=source):
        with span(Event.SOURCE_READ, source=source):
            for rows in (1_000, 200):
                happened(Event.PAGE_READ, rows=rows)
                time.sleep(0.3)
            with span(Event.PACKAGE_LOADED, rows=1_200):
                time.sleep(0.3)
        with span(Event.SETTLED):
            happened(Event.SETTLE_MARKED, loads=[Load(1, "order_filled", loaded_rows=30)])
            time.sleep(0.3)

def hang():
    with span(Event.SOURCE_READ, source="goldsky"):
        time.sleep(60)

with showing_jobs():
    threads = [threading.Thread(target=read, args=(source,)) for source in ("polygon", "gamma")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with span(Event.SETTLED):
        time.sleep(0.3)
    threading.Thread(target=hang, daemon=True).start()
    time.sleep(0.3)
"""
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_a_terminal_shows_what_each_job_is_doing() -> None:
    def work(stderr: int) -> None:
        environment = {"PYTHONPATH": str(PROJECT_DIR), "TERM": "xterm", "COLUMNS": "100"}
        subprocess.run(
            [sys.executable, "-c", WORK],
            env=os.environ | environment,
            stderr=stderr,
            timeout=60,
            check=True,
        )

    shown = on_a_terminal(work)
    for source in ("polygon", "gamma"):
        for doing in (
            "reading: 1 page, 1,000 rows",
            "reading: 2 pages, 1,200 rows",
            "loading 1,200 rows",
            "settling 30 rows of order_filled",
        ):
            assert re.search(rf"{source} +\S+ {doing}", shown), (source, doing)
    assert re.search(r"settling +\S+ settling ", shown)
    # As after a signal: a thread that is still reading leaves the terminal as it was.
    assert re.search(r"goldsky +\S+ reading ", shown)
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR)


def test_the_hour_of_a_line_is_that_of_utc() -> None:
    before = subprocess.check_output(["date", "-u", "+%Y-%m-%d %H"], text=True).strip()
    shown = say_hello().stderr
    after = subprocess.check_output(["date", "-u", "+%Y-%m-%d %H"], text=True).strip()
    assert shown.startswith((before, after))


def test_a_log_file_takes_json_and_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "elt.log"
    say_hello(str(file), 40, "json")
    assert {each.name for each in tmp_path.iterdir()} == {
        "elt.log", *(f"elt.log.{number}" for number in range(1, 6))
    }  # fmt: skip
    for each in tmp_path.iterdir():
        assert json.loads(each.read_text().splitlines()[0])["message"] == "hello"


@pytest.mark.parametrize("name", ["", "taken/elt.log"], ids=["a folder", "below a file"])
def test_a_log_file_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    answer = subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "doctor"],
        env=os.environ | {"LOG_FILE": str(tmp_path / name)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("LOG_FILE: ")
    assert answer.stderr.count("\n") == 1


PRINT_STATUS = """
import sys
from pipeline.jobs.freshness import Freshness
from pipeline.verbs.report import print_status
from pipeline.verbs.status import JobStatus, Status, TableStatus
from pipeline.warehouse.disk import TableSize
moment = "2026-11-26T17:00:00+00:00"
span = dict(source="goldsky", from_at=moment, to_at=moment, done=12_345, requested=67_890, problem="no answer " * 9)
print_status(Status(
    clickhouse="ClickHouse at " + "long-host-name." * 9 + "example.com:8443", version="26.9.6.6",
    database="polymarket", ready=True, writer="`loop` (pid 1 on host), since " + moment,
    sources=[Freshness("polygon", "in the future", moment, 1.0, 900.0)],
    tables=[TableStatus("a_long_name_of_a_table", 10**15, moment, 1.0)], unsettled_loads=10**9,
    sizes=[TableSize("a_long_name_of_a_database", "a_long_name_of_a_table", 10**15, 10**18, 12_345.67)],
    unchecked={"order_filled": 10**9}, settled_loads=10**9, last_load_at=moment, unknown_tokens=10**9,
    backfills=[span, span], dead_letters=[dict(source="polygon", reason="r" * 90, records=10**9)],
    late_fills=dict(fills=10**9, taken_back=10**9, blocks=10**9, last_at=moment),
    jobs=[JobStatus(
        job="polygon", state="waiting", schedule="*/30 * * * * *", started_at=moment, ended_at=moment, outcome="failed",
        rows=10**9, failures=10**6, failing_since=moment, problem="p" * 90, done_at=moment, next_at=moment,
        is_run=True, is_stuck=True,
    )],
))
"""


@pytest.mark.parametrize("columns", ["20", "80", "500"])
def test_no_width_wraps_or_cuts_an_answer(columns: str) -> None:
    """Every kind of line that `status` has, each with its longest value."""

    def printed(width: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PRINT_STATUS],
            env=os.environ | {"COLUMNS": width, "PYTHONPATH": str(PROJECT_DIR)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout

    shown = printed(columns)
    assert shown == printed("5000")
    assert "…" not in shown
    assert "1,000,000,000,000,000" in shown
    assert "1,000,000,000,000.0" in shown and "12,345.7" in shown
