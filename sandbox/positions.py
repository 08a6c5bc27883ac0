"""Position ids of the PositionManager, which ExchangeV3 trades instead of hashes of the CTF.

From the top of 256 bits: module 8, hash 128, arity 16, reserved 64, resolution chain 16, condition 16,
outcome 8. Source: Polymarket/polymarket-v2-external, README and docs/position-ids.md. Written from that
layout alone, so that the pipeline's SQL can be compared with it.
"""

from __future__ import annotations

from sandbox.contracts import CHAIN_ID, V3

BINARY, NEG_RISK, COMBO = "binary", "neg_risk", "combo"
MODULES = {1: BINARY, 2: NEG_RISK, 3: COMBO}


def position_id(
    module: int,
    base_hash: int,
    *,
    arity: int = 2,
    reserved: int = 0,
    chain: int = CHAIN_ID,
    condition_index: int = 0,
    outcome_index: int = 0,
) -> str:
    """A position id, decimal."""
    fields = (
        (module, 8),
        (base_hash, 128),
        (arity, 16),
        (reserved, 64),
        (chain, 16),
        (condition_index, 16),
        (outcome_index, 8),
    )
    value = 0
    for field, bits in fields:
        if not 0 <= field < 1 << bits:
            raise ValueError(f"{field} does not fit {bits} bits")
        value = value << bits | field
    return str(value)


def condition_of(token_id: str) -> str:
    """Condition id of a position: all but its last byte."""
    return "0x" + int(token_id).to_bytes(32, "big")[:31].hex()


def describe(version: str, token_id: str) -> dict:
    """What the token of a fill says itself: `module`, `condition_id` and `outcome_index`; nothing unless it is of V3."""
    if version != V3:
        return {"module": "", "condition_id": "", "outcome_index": None}
    data = int(token_id).to_bytes(32, "big")
    return {
        "module": MODULES.get(data[0], "unknown"),
        "condition_id": condition_of(token_id),
        "outcome_index": data[31],
    }


def position_row(token_id: str) -> dict:
    """The columns of `position_ids` that follow from the id."""
    data = int(token_id).to_bytes(32, "big")
    return (
        {"token_id": token_id}
        | describe(V3, token_id)
        | {
            "event_id": "0x" + data[:29].hex(),
            "condition_index": int.from_bytes(data[29:31], "big"),
            "outcome": {0: "YES", 1: "NO"}.get(data[31], ""),
        }
    )
