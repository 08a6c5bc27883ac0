"""Markets and events as Gamma writes them: JSON objects with its field names, types and oddities.

Pure functions of the catalog's state, so a record whose state did not change is byte for byte the
same. The oddities are the API's own: JSON inside strings, numbers that are int or float, two time
formats, keys that are missing or null.
"""

from __future__ import annotations

import json
from decimal import Decimal

from sandbox.catalog import TAGS, Event, Market
from sandbox.clock import iso_date, postgres_time, rfc3339
from sandbox.positions import condition_of, position_id

# Slug -> id, title and recurrence of the series in use.
SERIES = {
    "btc-up-or-down-5m": (10684, "BTC Up or Down 5m", "5m"),
    "btc-up-or-down-hourly": (10114, "BTC Up or Down Hourly", "hourly"),
}


def number(value: Decimal | float | int) -> int | float:
    """A JSON number as Gamma writes it: an integer when it is whole, a float otherwise."""
    return int(value) if value == int(value) else float(value)


def dollars(amount: int) -> Decimal:
    """An amount in 1e-6 units as decimal dollars, without trailing zeros."""
    return Decimal(amount).scaleb(-6).normalize()


def market_payload(market: Market) -> dict:
    """A market without its events and tags."""
    payload = _common_fields(market) | _volumes(market)
    payload |= _legacy_fields(market) if market.kind == "legacy" else _order_book_fields(market)
    if market.kind == "sports":
        payload |= _sports_fields(market)
    if market.neg_risk:
        payload |= {
            "groupItemTitle": market.group_title,
            "groupItemThreshold": str(market.group_threshold),
            "negRiskMarketID": market.neg_risk_id,
            "negRiskRequestID": market.question_id[:-2] + "ff",
        }
    if market.position_ids or market.id % 6 == 0:
        payload |= _protocol_fields(market)
    if market.closed_at is not None:
        payload |= {
            "umaEndDate": rfc3339(market.closed_at * 1_000_000),
            "umaBond": "500",
            "umaReward": "5",
            "automaticallyResolved": market.kind == "crypto",
        }
        if not market.lacks_closed_time:
            payload["closedTime"] = postgres_time(market.closed_at)
        elif market.id % 2:  # absent, or Go's zero
            payload["closedTime"] = "0001-01-01T00:00:00Z"
        if market.uma_status:
            payload["umaResolutionStatus"] = market.uma_status
    return payload


def _common_fields(market: Market) -> dict:
    closed = market.closed_at is not None
    outcome = market.outcomes[0]
    return {
        "id": str(market.id),
        "question": market.question,
        "conditionId": condition_id(market),
        "slug": market.slug,
        "resolutionSource": "https://example.com/answer" if market.id % 2 else "",
        "endDate": rfc3339(market.ends_at * 1_000_000),
        "image": "https://example.com/market.png",
        "icon": "https://example.com/market.png",
        # Null now and then, like almost any field.
        "description": None if market.id % 7 == 0 else f'Resolves to "{outcome}" if so.\nElse not.',
        "outcomes": json.dumps(market.outcomes),
        "outcomePrices": json.dumps(_outcome_prices(market)),
        "active": True,
        "closed": closed,
        "marketMakerAddress": "",
        "createdAt": rfc3339(_created_micros(market)),
        "updatedAt": rfc3339(updated_micros(market)),
        "archived": not market.listed,
        "submitted_by": market.condition_id[:42],  # the one snake_case name
        "restricted": True,
        "endDateIso": iso_date(market.ends_at),
        "hasReviewedDates": True,
        "ready": False,
        "funded": False,
        "cyom": False,
        "pagerDutyNotificationEnabled": False,
        "approved": True,
        "clearBookOnStart": True,
        "manualActivation": False,
        "negRiskOther": False,
        "umaResolutionStatuses": '["proposed"]' if closed else "[]",
        "pendingDeployment": False,
        "deploying": False,
        "rfqEnabled": False,
        "holdingRewardsEnabled": False,
        "requiresTranslation": False,
    }


def condition_id(market: Market) -> str:
    """The condition as Gamma writes it: for protocol version v2 the position id without its outcome."""
    return condition_of(market.position_ids[0]) if market.has_moved else market.condition_id


def _protocol_fields(market: Market) -> dict:
    """Which protocol it is on. Only `version` says that: position ids may be there for a market of v1, too,

    because combos can have it as a leg, and a market that moved may still name the tokens it had before.
    """
    legs = [position_id(1, int(market.condition_id[2:34], 16), outcome_index=i) for i in (0, 1)]
    return {
        "version": "v2" if market.has_moved else "v1",
        "positionIds": list(market.position_ids or legs),
    }


def _created_micros(entity: Market | Event) -> int:
    return entity.created_at * 1_000_000 + entity.created_micros


def updated_micros(market: Market) -> int:
    """When the market last changed (created, traded or closed), unix microseconds."""
    moved_at = market.moves_at if market.has_moved else 0
    changed = max(market.created_at, market.last_trade_at or 0, market.closed_at or 0, moved_at)
    return changed * 1_000_000 + market.created_micros


def _outcome_prices(market: Market) -> list[str]:
    if market.closed_at is not None:
        return list(market.resolution)
    first = Decimal(market.price) / market.ticks
    return [str(first), str(1 - first)]


def _volumes(market: Market) -> dict:
    """The total as string and number, and per span; markets that never traded have none of them."""
    if not market.volume:
        return {}
    volume = dollars(market.volume)
    value = number(volume)
    spans = ("24hr", "1wk", "1mo", "1yr")
    fields = {"volume": f"{volume:f}", "volumeNum": value, "volumeClob": value}
    fields |= {f"volume{span}": value for span in spans}
    return fields | {f"volume{span}Clob": value for span in spans}


def _order_book_fields(market: Market) -> dict:
    closed = market.closed_at is not None
    tick = Decimal(1) / market.ticks
    price = Decimal(market.price) / market.ticks
    liquidity = 0 if closed else Decimal(market.id * 7919 % 100_000) / 8
    fields = {
        "questionID": market.question_id,
        "enableOrderBook": True,
        "acceptingOrders": not closed,
        "acceptingOrdersTimestamp": rfc3339(market.created_at * 1_000_000),
        "startDate": rfc3339(_created_micros(market)),
        "startDateIso": iso_date(market.created_at),
        "orderPriceMinTickSize": 0 if market.id % 13 == 0 else number(tick),
        "orderMinSize": 5,
        "liquidity": f"{liquidity:f}" if liquidity else "0",
        "liquidityNum": number(liquidity),
        "liquidityClob": number(liquidity),
        "negRisk": market.neg_risk,
        "rewardsMinSize": 50,
        "rewardsMaxSpread": 4.5,
        "spread": number(tick),
        "lastTradePrice": number(price) if market.last_trade_at else 0,
        "bestBid": None if closed and market.id % 3 == 0 else number(price - tick),
        "bestAsk": number(price),
        "competitive": 0 if closed else 0.98,
        "featured": False,
        "new": False,
        "automaticallyActive": True,
        "feesEnabled": bool(market.fee_bps_v2),
        "feeType": {"crypto": "crypto_fees_v2", "sports": "sports_fees_v2"}.get(market.kind),
    }
    if market.moves_at != market.created_at:  # one that began on V3 has no others
        fields["clobTokenIds"] = json.dumps(market.token_ids)
    if market.fee_bps_v2:
        fields |= {
            "makerBaseFee": 1000,
            "takerBaseFee": 1000,
            "feeSchedule": {
                "rate": market.fee_bps_v2 / 10_000,
                "exponent": 1,
                "takerOnly": True,
                "rebateRate": 0.2,
            },
        }
    if market.price % 3 == 0:  # price changes come and go
        fields["oneDayPriceChange"] = number(tick * (market.price % 5 - 2))
    return fields


def _legacy_fields(market: Market) -> dict:
    """What markets from before the order book have instead."""
    volume = market.id * 1117 + Decimal(market.id % 2) / 4
    fields = {
        "category": "Crypto",
        "marketType": "scalar",
        "lowerBound": "8000000000",
        "upperBound": "20000000000",
        "updatedBy": 3,
        "volume": f"{volume}",
        "volumeNum": number(volume),
        "volume24hr": 0,
        "liquidity": "4.601742",
        "liquidityNum": 4.6,
        "fpmmLive": True,
        "marketMakerAddress": market.condition_id[:42],
        "volume1wkAmm": 0,
        "volume1wkClob": 0,
        "creator": "",
        "rewardsMinSize": 0,
        "spread": 1,
        "bestBid": 0,
        "bestAsk": 1,
        "lastTradePrice": 0,
        "feesEnabled": False,
        "feeType": None,
    }
    if not market.lacks_token_ids:
        fields["clobTokenIds"] = json.dumps(market.token_ids)
    elif market.id % 3:  # no token, written in one of two ways
        fields["clobTokenIds"] = '["", ""]'
    return fields


def _sports_fields(market: Market) -> dict:
    fields = {
        "sportsMarketType": ("moneyline", "map_handicap", "totals")[market.group_threshold % 3],
        "gameStartTime": postgres_time(market.ends_at - 3 * 3600),
        "eventStartTime": rfc3339((market.ends_at - 3 * 3600) * 1_000_000),
        "groupItemTitle": market.group_title,
        "secondsDelay": 3,
    }
    if not market.group_threshold:
        fields["gameId"] = str(1_400_000 + market.id)
    else:
        fields["line"] = -1.5 if market.group_threshold == 1 else 2.5
    return fields


def event_payload(event: Event, markets: list[Market]) -> dict:
    """An event without its markets and tags; `markets` are those of it that exist by now."""
    closed = all(market.closed_at is not None for market in markets)
    volume = number(dollars(sum(market.volume for market in markets)))
    updated = max([_created_micros(event), *map(updated_micros, markets)])
    payload = {
        "id": str(event.id),
        "ticker": event.slug,
        "slug": event.slug,
        "title": event.title,
        "description": f"{event.title}: the rules.",
        "resolutionSource": "",
        "startDate": rfc3339(_created_micros(event)),
        "creationDate": rfc3339(_created_micros(event)),
        "endDate": rfc3339(event.ends_at * 1_000_000),
        "image": "https://example.com/event.png",
        "icon": "https://example.com/event.png",
        "active": True,
        "closed": closed,
        "archived": False,
        "new": False,
        "featured": False,
        "restricted": True,
        "liquidity": number(Decimal(event.id * 104_729 % 1_000_000) / 16),
        "volume": volume,
        "openInterest": 0,
        "createdAt": rfc3339(_created_micros(event)),
        "updatedAt": rfc3339(updated),
        "competitive": 0.98,
        "volume24hr": volume,
        "volume1wk": volume,
        "volume1mo": volume,
        "volume1yr": volume,
        "enableOrderBook": event.kind != "legacy",
        "negRisk": bool(event.neg_risk_id),
        "enableNegRisk": bool(event.neg_risk_id),
        "commentCount": event.id % 40,
        "cyom": False,
        "showAllOutcomes": True,
        "showMarketImages": True,
        "automaticallyActive": True,
        "pendingDeployment": False,
        "deploying": False,
        "requiresTranslation": False,
    }
    if event.neg_risk_id:
        payload |= {"negRiskMarketID": event.neg_risk_id, "negRiskAugmented": event.id % 2 == 0}
    if event.series:
        payload |= {"seriesSlug": event.series, "series": [_series_payload(event.series)]}
    if event.kind == "sports":
        payload |= {
            "gameId": 1_400_000 + event.id,
            "eventWeek": 1,
            "live": not closed,
            "ended": closed,
            "score": "000-000|2-0|Bo3" if closed else "",
            "eventMetadata": {"league": "Sandbox League", "leagueTier": "4"},
        }
    if closed:  # RFC 3339 here, unlike the market's closedTime
        payload["closedTime"] = rfc3339(max(m.closed_at for m in markets) * 1_000_000)
    return payload


def _series_payload(slug: str) -> dict:
    series_id, title, recurrence = SERIES[slug]
    return {
        "id": str(series_id),
        "ticker": slug,
        "slug": slug,
        "title": title,
        "seriesType": "single",
        "recurrence": recurrence,
        "active": True,
        "closed": False,
        "createdAt": "2025-11-21T21:46:22.201627Z",
        "updatedAt": "2026-03-11T15:13:45.415743Z",
        "volume": 64234.19264499972,
        "commentCount": 27205,
        "requiresTranslation": False,
    }


def tag_payload(slug: str) -> dict:
    """A tag; some carry who made them, and a publication time in the other format."""
    label, tag_id = TAGS[slug]
    payload = {
        "id": str(tag_id),
        "label": label,
        "slug": slug,
        "forceShow": False,
        "createdAt": "2023-11-02T21:24:31.198Z",
        "updatedAt": "2026-03-09T22:32:04.396035Z",
        "requiresTranslation": False,
    }
    if tag_id < 1000:
        payload |= {"publishedAt": "2023-11-02 21:24:31.008+00", "createdBy": 15, "updatedBy": 13}
    else:
        payload["isCarousel"] = False
    return payload
