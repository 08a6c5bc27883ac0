"""Settings of the archive of V1 fills."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.setting_types import HttpUrl, Schedule, UtcTime

GOLDSKY_PUBLIC_URL = (
    "https://api.goldsky.com/api/public/project_cl6mb8i9h0003e201j6li0diw"
    "/subgraphs/orderbook-subgraph/0.0.1/gn"
)
# Newest fill of the archive, which is frozen since (docs/sources.md).
ARCHIVE_END = datetime(2026, 4, 28, 11, 0, 40, tzinfo=UTC)


class GoldskySettings(BaseSettings):
    """The archive of V1 fills. Durations are seconds unless the name says otherwise."""

    goldsky_url: HttpUrl = Field(GOLDSKY_PUBLIC_URL, description="V1 fills, the frozen archive")
    goldsky_start: UtcTime | None = Field(
        None,
        description="Where cycles start in the archive (ISO, UTC); empty: cycles leave the archive alone",
    )
    goldsky_horizon: UtcTime = Field(ARCHIVE_END, description="Last second of the archive")
    goldsky_page_size: int = Field(1000, ge=1, le=1000, description="Fills per GraphQL page")
    goldsky_max_lag_s: float = Field(
        3600,
        gt=0,
        description="Age of the last good reading of an archive that is not complete yet that makes it stale",
    )
    goldsky_schedule: Schedule = Field(
        "",
        description="Cron expression (UTC, seconds as a sixth field) at which `loop` reads the archive;"
        " empty: every POLL_INTERVAL_S",
    )
