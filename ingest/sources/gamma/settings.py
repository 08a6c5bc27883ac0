"""Settings of the source of markets and events."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.setting_types import HttpUrl, Schedule


class GammaSettings(BaseSettings):
    """Markets and events. Durations are seconds unless the name says otherwise."""

    polymarket_gamma_url: HttpUrl = Field(
        "https://gamma-api.polymarket.com", description="Markets and events"
    )
    gamma_open_every_s: float = Field(
        1800, gt=0, description="Pause between full passes over open markets and events"
    )
    gamma_closed_every_s: float = Field(7 * 86400, gt=0, description="The same for closed ones")
    gamma_max_lag_s: float = Field(
        900,
        gt=0,
        description="Age of the last good reading of Gamma that makes it stale in `status`",
    )
    gamma_schedule: Schedule = Field(
        "",
        description="Cron expression (UTC, seconds as a sixth field) at which `loop` reads Gamma;"
        " empty: every POLL_INTERVAL_S",
    )
