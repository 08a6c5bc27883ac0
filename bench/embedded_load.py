"""`python -m bench.embedded_load`: what the embedded ClickHouse's other clients notice of a crowd.

100 clients ask for a large result and read nothing of it, 100 run a query without an end, each with a
text of its own. Beside them `select 1` is asked in turn, over new connections. It prints how long
that takes before, while the crowd arrives and after, and how long the crowd's queries outlive it.
It takes about a minute and ends with 1 if a figure misses its bar.
"""

import asyncio
import base64
import sys
import tempfile
import time
from pathlib import Path

from embedded_clickhouse import Endpoint, running

CROWD = 100
P95_BAR_S, GONE_BAR_S = 0.2, 5.0
_BEFORE_S, _ARRIVAL_S, _LATER_S = 3.0, 10.0, 25.0
_PAUSE_S = 0.05
_STALLED = "select {n}, number from numbers(10000000000) /* crowd */"
_LONG = "select sum(cityHash64(number, {n})) from numbers(1000000000000) /* crowd */"
_LEFT = "select count() from system.processes where query like '%/* crowd' || ' */%'"


def _request(endpoint: Endpoint, sql: str) -> bytes:
    token = base64.b64encode(f"{endpoint.user}:{endpoint.password}".encode()).decode()
    head = f"POST / HTTP/1.0\r\nAuthorization: Basic {token}\r\n"
    return f"{head}Content-Length: {len(sql)}\r\n\r\n{sql}".encode()


async def _ask(endpoint: Endpoint, sql: str) -> str:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.write(_request(endpoint, sql))
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def _join(endpoint: Endpoint, sql: str) -> asyncio.StreamWriter:
    """Ask, and read no more than fits the reader's buffer."""
    _, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=1024)
    writer.write(_request(endpoint, sql))
    return writer


async def _probe(endpoint: Endpoint, seconds: float) -> list[float]:
    """Seconds that each `select 1` took, one after the other, sorted."""
    taken = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        assert await _ask(endpoint, "select 1") == "1\n"
        taken.append(time.monotonic() - started)
        await asyncio.sleep(_PAUSE_S)
    return sorted(taken)


async def _gone(endpoint: Endpoint) -> float:
    """Seconds until no query of the crowd runs."""
    started = time.monotonic()
    while int(await _ask(endpoint, _LEFT)) and time.monotonic() < started + 20:
        await asyncio.sleep(_PAUSE_S)
    return time.monotonic() - started


def _report(name: str, taken: list[float]) -> float:
    p50, p95 = (taken[int(len(taken) * share)] for share in (0.5, 0.95))
    figures = f"{p50 * 1000:6.0f} {p95 * 1000:6.0f} {taken[-1] * 1000:6.0f}"
    print(f"{name:28} {figures}   ({len(taken)} queries)", flush=True)
    return p95


async def measure(endpoint: Endpoint) -> bool:
    """Print the figures of a running server; whether all reach their bars."""
    print("select 1, ms                    p50    p95    max")
    _report("nobody else", await _probe(endpoint, _BEFORE_S))
    texts = [text.format(n=n) for n in range(CROWD) for text in (_STALLED, _LONG)]
    arriving = asyncio.gather(*(_join(endpoint, text) for text in texts))
    arrival = _report("while 200 others arrive", await _probe(endpoint, _ARRIVAL_S))
    writers = await arriving
    later = _report("beside 200 others", await _probe(endpoint, _LATER_S))
    print(f"queries of the crowd that run: {(await _ask(endpoint, _LEFT)).strip()}")
    for writer in writers:
        writer.transport.abort()
    gone = await _gone(endpoint)
    print(f"all gone {gone:.1f} s after their clients")
    return max(arrival, later) < P95_BAR_S and gone < GONE_BAR_S


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "data", 0) as endpoint,
    ):
        has_passed = asyncio.run(measure(endpoint))
        status = (Path("/proc") / str(endpoint.pid) / "status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"memory of the server, at most: {int(peak) // 1024} MiB")
    sys.exit(not has_passed)


if __name__ == "__main__":
    main()
