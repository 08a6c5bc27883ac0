"""`doctor`: tries everything a run depends on, and says what to do about each thing that is not in order."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import requests

from ingest.errors import one_line, redact
from pipeline.errors import PipelineError
from pipeline.run import Run, open_run
from pipeline.settings import Settings

POLYGON_CHAIN_ID = 137
MIN_FREE_GB = 5
TIMEOUT_S = 10


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what, how it is, and what to do if it failed."""

    subject: str
    detail: str
    failed: bool = False
    remedy: str = ""


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
    findings += [
        _upstream("Gamma", settings.polymarket_gamma_url, "POLYMARKET_GAMMA_URL", _ask_gamma),
        _upstream("Goldsky", settings.goldsky_url, "GOLDSKY_URL", _ask_goldsky),
        _upstream("Polygon", settings.polygon_rpc_url, "POLYGON_RPC_URL", _ask_polygon),
    ]
    if settings.polymarket_data_url:
        url = settings.polymarket_data_url
        findings.append(_upstream("Data API", url, "POLYMARKET_DATA_URL", _ask_data_api))
    return findings


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
                _books(run),
            ]
    except PipelineError as error:
        remedy = "is CLICKHOUSE_HOST right, and the server up?" if not settings.embedded else ""
        return [Finding("ClickHouse", str(error), True, remedy)]


def _books(run: Run) -> Finding:
    raw = run.settings.raw_database
    if not run.has_database(raw):
        return Finding("Schema", "nothing yet; the first run makes it")
    holder = run.lock.holder()
    writing = holder is not None and not holder.is_dead(run.settings.lock_ttl_s)
    return Finding("Schema", f"database {raw}; writer: {holder if writing else 'nobody'}")


def _upstream(name: str, url: str, setting: str, ask: Callable[[str], str]) -> Finding:
    started = time.monotonic()
    try:
        answer = ask(url)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        reason = redact(
            one_line(str(error) or type(error).__name__), url
        )  # requests quotes the address
        return Finding(
            name,
            f"{setting} does not answer as it should: {reason[:160]}",
            True,
            f"check {setting} and the network",
        )
    return Finding(name, f"{answer} ({(time.monotonic() - started) * 1000:.0f} ms)")


def _ask_gamma(url: str) -> str:
    response = requests.get(f"{url}/markets/keyset", params={"limit": 1}, timeout=TIMEOUT_S)
    response.raise_for_status()
    return f"{len(response.json()['markets'])} market read"


def _ask_data_api(url: str) -> str:
    params = {"condition": f"0x{0:064x}", "limit": 1}
    response = requests.get(f"{url}/v2/trades", params=params, timeout=TIMEOUT_S)
    response.raise_for_status()
    return f"{len(response.json()['data'])} trades of no market"


def _ask_goldsky(url: str) -> str:
    query = "{ _meta { block { number } hasIndexingErrors } }"
    response = requests.post(url, json={"query": query}, timeout=TIMEOUT_S)
    response.raise_for_status()
    return f"archive ends at block {response.json()['data']['_meta']['block']['number']:,}"


def _ask_polygon(url: str) -> str:
    chain_id = int(_rpc(url, "eth_chainId"), 16)
    if chain_id != POLYGON_CHAIN_ID:
        raise ValueError(f"chain {chain_id} is not Polygon ({POLYGON_CHAIN_ID})")
    return f"head at block {int(_rpc(url, 'eth_blockNumber'), 16):,}"


def _rpc(url: str, method: str) -> str:
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": []}
    response = requests.post(url, json=call, timeout=TIMEOUT_S)
    response.raise_for_status()
    answer = response.json()
    if "error" in answer:
        raise ValueError(answer["error"].get("message", "JSON-RPC error"))
    return answer["result"]
