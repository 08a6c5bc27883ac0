"""Where the seconds of a run go: listens to the stages, because a profiler slows what it watches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ingest.events import Event, Moment, listen

# They follow each other in one thread.
STAGES = {
    "prepare": Event.PREPARED,
    "extract": Event.PACKAGE_EXTRACTED,
    "of it waiting for pages": Event.PAGE_AWAITED,
    "normalize": Event.PACKAGE_NORMALIZED,
    "load": Event.PACKAGE_LOADED,
    "settle": Event.SETTLED,
}
_NAMES = {event: stage for stage, event in STAGES.items()}


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by stage, filled while the block runs; meant for one job at a time."""
    seconds = dict.fromkeys(STAGES, 0.0)

    def note(moment: Moment) -> None:
        if moment.event in _NAMES and moment.is_over:
            seconds[_NAMES[moment.event]] += moment.seconds

    with listen(note, strict=True):
        yield seconds
