"""Where the simulated trading happens: the markets that are open, the popular ones more often."""

from __future__ import annotations

from random import Random

from sandbox.catalog import Market


class TradingFloor:
    """The markets that can trade, picked at random with a heavy tail."""

    def __init__(self) -> None:
        self._markets: list[Market] = []

    def add(self, market: Market) -> None:
        self._markets.append(market)

    def pick(self, rng: Random, now: int) -> Market:
        """The most popular of three that are open at `now`; drops those that have closed.

        Markets that Gamma took off its lists trade no more: nobody would see in Gamma what changes there.
        """
        best = None
        draws = 0
        while draws < 3 or best is None:
            draws += 1
            index = int(rng.random() * len(self._markets))
            market = self._markets[index]
            is_closed = market.closes_at is not None and market.closes_at <= now
            if is_closed or not market.listed:
                self._markets[index] = self._markets[-1]
                self._markets.pop()
            elif market.created_at <= now and (best is None or market.popularity > best.popularity):
                best = market
        return best
