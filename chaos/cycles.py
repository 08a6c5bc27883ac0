"""What a cycle is to the crash tests: a run, of each source that is always read, that went well.

Each job of a loop has times of its own, and what brings nothing is not logged. So the process under test says in its log
when a run begins and when one has gone well, and the harness reads that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pipeline.settings import Settings

BEGINS, DONE = "chaos: {} begins\n", "chaos: {} done\n"
_SAID = re.compile(r"^chaos: (\S+) done$", re.MULTILINE)
_BEGAN = re.compile(r"^chaos: \S+ begins$", re.MULTILINE)


def always_read(settings: Settings) -> list[str]:
    """Names of the sources that are read as often as POLL_INTERVAL_S says."""
    return [each.name for each in settings.active_sources if not each.schedule(settings)]


def runs_in(log: str) -> Counter[str]:
    """Runs that went well by job, as a log says."""
    return Counter(_SAID.findall(log))


def has_begun(log: str) -> bool:
    """Whether a job has begun, as a log says."""
    return _BEGAN.search(log) is not None


def cycles_of(runs: Counter[str], sources: Iterable[str]) -> int:
    """Cycles that these runs make."""
    return min(runs[source] for source in sources)
