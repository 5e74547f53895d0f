"""Measures: evidence from values of one dimension, schedules and versions that two claims give one thing."""

from collections.abc import Iterator

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.quantities import Quantity
from hivemind_pipelines.core.statements import Text

#: Two claims ask for versions of one thing where they share so much of their words.
RELEASED_MIN = 0.5


def numbers(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
    """Values of one dimension that belong to the same words and are not equal."""
    for one in a.quantities:
        for other in b.quantities:
            if one.dimension != other.dimension:
                continue
            if is_equal(one.value, other.value, one.dimension):
                if {one.bound, other.bound} == {"most", "least"} and shared.dice >= 0.6:
                    yield Evidence("bound", 0.8, (one.span,), (other.span,))
                continue
            if _is_known(one, right) or _is_known(other, left):
                continue
            if _are_compatible(one, other) or _count_apart(one, other, a, b, shared):
                continue
            yield Evidence(
                f"number:{one.dimension}", _slot(a, b, one, other, shared), (one.span,), (other.span,)
            )


def schedules(a: Claim, b: Claim) -> Iterator[Evidence]:
    """Certain days of the week against every day."""
    for one, other, is_turned in ((a, b, False), (b, a, True)):
        days = [q for q in one.quantities if q.dimension == "weekday"]
        daily = [q for q in other.quantities if q.dimension == "period" and q.value <= _DAY]
        has_period = any(q.dimension == "period" and q.value <= _DAY for q in one.quantities)
        if days and daily and not has_period and not any(q.dimension == "weekday" for q in other.quantities):
            spans = (days[0].span,), (daily[0].span,)
            yield Evidence("number:schedule", 0.7, *(reversed(spans) if is_turned else spans))


_DAY = 86_400.0


def is_equal(a: float, b: float, dimension: str) -> bool:
    """Whether two values are one; months and kilobytes are of no exact size, a year holds its months."""
    if dimension == "date" and 0.0 in (a % 100, b % 100):
        return a // 100 == b // 100
    margin = 0.03 if dimension in ("bytes", "time", "period") else 1e-9
    return abs(a - b) <= margin * max(abs(a), abs(b))


def _is_known(one: Quantity, text: Text) -> bool:
    """Whether the other text has the very value too."""
    return any(
        dimension == one.dimension and is_equal(value, one.value, dimension)
        for dimension, value in text.values
    )


def _count_apart(one: Quantity, other: Quantity, a: Claim, b: Claim, shared: Shared) -> bool:
    """Whether two numbers count two things: 8 threads and 500 jobs."""
    if not one.counted or not other.counted or shared.match.get(one.counted, one.counted) == other.counted:
        return False
    return one.counted in a.keys and other.counted in b.keys


_FROM_ABOVE, _FROM_BELOW = ("most", "under"), ("least", "over")


def _are_compatible(one: Quantity, other: Quantity) -> bool:
    """Whether one limits from above, the other from below, and something lies between."""
    if one.bound in _FROM_BELOW:
        one, other = other, one
    return one.bound in _FROM_ABOVE and other.bound in _FROM_BELOW and other.value <= one.value


def _slot(a: Claim, b: Claim, one: Quantity, other: Quantity, shared: Shared) -> float:
    """How surely two values answer the same question."""
    near_b = {shared.match.get(key, key) for key in one.near}
    if one.near and other.near and near_b & other.near:
        return 1.0
    is_only = (
        sum(q.dimension == one.dimension for q in a.quantities)
        == 1
        == sum(q.dimension == other.dimension for q in b.quantities)
    )
    if one.dimension == "count":
        return 0.6 if is_only else 0.3
    return 0.9 if is_only else 0.5


def released(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Versions of one product that two claims otherwise alike ask for."""
    if shared.dice < RELEASED_MIN:
        return
    for one in a.releases:
        for other in b.releases:
            is_value = one.role == other.role == "value"
            if is_value and one.product == other.product != "" and one.version != other.version:
                yield Evidence("version", 0.8, (one.span,), (other.span,))
