"""A query's answer from ClickHouse to a file, piece by piece: no more than a piece is in memory.

An answer that was cut off is never taken for a whole one: ClickHouse ends a body by its length or by the last chunk, and
what goes wrong behind the headers breaks the connection (see `ingest/whole_answers.py`); `formats.py` says what the file
itself must show beyond that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO
from urllib.parse import urlencode

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout

from ingest.query_settings import PINNED
from ingest.whole_answers import pool_manager
from pipeline.errors import ClickHouseUnavailable, QueryFailed
from pipeline.export.formats import Counter
from pipeline.warehouse.client import Server

PIECE = 1 << 20  # bytes
CONNECT_S, SILENT_S = 10.0, 3600.0
# Rows are sorted before the first is sent; more than this is sorted on the disk of ClickHouse.
SORTED_IN_MEMORY = 500_000_000  # bytes
SETTINGS = PINNED | {
    "readonly": 2,  # settings may be given, and nothing can be written
    "max_bytes_before_external_sort": SORTED_IN_MEMORY,
}


def stream(
    server: Server,
    query: str,
    sink: BinaryIO,
    *,
    parameters: Mapping[str, str],
    settings: Mapping[str, str],
    counter: Counter | None,
    on_piece: Callable[[int], None],
) -> int:
    """Write the answer of a query to a sink and return the rows that ClickHouse says it has.

    Args:
        counter: of an answer in text, which ClickHouse then holds back until the query has ended; None: the number of
            rows is not known, and 0 is returned.
        on_piece: called with the bytes of each piece.

    Raises:
        QueryFailed: ClickHouse refused or broke off the query.
        ClickHouseUnavailable: it does not answer, or no longer.
        OSError: the sink cannot be written.
    """
    asked = SETTINGS | settings | ({} if counter is None else {"wait_end_of_query": 1})
    asked |= {f"param_{name}": value for name, value in parameters.items()}
    with _answer(server, query, asked) as answer:
        for piece in _pieces(server, answer):
            sink.write(piece)
            if counter is not None:
                counter.add(piece)
            on_piece(len(piece))
        if counter is None:
            return 0
        return _rows_sent(server, answer)


def _rows_sent(server: Server, answer: BaseHTTPResponse) -> int:
    """How many rows ClickHouse says that an answer has, which it knows at the end of the query."""
    summary = json.loads(answer.headers.get("X-ClickHouse-Summary", "{}"))
    if "result_rows" not in summary:  # a proxy may drop the header
        raise QueryFailed(
            f"{server} does not say how many rows it has sent, so text cannot be checked: use --format parquet"
        )
    return int(summary["result_rows"])


@contextmanager
def _answer(server: Server, query: str, asked: Mapping[str, object]) -> Iterator[BaseHTTPResponse]:
    scheme = "https" if server.secure else "http"
    pool = pool_manager(server.host, server.port, server.secure)
    try:
        answer = pool.request(
            "POST",
            f"{scheme}://{server.host}:{server.port}/?{urlencode(asked)}",
            body=query.encode(),
            headers={"X-ClickHouse-User": server.user, "X-ClickHouse-Key": server.password},
            preload_content=False,
            retries=False,
            redirect=False,
            timeout=Timeout(connect=CONNECT_S, read=SILENT_S),
        )
    except HTTPError as error:
        raise ClickHouseUnavailable(
            f"{server} does not answer: run it again once it is up"
        ) from error
    try:
        if answer.status != 200:
            said = answer.read(PIECE).decode(errors="replace").strip()
            raise QueryFailed(f"ClickHouse failed: {said.partition(chr(10))[0]}")
        yield answer
    finally:
        answer.close()  # what is left of it is not wanted, so the connection is not used again


def _pieces(server: Server, answer: BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from answer.stream(PIECE)
    except HTTPError as error:
        raise ClickHouseUnavailable(
            f"{server} broke off in the middle of an answer: run it again once it is up"
        ) from error
