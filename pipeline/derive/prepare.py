"""Brings a database up to date before anything is loaded into it."""

from __future__ import annotations

from ingest.events import Event, span
from pipeline.derive.models import ensure_models
from pipeline.warehouse.migrations import migrate
from pipeline.warehouse.run import Run


def prepare(run: Run, *, patient: bool = False, back: bool = False) -> None:
    """Bring schema and models up to date; hold the writer lock.

    Args:
        patient: do it however long it takes.
        back: derive by this version although the database was brought to a later one.

    Raises:
        RestoreUnfinished: the databases hold a part of a backup.
        SchemaError: a migration failed or was edited, or the database is of a later version.
        UpgradeNeeded: it takes long.
        ModelsError: dbt failed.
    """
    with span(Event.PREPARED):
        run.refuse_unfinished()
        migrate(run.client, run.settings)
        _ = run.desk, run.ledger  # made once, before threads ask for them
    run.statements = ensure_models(run, patient=patient, back=back)
