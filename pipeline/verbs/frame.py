"""What every verb has around it: signals, settings, logging, and failures told in one line with their exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from clickhouse_connect.driver.exceptions import ClickHouseError

from pipeline import console
from pipeline.bars import showing_jobs
from pipeline.errors import PipelineError
from pipeline.settings import Settings, load_settings
from pipeline.signals import Stopped, stop_on_signals
from pipeline.verbs.advice import advice
from pipeline.warehouse.client import first_line

log = logging.getLogger(__name__)
# What the user's disk or folders may answer. A closed pipe is left to click, which ends in silence.
CANNOT_WRITE = {
    *(errno.EACCES, errno.EBADF, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO),
    *(errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


def _note_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Log what fails while an object is thrown away: Python prints a traceback of it, after the error that is told."""
    log.debug("ignored while %s was thrown away: %s", ignored.object, ignored.exc_value)


def _why_not_written(error: OSError) -> str:
    """One line about a file or an output that cannot be written; what Python still holds for the output is dropped."""
    if error.filename is not None:
        return f"{error.filename} cannot be written: {error.strerror}; make room, or set another folder"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return f"the output cannot be written: {error.strerror}"


@contextmanager
def verb(context: click.Context) -> Iterator[Settings]:
    """Read the settings for a verb, and turn every failure that a user can cause into one line and its exit code."""
    stop_on_signals()
    sys.unraisablehook = _note_ignored
    try:
        settings = load_settings(demo=context.obj)
        console.setup_logging(as_json=settings.log_json, file=settings.log_file)
        with showing_jobs():
            for warning in advice(settings):
                log.warning("%s", warning)
            yield settings
    except PipelineError as error:
        console.err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        console.err.print(_why_not_written(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except ClickHouseError as error:
        console.err.print(f"ClickHouse failed: {first_line(error)}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as stop:
        console.err.print(f"stopped by {stop.name}")
        sys.exit(stop.exit_code)
