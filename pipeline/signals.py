"""Signals: SIGTERM and SIGINT end a run by an exception in the main thread.

Every step is safe to abandon (nothing moves a cursor before its rows are in ClickHouse), so unwinding is all it takes:
the lock is released, the embedded ClickHouse stops, and the process exits with 128 + the signal's number.
"""

from __future__ import annotations

import signal
from types import FrameType


class Stopped(BaseException):
    """A signal asked this run to end; like KeyboardInterrupt it passes handlers of ordinary failures."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """SIGINT or SIGTERM."""
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


def stop_on_signals() -> None:
    """Raise `Stopped` in the main thread on the first SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal while unwinding must not cut the clean-up short.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
