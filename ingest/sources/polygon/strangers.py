"""Looks for fills of contracts that are not known: a new exchange is noticed, and nothing of it is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from ingest.contracts import EXCHANGES
from ingest.errors import UpstreamError
from ingest.page import Page
from ingest.sources.polygon.chain import SOURCE, Block, any_emitter_of
from ingest.sources.polygon.landing import fills_page
from ingest.sources.polygon.log_times import give_times
from ingest.sources.polygon.logs import decode_logs
from ingest.sources.polygon.range_reader import RangeReader

logger = logging.getLogger(__name__)

UNKNOWN_EVERY_S = 3600
UNKNOWN_BLOCKS = 30
UNKNOWN_LETTERS = 100  # a stranger's contract may be busy


def look_for_strangers(reader: RangeReader, state: dict[str, Any], head: Block) -> Iterator[Page]:
    """Once an hour: find logs with the topic of a fill from contracts that are not known; keep them as dead letters."""
    last = state["next_block"] - 1
    seen_at = state.get("strangers_at", 0)
    if seen_at <= head.timestamp < seen_at + UNKNOWN_EVERY_S:
        return
    endpoint = reader.endpoints.preferred
    first = max(last - min(UNKNOWN_BLOCKS, endpoint.sizes.value) + 1, 0)
    wanted = any_emitter_of(reader.versions)
    try:
        found = endpoint.logs(first, last, wanted)
        strangers = [
            log
            for log in found.logs
            if wanted.matches(log) and log["address"].lower() not in EXCHANGES
        ]
        kept = strangers[:UNKNOWN_LETTERS]
        # A letter is read again once its contract is known, and then has to say its time.
        give_times(endpoint, kept, found, None)
    except UpstreamError as error:
        # Nothing is lost by it; some nodes refuse queries without an address.
        logger.info("%s: logs of unknown contracts were not looked for: %s", SOURCE, error)
        return
    state["strangers_at"] = head.timestamp
    if strangers:
        addresses = sorted({log["address"].lower() for log in strangers})
        logger.warning(
            "%s: %d OrderFilled logs of unknown contracts in blocks %d to %d: %s; they are dead letters"
            " (unknown_contract)",
            SOURCE, len(strangers), first, last, ", ".join(addresses),
        )  # fmt: skip
        dead = decode_logs(kept, source=SOURCE)[1]
        yield fills_page([], dead)
