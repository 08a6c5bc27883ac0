"""What verbs say that have written or read files: backups and exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.console import human, out

if TYPE_CHECKING:
    from pipeline.export.export import Exported
    from pipeline.jobs.backup import Made
    from pipeline.jobs.backup_file import Manifest


def print_backup(made: Made) -> None:
    """Where a backup is, and what it holds."""
    facts = made.manifest.facts
    out.print(
        f"{made.path}: {facts.raw_database} and {facts.database} as of {facts.made_at},"
        f" {human(made.manifest.rows)} rows, {made.size / 1e6:,.1f} MB",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_exported(done: Exported) -> None:
    """What was exported, and where it is."""
    parts = [
        f"{human(number)} {'file' if number == 1 else 'files'} {what}"
        for number, what in (
            (done.written, f"written ({human(done.rows)} rows, {done.bytes / 1e6:,.1f} MB)"),
            (done.same, "as they were"),
            (done.removed, "removed, whose rows are gone"),
        )
        if number
    ]
    said = ", ".join(parts) or "0 rows, so nothing was written"
    out.print(f"{done.path}: {said}", markup=False, highlight=False, soft_wrap=True)
    if done.unsettled:
        loads = "1 load is" if done.unsettled == 1 else f"{human(done.unsettled)} loads are"
        out.print(f"{loads} not settled yet: export again to have what came")


def print_restored(manifest: Manifest) -> None:
    """What was restored."""
    facts = manifest.facts
    out.print(
        f"{facts.raw_database} and {facts.database} are as of {facts.made_at}, {human(manifest.rows)} rows;"
        " the next run goes on from there",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
