"""Polymarket's Data API v2, as far as cross-checks need it: `/v2/trades`, of conditions or of all.

Behaviour follows the published API: an envelope of `data` and `pagination`, snake_case, an opaque cursor, `limit` above
1000 refused and not clamped, at most 20 conditions. Newest first, as the older endpoint; numbers are JSON numbers. With
`taker_only` (the default) a match is one row, without it each of its legs.

It does not serve everything. Fills under 0.01 share never appear: `filter_amount` is 0.01, and 0 means 0.01. Of a
condition it serves a fixed three years, without one the current and the previous month. The size of a V1 order that
paid its fee in shares is what was left after the fee (the real API says that size or the gross one).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.truth import Truth

DEFAULT_LIMIT, MAX_LIMIT, MAX_CONDITIONS = 100, 1000, 20
MIN_SHARES = 0.01
WINDOW_OF_CONDITIONS = 3 * 365 * 86_400  # seconds


def data_api_app(truth: Callable[[], Truth], now: Callable[[], int]) -> Starlette:
    """The API over what `truth` gives when a request comes; `now` is its clock, unix seconds."""

    async def trades(request: Request) -> Response:
        params = request.query_params
        conditions = {each for value in params.getlist("condition") for each in value.split(",")}
        limit, start = params.get("limit", str(DEFAULT_LIMIT)), params.get("cursor")
        if not limit.isdigit() or not 0 < int(limit) <= MAX_LIMIT:
            return _refused(f"limit must be between 1 and {MAX_LIMIT}")
        if len(conditions) > MAX_CONDITIONS:
            return _refused(f"at most {MAX_CONDITIONS} conditions are allowed")
        taker_only = params.get("taker_only", "true") == "true"
        least = float(params.get("filter_amount", 0)) or MIN_SHARES
        oldest = now() - WINDOW_OF_CONDITIONS if conditions else _start_of_previous_month(now())
        rows = [
            row
            for row in _rows(truth(), taker_only)
            if row["size"] >= least
            and row["timestamp"] >= oldest
            and (not conditions or row["condition_id"] in conditions)
        ]
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


def _start_of_previous_month(now: int) -> int:
    this_month = datetime.fromtimestamp(now, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    return int((this_month - timedelta(days=1)).replace(day=1).timestamp())


def _rows(truth: Truth, taker_only: bool) -> list[dict[str, Any]]:
    tokens = {row["token_id"]: row for row in truth.outcome_tokens}
    fills = truth.trades if taker_only else truth.order_fills
    rows = [
        {
            "proxy_wallet": fill["wallet" if taker_only else "maker"],
            "side": fill["side"],
            "token_id": fill["token_id"],
            "condition_id": tokens[fill["token_id"]]["condition_id"],
            "size": (fill["shares"] - _fee_in_shares(fill)) / 1e6,
            "price": float(fill["price"]),
            "timestamp": fill["filled_at"],
            "outcome": tokens[fill["token_id"]]["outcome"],
            "outcome_index": tokens[fill["token_id"]]["outcome_index"],
            "transaction_hash": fill["tx_hash"],
        }
        for fill in fills
        if fill["token_id"] in tokens
    ]
    return sorted(rows, key=lambda row: -row["timestamp"])


def _fee_in_shares(fill: dict) -> int:
    return fill["fee"] if fill["fee_asset"] == "shares" else 0


def _refused(message: str) -> Response:
    return _json({"error": message}, status=400)


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
