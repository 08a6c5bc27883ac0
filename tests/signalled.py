"""A process of the pipeline that signals itself the first time an event begins or happens."""

from __future__ import annotations

import sys

from ingest.events import Event

_PROGRAM = """
import os, sys
from itertools import count
from ingest.events import Event, Stage, listen

event, number = Event[sys.argv.pop(1)], int(sys.argv.pop(1))
times = count()

def signal_itself(moment):
    if moment.event is event and moment.stage in (Stage.BEGINS, Stage.HAPPENED) and not next(times):
        print("stage reached", flush=True)
        os.kill(os.getpid(), number)

listen(signal_itself, strict=True)
from pipeline.verbs.cli import main
main()
"""


def signalled_at(event: Event, number: int) -> list[str]:
    """The command line of that process, for the arguments of `run_pipeline.py`; start it in the project's folder."""
    return [sys.executable, "-c", _PROGRAM, event.name, str(int(number))]
