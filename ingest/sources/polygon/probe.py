"""What `doctor` asks every endpoint of the chain: the calls that loading makes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ingest.errors import (
    HistoryPruned,
    IngestError,
    NodeBehind,
    RangeTooLarge,
    RpcError,
    Timeout,
    one_line,
)
from ingest.sources.base import Finding
from ingest.sources.desk import Desk
from ingest.sources.polygon.chain import SOURCE, Endpoint, Endpoints, fills_of, name_of
from ingest.sources.polygon.endpoints import make_endpoints
from ingest.sources.polygon.range_reader import RangeReader

OLD_BLOCKS = 1_000_000  # about three weeks


def probe(desk: Desk) -> Iterator[Finding]:
    """How each endpoint answers."""
    endpoints = make_endpoints(desk).all
    if not endpoints:
        remedy = "set POLYGON_RPC_URL or SQD_PORTAL_URL"
        yield Finding("Polygon", "no endpoint of the chain is configured", True, remedy)
    versions = desk.settings.polygon_versions.split(",")
    for at, endpoint in enumerate(endpoints):
        role = "in use" if at == 0 else "used when those before it fail"
        yield _endpoint(endpoint, versions, role)


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
