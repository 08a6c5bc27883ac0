"""Which tokens the source of prices asks about: those of the busiest open markets, as far as they have landed."""

from __future__ import annotations

import time
from collections.abc import Callable

from ingest.sources.desk import Landed

# By Gamma's own figures, which are at most GAMMA_OPEN_EVERY_S old; those of a market without any count as 0.
_BUSIEST = """
    with busiest as (
        select market_id, volume_usd_24h, volume_usd
        from {models}.markets
        where not closed and notEmpty(token_ids)
        order by ifNull(volume_usd_24h, 0) desc, ifNull(volume_usd, 0) desc, market_id
        limit {most:UInt32}
    )
    select arrayMap(pair -> pair.2, arraySort(groupArray((tokens.outcome_index, tokens.token_id))))
    from {models}.outcome_tokens as tokens
    inner all join busiest on tokens.market_id = busiest.market_id
    group by tokens.market_id
    order by ifNull(any(busiest.volume_usd_24h), 0) desc, ifNull(any(busiest.volume_usd), 0) desc, tokens.market_id
"""


def busiest_tokens(landed: Landed, most: int) -> list[str]:
    """Outcome tokens (decimal) of the `most` open markets that were traded most, market by market."""
    rows = landed.rows(_BUSIEST, {"most": most})
    return list(dict.fromkeys(token for (tokens,) in rows for token in tokens))


class Tracked:
    """The tokens that are asked about, made anew now and then: prices are read far more often than markets change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: list[str] = []
        self._made_at = 0.0

    def tokens(self, landed: Landed, most: int, every_s: float) -> list[str]:
        """The tokens; the list is at most `every_s` seconds old, and never kept while it is empty."""
        if not self._tokens or self._clock() - self._made_at >= every_s:
            self._tokens = busiest_tokens(landed, most)
            self._made_at = self._clock()
        return self._tokens
