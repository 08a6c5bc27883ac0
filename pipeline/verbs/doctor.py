"""`doctor`: tries everything a run depends on, and says what to do about each thing that is not in order."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ingest.errors import (
    HistoryPruned,
    IngestError,
    NodeBehind,
    RangeTooLarge,
    RpcError,
    Timeout,
    one_line,
    redact,
)
from ingest.http import RetryPolicy, root_cause
from ingest.sources.polygon.chain import Endpoint, Endpoints, fills_of, name_of
from ingest.sources.polygon.range_reader import SOURCE, RangeReader
from pipeline.errors import PipelineError
from pipeline.jobs.sources import make_chain_endpoints
from pipeline.settings import Settings
from pipeline.warehouse.run import Run, open_run

OLD_BLOCKS = 1_000_000  # about three weeks
MIN_FREE_GB = 5
TIMEOUT_S = 10
MAX_CLOCK_DIFFERENCE_S = 10


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
        *_chain(settings),
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


def _upstream(
    name: str, url: str, setting: str, ask: Callable[[str], tuple[requests.Response, str]]
) -> Finding:
    started, host = time.monotonic(), _host_of(url)
    try:
        response, answer = ask(url)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        return Finding(
            name,
            f"{host}: {setting} does not answer as it should: {_reason(error, url)}",
            True,
            f"check {setting} and the network",
        )
    took_s = time.monotonic() - started
    ahead = _clock_ahead_of(response, took_s)
    if abs(ahead) > MAX_CLOCK_DIFFERENCE_S:
        return Finding(
            name,
            f"{host}: {answer}; this machine's clock is {abs(ahead):,.0f} s"
            f" {'ahead of' if ahead > 0 else 'behind'} its clock",
            True,
            "set this machine's clock, by NTP for example",
        )
    return Finding(name, f"{host}: {answer} ({took_s * 1000:.0f} ms)")


def _host_of(url: str) -> str:
    """Host of an address, and its port where it names one; no user, no key."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _reason(error: Exception, url: str) -> str:
    """Why an upstream did not answer, in one short line without the secrets of its address."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(error, requests.ConnectionError):
        return f"cannot connect ({redact(root_cause(error), url)})"
    return redact(one_line(str(error) or type(error).__name__), url)[:160]


def _clock_ahead_of(response: requests.Response, took_s: float) -> float:
    """Seconds by which this machine's clock is ahead of an upstream's, by the Date of its answer; 0 if it has none."""
    try:
        theirs = parsedate_to_datetime(response.headers["Date"]).timestamp()
        theirs += int(response.headers.get("Age", 0))  # of an answer out of a cache
    except (LookupError, TypeError, ValueError):
        return 0.0
    now = time.time()  # a Date is cut to the second, and as old as the answer took at most
    return max(now - took_s - theirs - 1, 0.0) - max(theirs - now, 0.0)


def _ask_gamma(url: str) -> tuple[requests.Response, str]:
    response = requests.get(f"{url}/markets/keyset", params={"limit": 1}, timeout=TIMEOUT_S)
    response.raise_for_status()
    return response, f"{len(response.json()['markets'])} market read"


def _ask_data_api(url: str) -> tuple[requests.Response, str]:
    params = {"condition": f"0x{0:064x}", "limit": 1}
    response = requests.get(f"{url}/v2/trades", params=params, timeout=TIMEOUT_S)
    response.raise_for_status()
    return response, f"{len(response.json()['data'])} trades of no market"


def _ask_goldsky(url: str) -> tuple[requests.Response, str]:
    query = "{ _meta { block { number } hasIndexingErrors } }"
    response = requests.post(url, json={"query": query}, timeout=TIMEOUT_S)
    response.raise_for_status()
    block = response.json()["data"]["_meta"]["block"]["number"]
    return response, f"archive ends at block {block:,}"


def _chain(settings: Settings) -> list[Finding]:
    """What every endpoint of the chain answers to the calls that loading makes."""
    hasty = settings.model_copy(update={"http_timeout_s": TIMEOUT_S})
    endpoints = make_chain_endpoints(hasty, RetryPolicy(attempts=1)).all
    if not endpoints:
        remedy = "set POLYGON_RPC_URL or SQD_PORTAL_URL"
        return [Finding("Polygon", "no endpoint of the chain is configured", True, remedy)]
    versions = settings.polygon_versions.split(",")
    return [
        _endpoint(endpoint, versions, "in use" if at == 0 else "used when those before it fail")
        for at, endpoint in enumerate(endpoints)
    ]


def _endpoint(endpoint: Endpoint, versions: Sequence[str], role: str) -> Finding:
    subject = f"Polygon ({role})"
    started = time.monotonic()
    try:
        detail = _probe(endpoint, versions)
    except IngestError as error:
        is_portal = endpoint.kind == "SQD Portal"
        setting = "SQD_PORTAL_URL" if is_portal else "POLYGON_RPC_URL"
        detail = str(error).removeprefix(f"{SOURCE}: ")
        return Finding(
            subject, f"{name_of(endpoint)}: {detail}", True, f"check {setting} and the network"
        )
    milliseconds = (time.monotonic() - started) * 1000
    return Finding(subject, f"{name_of(endpoint)}: {detail} ({milliseconds:.0f} ms)")


def _probe(endpoint: Endpoint, versions: Sequence[str]) -> str:
    """Make the calls that loading makes; what they showed, in one line.

    Raises:
        IngestError: one is refused in a way that loading cannot get round.
    """
    chain = endpoint.identify()
    head = endpoint.head()
    first, old = max(head.number - 99, 0), max(head.number - OLD_BLOCKS, 0)
    endpoint.times([head.number, max(head.number - 1, 0), first])
    words, wanted = [], fills_of(versions)
    try:
        found = endpoint.logs(first, head.number, wanted)
    except (RangeTooLarge, Timeout, RpcError) as error:
        words.append(f"100 blocks are too many for it ({one_line(str(error), 160)})")
        reader = RangeReader(Endpoints([endpoint]), versions, head.number)
        found, until = reader.ask(endpoint, first, head.number, wanted)
        words.append(f"{until - first + 1} are not")
    blocks = found.end.number - first + 1
    words.append(f"{len(found.logs):,} fills in {blocks} blocks")
    try:
        logs = endpoint.logs(old, old, wanted).logs
        seen = endpoint.evidence([old], wanted)
        complete = len(logs) >= seen.fills.get(old, 0)
        words.append(f"block {old:,} too" if complete else f"fills of block {old:,} are gone")
    except (HistoryPruned, NodeBehind) as error:
        words.append(f"no history for backfills ({one_line(str(error), 120)})")
    behind = max(time.time() - head.timestamp, 0)
    return f"{chain}; head {head.number:,}, {behind:,.0f} s behind this clock; {'; '.join(words)}"
