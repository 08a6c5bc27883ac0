"""The truth of markets and events: what follows from Gamma's payloads as they stand.

Pure functions of payloads. Ids are strings, amounts integers in 1e-6 units, times unix seconds;
of what is absent or null texts are empty, flags False, numbers and times None.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import ROUND_DOWN, Decimal

WINNER, SPLIT, UNRESOLVED = "winner", "split", "unresolved"
NEAR = Decimal("0.0001")  # less than this from 1 or 0 is as good as there


def market_row(payload: dict) -> dict:
    """The columns of `markets`."""
    resolution = resolution_of(payload)
    winner = payouts_of(payload).index(1) if resolution == WINNER else None
    return {
        "market_id": payload["id"],
        "condition_id": (payload.get("conditionId") or "").lower(),
        "slug": payload.get("slug") or "",
        "question": payload.get("question") or "",
        "event_slug": next((event["slug"] for event in payload["events"]), ""),
        "active": bool(payload.get("active")),
        "closed": bool(payload.get("closed")),
        "neg_risk": bool(payload.get("negRisk")),
        "volume_usd": _micro_usd(payload.get("volume")),
        "outcome_prices": [_cut(price) for price in outcome_prices(payload)],
        **_of_market_page(payload),
        "tick_size": payload.get("orderPriceMinTickSize") or None,
        "created_at": _seconds(payload.get("createdAt")),
        "closed_at": _seconds(payload.get("closedTime")),
        "group_item_title": payload.get("groupItemTitle") or "",
        "resolution": resolution,
        "winning_outcome_index": winner,
        "winning_outcome": "" if winner is None else json.loads(payload["outcomes"])[winner],
    }


def _of_market_page(payload: dict) -> dict:
    """What a market's page says of its rules, quotes, fees and game."""
    schedule = payload.get("feeSchedule") or {}
    as_given = {
        "spread": "spread",
        "best_bid": "bestBid",
        "best_ask": "bestAsk",
        "maker_base_fee": "makerBaseFee",
        "taker_base_fee": "takerBaseFee",
        "line": "line",
    }
    threshold = payload.get("groupItemThreshold")
    return {name: payload.get(field) for name, field in as_given.items()} | {
        "description": payload.get("description") or "",
        "resolution_source": payload.get("resolutionSource") or "",
        "start_at": _seconds(payload.get("startDate")),
        "last_trade_price": payload.get("lastTradePrice") or None,
        "volume_usd_24h": _micro_usd(payload.get("volume24hr")),
        "order_min_size": payload.get("orderMinSize"),
        "fees_enabled": bool(payload.get("feesEnabled")),
        "fee_type": payload.get("feeType") or "",
        "fee_rate": schedule.get("rate"),
        "fee_exponent": schedule.get("exponent"),
        "fee_taker_only": bool(schedule.get("takerOnly")),
        "fee_rebate_rate": schedule.get("rebateRate"),
        "sports_market_type": payload.get("sportsMarketType") or "",
        "game_id": str(payload.get("gameId") or ""),
        "game_start_at": _seconds(payload.get("gameStartTime")),
        "event_start_at": _seconds(payload.get("eventStartTime")),
        "group_item_threshold": None if threshold is None else int(threshold),
    }


def event_row(payload: dict) -> dict:
    """The columns of `events`."""
    return {
        "event_id": payload["id"],
        "slug": payload.get("slug") or "",
        "title": payload.get("title") or "",
        "tags": [tag.get("label") or "" for tag in payload.get("tags") or []],
        "active": bool(payload.get("active")),
        "closed": bool(payload.get("closed")),
        "volume_usd": _micro_usd(payload.get("volume")),
    }


def outcome_prices(payload: dict) -> list[Decimal]:
    """Price of each outcome as Gamma shows it."""
    return [Decimal(price) for price in json.loads(payload.get("outcomePrices") or "[]")]


def payouts_of(payload: dict) -> list[Decimal]:
    """What a share of each outcome pays once the market is resolved.

    These are its prices, which on the earliest markets stay a little off 1 and 0.
    """
    return [
        price.to_integral_value() if abs(price - price.to_integral_value()) < NEAR else price
        for price in outcome_prices(payload)
    ]


def resolution_of(payload: dict) -> str:
    """How a market ended: `winner`, `split` or `unresolved`.

    A closed market whose prices are one 1 and else 0, as good as, has a winner, unless the result
    is only proposed or is disputed. Prices of 1/n each are a split only once UMA says resolved: a
    market that closed without a result can stand at a half by chance.
    """
    payouts, status = payouts_of(payload), payload.get("umaResolutionStatus") or ""
    if not payload.get("closed"):
        return UNRESOLVED
    if sorted(payouts, reverse=True) == [1] + [0] * (len(payouts) - 1):
        return UNRESOLVED if status in ("proposed", "disputed") else WINNER
    is_even = bool(payouts) and all(payout * len(payouts) == 1 for payout in payouts)
    return SPLIT if is_even and status == "resolved" else UNRESOLVED


def token_rows(payload: dict) -> list[dict]:
    """The rows of `outcome_tokens`; markets from before the order book may have none.

    `payout` is what a share pays, in dollars; None while the market is unresolved.
    """
    outcomes = json.loads(payload.get("outcomes") or "[]")
    resolved = resolution_of(payload) != UNRESOLVED
    payouts = payouts_of(payload)
    return [
        {
            "token_id": token_id,
            "market_id": payload["id"],
            "condition_id": (payload.get("conditionId") or "").lower(),
            "outcome_index": index,
            "outcome": outcomes[index],
            "payout": payouts[index] if resolved else None,
        }
        for tokens in _token_pairs(payload)
        for index, token_id in enumerate(tokens)
        if token_id
    ]


def _token_pairs(payload: dict) -> list[list[str]]:
    """The tokens of each outcome, pair by pair: a market that moved to protocol version v2 may have two."""
    tokens = json.loads(payload.get("clobTokenIds") or "[]")
    return [payload["positionIds"], tokens] if payload.get("version") == "v2" else [tokens]


def event_tags(payloads: Iterable[dict]) -> list[dict]:
    """Tags of every event."""
    return [
        {
            "event_id": event["id"],
            "tag_slug": tag["slug"],
            "tag": tag.get("label") or "",
            "tag_id": tag["id"],
        }
        for event in payloads
        for tag in event.get("tags") or []
    ]


def event_series(payloads: Iterable[dict]) -> list[dict]:
    """Series of every event that recurs."""
    return [
        {
            "event_id": event["id"],
            "series_id": series["id"],
            "series_slug": series.get("slug") or "",
            "series_title": series.get("title") or "",
            "recurrence": series.get("recurrence") or "",
        }
        for event in payloads
        for series in event.get("series") or []
    ]


def neg_risk_groups(markets: Iterable[dict], events: Iterable[dict]) -> list[dict]:
    """Groups of markets of which at most one ends with Yes, from payloads of markets and events.

    Both come in order of id; the oldest event of a group names it.
    """
    event_of: dict[str, dict] = {}
    for event in events:
        event_of.setdefault(event.get("negRiskMarketID") or "", event)
    groups: dict[str, list[dict]] = defaultdict(list)
    for market in markets:
        if market.get("negRiskMarketID"):
            groups[market["negRiskMarketID"]].append(market)
    return [
        {
            "neg_risk_market_id": group_id,
            "event_id": event_of.get(group_id, {}).get("id", ""),
            "title": event_of.get(group_id, {}).get("title", ""),
            "markets": len(group),
            "open_markets": sum(not market.get("closed") for market in group),
            "market_ids": sorted(market["id"] for market in group),
            "volume_usd": sum(_micro_usd(market.get("volume")) or 0 for market in group),
            "winning_market_id": next((m["id"] for m in group if _ended_yes(m)), ""),
        }
        for group_id, group in groups.items()
    ]


def _ended_yes(market: dict) -> bool:
    return resolution_of(market) == WINNER and payouts_of(market)[0] == 1


def _cut(price: Decimal) -> Decimal:
    """A price as it is kept: cut to 18 digits."""
    return price.quantize(Decimal("1e-18"), ROUND_DOWN)


def _micro_usd(amount: str | float | None) -> int | None:
    """Dollars as Gamma writes them, cut to 1e-6."""
    return None if amount is None else int(Decimal(str(amount)) * 1_000_000)


def _seconds(time: str | None) -> int | None:
    """A time in either of Gamma's formats as unix seconds, cut; a zero, such as 0001-01-01, is none."""
    seconds = int(datetime.fromisoformat(time).timestamp()) if time else 0
    return seconds if seconds > 0 else None
