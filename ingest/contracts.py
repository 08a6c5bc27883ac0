"""The exchange contracts on Polygon whose `OrderFilled` events are fills: addresses and topics.

Promises lower-case addresses, as landing rows carry them. The SQL that reads those rows keeps its
own list; a test holds the two together. Source: the contracts' verified code and Polymarket's
published deployment lists (ExchangeV3: Polymarket/polymarket-v2-external, README and Exchange.sol).
"""

from __future__ import annotations

from collections.abc import Iterable

V1, V2, V3 = "v1", "v2", "v3"
VERSIONS = (V1, V2, V3)

# Exchange contract -> generation. A taker leg has one of them as its taker.
EXCHANGES = {
    "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e": V1,  # CTF Exchange
    "0xc5d563a36ae78145c45a50134d48a1215220f80a": V1,  # NegRisk CTF Exchange
    "0xe111180000d2663c0091e4f400237545b87b996b": V2,  # CTF Exchange V2
    "0xe2222d279d744050d28e00520010520000310f59": V2,  # NegRisk CTF Exchange V2
    # "NegRisk B": indexers list it, Polymarket's own list does not. Reading it costs nothing.
    "0xe2222d002000ba0053cef3375333610f64600036": V2,
    "0xe3333700ca9d93003f00f0f71f8515005f6c00aa": V3,  # ExchangeV3, proxy
}

# ExchangeV3 kept the event of V2, so only the address tells the two apart.
ORDER_FILLED_TOPICS = {
    V1: "0xd0a08e8c493f9c94f29311604c9de1b4e8c8d4c06bd0c789af57f2d65bfec0f6",
    V2: "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee",
    V3: "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee",
}

# 2026-04-28T11:00:40Z: the newest fill of the V1 archive; V2 went live at that hour.
V1_HORIZON = 1_777_374_040
# 2022-11-21T19:50:09Z: the oldest fill of the V1 archive, which indexes both exchanges from their
# deployment on (blocks 33,605,403 and 50,505,492).
V1_GENESIS = 1_669_060_209
# 2026-03-30T00:00:00Z, before the deployment of the V2 exchanges (blocks 84,902,320 and 84,902,353):
# block 85,050,371 is of 2026-04-03, and Polygon would have needed 2.3 s a block instead of 2. V2
# filled orders before the cutover, too (recorded: blocks 85,050,371, 85,050,645 and 85,671,485).
V2_GENESIS = 1_774_828_800
# When ExchangeV3 was deployed is not known: its first client is of 2026-06-05 (Polymarket's
# clob-client-v2, d28dacd). It took its event over from V2, so it is no older than that.
V3_GENESIS = V2_GENESIS
# First second in which a generation may have a fill, unix.
GENESIS = {V1: V1_GENESIS, V2: V2_GENESIS, V3: V3_GENESIS}


def exchanges_of(versions: Iterable[str]) -> list[str]:
    """Addresses of all exchanges of these generations."""
    wanted = set(versions)
    return [address for address, version in EXCHANGES.items() if version in wanted]


def topics_of(versions: Iterable[str]) -> list[str]:
    """Topics of these generations' `OrderFilled`, each once."""
    return list(dict.fromkeys(ORDER_FILLED_TOPICS[version] for version in versions))
