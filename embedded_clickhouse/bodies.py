"""Request bodies: decompression, multipart forms, and reading just as much as the statement needs.

A body may be a short query, a query with gigabytes of data behind it, or data for the query in the
URL; what is read here stays bounded and the rest keeps streaming.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from embedded_clickhouse.blocks import BlockDecompressor
from embedded_clickhouse.compression import Decompressor, decompressor
from embedded_clickhouse.protocol import (
    ClickHouseError,
    Code,
    refusal,
)
from embedded_clickhouse.sqltext import InsertHead, insert_head

# The data of an INSERT starts within the first part; a statement without data fits the second.
_HEAD_BYTES = 256 * 1024
_MAX_STATEMENT_BYTES = 64 * 1024 * 1024
_MAX_READER_BYTES = 256 * 1024  # max_query_size, which the read-only user cannot change
_MAX_FORM_BYTES, _MAX_READER_FORM_BYTES = 256 * 1024 * 1024, 1024 * 1024
_MAX_PARTS = 1000
_LONG_BYTES = 64 * 1024  # to look through more takes a thread

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
    async for plain in _unpacked(codec, body, encoding):
        yield plain
    if not codec.is_complete:
        raise _damaged(encoding, "it ends too early")


async def unblocked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of a body of ClickHouse's own compressed blocks.

    Raises:
        ClickHouseError: damaged data (271).
    """
    codec = BlockDecompressor()
    async for plain in _unpacked(codec, body, "compressed blocks"):
        yield plain
    if not codec.is_complete:
        raise _damaged("compressed blocks", "it ends too early")


async def _unpacked(
    codec: Decompressor | BlockDecompressor, body: AsyncIterator[bytes], encoding: str
) -> AsyncIterator[bytes]:
    """What a codec makes of a body, piece by piece; others get their turns between two of them."""
    async for packed in body:
        pieces = codec.decompress(packed)
        while True:
            try:
                plain = next(pieces, None)
            except Exception as error:  # each codec has exceptions of its own
                raise _damaged(encoding, str(error)) from None
            if plain is None:
                break
            if plain:
                yield plain
                await asyncio.sleep(0)


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


async def read_statement(
    query: str, body: AsyncIterator[bytes], *, is_reader: bool = False
) -> ReadStatement:
    """Read the statement: the query of the URL, a line break and the body.

    Raises:
        ClickHouseError: a statement without data is larger than 64 MiB, or 256 KiB of the read-only user (229).
    """
    text = bytearray(query.encode("utf-8", "surrogateescape"))
    largest = _MAX_READER_BYTES if is_reader else _MAX_STATEMENT_BYTES
    is_first, limit = True, _HEAD_BYTES
    async for piece in body:
        if is_first and text:
            text += b"\n"
        is_first = False
        text += piece
        if len(text) < limit:
            continue
        insert = await _insert_head(bytes(text)) if limit == _HEAD_BYTES else None
        if insert is not None and insert.data_start < len(text):
            return ReadStatement(bytes(text), insert, is_whole=False)
        if len(text) >= largest:
            raise _too_large("The statement", largest)
        limit = largest
    if len(text) >= largest:  # of the URL
        raise _too_large("The statement", largest)
    return ReadStatement(bytes(text), await _insert_head(bytes(text)), is_whole=True)


async def _insert_head(text: bytes) -> InsertHead | None:
    if len(text) < _LONG_BYTES:
        return insert_head(text)
    return await asyncio.to_thread(insert_head, text)


async def read_form(body: AsyncIterator[bytes], *, is_reader: bool) -> bytes:
    """Read the body of a form.

    Raises:
        ClickHouseError: it is larger than 256 MiB, or 1 MiB of the read-only user, who may bring no tables (229).
    """
    largest = _MAX_READER_FORM_BYTES if is_reader else _MAX_FORM_BYTES
    content = bytearray()
    async for piece in body:
        content += piece
        if len(content) > largest:
            raise _too_large("The multipart form", largest)
    return bytes(content)


def _too_large(what: str, limit: int) -> ClickHouseError:
    return refusal(Code.QUERY_IS_TOO_LARGE, f"{what} is larger than {limit >> 10} KiB")


def form_fields(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """The fields and the files of a multipart/form-data body by name.

    Raises:
        ClickHouseError: there is none, or a field that is no UTF-8 text (36).
    """
    boundary = _BOUNDARY.search(content_type)
    fields, files = {}, {}
    if boundary is not None:
        parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode(), _MAX_PARTS)
        if len(parts) > _MAX_PARTS:
            raise refusal(Code.BAD_ARGUMENTS, f"The multipart form has over {_MAX_PARTS} parts")
        for part in parts[1:-1]:
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
