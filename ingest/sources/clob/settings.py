"""Settings of the source of prices."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.setting_types import HttpUrl, Schedule
from ingest.sources.clob import PUBLIC_URL


class PricesSettings(BaseSettings):
    """Prices of the busiest open markets. Durations are seconds unless the name says otherwise."""

    polymarket_clob_url: HttpUrl = Field(PUBLIC_URL, description="Prices of open markets")
    tracked_markets: int = Field(
        250, ge=1, description="Open markets whose prices are read, those most traded in 24 hours"
    )
    tracked_every_s: float = Field(
        300, gt=0, description="Age at which the list of these markets is made anew"
    )
    prices_max_lag_s: float = Field(
        300,
        gt=0,
        description="Age of the last good reading of prices that makes them stale in `status`",
    )
    prices_schedule: Schedule = Field(
        "* * * * * */30",
        description="Cron expression (UTC, seconds as a sixth field) at which `loop` reads prices",
    )
