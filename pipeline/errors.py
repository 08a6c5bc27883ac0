"""Failures that a run reports to its user.

Each carries one line that says what happened and what to do, and the exit code of the process (design, section 7).
Anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations

from ingest.errors import PolymarketError


class PipelineError(PolymarketError):
    """A run cannot go on; the message is one line for the user."""

    exit_code = 1


class SettingsError(PipelineError):
    """A setting is missing or makes no sense."""

    exit_code = 2


class UsageError(PipelineError):
    """A command line makes no sense."""

    exit_code = 2


class ClickHouseUnavailable(PipelineError):
    """ClickHouse does not answer, or refuses the connection."""


class SchemaError(PipelineError):
    """A migration failed or was edited after it was applied, or the database is of a later version."""


class ModelsError(PipelineError):
    """dbt could not build the models."""


class UpgradeNeeded(PipelineError):
    """The database is to be brought to this version, and that takes too long to be done unasked."""


class QueryFailed(PipelineError):
    """ClickHouse refused a query of the user's; the message is ClickHouse's own."""


class NothingLoaded(PipelineError):
    """There are no raw records to work on."""


class NotSettled(PipelineError):
    """Loads wait to be settled, so derived tables cannot agree with raw yet."""


class TablesDiffer(PipelineError):
    """Derived tables are not what raw makes them."""


class BackupError(PipelineError):
    """A backup cannot be made, or cannot be restored; what was there before is intact unless the message says otherwise."""


class ExportError(PipelineError):
    """Files cannot be exported; those that have their names already are whole."""


class RestoreUnfinished(PipelineError):
    """A restore was cut off, so the databases hold a part of a backup."""


class LoadFailed(PipelineError):
    """A source could not be read or loaded; what was loaded before is intact."""


class Unhealthy(PipelineError):
    """Nothing runs, or a job fails again and again."""


class SourcesStale(PipelineError):
    """Sources were not read for longer than they should be."""


class LockHeld(PipelineError):
    """Another run holds the writer lock."""

    exit_code = 3
