"""Compares our trades with Polymarket's own: the Data API's `/v2/trades`, added up by market.

It is the one comparison that shares nothing with the models, not even what a trade is. It asks for every trade of a
condition, so only some conditions are compared: the busiest of those that have few enough trades to be read. Counts and
shares must be equal; dollars are compared loosely, because the API gives prices as rounded numbers.

What the API leaves out is left out on our side too: trades under 0.01 share, and those older than three years, which is
how far it goes back for a condition. Combos have no market of Gamma's, so they are not asked for. The size of a V1 BUY
may be there before or after the fee that it paid in shares, so totals with such fees may differ by as much. Source of
the protocol: Polymarket's documentation of Data API v2 (`/v2/trades`: `filter_amount`, `taker_only`, windows).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ingest.errors import IngestError, RepeatedCursor, WrongShape
from ingest.http import HttpClient
from ingest.rate_limits import RateLimit
from pipeline.derive.comparison import EXAMPLES, Verdict
from pipeline.derive.verify import whole_days
from pipeline.errors import LoadFailed
from pipeline.jobs.coverage import Span, loaded_spans, not_loaded, subtract
from pipeline.jobs.slicing import at
from pipeline.timerange import show
from pipeline.warehouse.run import Run

SOURCE = "data_api"
TABLE = "trades of the Data API"
LIMITS = (RateLimit(requests=200),)
PAGE = 1000  # more is refused
CONDITIONS = 20
MOST_TRADES = 20_000  # of one condition
MIN_SHARES = 0.01  # of a trade that the API serves
WINDOW = timedelta(days=3 * 365)  # that the API serves of a condition
# Either side may be this much behind at the newest end.
UNSURE = timedelta(minutes=10)
USD_TOLERANCE = 1e-4  # relative, and a cent
GAPS_SHOWN = 5
MOMENT = "%Y-%m-%dT%H:%M:%S"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Totals:
    """Trades of one condition.

    Attributes:
        trades: their number.
        shares, usd: their size.
        fee_shares, fee_usd: fees that V1 BUYs paid in shares, and what these are worth.
    """

    trades: int
    shares: float
    usd: float
    fee_shares: float = 0
    fee_usd: float = 0

    def differs(self, other: Totals) -> bool:
        """Whether they cannot be the totals of the same trades, before or after fees in shares."""
        rounding_shares, rounding_usd = 1e-6 * max(1, self.trades), USD_TOLERANCE * self.usd + 0.01
        return (
            self.trades != other.trades
            or not -rounding_shares
            <= self.shares - other.shares
            <= self.fee_shares + rounding_shares
            or not -rounding_usd <= self.usd - other.usd <= self.fee_usd + rounding_usd
        )

    def __str__(self) -> str:
        return f"{self.trades} trades, {self.shares:,.6f} shares, ${self.usd:,.2f}"


def crosscheck(run: Run, start: datetime | None, end: datetime | None) -> list[Verdict]:
    """Compare the totals of some conditions with the Data API; nothing where POLYMARKET_DATA_URL is not set.

    Compared is what is loaded of the range (whole days; without a start from the first trade on), in the last three
    years, ten minutes before the newest trade. What is not loaded is named in the log, and not compared.

    Raises:
        LoadFailed: the Data API does not answer as documented.
    """
    url = run.settings.polymarket_data_url
    if not url:
        return []
    covered = _covered(run, start, end)
    totals = _our_totals(run, covered)
    if not totals:
        log.warning(
            "verify: nothing is compared with the Data API: it serves three years of trades of at least 0.01"
            " share, and of those none is loaded in this range"
        )
        return []
    client = run.desk.client(SOURCE, LIMITS, "POLYMARKET_DATA_URL")
    verdict = Verdict(TABLE)
    for condition_id, mine in totals.items():
        try:
            theirs = add_up(_trades(client, f"{url}/v2/trades", condition_id), covered)
        except IngestError as error:
            raise LoadFailed(f"{error}; unset POLYMARKET_DATA_URL to verify without it") from error
        verdict.rows += mine.trades
        verdict.expected += theirs.trades
        if mine.differs(theirs):
            verdict.differences += 1
            if len(verdict.examples) < EXAMPLES:
                verdict.examples.append(f"{condition_id}: {mine}; the Data API has {theirs}")
    return [verdict]


def _covered(run: Run, start: datetime | None, end: datetime | None) -> list[Span]:
    """The seconds that are compared; the log names those of the range that are not loaded."""
    span = whole_days(start, end)
    low, high = run.client.query(
        "select toUnixTimestamp(min(filled_at)), toUnixTimestamp(max(filled_at))"
        f" from {run.settings.clickhouse_database}.trades"
    ).result_rows[0]
    # A day less than the API serves, because its clock is another.
    in_window = max(int(time.time()), high) - int((WINDOW - timedelta(days=1)).total_seconds())
    first = low if start is None else int(span.start.timestamp())
    last = min(high - int(UNSURE.total_seconds()), int(span.end.timestamp()) - 1)
    whole = (max(first, in_window), last + 1)
    gaps = not_loaded(whole, loaded_spans(run), run.settings)
    if gaps:
        shown = [f"{show(at(begin))} to {show(at(after))}" for begin, after in gaps[:GAPS_SHOWN]]
        more = f" and {len(gaps) - GAPS_SHOWN} more" if len(gaps) > GAPS_SHOWN else ""
        log.warning(
            "verify: not loaded, so not compared with the Data API: %s%s;"
            " `backfill --from %s --to %s` reads it",
            ", ".join(shown), more,
            at(gaps[0][0]).strftime(MOMENT), at(gaps[-1][1]).strftime(MOMENT),
        )  # fmt: skip
    return subtract(whole, gaps)


def _our_totals(run: Run, covered: list[Span]) -> dict[str, Totals]:
    """Totals of what is compared, by condition."""
    models = run.settings.clickhouse_database
    rows = run.client.query(
        f"""
        with
            arrayExists(
                span -> toUnixTimestamp(filled_at) >= span.1 and toUnixTimestamp(filled_at) < span.2,
                {{covered:Array(Tuple(Int64, Int64))}}
            ) as is_covered,
            is_covered and shares >= {MIN_SHARES} as is_compared,
            is_compared and fee_asset = 'shares' as pays_shares
        select
            condition_id,
            countIf(is_compared) as compared,
            toFloat64(sumIf(shares, is_compared)),
            toFloat64(sumIf(usd, is_compared)),
            toFloat64(sumIf(fee, pays_shares)),
            toFloat64(sumIf(fee_usd, pays_shares))
        from {models}.trades
        where condition_id in (select condition_id from {models}.markets where condition_id != '')
        group by condition_id
        having compared > 0 and count() <= {MOST_TRADES}
        order by compared desc, condition_id
        limit {CONDITIONS}
        """,
        parameters={"covered": covered},
    ).result_rows
    return {condition_id: Totals(*row) for condition_id, *row in rows}


def add_up(trades: Iterator[dict[str, Any]], covered: Sequence[Span]) -> Totals:
    """Totals of the trades in these spans that are large enough to be compared."""
    count, shares, usd = 0, 0.0, 0.0
    for trade in trades:
        inside = any(first <= trade["timestamp"] < after for first, after in covered)
        if inside and trade["size"] >= MIN_SHARES:
            count += 1
            shares += trade["size"]
            usd += trade["size"] * trade["price"]
    return Totals(count, shares, usd)


def _trades(client: HttpClient, url: str, condition_id: str) -> Iterator[dict[str, Any]]:
    """Every trade of a condition, taker orders only.

    Raises:
        IngestError: what `HttpClient` raises; WrongShape and RepeatedCursor for answers that cannot be.
    """
    cursors: set[str] = set()
    cursor = ""
    while True:
        params = [("condition", condition_id), ("taker_only", "true"), ("limit", str(PAGE))]
        answer = client.get_json(url, [*params, *([("cursor", cursor)] if cursor else [])])
        where = {"source": SOURCE, "url": url, "request": f"trades of {condition_id}"}
        try:
            page, pagination = answer["data"], answer["pagination"]
            yield from (
                {name: _number(row[name]) for name in ("timestamp", "size", "price")}
                for row in page
            )
            cursor = pagination["next_cursor"] if pagination["has_more"] else ""
        except (KeyError, TypeError, ValueError) as error:
            raise WrongShape(f"not a page of trades ({error!r})", **where) from error
        if not cursor:
            return
        if cursor in cursors:
            raise RepeatedCursor("handed out a cursor that it had handed out before", **where)
        cursors.add(cursor)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return value
