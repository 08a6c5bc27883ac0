"""A bad network between the pipeline and ClickHouse: an HTTP proxy on loopback that does what it is told to single requests.

- `request lost`, `request reset`: ClickHouse never gets it; the connection is closed, or reset.
- `answer lost`, `answer reset`: ClickHouse has executed it; the connection is closed, or reset, before a byte of the
  answer has come through.
- `delayed`: it arrives later.
- `repeated`: it arrives once more, some time after it was answered.
- `repeated at once`: it is executed twice, and the second answer is what the client gets.
- `cut in the headers`, `cut in the body`: so much of the answer, and then the end of the connection.

Everything else passes as it is. A message is read whole before it is passed on, so an answer is executed when it is cut.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from chaos.processes import wait_until
from chaos.schedule import Fault

LARGEST_HEAD = 1 << 20
START_TIMEOUT_S = 20.0
LAST_COPIES_TIMEOUT_S = 120.0
HEAD_END = b"\r\n\r\n"
INSERT = re.compile(rb"\binsert(?:\s|\+|%20|%0a)+into\b", re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """A request or an answer: its bytes up to the empty line, and those after it."""

    head: bytes
    body: bytes

    @property
    def whole(self) -> bytes:
        """All of its bytes."""
        return self.head + self.body

    @property
    def line(self) -> bytes:
        """The first line, which holds the id that the client gave to its query."""
        return self.head[: self.head.index(b"\r\n")]

    @property
    def inserts(self) -> bool:
        """True for a request whose statement inserts rows."""
        return bool(INSERT.search(self.head) or INSERT.search(self.body[:20_000]))


class Proxy:
    """Passes requests to ClickHouse on loopback port `target`; use as a context manager.

    Attributes:
        port: where it listens, on loopback.
        done: faults that happened, by kind.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.done: Counter[str] = Counter()
        self._target = target
        self._faults: deque[Fault] = deque()
        self._seen = 0  # requests that a fault may happen to, since the one before it
        self._again: dict[bytes, Fault] = {}  # by the line of a request that may come again
        self._copies: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not wait_until(lambda: self.port > 0, START_TIMEOUT_S):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def arm(self, faults: Iterable[Fault]) -> None:
        """Let these faults happen, one after the other; those that are left from before are forgotten."""
        self._faults, self._seen = deque(faults), 0

    @property
    def left(self) -> int:
        """Faults that have not happened yet."""
        return len(self._faults)

    def is_quiet(self) -> bool:
        """Wait until no late copy of a request is on its way; False if that takes too long."""
        return wait_until(lambda: not self._copies, LAST_COPIES_TIMEOUT_S)

    # -- in the thread of the proxy ----------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LARGEST_HEAD)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._loop.run_forever()
        server.close()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until one side is done with it."""
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await read_message(reader)) is not None:
                if not await self._pass_on(request, self._fault_of(request), writer):
                    break
        writer.close()

    def _fault_of(self, request: Message) -> Fault | None:
        """The fault that happens to a request; its answer may yet turn out to have nothing to cut."""
        if request.line in self._again:
            return self._again.pop(request.line)
        if not self._faults:
            return None
        fault = self._faults[0]
        if fault.inserts_only and not request.inserts:
            return None
        self._seen += 1
        if self._seen < fault.gap:
            return None
        return fault

    def _happened(self, fault: Fault, request: Message) -> None:
        # It is not the first any more when it happens again, or when the harness has armed others meanwhile.
        if self._faults and self._faults[0] is fault:
            self._faults.popleft()
            self._seen = 0
            self.done[fault.kind] += 1
            if fault.twice:
                self._again = {request.line: fault}

    async def _pass_on(
        self, request: Message, fault: Fault | None, writer: asyncio.StreamWriter
    ) -> bool:
        """Have ClickHouse answer a request, with what happens to it; False: the connection is over."""
        kind = fault.kind if fault else ""
        if fault and kind != "cut in the body":
            self._happened(fault, request)
        if kind in ("request lost", "request reset"):
            return _hang_up(writer, reset=kind == "request reset")
        if fault and kind == "delayed":
            await asyncio.sleep(fault.delay_ms / 1000)
        answer = await self._ask(request)
        if kind == "repeated at once":
            answer = await self._ask(request)
        if fault and kind == "repeated":
            copy = self._loop.create_task(self._repeat(request, fault.delay_ms / 1000))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)
        if kind in ("answer lost", "answer reset"):
            return _hang_up(writer, reset=kind == "answer reset")
        if fault and kind == "cut in the headers":
            writer.write(_cut_head(answer.head, fault.share))
        elif fault and kind == "cut in the body" and len(answer.body) > 1:
            self._happened(fault, request)
            writer.write(answer.head + answer.body[: int(fault.share * (len(answer.body) - 1))])
        else:
            writer.write(answer.whole)
            await writer.drain()
            return True
        await writer.drain()
        return False

    async def _ask(self, request: Message) -> Message:
        """ClickHouse's answer to a request, over a connection of its own.

        Raises:
            OSError: it is not there, or went away.
        """
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._target, limit=LARGEST_HEAD
        )
        try:
            writer.write(request.whole)
            await writer.drain()
            answer = await read_message(reader, is_answer=True)
        finally:
            writer.close()
        if answer is None:
            raise ConnectionResetError("ClickHouse hung up")
        return answer

    async def _repeat(self, request: Message, after_s: float) -> None:
        await asyncio.sleep(after_s)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._ask(request)


async def read_message(reader: asyncio.StreamReader, *, is_answer: bool = False) -> Message | None:
    """The next request or answer of a connection, whole; None: there is none.

    Raises:
        asyncio.IncompleteReadError: the connection ended within it.
    """
    try:
        head = await reader.readuntil(HEAD_END)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return Message(head, await _read_chunks(reader))
    if b"content-length" in fields:
        return Message(head, await reader.readexactly(int(fields[b"content-length"])))
    return Message(head, await reader.read() if is_answer else b"")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it is on the wire."""
    pieces = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        pieces += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(pieces)


def _cut_head(head: bytes, share: float) -> bytes:
    """The first bytes of a head: its status line at least, and never the empty line that ends it."""
    first = head.index(b"\r\n") + 2
    return head[: first + int(share * (len(head) - 2 - first))]


def _hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> bool:
    """End a connection; with `reset` the other side finds it reset instead of closed."""
    connection: socket.socket = writer.get_extra_info("socket")
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False
