"""`doctor`: tries everything a run depends on, and says what to do about each thing that is not in order."""

from __future__ import annotations

import os
import shutil
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ingest.http import HttpClient
from ingest.retries import RetryPolicy
from ingest.sources import SOURCES
from ingest.sources.base import Finding
from ingest.sources.desk import NOTHING_LANDED, Desk
from ingest.sources.probing import MAX_CLOCK_DIFFERENCE_S, ask, records
from pipeline.errors import PipelineError
from pipeline.settings import Settings
from pipeline.warehouse.run import Run, open_run

MIN_FREE_GB = 5
TIMEOUT_S = 10


def examine(settings: Settings) -> list[Finding]:
    """Check everything; one check's failure does not stop the others."""
    findings = [
        _python(),
        _folder("dlt working folder", settings.dlt_pipelines_dir, "DLT_PIPELINES_DIR"),
    ]
    if settings.embedded:
        findings.append(
            _folder("embedded ClickHouse", settings.clickhouse_local_path, "CLICKHOUSE_LOCAL_PATH")
        )
    findings += _clickhouse(settings)
    hasty = settings.model_copy(update={"http_timeout_s": TIMEOUT_S})
    desk = Desk(hasty, NOTHING_LANDED, RetryPolicy(attempts=1))
    for source in SOURCES:
        findings += source.probe(desk)
    if url := settings.polymarket_data_url:
        findings.append(
            ask(desk, "Data API", url, "POLYMARKET_DATA_URL", partial(_trades_of_no_market, url))
        )
    return findings


def _trades_of_no_market(url: str, client: HttpClient) -> str:
    params = [("condition", f"0x{0:064x}"), ("limit", "1")]
    return f"{records(client, f'{url}/v2/trades', 'data', params)} trades of no market"


def _python() -> Finding:
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("dlt", "dbt-core", "dbt-clickhouse", "chdb")
    )
    return Finding("Python", f"{sys.version.split()[0]}; {packages}")


def _folder(subject: str, folder: Path, setting: str) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        return Finding(
            subject, f"{folder}: {error.strerror}", True, f"set {setting} to a folder you can write"
        )
    if not writable:
        return Finding(
            subject, f"{folder} is not writable", True, f"set {setting} to a folder you can write"
        )
    free = shutil.disk_usage(folder).free / 1e9
    return Finding(
        subject,
        f"{folder}, {free:,.0f} GB free",
        free < MIN_FREE_GB,
        f"at least {MIN_FREE_GB} GB are needed",
    )


def _clickhouse(settings: Settings) -> list[Finding]:
    try:
        with open_run(settings) as run:
            return [
                Finding("ClickHouse", f"{run.server}, version {run.client.server_version}"),
                _clock(run),
                _books(run),
            ]
    except PipelineError as error:
        remedy = "is CLICKHOUSE_HOST right, and the server up?" if not settings.embedded else ""
        return [Finding("ClickHouse", str(error), True, remedy)]


def _clock(run: Run) -> Finding:
    """This machine's clock against ClickHouse's, by which ages are told."""
    before = time.time()
    now = run.client.query("select toUnixTimestamp64Micro(now64(6))").result_rows[0][0] / 1e6
    after = time.time()
    ahead = max(before - now, 0.0) - max(now - after, 0.0)
    if abs(ahead) <= MAX_CLOCK_DIFFERENCE_S:
        return Finding("Clock", f"within {max(abs(ahead), 1):.0f} s of ClickHouse's")
    return Finding(
        "Clock",
        f"this machine's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} ClickHouse's",
        True,
        "set both clocks, by NTP for example: ages are told by ClickHouse's",
    )


def _books(run: Run) -> Finding:
    raw = run.settings.raw_database
    if not run.has_database(raw):
        return Finding("Schema", "nothing yet; the first run makes it")
    holder = run.lock.holder()
    writing = holder is not None and not holder.is_dead(run.settings.lock_ttl_s)
    return Finding("Schema", f"database {raw}; writer: {holder if writing else 'nobody'}")
