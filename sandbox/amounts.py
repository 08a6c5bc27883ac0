"""Prices and fees as the truth computes them: from integers in 1e-6 units, exact or cut, never
rounded and never floats.
"""

from __future__ import annotations

from decimal import Decimal

from sandbox.contracts import BUY, V1


def exact_price(usd: int, shares: int) -> Decimal:
    """`usd` per share, cut to 18 digits; 0 without shares."""
    return Decimal(f"{usd * 10**18 // shares}e-18") if shares else Decimal(0)


def is_dust(usd: int, shares: int) -> bool:
    """Whether a trade has no usable price: zero shares, or a price above one."""
    return shares == 0 or usd > shares


def fee_asset_of(version: str, side: str) -> str:
    """What a fee is paid in: V1 takes it from the asset received, V2 from collateral."""
    return "shares" if version == V1 and side == BUY else "usd"


def fee_in_usd(fee: int, fee_asset: str, usd: int, shares: int) -> int:
    """A fee in 1e-6 dollars; one in shares at the price of its own fill, 0 without shares."""
    if fee_asset == "usd":
        return fee
    return fee * usd // shares if shares else 0
