"""ClickHouse's own compressed blocks, of `compress=1` (answers) and `decompress=1` (bodies).

A block is a CityHash128 (v1.0.2) of what follows, 16 bytes; the method, 1 byte; the size with this
header of 9 bytes and the size of the data, 4 bytes each, little-endian; the data. Facts:
src/Compression/CompressedReadBufferBase.cpp. Answers are LZ4, as a server's are by default.
"""

import struct
from collections.abc import Iterator

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128

from embedded_clickhouse.compression import zstd

_CHECKSUM_BYTES = 16
_HEADER = struct.Struct("<BII")
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_BLOCK_BYTES = 1024 * 1024  # max_compress_block_size
_MAX_BLOCK_BYTES = (
    64 * 1024 * 1024
)  # clients send 1 MiB; a server takes 1 GiB, which would be a bomb here
_LZ4_AT_MOST = 255  # bytes that LZ4 can make of one


class BlockCompressor:
    """Makes blocks of pieces."""

    def compress(self, data: bytes) -> bytes:
        """The data as blocks."""
        parts = range(0, len(data), _BLOCK_BYTES)
        return b"".join(_block(data[start : start + _BLOCK_BYTES]) for start in parts)

    def flush(self) -> bytes:
        """Nothing is kept back."""
        return b""


class BlockDecompressor:
    """Unpacks blocks that come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def is_complete(self) -> bool:
        """Whether the last block has ended."""
        return not self._rest

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """What a further piece adds, block by block.

        Raises:
            ValueError: a checksum does not match, or it is no such block.
        """
        self._rest += data
        while (size := self._size()) and len(self._rest) >= size:
            block = bytes(self._rest[:size])
            del self._rest[:size]
            yield _content(block)

    def _size(self) -> int:
        """The size of the next block with its checksum; 0 if that is not known yet."""
        if len(self._rest) < _CHECKSUM_BYTES + _HEADER.size:
            return 0
        _, packed, size = _HEADER.unpack_from(self._rest, _CHECKSUM_BYTES)
        if not _HEADER.size <= packed <= _MAX_BLOCK_BYTES or size > _MAX_BLOCK_BYTES:
            raise ValueError(f"a block of {packed} bytes for {size}")
        return _CHECKSUM_BYTES + packed


def _block(data: bytes) -> bytes:
    packed = lz4.block.compress(data, store_size=False)
    body = _HEADER.pack(_LZ4, _HEADER.size + len(packed), len(data)) + packed
    return CityHash128(body).to_bytes(_CHECKSUM_BYTES, "little") + body


def _content(block: bytes) -> bytes:
    checksum, body = block[:_CHECKSUM_BYTES], block[_CHECKSUM_BYTES:]
    if CityHash128(body).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("a checksum does not match")
    method, _, size = _HEADER.unpack_from(body)
    packed = body[_HEADER.size :]
    if method == _LZ4 and size > _LZ4_AT_MOST * len(packed):
        raise ValueError(f"{len(packed)} bytes cannot be {size}")
    if method == _LZ4:
        plain = lz4.block.decompress(packed, uncompressed_size=size)
    elif method == _ZSTD:
        plain = zstd.ZstdDecompressor().decompress(packed, size + 1)
    elif method == _NONE:
        plain = packed
    else:
        raise ValueError(f"unknown method 0x{method:02x}")
    if len(plain) != size:
        raise ValueError(f"{len(plain)} bytes, where {size} were announced")
    return plain
