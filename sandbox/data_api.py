"""Polymarket's Data API v2, as far as cross-checks need it: `/v2/trades` of one or more conditions.

Behaviour follows the published API: an envelope of `data` and `pagination`, snake_case, an opaque cursor, `limit` above
1000 refused and not clamped, at most 20 conditions. Newest first, as the older endpoint; numbers are JSON numbers. With
`taker_only` (the default) a match is one row, without it each of its legs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.truth import Truth

DEFAULT_LIMIT, MAX_LIMIT, MAX_CONDITIONS = 100, 1000, 20


def data_api_app(truth: Callable[[], Truth]) -> Starlette:
    """The API over what `truth` gives when a request comes."""

    async def trades(request: Request) -> Response:
        params = request.query_params
        conditions = [each for value in params.getlist("condition") for each in value.split(",")]
        limit, start = params.get("limit", str(DEFAULT_LIMIT)), params.get("cursor")
        if not limit.isdigit() or not 0 < int(limit) <= MAX_LIMIT:
            return _refused(f"limit must be between 1 and {MAX_LIMIT}")
        if not 0 < len(conditions) <= MAX_CONDITIONS:
            return _refused(f"between 1 and {MAX_CONDITIONS} conditions are needed")
        taker_only = params.get("taker_only", "true") == "true"
        rows = _rows(truth(), set(conditions), taker_only)
        offset = int(base64.urlsafe_b64decode(start)) if start else 0
        end = offset + int(limit)
        more = end < len(rows)
        pagination = {
            "limit": int(limit),
            "offset": offset,
            "has_more": more,
            "next_cursor": base64.urlsafe_b64encode(str(end).encode()).decode() if more else "",
        }
        return _json({"data": rows[offset:end], "pagination": pagination})

    return Starlette(routes=[Route("/v2/trades", trades)])


def _rows(truth: Truth, conditions: set[str], taker_only: bool) -> list[dict[str, Any]]:
    tokens = {row["token_id"]: row for row in truth.outcome_tokens}
    fills = truth.trades if taker_only else truth.order_fills
    rows = [
        {
            "proxy_wallet": fill["wallet" if taker_only else "maker"],
            "side": fill["side"],
            "token_id": fill["token_id"],
            "condition_id": tokens[fill["token_id"]]["condition_id"],
            "size": fill["shares"] / 1e6,
            "price": float(fill["price"]),
            "timestamp": fill["filled_at"],
            "outcome": tokens[fill["token_id"]]["outcome"],
            "outcome_index": tokens[fill["token_id"]]["outcome_index"],
            "transaction_hash": fill["tx_hash"],
        }
        for fill in fills
        if tokens.get(fill["token_id"], {}).get("condition_id") in conditions
    ]
    return sorted(rows, key=lambda row: -row["timestamp"])


def _refused(message: str) -> Response:
    return _json({"error": message}, status=400)


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
