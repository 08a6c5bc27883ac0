"""Request bodies: decompression, multipart forms, and reading just as much as the statement needs.

A body may be a short query, a query with gigabytes of data behind it, or data for the query in the
URL; what is read here stays bounded and the rest keeps streaming.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from embedded_clickhouse.blocks import BlockDecompressor
from embedded_clickhouse.compression import decompressor, zstd
from embedded_clickhouse.protocol import (
    ClickHouseError,
    Code,
    refusal,
)
from embedded_clickhouse.sqltext import InsertHead, insert_head

# The data of an INSERT starts within the first part; a statement without data fits the second.
_HEAD_BYTES = 256 * 1024
_MAX_STATEMENT_BYTES = 64 * 1024 * 1024

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_FIELD_NAME = re.compile(rb'(?<!file)name="([^"]*)"')


async def decoded(body: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The body without its Content-Encoding, piece by piece.

    Raises:
        ClickHouseError: unknown encoding (89) or damaged data (271).
    """
    if encoding in ("", "identity"):
        async for piece in body:
            if piece:
                yield piece
        return
    try:
        codec = decompressor(encoding)
    except KeyError:
        raise refusal(
            Code.UNKNOWN_COMPRESSION_METHOD,
            f"Unknown Content-Encoding '{encoding}': use lz4, zstd, gzip or deflate",
        ) from None
    async for piece in body:
        try:
            plain = codec.decompress(piece)
        except Exception as error:  # each codec has exceptions of its own
            raise _damaged(encoding, str(error)) from None
        if plain:
            yield plain
    if not codec.is_complete:
        raise _damaged(encoding, "it ends too early")


async def unblocked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of a body of ClickHouse's own compressed blocks.

    Raises:
        ClickHouseError: damaged data (271).
    """
    codec = BlockDecompressor()
    async for piece in body:
        try:
            plain = codec.decompress(piece)
        except (ValueError, RuntimeError, zstd.ZstdError) as error:
            raise _damaged("compressed blocks", str(error)) from None
        if plain:
            yield plain
    if not codec.is_complete:
        raise _damaged("compressed blocks", "it ends too early")


def _damaged(encoding: str, reason: str) -> ClickHouseError:
    return refusal(
        Code.CANNOT_DECOMPRESS,
        f"Cannot decompress the request body as {encoding}: {reason}",
    )


@dataclass(frozen=True)
class ReadStatement:
    """The text of a statement; of an INSERT with data its head, and the data that came with it."""

    text: bytes
    insert: InsertHead | None
    is_whole: bool  # nothing is left in the body

    @property
    def data(self) -> bytes:
        return self.text[self.insert.data_start :] if self.insert else b""


async def read_statement(query: str, body: AsyncIterator[bytes]) -> ReadStatement:
    """Read the statement: the query of the URL, a line break and the body.

    Raises:
        ClickHouseError: a statement without data is larger than 64 MiB (229).
    """
    text = bytearray(query.encode("utf-8", "surrogateescape"))
    is_first, limit = True, _HEAD_BYTES
    async for piece in body:
        if is_first and text:
            text += b"\n"
        is_first = False
        text += piece
        if len(text) < limit:
            continue
        insert = insert_head(bytes(text)) if limit == _HEAD_BYTES else None
        if insert is not None and insert.data_start < len(text):
            return ReadStatement(bytes(text), insert, is_whole=False)
        if limit == _MAX_STATEMENT_BYTES:
            raise refusal(
                Code.QUERY_IS_TOO_LARGE,
                f"The statement is larger than {_MAX_STATEMENT_BYTES >> 20} MiB",
            )
        limit = _MAX_STATEMENT_BYTES
    return ReadStatement(bytes(text), insert_head(bytes(text)), is_whole=True)


def form_fields(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """The fields and the files of a multipart/form-data body by name.

    Raises:
        ClickHouseError: there is none, or a field that is no UTF-8 text (36).
    """
    boundary = _BOUNDARY.search(content_type)
    fields, files = {}, {}
    if boundary is not None:
        for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
            head, _, value = part.partition(b"\r\n\r\n")
            name = _FIELD_NAME.search(head)
            if name is not None and b"filename=" in head:
                files[_text(name[1])] = value
            elif name is not None:
                fields[_text(name[1])] = _text(value)
    if not (fields or files):
        raise refusal(Code.BAD_ARGUMENTS, "The multipart form has no fields")
    return fields, files


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise refusal(
            Code.BAD_ARGUMENTS, "The multipart form has a field that is not UTF-8 text"
        ) from None
