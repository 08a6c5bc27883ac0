"""An upstream that answers from memory: pages rendered before the clock starts, in a process of its own.

Serves the archive's fills by (timestamp, id) and Gamma's listings. It looks at as much of a request as finds the bytes, and
waits the added latency before each answer without holding up others. What it costs is told: CPU seconds and requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import requests

from bench.fills import fills
from bench.machine import cpu_seconds
from ingest.contracts import V1_HORIZON

_META = b'],"_meta":{"hasIndexingErrors":false,"block":{"number":80000000}}}}'
_START_TIMEOUT_S = 120
# Where the text of a row has what comes first in it.
_ID = len('{"id":"')
_TRANSACTION_HASH = _ID + len("0x" * 2 + "_") + 4 * 32 + len('","transactionHash":"')
_TIMESTAMP = _TRANSACTION_HASH + len("0x") + 2 * 32 + len('","timestamp":"')


class Pages(Protocol):
    """What is served."""

    def answer(self, target: str, body: bytes) -> bytes:
        """The body of the answer to a request for `target` (path and query)."""


class FillPages:
    """The archive as one piece of memory: a page is a slice of it.

    Args:
        rows: fills, by time and id.
        copies: how often the piece is served, each copy before the one that follows, in transactions of its own, so that
            an archive may be larger than memory.
    """

    def __init__(self, rows: pa.Table, copies: int = 1) -> None:
        text = _as_json(rows)
        offsets, data = text.buffers()[1:]
        self._offsets = np.frombuffer(offsets, np.int64)
        self._data = np.frombuffer(data, np.uint8)
        self._times = rows.column("timestamp").cast(pa.int64()).to_numpy()
        self._copies, self._span = copies, int(self._times[-1] - self._times[0]) + 1

    def answer(self, target: str, body: bytes) -> bytes:
        """The answer to a query of `ingest.sources.goldsky.reader`."""
        variables = orjson.loads(body)["variables"]
        if "where" not in variables:
            newest = {"timestamp": str(V1_HORIZON)}
            return orjson.dumps({"data": {"orderFilledEvents": [newest]}})
        first, end = self._range(variables["where"])
        last = min(first + variables["first"], end)
        rows = self._rows(first, last)[:-1] if last > first else b""
        return b"".join([b'{"data":{"orderFilledEvents":[', rows, _META])

    def _range(self, where: dict[str, Any]) -> tuple[int, int]:
        """Rows that a keyset filter lets through, half-open."""
        later, *ties = where.get("or", [where])
        first, end = self._since(int(later["timestamp_gt"]) + 1), self._copies * len(self._times)
        if "timestamp_lt" in later:
            end = self._since(int(later["timestamp_lt"]))
        for tie in ties:
            row = self._since(int(tie["timestamp"]))
            while row < first and self._id(row) <= tie["id_gt"]:
                row += 1
            first = row
        return first, max(first, end)

    def _since(self, timestamp: int) -> int:
        """Number of the first row at or after `timestamp`."""
        copy = (timestamp - int(self._times[0])) // self._span + self._copies - 1
        if copy < 0:
            return 0
        if copy >= self._copies:
            return self._copies * len(self._times)
        earlier = timestamp + self._shift(copy)
        return copy * len(self._times) + int(np.searchsorted(self._times, earlier, "left"))

    def _shift(self, copy: int) -> int:
        """Seconds by which a copy lies before the piece."""
        return (self._copies - 1 - copy) * self._span

    def _id(self, row: int) -> str:
        return self._rows(row, row + 1)[_ID : _ID + 2 * 66 + 1].decode()

    def _rows(self, first: int, last: int) -> bytes:
        """Text of rows, each followed by a comma."""
        parts = []
        while first < last:
            copy, row = divmod(first, len(self._times))
            end = min(row + last - first, len(self._times))
            parts.append(self._of_copy(copy, row, end))
            first += end - row
        return b"".join(parts)

    def _of_copy(self, copy: int, first: int, last: int) -> bytes:
        start, end = int(self._offsets[first]), int(self._offsets[last])
        if copy == self._copies - 1:
            return self._data[start:end].tobytes()
        text = self._data[start:end].copy()
        rows = (self._offsets[first:last] - start)[:, None]
        # The last digits of a hash tell the copies apart without changing the order of a second's rows.
        mark = np.frombuffer(b"%08x" % copy, np.uint8)
        times = (self._times[first:last] - self._shift(copy)).astype("S10")
        for field in (_ID, _TRANSACTION_HASH):
            text[rows + field + 66 - len(mark) + np.arange(len(mark))] = mark
        text[rows + _TIMESTAMP + np.arange(10)] = times.view(np.uint8).reshape(-1, 10)
        return text.tobytes()


def archive(count: int, per_hour: int, copies: int = 1) -> FillPages:
    """The last `count` fills of the archive, served so many times one after the other."""
    return FillPages(fills(count, per_hour=per_hour), copies)


def _as_json(rows: pa.Table) -> pa.Array:
    """Every row as the subgraph writes it, each followed by a comma."""

    def column(name: str) -> pa.Array:
        values = rows.column(name).combine_chunks()
        numbers = values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values
        return numbers.cast(pa.large_string())

    parts: list[Any] = ['{"id":"', column("tx_hash"), "_", column("order_hash"), '"']
    for name, source in {
        "transactionHash": "tx_hash",
        "timestamp": "timestamp",
        "orderHash": "order_hash",
        "maker": "maker",
        "taker": "taker",
        "makerAssetId": "maker_asset_id",
        "takerAssetId": "taker_asset_id",
        "makerAmountFilled": "maker_amount",
        "takerAmountFilled": "taker_amount",
        "fee": "fee",
    }.items():
        parts += [f',"{name}":"', column(source), '"']
    texts = [pa.scalar(x, pa.large_string()) if isinstance(x, str) else x for x in parts]
    end, separator = (pa.scalar(x, pa.large_string()) for x in ("},", ""))
    return pc.binary_join_element_wise(*texts, end, separator)


class _Connection(asyncio.Protocol):
    """One client's requests, answered in order."""

    def __init__(self, server: _Server) -> None:
        self._server, self._buffer = server, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            line, *headers = bytes(self._buffer[:head]).split(b"\r\n")
            lengths = [h[15:] for h in headers if h[:15].lower() == b"content-length:"]
            end = head + 4 + int(lengths[0] if lengths else 0)
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[head + 4 : end])
            del self._buffer[:end]
            target = line.split(b" ")[1].decode()
            answer = self._server.answer(target, body)
            asyncio.get_running_loop().call_later(self._server.latency_s, self._send, answer)

    def _send(self, answer: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(answer)
        )
        self._transport.write(answer)


class _Server:
    """Runs in the process of its own until the pipe to it is closed."""

    def __init__(self, pages: Pages) -> None:
        self._pages, self.latency_s, self._requests = pages, 0.0, 0

    def answer(self, target: str, body: bytes) -> bytes:
        if target.startswith("/bench/latency/"):
            self.latency_s = float(target.rpartition("/")[2])
        elif target != "/bench/stats":
            self._requests += 1
            return self._pages.answer(target, body)
        return orjson.dumps({"cpu_s": cpu_seconds(), "requests": self._requests})

    async def serve(self, pipe: Connection) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        closed = asyncio.Event()
        loop.add_reader(pipe.fileno(), closed.set)
        pipe.send(server.sockets[0].getsockname()[1])
        await closed.wait()


def _main(make: Callable[[], Pages], pipe: Connection) -> None:
    asyncio.run(_Server(make()).serve(pipe))


@dataclass(frozen=True)
class Upstream:
    """A running server of pages."""

    url: str

    def set_latency(self, seconds: float) -> None:
        """Wait so long before every answer from now on."""
        # The old latency holds for this answer, too, so nothing overtakes it.
        requests.get(f"{self.url}/bench/latency/{seconds}", timeout=60)

    def stats(self) -> dict[str, float]:
        """`cpu_s` of its process and `requests` answered, since it began."""
        return requests.get(f"{self.url}/bench/stats", timeout=60).json()


@contextlib.contextmanager
def serving(make: Callable[..., Pages], *arguments: Any) -> Iterator[Upstream]:
    """Serve the pages that `make(*arguments)` renders, in a new process, for the length of the block.

    Raises:
        RuntimeError: they were not rendered in time.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(partial(make, *arguments), theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_TIMEOUT_S):
            raise RuntimeError("the pages were not rendered in time; ask for fewer")
        yield Upstream(f"http://127.0.0.1:{ours.recv()}")
    finally:
        ours.close()
        process.join(10)
        process.kill()
