"""When a request is sent again: what may pass by itself, how long to wait for it, and when to give up.

Promises that waiting is bounded: no request sleeps longer in total than `RetryPolicy.max_wait`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception

from ingest.errors import (
    HttpStatusError,
    NotJson,
    RateLimited,
    Timeout,
    Unavailable,
    Unreachable,
)

_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}


@dataclass(frozen=True)
class RetryPolicy:
    """How often to ask again and how long to wait, in seconds.

    The wait before attempt n is drawn between half and all of `first_wait * 2**(n-2)`, capped by
    `longest_wait`; a `Retry-After` of the upstream is obeyed instead. `max_wait` bounds the sum.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    max_wait: float = 120.0

    def retrying(
        self,
        sleep: Callable[[float], None],
        *,
        retry_timeouts: bool = True,
        attempts: int | None = None,
    ) -> Retrying:
        """What calls a function by this policy, and raises what its last attempt raised.

        Args:
            retry_timeouts: False where the caller answers a timeout by asking for less.
            attempts: fewer than the policy's own where the caller has another way out.
        """
        most = min(attempts or self.attempts, self.attempts)
        return Retrying(
            retry=retry_if_exception(lambda error: _is_transient(error, retry_timeouts)),
            wait=self._wait,
            stop=lambda state: self._stop(state, most),
            sleep=sleep,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            return asked
        backoff = self.first_wait * 2 ** (state.attempt_number - 1)
        # Jitter keeps several runs that failed together from coming back together.
        return min(backoff, self.longest_wait) * random.uniform(0.5, 1.0)

    def _stop(self, state: RetryCallState, attempts: int) -> bool:
        waited = state.idle_for + state.upcoming_sleep
        if isinstance(state.outcome.exception(), RateLimited):
            attempts = self.attempts  # there is no way out but to wait
        return state.attempt_number >= attempts or waited > self.max_wait


def _is_transient(error: BaseException, retry_timeouts: bool) -> bool:
    """Whether asking again may help: broken connections, overload, and bodies cut short."""
    if isinstance(error, Timeout):
        return retry_timeouts
    if isinstance(error, HttpStatusError):
        return error.status in _RETRIED_STATUSES
    return isinstance(error, Unreachable | NotJson | Unavailable)
