"""Signals: SIGTERM and SIGINT end a run by an exception in the main thread.

Every step is safe to abandon (nothing moves a cursor before its rows are in ClickHouse), so unwinding is all it takes:
the lock is released, the embedded ClickHouse stops, and the process exits with 128 + the signal's number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

PATIENCE_S = 10.0
AGAIN_AFTER_S = 0.05
_raised_at = -PATIENCE_S


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
    """Raise `Stopped` in the main thread on SIGINT or SIGTERM."""
    # dlt would put its own handlers in place of ours, and forget a signal that comes while it finishes a package.
    os.environ["RUNTIME__INTERCEPT_SIGNALS"] = "false"
    sys.unraisablehook = _raise_again
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _raised_at
    # A second signal must not cut the clean-up short, unless that takes too long.
    if time.monotonic() - _raised_at < PATIENCE_S:
        return
    _raised_at = time.monotonic()
    raise Stopped(number)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a destructor or weak reference callback; a signal that hit one is sent again."""
    global _raised_at
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return
    _raised_at = -PATIENCE_S
    main, number = threading.main_thread().ident, unraisable.exc_value.number
    threading.Timer(AGAIN_AFTER_S, signal.pthread_kill, (main, number)).start()
