"""The truth of volumes beyond a single token: of markets, events and tags, per day and of late.

Pure functions over rows of the truth's other tables. Dust is in none of them but
`unknown_tokens`; amounts are integers in 1e-6 units, times unix seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sandbox.clock import iso_date

_HOUR, _DAY = 3600, 86_400
_VOLUMES = ("volume_usd", "volume_shares", "trades")


def volume_daily(days: Iterable[dict]) -> list[dict]:
    """Volume per UTC day and token, of daily candles."""
    return [
        {"day": iso_date(candle["bucket_at"]), "token_id": candle["token_id"]}
        | {name: candle[name] for name in _VOLUMES}
        for candle in days
    ]


def volume_hourly(hours: Iterable[dict]) -> list[dict]:
    """Volume per hour and token, of hourly candles."""
    return [
        {"hour_at": candle["bucket_at"], "token_id": candle["token_id"]}
        | {name: candle[name] for name in _VOLUMES}
        for candle in hours
    ]


def grouped_daily(
    per_token: Iterable[dict], groups: Mapping[str, Collection[str]], key: str
) -> list[dict]:
    """Rows of `volume_daily` added up by day and group, in which `key` names the group."""
    return grouped(per_token, groups, key, "day")


def grouped(
    per_token: Iterable[dict], groups: Mapping[str, Collection[str]], key: str, time: str
) -> list[dict]:
    """Volumes of tokens added up by the column `time` and group, in which `key` names the group.

    `groups` are those of each token; a token counts once in each, and without any nowhere.
    """
    sums: dict[tuple, dict] = {}
    for row in per_token:
        for group in groups.get(row["token_id"], ()):
            total = sums.setdefault(
                (row[time], group), {time: row[time], key: group} | dict.fromkeys(_VOLUMES, 0)
            )
            for name in _VOLUMES:
                total[name] += row[name]
    return list(sums.values())


def window_start(newest_at: int) -> int:
    """Start of the 24 hourly buckets that end with the one of the newest trade."""
    return newest_at - newest_at % _HOUR - 23 * _HOUR


def event_volume(
    events: Iterable[dict],
    markets_events: Iterable[dict],
    trades: Sequence[dict],
    newest_at: int,
) -> list[dict]:
    """Volume of every event over all its markets, in all and in the last 24 hours.

    Args:
        events: rows of `events`.
        markets_events: pairs of `market_id` and `event_id`.
        trades: trades that are not dust.
        newest_at: time of the newest of them.
    """
    markets_of: dict[str, list[str]] = defaultdict(list)
    for pair in markets_events:
        markets_of[pair["event_id"]].append(pair["market_id"])
    by_market = _by_market(trades)
    rows = []
    for event in events:
        markets = markets_of[event["event_id"]]
        inside = [trade for market_id in markets for trade in by_market.get(market_id, ())]
        late = [trade for trade in inside if trade["filled_at"] >= window_start(newest_at)]
        rows.append(
            {
                "event_id": event["event_id"],
                "title": event["title"],
                "slug": event["slug"],
                "markets": len(markets),
                "volume_usd": sum(trade["usd"] for trade in inside),
                "volume_shares": sum(trade["shares"] for trade in inside),
                "trades": len(inside),
                "volume_usd_24h": sum(trade["usd"] for trade in late),
                "last_traded_at": max((trade["filled_at"] for trade in inside), default=None),
            }
        )
    return rows


def trending_markets(
    markets: Iterable[dict],
    trades: Sequence[dict],
    hours: Iterable[dict],
    newest_at: int,
) -> list[dict]:
    """Markets that traded in the 24 hourly buckets that end with the newest trade.

    Args:
        markets: rows of `markets`.
        trades: trades that are not dust.
        hours: rows of `market_ohlcv_1h` by market and time.
        newest_at: time of the newest trade.
    """
    start = window_start(newest_at)
    by_market = _by_market(trades)
    last_price, price_before = {}, {}
    for candle in hours:
        last_price[candle["market_id"]] = candle["close"]
        if candle["bucket_at"] < start:
            price_before[candle["market_id"]] = candle["close"]
    rows = []
    for market in markets:
        market_id = market["market_id"]
        inside = by_market.get(market_id, ())
        late = [trade for trade in inside if trade["filled_at"] >= start]
        if not late:
            continue
        usd = sum(trade["usd"] for trade in late)
        previous = sum(t["usd"] for t in inside if start - _DAY <= t["filled_at"] < start)
        price, before = last_price[market_id], price_before.get(market_id)
        rows.append(
            {
                "market_id": market_id,
                "question": market["question"],
                "event_slug": market["event_slug"],
                "volume_usd_24h": usd,
                "volume_usd_previous_24h": previous,
                "volume_change": usd / previous - 1 if previous else None,
                "trades_24h": len(late),
                "traders_24h": len({trade["wallet"] for trade in late}),
                "price": price,
                "price_24h_ago": before,
                "price_change": None if before is None else price - before,
                "window_start_at": start,
                "as_of": newest_at,
            }
        )
    return rows


def unknown_tokens(trades: Iterable[dict]) -> list[dict]:
    """Tokens of `trades`, dust included, that have no market."""
    rows: dict[str, dict] = {}
    for trade in trades:
        if trade["market_id"]:
            continue
        at = trade["filled_at"]
        row = rows.setdefault(
            trade["token_id"],
            {"token_id": trade["token_id"], "module": trade["module"], "trades": 0, "volume_usd": 0}
            | {"first_traded_at": at, "last_traded_at": at},
        )
        row["trades"] += 1
        row["volume_usd"] += trade["usd"]
        row["first_traded_at"] = min(row["first_traded_at"], at)
        row["last_traded_at"] = max(row["last_traded_at"], at)
    return list(rows.values())


def _by_market(trades: Iterable[dict]) -> Mapping[str, list[dict]]:
    by_market: dict[str, list[dict]] = defaultdict(list)
    for trade in trades:
        by_market[trade["market_id"]].append(trade)
    return by_market
