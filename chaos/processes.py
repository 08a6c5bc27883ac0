"""The processes that are killed and stopped: the embedded ClickHouse and the pipeline."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chaos.cycles import has_begun, runs_in
from chaos.nursery import Nursery
from embedded_clickhouse.passwords import OWNER, password_of
from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR, Settings

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 120.0
POLL_S = 0.01


class Broken(Exception):
    """A process did what it never should: it hung, crashed or refused to start."""


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until a condition holds; False if it does not within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def environment(more: dict[str, str]) -> dict[str, str]:
    """This process's environment without any setting of the pipeline but those given."""
    unset = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    own = {"PYTHONPATH": str(PROJECT_DIR), ENV_FILE_VARIABLE: ""}
    return inherited | own | more


class Database:
    """The embedded ClickHouse as a process of its own, on one port for all of its lives."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int:
        """Process id of the life it is in."""
        return self._process.pid

    @property
    def password(self) -> str:
        """That of its owner."""
        return password_of(self._folder / "clickhouse", OWNER)

    @property
    def alive(self) -> bool:
        """False once it was killed."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it answers.

        Raises:
            Broken: it does not.
        """
        command = [sys.executable, "-m", "embedded_clickhouse", "--port", str(self.port)]
        with (self._folder / "clickhouse.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--path", str(self._folder / "clickhouse")],
                cwd=self._folder,
                env=environment({}),
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._answers() or not self.alive, START_TIMEOUT_S)
        if not self._answers():
            raise Broken(f"the database did not start: {self._folder / 'clickhouse.log'}")

    def kill(self) -> None:
        """Kill it, if it is still alive."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2) as answer:
                return answer.read() == b"Ok.\n"
        except (OSError, urllib.error.URLError):
            return False


class Pipeline:
    """`run_pipeline.py` as a process to which something may happen at a seam.

    Args:
        nursery: starts it.
        log: the file that gets what it prints.
        settings: its settings, as environment variables.
        options: options of `chaos.child`.
        verb: what `run_pipeline.py` takes.
    """

    def __init__(
        self,
        nursery: Nursery,
        log: Path,
        settings: dict[str, str],
        options: list[str],
        verb: list[str],
    ) -> None:
        self._log = log
        self._verb = verb[0]
        self._process = nursery.start([*options, "--", *verb], log, environment(settings))

    @property
    def alive(self) -> bool:
        """False once it has ended in whatever way; a stopped process is alive."""
        return self._process.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        return self._process.exit_code

    @property
    def stopped(self) -> bool:
        """True from SIGSTOP to SIGCONT."""
        return self._process.stopped

    @property
    def ended_as_it_may(self) -> bool:
        """True if it has ended as it may without its database: a loop only before its jobs have begun."""
        if self._verb == "loop" and has_begun(self.said()):
            return False
        return self.exit_code in (0, 1)

    def runs(self) -> Counter[str]:
        """Runs that went well so far, by job."""
        return runs_in(self.said())

    def said(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """Kill it, if it is still alive."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)

    def halt(self) -> None:
        """Stop it where it is, as a closed laptop would."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after it was stopped."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end.

        Raises:
            Broken: it does not, or not with the exit code of a stopped run.
        """
        self._process.send_signal(signal.SIGTERM)
        if not self._process.wait(STOP_TIMEOUT_S):
            raise Broken(f"SIGTERM did not end the pipeline in {STOP_TIMEOUT_S:.0f} s")
        if self.exit_code != 128 + signal.SIGTERM:
            raise Broken(f"SIGTERM ended it with exit code {self.exit_code}: {self.said()}")
