"""What a source finds when it reads: settings, HTTP clients, and what has landed before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ingest.http import HttpClient
from ingest.rate_limits import RateLimit
from ingest.retries import RetryPolicy

CONNECT_TIMEOUT_S = 10.0
Kept = TypeVar("Kept")


class Landed(Protocol):
    """What is in ClickHouse. In queries `{raw}` is the landing database and `{models}` that of the models."""

    def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Rows of a query."""

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The same as an Arrow table, with texts as strings."""


class _Nothing:
    def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        return ()

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        return pa.table({})


NOTHING_LANDED = _Nothing()


class Desk:
    """What sources share, the same in every cycle: rate limits span cycles, and readers remember what providers take.

    Args:
        settings: of all sources.
        landed: asked for what is there.
        retry: how patient to be; else as the settings say.
    """

    def __init__(self, settings: Any, landed: Landed, retry: RetryPolicy | None = None) -> None:
        self.settings, self.landed, self.retry = settings, landed, retry
        self._kept: dict[str, Any] = {}
        self._making = threading.RLock()

    def kept(self, name: str, make: Callable[[], Kept]) -> Kept:
        """The one thing of this name; it is made when it is asked for first."""
        with self._making:  # threads of several jobs begin at once
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    def client(self, source: str, limits: Sequence[RateLimit], setting: str) -> HttpClient:
        """The HTTP client of a source.

        Args:
            setting: the environment variable to look at when access is denied.
        """
        return self.kept(f"client of {source}", lambda: self.new_client(source, limits, setting))

    def new_client(
        self,
        source: str,
        limits: Sequence[RateLimit],
        setting: str,
        retry: RetryPolicy | None = None,
    ) -> HttpClient:
        """A client of its own, with limits of its own."""
        settings = self.settings
        return HttpClient(
            source,
            limits=limits,
            timeout=(CONNECT_TIMEOUT_S, settings.http_timeout_s),
            retry=self.retry or retry or RetryPolicy(max_wait=settings.http_give_up_s),
            setting=setting,
        )
