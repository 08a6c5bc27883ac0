"""Markets as Gamma writes them: JSON objects with its field names, types and oddities.

Pure functions of the catalog's state, so a record whose state did not change is byte for byte the
same. The oddities are the API's own: JSON inside strings, numbers that are int or float, two time
formats, keys that are missing or null.
"""

from __future__ import annotations

import json
from decimal import Decimal

from sandbox.catalog import Event, Market
from sandbox.clock import iso_date, postgres_time, rfc3339
from sandbox.positions import condition_of, position_id


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
        "createdAt": rfc3339(created_micros(market)),
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


def created_micros(entity: Market | Event) -> int:
    """When it was created, unix microseconds."""
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
        "startDate": rfc3339(created_micros(market)),
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
