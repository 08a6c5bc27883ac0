"""Streaming compression of HTTP bodies: lz4 frames, zstd, gzip and deflate, by Content-Encoding.

Everything used here comes with clickhouse-connect. Codecs are stateful, one per body.
"""

import sys
import zlib
from typing import Protocol

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The order of preference for responses: on one machine, time matters more than size.
RESPONSE_ENCODINGS = ("lz4", "zstd", "gzip", "deflate")


class Decompressor(Protocol):
    """Feeds on pieces of a compressed body."""

    def decompress(self, data: bytes) -> bytes: ...


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


class _Frames:
    """Decompresses frames that follow one another; lz4 and zstd writers may emit several."""

    def __init__(self, codec: type) -> None:
        self._codec = codec
        self._frame = codec()

    def decompress(self, data: bytes) -> bytes:
        pieces = []
        while data:
            if self._frame.eof:
                self._frame = self._codec()
            pieces.append(self._frame.decompress(data))
            data = self._frame.unused_data or b""
        return b"".join(pieces)


def decompressor(encoding: str) -> Decompressor:
    """A decompressor for a Content-Encoding.

    Raises:
        KeyError: an encoding that is not known here.
    """
    return {
        "gzip": lambda: zlib.decompressobj(wbits=47),
        "x-gzip": lambda: zlib.decompressobj(wbits=47),
        "deflate": lambda: zlib.decompressobj(),
        "zstd": lambda: _Frames(zstd.ZstdDecompressor),
        "lz4": lambda: _Frames(lz4.frame.LZ4FrameDecompressor),
    }[encoding]()


def compressor(encoding: str) -> Compressor:
    """A compressor for one of RESPONSE_ENCODINGS."""
    return {
        "gzip": lambda: zlib.compressobj(level=3, wbits=31),
        "deflate": lambda: zlib.compressobj(level=3),
        "zstd": lambda: zstd.ZstdCompressor(level=1),
        "lz4": _Lz4Compressor,
    }[encoding]()
