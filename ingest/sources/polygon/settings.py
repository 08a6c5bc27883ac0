"""Settings of the source of fills from the chain."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.setting_types import HttpUrls, OptionalHttpUrl, Schedule

SQD_PUBLIC_URL = "https://portal.sqd.dev"


class PolygonSettings(BaseSettings):
    """Fills from the chain. Durations are seconds unless the name says otherwise."""

    sqd_portal_url: OptionalHttpUrl = Field(
        SQD_PUBLIC_URL,
        description="SQD Portal: fills from the chain without a key, where POLYGON_RPC_URL is empty; empty: not used",
    )
    polygon_rpc_url: HttpUrls = Field(
        "",
        description="JSON-RPC nodes for fills from the chain, by comma: the next answers when one fails; empty: the Portal",
    )
    fills_lookback_s: int = Field(
        3600, gt=0, description="How far back the first cycle reads the chain"
    )
    polygon_confirmations: int = Field(
        5, ge=0, description="Blocks behind the head that are left for later"
    )
    polygon_versions: str = Field(
        "v2,v3",
        pattern=r"^(v1,)?v2(,v3)?$",
        description="Exchange generations read from the chain: `v2,v3` or `v2`; `v1,` in front adds V1",
    )
    polygon_second_reading_s: float = Field(
        300,
        ge=0,
        description="Age at which blocks are read a second time, to find what the first reading missed; 0: never",
    )
    polygon_stale_after_s: float = Field(
        300, gt=0, description="Age of the chain's head that counts as an outage"
    )
    polygon_max_lag_s: float = Field(
        900,
        gt=0,
        description="Age of the newest block read, or of an unsettled load, that makes it stale in `status`",
    )
    polygon_schedule: Schedule = Field(
        "",
        description="Cron expression (UTC, seconds as a sixth field) at which `loop` reads the chain;"
        " empty: every POLL_INTERVAL_S",
    )
