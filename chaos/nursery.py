"""Starts pipelines quickly: a process that has imported everything, and forks one for each order.

A run spends most of its processor time on imports, and a run of crashes starts hundreds. Each pipeline is a process of its
own, with its own identity to the writer lock, and can be killed, stopped and continued like any other. `Nursery` is the
harness's side; `python -m chaos.nursery` reads one order a line and says one line for each process that begins, stops,
goes on or ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

POLL_S = 0.01
START_TIMEOUT_S = 120.0


class Process:
    """One process that a nursery has started.

    Attributes:
        pid: its id.
        exit_code: None while it lives; negative for a signal.
        stopped: True from SIGSTOP to SIGCONT.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self.stopped = False

    def send_signal(self, number: int) -> None:
        """Send a signal, if it is still alive."""
        if number == signal.SIGCONT:
            self.stopped = False  # at once, so that a second stop is not taken for the first
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if that takes longer."""
        deadline = time.monotonic() + timeout_s
        while self.exit_code is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return self.exit_code is not None


class Nursery:
    """Starts processes that run `chaos.child`; use as a context manager, which kills them in the
    end.

    Args:
        environment: of the process that forks; it must find this package.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._processes: dict[int, Process] = {}
        self._newest: Process | None = None
        self._born = threading.Event()

    def __enter__(self) -> Nursery:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "chaos.nursery"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.stdin.close()
        self._parent.wait()
        self._reader.join()

    def start(self, arguments: list[str], log: Path, environment: dict[str, str]) -> Process:
        """Start a process in the folder of its log.

        Raises:
            RuntimeError: it does not begin.
        """
        order = {"arguments": arguments, "log": str(log), "environment": environment}
        self._born.clear()
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        if not self._born.wait(START_TIMEOUT_S) or self._newest is None:
            raise RuntimeError("the nursery starts nothing")
        return self._newest

    def _read(self) -> None:
        """Take down what becomes of the processes."""
        for line in self._parent.stdout:
            pid, event, code = json.loads(line)
            if event == "began":
                self._newest = self._processes[pid] = Process(pid)
                self._born.set()
            elif event == "ended":
                process = self._processes.pop(pid)
                process.exit_code, process.stopped = code, False
            else:
                self._processes[pid].stopped = event == "stopped"


def main() -> None:
    """Fork for each order until there are no more, and then kill what was forked and lives."""
    # What every run needs, so that a fork need not import it again.
    import pipeline.jobs.backfill
    import pipeline.jobs.loop
    import pipeline.verbs.cli
    import pipeline.warehouse.holder
    from chaos.child import main as run_child

    orders, living, rest = sys.stdin.fileno(), set(), b""
    while True:
        if select.select([orders], [], [], POLL_S)[0]:
            data = os.read(orders, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    pipeline.warehouse.holder.PROCESS_ID = uuid.uuid4().hex
                    _become(json.loads(line), run_child)
                living.add(pid)
                _say(pid, "began")
        living -= _tell_of(living)
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _tell_of(living: set[int]) -> set[int]:
    """Say what has become of forked processes; returns those that have ended."""
    ended = set()
    for pid in living:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if found and os.WIFSTOPPED(status):
            _say(pid, "stopped")
        elif found and os.WIFCONTINUED(status):
            _say(pid, "goes on")
        elif found:
            ended.add(pid)
            _say(pid, "ended", os.waitstatus_to_exitcode(status))
    return ended


def _say(pid: int, event: str, code: int = 0) -> None:
    print(json.dumps([pid, event, code]), flush=True)


def _become(order: dict, run_child: Callable[[list[str]], None]) -> None:
    """Turn this fork into the process that was ordered, which ends as any Python does."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(Path(order["log"]).parent)
    os.environ.clear()
    os.environ.update(order["environment"])
    run_child(order["arguments"])
    sys.exit()


if __name__ == "__main__":
    main()
