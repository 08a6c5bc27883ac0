"""THE list of sources, in the order of a cycle: fills first, so that Gamma is asked about their tokens right after."""

from __future__ import annotations

from ingest.sources.base import Source
from ingest.sources.clob.source import PRICES
from ingest.sources.gamma.source import GAMMA
from ingest.sources.goldsky.source import GOLDSKY
from ingest.sources.polygon.source import POLYGON

SOURCES: tuple[Source, ...] = (POLYGON, GOLDSKY, GAMMA, PRICES)
