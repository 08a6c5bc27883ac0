"""Brings a database up to date before anything is loaded into it."""

from __future__ import annotations

from pipeline.derive.models import ensure_models
from pipeline.warehouse.migrations import migrate
from pipeline.warehouse.run import Run


def prepare(run: Run) -> None:
    """Bring schema and models up to date; hold the writer lock.

    Raises:
        RestoreUnfinished: the databases hold a part of a backup.
        SchemaError: a migration failed or was edited.
        ModelsError: dbt failed.
    """
    run.refuse_unfinished()
    migrate(run.client, run.settings)
    run.statements = ensure_models(run.client, run.server, run.settings, run.lock.number)
