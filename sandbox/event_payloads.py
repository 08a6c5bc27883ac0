"""Events, their series and tags as Gamma writes them; see `payloads` for markets and for what all of them have in common."""

from __future__ import annotations

from decimal import Decimal

from sandbox.catalog import TAGS, Event, Market
from sandbox.clock import rfc3339
from sandbox.payloads import created_micros, dollars, number, updated_micros

# Slug -> id, title and recurrence of the series in use.
SERIES = {
    "btc-up-or-down-5m": (10684, "BTC Up or Down 5m", "5m"),
    "btc-up-or-down-hourly": (10114, "BTC Up or Down Hourly", "hourly"),
}


def event_payload(event: Event, markets: list[Market]) -> dict:
    """An event without its markets and tags; `markets` are those of it that exist by now."""
    closed = all(market.closed_at is not None for market in markets)
    payload = _common_fields(event, markets, closed)
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


def _common_fields(event: Event, markets: list[Market], closed: bool) -> dict:
    created = rfc3339(created_micros(event))
    volume = number(dollars(sum(market.volume for market in markets)))
    updated = max([created_micros(event), *map(updated_micros, markets)])
    return {
        "id": str(event.id),
        "ticker": event.slug,
        "slug": event.slug,
        "title": event.title,
        "description": f"{event.title}: the rules.",
        "resolutionSource": "",
        "startDate": created,
        "creationDate": created,
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
        "createdAt": created,
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
