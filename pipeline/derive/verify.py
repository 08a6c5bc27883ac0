"""`verify`: compares everything that is derived with what it is derived from, row by row.

Each table is computed again from the one below it, fills from raw, trades from fills, candles from trades, so that the
first table that differs names the stage that failed. The SQL is that of the models themselves, but the text of a full
refresh, not the one that settles: everything that can go wrong between a load and a table (a transaction or bucket that
was not seen as touched, a withdrawal that did not happen, an older version that wins, a block that an insert lost, a row
changed by hand) is in choosing what to recompute and in executing it, and a full refresh chooses nothing. What both
texts share is what a fill, a trade and a candle mean. So the volumes are also added up from the legs by a text of their
own, and `crosscheck.py` asks Polymarket for its own totals.

Nothing is locked and nothing is written. While a loop works, a table may be a moment behind: a difference counts only if
it is still there, the same, once the loads of that moment are settled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from pipeline.console import Step, human, step
from pipeline.derive.comparison import (
    EXAMPLES,
    ONLY_VERSION,
    TIMES,
    Comparison,
    Verdict,
    find_differences,
    in_words,
)
from pipeline.derive.cutting import FILLS, cut, rows_by_hour, span_of
from pipeline.derive.owed import owed
from pipeline.errors import NothingLoaded, NotSettled
from pipeline.timerange import EARLIEST, LATEST, TimeRange
from pipeline.warehouse.run import Run

BOOKKEEPING = ("version", "is_deleted", "load_id")
SETTLE_TIMEOUT_S = 120.0
# How often a comparison is made again beside a loop. What still differs then counts, be it of a load that just came.
MOST_TRIES = 5
LOG_EVERY_S = 10.0
MIDNIGHT = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}
log = logging.getLogger(__name__)


def verify(
    run: Run,
    selects_of: Callable[[Run], dict[str, str]],
    start: datetime | None,
    end: datetime | None,
) -> list[Verdict]:
    """Compare every derived table of a range, widened to whole days (UTC), and return one verdict each.

    Tables without a time of trading (prices, tokens, markets, events) are compared whole.

    Args:
        selects_of: gives the select that computes each model; `models.full_refresh_selects`, which takes seconds.
        start, end: half-open; None: without a bound.

    Raises:
        NothingLoaded: there is nothing to compare with.
        NotSettled: loads wait to be settled, and nobody is doing it; or fills are still to be derived by this version.
    """
    if not run.client.command(f"exists table {run.settings.raw_database}.{FILLS}"):
        raise NothingLoaded("nothing is loaded yet; run `python run_pipeline.py` for a first cycle")
    waiting = run.ledger.unsettled()
    if waiting and not _writing(run):
        raise NotSettled(
            f"{len(waiting)} loads are not settled, so tables must differ;"
            " run `python run_pipeline.py`, which settles them first, and then verify"
        )
    if left := sum(each.loaded_rows for each in owed(run)):
        raise NotSettled(
            f"{human(left)} fills stand as an earlier version derived them; run `python run_pipeline.py upgrade`,"
            " or wait for the loop, which derives them again between its cycles"
        )
    span = whole_days(start, end)
    comparisons = [*_of_models(run, selects_of(run)), _of_refused(run), _of_volumes(run)]
    verdicts = {each.table: Verdict(each.table) for each in comparisons}
    hours, most_rows = rows_by_hour(run, span), run.settings.settle_max_rows
    parts = {
        "slice": [(span_of(each), each.loaded_rows) for each in cut(span, hours, most_rows)],
        "day": [(each, 0) for each in days_of(span, [hour for hour, _ in hours])],
        "all": [(None, 0)],
    }
    with step("verify", total=sum(count for _, count in hours)) as shown:
        report = _Report(shown)
        for kind, parts_of_kind in parts.items():
            for part, rows in parts_of_kind:
                for each in comparisons:
                    if each.span == kind:
                        _compare(run, each, part, verdicts[each.table])
                report.done(rows)
    return list(verdicts.values())


def whole_days(start: datetime | None, end: datetime | None) -> TimeRange:
    """The whole days (UTC) that a half-open range touches."""
    first = EARLIEST if start is None else start.replace(**MIDNIGHT)
    last = LATEST if end is None else end.replace(**MIDNIGHT)
    return TimeRange(
        first, last if end is None or end == last else min(last + timedelta(days=1), LATEST)
    )


def days_of(span: TimeRange, hours: Iterable[datetime]) -> list[TimeRange]:
    """The days that hold some of these hours, in order, each with the time without any that follows it.

    Args:
        span: whole days, which the result covers.
    """
    days = sorted({hour.replace(**MIDNIGHT) for hour in hours})
    bounds = [span.start, *days[1:], span.end]
    return [TimeRange(start, end) for start, end in pairwise(bounds)]


class _Report:
    """Says how far it is: on a terminal as a bar, elsewhere as a line now and then."""

    def __init__(self, shown: Step) -> None:
        self._shown = shown
        self._rows, self._said_at = 0, time.monotonic()

    def done(self, rows: int) -> None:
        self._rows += rows
        self._shown.update(f"{human(self._rows)} raw fills", self._rows)
        if not self._shown.visible and time.monotonic() - self._said_at > LOG_EVERY_S:
            log.info("verify: %s raw fills compared", human(self._rows))
            self._said_at = time.monotonic()


# ---------- what is compared


def _of_models(run: Run, selects: dict[str, str]) -> Iterator[Comparison]:
    models = run.settings.clickhouse_database
    for model, select in selects.items():
        columns, key = _shape(run, model)
        time_column = next((name for name in TIMES if name in columns), None)
        # Tokens come from every version of a market, and the store forgets old ones when it merges.
        derived = select.replace("`markets_store`", "`stg_polymarket__markets`")
        if "is_deleted" in columns:
            derived = f"select * from ({derived}) where is_deleted = 0"
        is_versioned = "fetched_at" in columns and "fetched_at" not in key
        yield Comparison(
            table=model.removesuffix("_store"),
            stored=f"(select * from {models}.{model} final)",
            derived=f"({derived})",
            key=key,
            columns={name: kind for name, kind in columns.items() if name not in BOOKKEEPING},
            version="fetched_at" if is_versioned else ONLY_VERSION,
            span="all" if time_column is None else "day" if "_1d_" in model else "slice",
        )


def _shape(run: Run, model: str) -> tuple[dict[str, str], str]:
    """Columns of a store with their types, and its sorting key."""
    models = run.settings.clickhouse_database
    columns = run.client.query(
        "select name, type from system.columns where database = {models:String} and table = {model:String}",
        parameters={"models": models, "model": model},
    ).result_rows
    [(key,)] = run.client.query(
        "select sorting_key from system.tables where database = {models:String} and name = {model:String}",
        parameters={"models": models, "model": model},
    ).result_rows
    return dict(columns), key


def _of_refused(run: Run) -> Comparison:
    """Raw fills that are neither fills for the models nor dead letters; there must be none."""
    raw, models = run.settings.raw_database, run.settings.clickhouse_database
    fill = "cityHash64({}, tx_hash, log_index, order_hash)"
    refused = f"""
        select {fill.format("timestamp")} as payload_hash, tx_hash, log_index
        from {raw}.{FILLS} final
        where payload_hash not in (
            select {fill.format("filled_at")} from {models}.stg_polymarket__order_filled
        )
    """
    letters = f"(select payload_hash from {raw}.dead_letter_sightings)"
    return Comparison(
        table="refused fills",
        stored=f"(select * from ({refused}) where payload_hash in {letters})",
        derived=f"({refused})",
        key="tx_hash, log_index",
        columns={"tx_hash": "String", "log_index": "UInt32"},
        span="slice",
    )


def _of_volumes(run: Run) -> Comparison:
    """Volumes, which are sums of candles of trades, added up from the legs themselves."""
    models = run.settings.clickhouse_database
    derived = f"""
        select
            toDate(filled_at) as day,
            token_id,
            sum(usd) as volume_usd,
            sum(shares) as volume_shares,
            count() as trades
        from {models}.order_fills
        where leg in ('taker', 'direct') and not is_dust
        group by day, token_id
    """
    return Comparison(
        table="volume_daily",
        stored=f"{models}.volume_daily",
        derived=f"({derived})",
        key="day, token_id",
        columns={
            "day": "Date",
            "token_id": "String",
            "volume_usd": "Decimal(38, 6)",
            "volume_shares": "Decimal(38, 6)",
            "trades": "UInt64",
        },
        span="day",
    )


# ---------- comparing


def _compare(run: Run, comparison: Comparison, part: TimeRange | None, verdict: Verdict) -> None:
    """Add what one comparison of one part of time finds to a table's verdict."""
    rows, expected, found = find_differences(run, comparison, part)
    for _ in range(MOST_TRIES):
        if not found:
            break
        _let_settle(run)
        rows, expected, again = find_differences(run, comparison, part)
        if lasting := [each for each in found if each in set(again)]:
            found = lasting
            break
        found = again  # those of before were settled; others came, or were beyond the first
    verdict.rows += rows
    verdict.expected += expected
    verdict.differences += len(found)
    missing = EXAMPLES - len(verdict.examples)
    if found and missing > 0:
        verdict.examples += in_words(run, comparison, part, found[:missing])


def _writing(run: Run) -> bool:
    """Whether somebody holds the writer lock and lives."""
    holder = run.lock.holder()
    return holder is not None and not holder.is_dead(run.settings.lock_ttl_s)


def _let_settle(run: Run) -> None:
    """Wait until the loads that are unsettled now are settled, as long as somebody is at it."""
    waiting = {(load.load_id, load.table_name) for load in run.ledger.unsettled()}
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while waiting and time.monotonic() < deadline and _writing(run):
        time.sleep(0.2)
        waiting &= {(load.load_id, load.table_name) for load in run.ledger.unsettled()}
