"""Streaming compression of HTTP bodies: lz4 frames, zstd, gzip and deflate, by Content-Encoding.

Everything used here comes with clickhouse-connect; ClickHouse's own blocks are in `blocks.py`. Codecs
are stateful, one per body.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# What is unpacked at a time: a few bytes may stand for gigabytes.
PIECE_BYTES = 1024 * 1024


class _Zlib:
    """zlib's decompressor in the manner of the other ones."""

    def __init__(self, wbits: int) -> None:
        self._object = zlib.decompressobj(wbits)
        self._tail = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain = self._object.decompress(self._tail + data, max_length)
        self._tail = self._object.unconsumed_tail
        self.needs_input = not self._tail and len(plain) < max_length
        return plain


_FRAMES: dict[str, Callable[[], Any]] = {
    "gzip": lambda: _Zlib(31),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "zstd": zstd.ZstdDecompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}

# The order of preference for responses: on one machine, time matters more than size.
RESPONSE_ENCODINGS = ("lz4", "zstd", "gzip", "deflate")


class Compressor(Protocol):
    """Makes a compressed body of pieces; `flush` ends it."""

    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


class _Lz4Compressor:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._header = self._frame.begin()

    def compress(self, data: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + self._frame.compress(data)

    def flush(self) -> bytes:
        header, self._header = self._header, b""
        return header + self._frame.flush()


class Decompressor:
    """Unpacks a compressed body piece by piece; the body may be several frames in a row."""

    def __init__(self, new_frame: Callable[[], Any]) -> None:
        self._new_frame = new_frame
        self._frame: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether the last frame has ended; a body that was cut off has not."""
        return self._frame is None or self._frame.eof

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """What a further piece of the body adds, PIECE_BYTES at a time at most."""
        while data:
            if self.is_complete:
                self._frame = self._new_frame()
            frame = self._frame
            yield frame.decompress(data, PIECE_BYTES)
            while not (frame.eof or frame.needs_input):
                yield frame.decompress(b"", PIECE_BYTES)
            data = frame.unused_data or b""


def decompressor(encoding: str) -> Decompressor:
    """A decompressor for a Content-Encoding.

    Raises:
        KeyError: an encoding that is not known here.
    """
    return Decompressor(_FRAMES[encoding])


def compressor(encoding: str) -> Compressor:
    """A compressor for one of RESPONSE_ENCODINGS."""
    return {
        "gzip": lambda: zlib.compressobj(level=3, wbits=31),
        "deflate": lambda: zlib.compressobj(level=3),
        "zstd": lambda: zstd.ZstdCompressor(level=1),
        "lz4": _Lz4Compressor,
    }[encoding]()
