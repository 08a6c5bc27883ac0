"""Who of this process's threads may write into ClickHouse at a time.

Packages whose loads are settled, and settling itself, go through one by one. Loads that nothing is derived from may go on
beside them. A backup wants to be alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Closing(Exception):
    """The process is about to end: what has not begun to be written is not written any more."""


class Door:
    """A lock for threads, with three ways in; none of them may be nested in another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._one = self._alone = self._closed = False
        self._beside = 0

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """For a package whose loads are settled, and for settling.

        Raises:
            Closing: the process is about to end.
        """
        with self._changed:
            self._wait(lambda: not (self._one or self._alone))
            self._one = True
        try:
            yield
        finally:
            with self._changed:
                self._one = False
                self._changed.notify_all()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """For a package that nothing is derived from.

        Raises:
            Closing: the process is about to end.
        """
        with self._changed:
            self._wait(lambda: not self._alone)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For what must see nothing half written.

        Raises:
            Closing: the process is about to end.
        """
        with self._changed:
            self._wait(lambda: not (self._one or self._alone))
            self._alone = True
        try:
            with self._changed:
                self._wait(lambda: not self._beside)
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def close(self, patience_s: float) -> bool:
        """Let nobody in any more, and wait until all are out; False if that takes longer than `patience_s`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not (self._one or self._alone or self._beside), patience_s
            )

    def _wait(self, is_free) -> None:
        self._changed.wait_for(lambda: self._closed or is_free())
        if self._closed:
            raise Closing
