"""What a user may have meant: settings that are set but have no effect, each as one line of warning."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values

from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR, Settings, env_file, may_be_in_a_file

# How much of a name must agree with a setting's; POLYGON_RPCURL agrees by 0.97, CLICKHOUSE_USERNAME by 0.88.
NEAR = 0.85
# Names near those of settings that mean something else: to docker compose, to the project's own processes.
OTHERS = {
    *("CLICKHOUSE_MEMORY_LIMIT", "CLICKHOUSE_PUBLISHED_PORT", "PIPELINE_MEMORY_LIMIT"),
    *("DASHBOARD_PASSWORD", "CRON_SCHEDULE", ENV_FILE_VARIABLE),
}


def advice(settings: Settings) -> Iterator[str]:
    """Warnings about the settings of this process, without their values."""
    known = {name.upper() for name in Settings.model_fields}
    file = env_file()
    given = set(os.environ) | set(dotenv_values(file) if file and file.is_file() else ())
    for name in sorted(given):
        if meant := near_miss(name, known):
            yield f"{name} is no setting and has no effect; is {meant} meant?"
    here = Path.cwd() / ".env"
    if file and file.parent == PROJECT_DIR and file.parent != here.parent and here.is_file():
        yield f"{here} is not read; settings come from {file}, or from what {ENV_FILE_VARIABLE} names"
    has_password = bool(settings.clickhouse_password.get_secret_value())
    if settings.embedded and has_password and settings.clickhouse_local_no_password:
        yield (
            "CLICKHOUSE_PASSWORD is not in force: CLICKHOUSE_LOCAL_NO_PASSWORD lets every user of"
            " this machine in; unset one of them"
        )


def near_miss(name: str, known: set[str]) -> str:
    """The setting that a name may be a misspelling of; empty if it looks like none, or is one."""
    of_file = {f"{setting}_FILE" for setting in known if may_be_in_a_file(setting)}
    if name.upper() in known | OTHERS | of_file or "_" not in name:
        return ""
    found = difflib.get_close_matches(name.upper(), known, n=1, cutoff=NEAR)
    return found[0] if found else ""
