"""Where the seconds of a run go: a stopwatch around each stage, because a profiler slows what it watches."""

from __future__ import annotations

import contextlib
import functools
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

# Stage -> the names under which its function is called. They follow each other in the main thread.
STAGES = {
    "prepare": ("pipeline.derive.prepare.prepare",),
    "extract": ("dlt.Pipeline.extract",),
    "of it waiting for pages": ("ingest.queue.fetching.FetchPool.take",),
    "normalize": ("dlt.Pipeline.normalize",),
    "load": ("dlt.Pipeline.load",),
    "settle": ("pipeline.jobs.worker.settle", "pipeline.jobs.cycle.settle"),
}


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by stage, of this thread, filled while the block runs."""
    seconds = dict.fromkeys(STAGES, 0.0)
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        for stage, names in STAGES.items():
            for place in names:
                watched = _watched(pkgutil.resolve_name(place), stage, seconds, thread)
                stack.enter_context(patch(place, watched))
        yield seconds


def _watched(
    function: Callable[..., Any], stage: str, seconds: dict[str, float], thread: int
) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*arguments: Any, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return function(*arguments, **options)
        since = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[stage] += time.perf_counter() - since

    return watched
