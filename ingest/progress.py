"""What one run of a source may still do, and how it went.

A run stops between pages when its time is used up, and it keeps the
pages it has when the upstream fails: the failure is recorded here, the pages are loaded, and only
then is it raised (`ingest.land.loader`). So an upstream that fails at every hundredth page still gets
loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ingest.errors import IngestError, RateLimited, Unreachable


class Progress:
    """Work budget and report of one run of one source.

    Args:
        budget_seconds: time after which no further page is asked for; None is no limit. Every kind
            of page is asked for at least once, so a run always gets a little further.
        clock: seconds that only grow, replaceable for tests.

    Attributes:
        failures: what the upstream did wrong, first one first.
        caught_up: by stream, whether it has read all there was.
        watermark: by stream, unix seconds up to which it has read.
    """

    def __init__(
        self,
        budget_seconds: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._clock = budget_seconds, clock
        self._started = clock()
        self.failures: list[IngestError] = []
        self.caught_up: dict[str, bool] = {}
        self.watermark: dict[str, int] = {}

    def has_time(self, share: float = 1.0) -> bool:
        """Whether another page may be asked for within the first `share` of the budget."""
        return self._budget is None or self._clock() - self._started < self._budget * share

    @property
    def upstream_is_down(self) -> bool:
        """Whether a failure says that asking the upstream for something else is of no use now."""
        return any(isinstance(failure, Unreachable | RateLimited) for failure in self.failures)

    @contextmanager
    def recording_failures(self) -> Iterator[None]:
        """Record an IngestError instead of passing it on, so that finished pages are kept."""
        try:
            yield
        except IngestError as error:
            self.failures.append(error)
