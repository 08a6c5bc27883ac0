"""V1 fills from the public orderbook subgraph on Goldsky: an archive, 2022-11-21 to 2026-04-28.

Loads `order_filled` rows of contract version v1. The cursor is (timestamp, id), so a page that ends
inside a second loses nothing; each endpoint has its own, because another deployment may lack rows:
a new one is read from the start, and rows that are there already change nothing. The archive is
frozen: a run is finished when it has read up to the horizon, and an archive that ends before it is
an error. It knows neither block nor log index (0 here) nor which exchange emitted a fill (empty,
unless the exchange itself is the taker), and of two fills of one order in one transaction it keeps
the last. The module is longer than 300 lines because the cursor, the pages and the columns of one
archive belong together: each page is checked by the keys of the one before it.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingest.columns import decimal_ids, hex_text, numbers
from ingest.contracts import EXCHANGES, V1, V1_GENESIS, V1_HORIZON
from ingest.errors import (
    GraphQLError,
    RateLimited,
    RepeatedPage,
    SourceFrozen,
    Timeout,
    Unavailable,
    WrongShape,
    mask_url,
    one_line,
)
from ingest.http import HttpClient
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.rate_limits import RateLimit
from ingest.records import (
    DeadLetter,
    decode_batch,
    fills_table,
    whole_number,
)
from ingest.refusals import Refusal, classify
from ingest.sizes import AdaptiveSize
from ingest.tables import ORDER_FILLED

logger = logging.getLogger(__name__)

SOURCE, RESOURCE = "goldsky", "order_filled_v1"
LIMITS = (RateLimit(requests=1000),)
PAGE_SIZE, SMALLEST_PAGE = 1000, 50  # 1000 is graph-node's cap
FUTURE_S = 86_400  # a fill later than this from now cannot be: the cursor would skip all that comes

_FIELDS = (
    "id transactionHash timestamp orderHash maker taker makerAssetId takerAssetId"
    " makerAmountFilled takerAmountFilled fee"
)
_PAGE_QUERY = f"""
query Fills($where: OrderFilledEvent_filter!, $first: Int!) {{
  orderFilledEvents(where: $where, first: $first, orderBy: timestamp, orderDirection: asc) {{
    {_FIELDS}
  }}
  _meta {{ hasIndexingErrors block {{ number }} }}
}}"""
_NEWEST_QUERY = """
query Newest {
  orderFilledEvents(first: 1, orderBy: timestamp, orderDirection: desc) { timestamp }
}"""


def streams(
    url: str,
    *,
    progress: Progress,
    start: int = V1_GENESIS,
    horizon: int = V1_HORIZON,
    page_size: int = PAGE_SIZE,
    client: HttpClient | None = None,
) -> Sequence[Stream]:
    """The V1 archive.

    Args:
        url: GraphQL endpoint of the orderbook subgraph.
        progress: budget of this run; says afterwards whether it is caught up, and what failed.
        start: unix seconds where the cursor begins; it leads to the horizon and stays there.
        horizon: unix seconds of the newest fill the archive is known to have.
        page_size: rows asked for at first; halved when the archive times out.

    Failures recorded in `progress`: SourceFrozen, GraphQLError, RepeatedPage, WrongShape, and what
    `HttpClient` raises.
    """
    client = client or HttpClient(SOURCE, limits=LIMITS)

    def pages(states: dict[str, Any]) -> Iterator[Page]:
        archive = Archive(client, url, page_size)
        key = f"archive of {_endpoint(url)}"
        if states and key not in states:
            logger.info("goldsky: %s is new here, it is read from the start", _endpoint(url))
        state = states.setdefault(key, {"timestamp": start - 1, "id": None})
        with progress.recording_failures():
            for rows in archive_pages(archive, state, None, horizon, progress):
                yield fills_page(rows)
        progress.caught_up[RESOURCE] = state.get("complete", False)
        progress.watermark[RESOURCE] = state["timestamp"]

    return [Stream(RESOURCE, ORDER_FILLED, pages)]


def _endpoint(url: str) -> str:
    """What of the URL may be stored: without keys, and a digest that tells two keys apart."""
    return f"{mask_url(url)}#{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"


def archive_pages(
    archive: Archive, state: dict[str, Any], end: int | None, horizon: int, progress: Progress
) -> Iterator[list[dict]]:
    """Pages from the cursor on, moving it; until the archive ends or the budget does."""
    if state.get("complete"):
        return
    while True:
        # A short page is no end, and an empty one is believed when it comes twice.
        place = (state["timestamp"], state["id"], end)
        rows = archive.page(*place) or archive.page(*place)
        if not rows:
            newest = state["timestamp"] if end is None else archive.newest()
            if newest < horizon and (end is None or newest < end):
                raise archive.frozen(newest, horizon)
            state["complete"] = True
            return
        yield rows
        [(state["timestamp"], state["id"])] = _keys(rows[-1:])
        if not progress.has_time():
            return


def _fills_after(timestamp: int, last_id: str | None) -> str:
    """A request for people: `fills after 2026-01-01 15:59:59Z`, and the id of the last one if there is one."""
    moment = datetime.fromtimestamp(timestamp, UTC)
    return f"fills after {moment:%Y-%m-%d %H:%M:%SZ}{f', {last_id}' if last_id else ''}"


class Archive:
    """The endpoint: one page at a time, of a size it can answer in time."""

    def __init__(self, client: HttpClient, url: str, page_size: int) -> None:
        self._client, self._url = client, url
        self._size = AdaptiveSize(page_size, page_size, smallest=SMALLEST_PAGE)

    def page(self, timestamp: int, last_id: str | None, end: int | None) -> list[dict]:
        """Rows after (timestamp, last_id) and before `end`, in that order."""
        where = keyset_filter(timestamp, last_id, end)
        while True:
            variables = {"where": where, "first": self._size.value}
            try:
                data = self._ask(_PAGE_QUERY, variables, _fills_after(timestamp, last_id))
            except Timeout:
                if not self._size.shrink(self._size.value):
                    raise
            else:
                self._size.succeeded()
                return self._checked(data, (timestamp, last_id))

    def newest(self) -> int:
        """Unix seconds of the newest fill in the archive; 0 if it has none."""
        request = "newest fill"
        rows = self._ask(_NEWEST_QUERY, {}, request)["orderFilledEvents"]
        try:
            return whole_number("timestamp", rows[0]["timestamp"]) if rows else 0
        except (LookupError, TypeError, ValueError) as error:
            raise WrongShape("the newest fill has no time", **self._where(request)) from error

    def frozen(self, newest: int, horizon: int) -> SourceFrozen:
        return SourceFrozen(
            f"the archive ends at unix time {newest}, before {horizon} where it should end; use an"
            " endpoint that is complete, such as orderbook-subgraph/0.0.1",
            source=SOURCE,
            url=self._url,
        )

    def _ask(self, query: str, variables: dict[str, Any], request: str) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        answer = self._client.post_json(
            self._url,
            body,
            request=request,
            retry_timeouts=False,
            check=lambda answer: _check_answer(answer, self._where(request)),
        )
        return answer["data"]

    def _checked(self, data: dict[str, Any], after: tuple[int, str | None]) -> list[dict]:
        """Rows of an answer, once they are known to follow the cursor."""
        where = self._where(_fills_after(*after))
        meta = data.get("_meta")
        if isinstance(meta, dict) and meta.get("hasIndexingErrors"):
            message = "the archive says that its index has errors; use another endpoint"
            raise GraphQLError(message, **where)
        rows = data["orderFilledEvents"]
        try:
            keys = _keys(rows)
        except (LookupError, TypeError, ValueError) as error:
            message = f"a fill without a usable id and timestamp ({error}): cannot page on"
            raise WrongShape(message, **where) from error
        if keys and keys[0] <= (after[0], after[1] or ""):
            raise RepeatedPage("returned rows again that it was told to skip", **where)
        if keys and keys[-1][0] > time.time() + FUTURE_S:
            message = f"a fill of the future (unix time {keys[-1][0]}): cannot page on"
            raise WrongShape(message, **where)
        if not all(map(operator.lt, keys, keys[1:])):
            raise WrongShape("rows are not in order of (timestamp, id): cannot page on", **where)
        return rows

    def _where(self, request: str) -> dict[str, str]:
        return {"source": SOURCE, "url": self._url, "request": request}


def _keys(rows: Sequence[dict]) -> list[tuple[int, str]]:
    """(timestamp, id) of each row.

    Raises:
        LookupError, TypeError, ValueError: one has none.
    """
    ids = [row["id"] for row in rows]
    if not all(ids) or set(map(type, ids)) - {str}:
        raise ValueError("id is not a text")
    times = numbers("timestamp", [row["timestamp"] for row in rows])
    return list(zip(times.to_pylist(), ids, strict=True))


def keyset_filter(timestamp: int, last_id: str | None, end: int | None) -> dict[str, Any]:
    """GraphQL filter for what follows (timestamp, last_id): later seconds, the rest of this one.

    `last_id` None is the end of its second: a cursor that no row has set yet. graph-node refuses
    other conditions beside an `or`, so `end` (unix seconds, exclusive) goes into its first branch;
    the second is a single second that lies before it.
    """
    later = {"timestamp_gt": str(timestamp)}
    if end is not None:
        later["timestamp_lt"] = str(end)
    if last_id is None:
        return later
    return {"or": [later, {"timestamp": str(timestamp), "id_gt": last_id}]}


def _check_answer(answer: Any, where: dict[str, str]) -> None:
    """Raise what a GraphQL answer with status 200 says went wrong."""
    if not isinstance(answer, dict):
        raise WrongShape(f"answered a {type(answer).__name__}, not an object", **where)
    if errors := answer.get("errors"):
        first = errors[0] if isinstance(errors, list) else errors
        message = str(first.get("message", first) if isinstance(first, dict) else first)
        lowered = message.lower()
        if "surpassed your query allowance" in lowered or "too many requests" in lowered:
            raise RateLimited(f"rate limited ({one_line(message, 120)})", status=429, **where)
        if "timeout" in lowered or "timed out" in lowered:
            raise Timeout(f"the query timed out there ({one_line(message, 120)})", **where)
        if classify(0, message) is Refusal.PASSING:
            said = one_line(message, 200)
            raise Unavailable(f"the archive cannot answer for now: {said}; try again", **where)
        raise GraphQLError(f"the archive refused the query: {one_line(message, 200)}", **where)
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("orderFilledEvents"), list):
        raise WrongShape("no list `data.orderFilledEvents` in the answer", **where)


def fills_page(rows: Sequence[Any]) -> Page:
    """The page that subgraph rows make."""
    tables, dead = decode_fills(rows)
    return Page(ORDER_FILLED, tables, SOURCE, dead)


def decode_fills(rows: Sequence[Any]) -> tuple[list[pa.Table], list[DeadLetter]]:
    """`order_filled` rows of subgraph rows, and the rows that are no fills."""

    def to_table(batch: Sequence[dict]) -> pa.Table:
        return fills_table(_columns(batch), source=SOURCE)

    return decode_batch(rows, to_table)


def _columns(rows: Sequence[dict]) -> dict[str, Any]:
    """Columns of subgraph rows; amounts are decimal strings in 1e-6 units."""
    taker = hex_text("taker", [row["taker"] for row in rows], 40)
    is_exchange = pc.is_in(taker, pa.array(list(EXCHANGES), pa.string()))
    return {
        "timestamp": numbers("timestamp", [row["timestamp"] for row in rows], bits=32),
        "tx_hash": hex_text("transactionHash", [row["transactionHash"] for row in rows], 64),
        "order_hash": hex_text("orderHash", [row["orderHash"] for row in rows], 64),
        "contract_version": pa.repeat(V1, len(rows)),
        "exchange": pc.if_else(is_exchange, taker, ""),
        "maker": hex_text("maker", [row["maker"] for row in rows], 40),
        "taker": taker,
        "maker_asset_id": decimal_ids("makerAssetId", [row["makerAssetId"] for row in rows]),
        "taker_asset_id": decimal_ids("takerAssetId", [row["takerAssetId"] for row in rows]),
        "maker_amount": numbers("makerAmountFilled", [row["makerAmountFilled"] for row in rows]),
        "taker_amount": numbers("takerAmountFilled", [row["takerAmountFilled"] for row in rows]),
        "fee": numbers("fee", [row["fee"] for row in rows]),
    }
