"""Survivorship: a total order that ties end in the id."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.model import ItemId, PoolItem
from hivemind_pipelines.core.survivorship import choose_canonical, order_key

DAY = datetime(2024, 5, 1, tzinfo=UTC)
BASE = PoolItem(ItemId(UUID(int=5)), b"k" * 32, "hash", False, 0.5, 0.8, DAY)
WORSE_ID = replace(BASE, id=ItemId(UUID(int=6)))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (replace(BASE, is_public=True, quality_score=0.0), replace(WORSE_ID, quality_score=1.0)),
        (
            replace(BASE, quality_score=0.6, confidence=0.0),
            replace(WORSE_ID, quality_score=0.5, confidence=1.0),
        ),
        (replace(BASE, quality_score=0.0), replace(WORSE_ID, quality_score=math.nan)),
        (replace(BASE, confidence=0.9), WORSE_ID),
        (replace(BASE, confidence=0.0), replace(WORSE_ID, confidence=math.nan)),
        (replace(BASE, contributed_at=datetime(2023, 1, 1, tzinfo=UTC)), WORSE_ID),
        (BASE, replace(WORSE_ID, contributed_at=None)),
        (
            replace(BASE, contributed_at=datetime.max.replace(tzinfo=UTC)),
            replace(WORSE_ID, contributed_at=None),
        ),
        (BASE, WORSE_ID),
    ],
)
def test_the_better_item_survives_in_either_order(better: PoolItem, worse: PoolItem) -> None:
    assert choose_canonical([better, worse]) == choose_canonical([worse, better]) == better.id


def test_a_naive_date_is_compared_as_utc() -> None:
    naive = replace(WORSE_ID, contributed_at=datetime(2024, 4, 30, tzinfo=UTC).replace(tzinfo=None))

    assert choose_canonical([BASE, naive]) == naive.id


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose_canonical([])


items = st.builds(
    PoolItem,
    id=st.integers(0, 2**128 - 1).map(lambda number: ItemId(UUID(int=number))),
    class_key=st.just(b"k" * 32),
    content_hash=st.just("hash"),
    is_public=st.booleans(),
    quality_score=st.floats() | st.just(0.5),
    confidence=st.floats() | st.just(0.8),
    contributed_at=st.none() | st.datetimes() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(items, min_size=1, max_size=6, unique_by=lambda one: one.id), st.randoms())
def test_the_order_is_total(pool: list[PoolItem], chance: object) -> None:
    keys = [order_key(one) for one in pool]

    assert len(set(keys)) == len(pool)
    assert choose_canonical(pool) == choose_canonical(list(reversed(pool)))
