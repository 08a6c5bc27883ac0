"""The truth of candles: prints into buckets, per token or per market, and the gaps between them.

Pure functions over prints in order of execution; who orders them and which market a token belongs
to is `truth`'s business. Prices are Decimals, amounts integers in 1e-6 units, times unix seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from sandbox.amounts import exact_price

BUCKETS = {"1m": 60, "1h": 3600, "1d": 86_400}  # seconds


class Print(NamedTuple):
    """A trade that is not dust, as a candle of `key` (a token or a market) sees it.

    `value` is what its shares were worth at `price`: its usd, but for prints of the complement.
    """

    key: str
    at: int
    price: Decimal
    usd: int
    shares: int
    value: int


def candles(prints: Iterable[Print], seconds: int, key: str = "token_id") -> list[dict]:
    """Candles of `seconds` by key and time; `key` names the column that holds the prints' key."""
    buckets: dict[tuple[str, int], list[Print]] = defaultdict(list)
    for each in prints:
        buckets[each.key, each.at - each.at % seconds].append(each)
    return [
        {key: of, "bucket_at": bucket_at} | _candle(inside)
        for (of, bucket_at), inside in sorted(buckets.items())
    ]


def _candle(prints: list[Print]) -> dict:
    prices = [each.price for each in prints]
    shares = sum(each.shares for each in prints)
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "vwap": exact_price(sum(each.value for each in prints), shares),
        "volume_usd": sum(each.usd for each in prints),
        "volume_shares": shares,
        "trades": len(prints),
    }


def market_prints(prints: Iterable[Print], tokens: Mapping[str, dict]) -> Iterator[Print]:
    """Prints of tokens as prints of their market, at the price of its outcome 0.

    A print of outcome 1 of two is one of outcome 0 at the complement. With another number of
    outcomes there is no complement, so only outcome 0 counts. `tokens` are rows of
    `outcome_tokens` by token id; tokens that are not in it have no market.
    """
    outcomes: dict[str, set[int]] = defaultdict(set)  # each may have several tokens
    for row in tokens.values():
        outcomes[row["market_id"]].add(row["outcome_index"])
    for each in prints:
        row = tokens.get(each.key)
        if row is None:
            continue
        market_id = row["market_id"]
        if row["outcome_index"] == 0:
            yield each._replace(key=market_id)
        elif len(outcomes[market_id]) == 2:
            yield each._replace(key=market_id, price=1 - each.price, value=each.shares - each.value)


@dataclass(frozen=True)
class Buckets:
    """The buckets that the gap-filled candles of one token have, in order.

    Attributes:
        without_gaps: those from the first candle to the end of what is filled.
        alone: real candles after that, with nothing between them.
    """

    without_gaps: range
    alone: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.without_gaps) + len(self.alone)

    def __iter__(self) -> Iterator[int]:
        yield from self.without_gaps
        yield from self.alone


def filled_buckets(
    of_token: Sequence[dict], seconds: int, newest_at: int, closings: Mapping[str, int | None]
) -> Buckets:
    """The buckets that the gap-filled candles of one token have; `of_token` are its real ones.

    Filled is from its first to that of the newest trade of all tokens (`newest_at`), but not after
    that of the close of its market. `closings` holds the tokens of closed markets, with None where
    Gamma does not say when; these are filled up to their last real candle. A trade may be mined
    after the close: its candle is there too.
    """
    token_id, first, last = of_token[0]["token_id"], of_token[0]["bucket_at"], newest_at
    if token_id in closings:
        closed_at = closings[token_id]
        last = of_token[-1]["bucket_at"] if closed_at is None else min(newest_at, closed_at)
    without_gaps = range(first, last - last % seconds + 1, seconds)
    later = (row["bucket_at"] for row in of_token if row["bucket_at"] not in without_gaps)
    return Buckets(without_gaps, tuple(later))


def filled(of_token: Sequence[dict], buckets: Iterable[int]) -> Iterator[dict]:
    """One candle per bucket; where nothing traded all prices are the close before, vwap is None."""
    real = {candle["bucket_at"]: candle for candle in of_token}
    close = of_token[0]["open"]
    for bucket_at in buckets:
        if bucket_at in real:
            close = real[bucket_at]["close"]
            yield real[bucket_at] | {"is_filled": False}
            continue
        yield {
            "token_id": of_token[0]["token_id"],
            "bucket_at": bucket_at,
            "open": close,
            "high": close,
            "low": close,
            "close": close,
            "vwap": None,
            "volume_usd": 0,
            "volume_shares": 0,
            "trades": 0,
            "is_filled": True,
        }
