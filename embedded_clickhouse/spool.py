"""A result between the engine, which is fast, and its reader, who may be slow.

It takes what comes from the engine's pipe and keeps it until it is read: in memory while little,
then in a file without a name. The file is bound in bytes: when it is full the engine waits for the
reader. Until then the engine gets on, and a thread is free again, however slow the reader is.
"""

import asyncio
import tempfile
from collections import deque
from typing import IO

# More than is held back of a result, so that to begin one nobody waits for his turn.
_IN_MEMORY_BYTES = 1536 * 1024
_IN_FILE_BYTES = 16 * 1024 * 1024
_PIECE = 256 * 1024
_MANY, _PAUSE_S = 4, 0.02


class Spool:
    """What was written and is not read yet, first in first out; one writer, one reader.

    Args:
        is_bound: whether a writer has to wait for the reader; not if the whole result is wanted first.
    """

    # Where many results are ahead of their readers they go to files in turns, 12 MB/s in all. Nobody
    # waits for them, and at full speed they would keep the event loop and processors from others.
    _turn = asyncio.Lock()
    _ahead = 0

    def __init__(self, *, is_bound: bool = True) -> None:
        self._is_bound = is_bound
        self._pieces: deque[bytes] = deque()
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._read_at = self._written_at = 0
        self._changed = asyncio.Event()
        self.size = 0  # bytes that were ever written
        self.has_ended = False

    async def put(self, data: bytes) -> None:
        """Take more, once there is room for it."""
        while self._is_bound and self._written_at >= _IN_FILE_BYTES:
            await self._change()
        if not self._has_room():
            await self._wait_for_turn()
        self.size += len(data)
        if self._has_room():
            self._pieces.append(data)
            self._in_memory += len(data)
        else:
            self._write(data)
        self._changed.set()

    def end(self) -> None:
        """There will be no more."""
        self.has_ended = True
        self._changed.set()

    async def wait_for(self, size: float) -> bool:
        """Wait until more than `size` bytes were written, or all there is; whether it is more."""
        while self.size <= size and not self.has_ended:
            await self._change()
        return self.size > size

    async def get(self) -> bytes:
        """The next piece; empty at the end."""
        while True:
            if self._pieces:
                piece = self._pieces.popleft()
                self._in_memory -= len(piece)
                return piece
            if self._read_at < self._written_at:
                return self._read()
            if self.has_ended:
                return b""
            await self._change()

    def close(self) -> None:
        """Forget what is left."""
        if self._file is not None:
            self._file.close()

    async def _wait_for_turn(self) -> None:
        Spool._ahead += 1
        try:
            async with self._turn:
                await asyncio.sleep(_PAUSE_S if Spool._ahead > _MANY else 0)
        finally:
            Spool._ahead -= 1

    def _has_room(self) -> bool:
        """Whether what comes next may stay in memory; not while something is in the file."""
        return not self._written_at and self._in_memory < _IN_MEMORY_BYTES

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._file.seek(self._written_at)
        self._file.write(data)
        self._written_at += len(data)

    def _read(self) -> bytes:
        self._file.seek(self._read_at)
        piece = self._file.read(min(_PIECE, self._written_at - self._read_at))
        self._read_at += len(piece)
        if self._read_at == self._written_at:  # what comes next may stay in memory
            self._file.truncate(0)
            self._read_at = self._written_at = 0
            self._changed.set()
        return piece
