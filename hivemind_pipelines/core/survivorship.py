"""Survivorship: which of several equal items stays, by one documented total order."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from hivemind_pipelines.core.model import ItemId, PoolItem

OrderKey = tuple[bool, bool, float, bool, float, bool, datetime, str]

_NEVER = datetime.max.replace(tzinfo=UTC)


def order_key(item: PoolItem) -> OrderKey:
    """The sort key whose smallest item survives.

    Public before private, then the higher quality score, the higher confidence, the older
    contribution, the smaller id. A NaN score sorts after every number, an unknown date last; a naive
    date is read as UTC.
    """
    contributed_at = _aware(item.contributed_at)
    return (
        not item.is_public,
        *_descending(item.quality_score),
        *_descending(item.confidence),
        contributed_at is None,
        contributed_at or _NEVER,
        item.id.hex,
    )


def choose_canonical(items: Iterable[PoolItem]) -> ItemId:
    """The id of the item that survives; ValueError when there is none."""
    return min(items, key=order_key).id


def _descending(score: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(score) else (False, -score)


def _aware(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
