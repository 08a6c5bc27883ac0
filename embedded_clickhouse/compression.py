"""Streaming compression of HTTP bodies: lz4 frames, zstd, gzip and deflate, by Content-Encoding.

Everything used here comes with clickhouse-connect; ClickHouse's own blocks are in `blocks.py`. Codecs
are stateful, one per body.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FRAMES: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
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

    def decompress(self, data: bytes) -> bytes:
        """What a further piece of the body adds."""
        pieces = []
        while data:
            if self.is_complete:
                self._frame = self._new_frame()
            pieces.append(self._frame.decompress(data))
            data = self._frame.unused_data or b""
        return b"".join(pieces)


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
