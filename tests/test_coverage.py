"""Which time counts as loaded: spans of seconds, and the generations that must have them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.contracts import GENESIS, V1, V2, V3
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.jobs.coverage import Span, merge, not_loaded, subtract
from pipeline.settings import Settings

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
WHOLE = (GENESIS[V1], int(ARCHIVE_END.timestamp()) + 1000)
CUTOVER = int(ARCHIVE_END.timestamp()) + 1


def seconds(spans: Iterable[Span]) -> set[int]:
    return {second for span in spans for second in range(*span)}


@given(SPANS)
def test_merging_keeps_every_second_and_leaves_no_two_spans_that_touch(spans: list[Span]) -> None:
    merged = merge(spans)
    assert seconds(merged) == seconds(spans)
    assert all(end < start for (_, end), (start, _) in pairwise(merged))


@given(st.tuples(st.integers(0, 40), st.integers(0, 40)), SPANS)
def test_what_is_subtracted_is_gone_and_nothing_else(whole: Span, spans: list[Span]) -> None:
    assert seconds(subtract(whole, spans)) == seconds([whole]) - seconds(spans)


@pytest.mark.parametrize(
    ("loaded", "gaps"),
    [
        ({}, [WHOLE]),
        ({V1: [WHOLE], V2: [WHOLE], V3: [WHOLE]}, []),
        ({V2: [WHOLE], V3: [WHOLE]}, [(WHOLE[0], CUTOVER)]),  # the archive is missing
        ({V1: [WHOLE]}, [(GENESIS[V2], WHOLE[1])]),  # the chain is
        ({V1: [WHOLE], V2: [WHOLE]}, [(GENESIS[V3], WHOLE[1])]),  # one of its generations is
    ],
)
def test_every_generation_of_a_second_must_be_loaded(
    loaded: dict[str, list[Span]], gaps: list[Span]
) -> None:
    assert not_loaded(WHOLE, loaded, Settings(_env_file=None, polygon_versions="v2,v3")) == gaps
