"""Differences: each way in which two sentences part, from all the rules of evidence."""

from collections.abc import Iterator, Sequence

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.measures import numbers, released, schedules
from hivemind_pipelines.core.opposition import WEAK_AXES, opposed
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.places import agents, alternatives, causes, placed, replaced
from hivemind_pipelines.core.sides import Side
from hivemind_pipelines.core.statements import Text
from hivemind_pipelines.core.wording import Span

#: Beyond so many sentences in all, a word in one place says nothing of the whole.
LONG_MIN = 5


def differences(
    a: Claim, b: Claim, shared: Shared, opposite: Sequence[tuple[Side, Side]], left: Text, right: Text
) -> Iterator[Evidence]:
    """Each way in which two sentences part, in no order; recipes claim nothing and part in nothing."""
    if a.is_recipe or b.is_recipe:
        return
    yield from _assigned(a, b)
    turned = _turned(a, b, shared)
    if turned is not None and turned[2]:
        yield Evidence("order", 0.9, (turned[0],), (turned[1],))
        return
    if any(x.is_condition and y.is_condition and x.word_sign != y.word_sign for x, y in opposite):
        return
    if not (a.is_task and b.is_task):
        # "Up above 80 %, down below 30 %": opposites that cancel each other out make two rules of the values too.
        told = () if _cancel(opposite) else (*numbers(a, b, shared, left, right), *schedules(a, b))
        yield from told
        yield from released(a, b, shared)
        if told:
            return
        if len(left.claims) + len(right.claims) < LONG_MIN:
            yield from replaced(a, b, shared)
        yield from alternatives(a, b, shared, left, right)
        yield from placed(a, b, shared, left, right)
        yield from causes(a, b, shared)
        yield from agents(a, b, shared)
    yield from opposed(a, b, opposite, shared)


def _cancel(opposite: Sequence[tuple[Side, Side]]) -> bool:
    """Whether two texts part twice: in a condition and in what follows from it."""
    places = {(x.term.place, y.term.place) for x, y in opposite if x.axis not in WEAK_AXES}
    return len({x for x, _ in places}) >= 2 and len({y for _, y in places}) >= 2


def _assigned(a: Claim, b: Claim) -> Iterator[Evidence]:
    for key, (value, span) in a.settings.items():
        other = b.settings.get(key)
        if other is not None and other[0] != value:
            yield Evidence("assignment", 1.0, (span,), (other[1],))


def _turned(a: Claim, b: Claim, shared: Shared) -> tuple[Span, Span, bool] | None:
    """Where two claims relate the same things, and whether the other way round; None where they do not."""
    for one in a.relations:
        first, second = ({shared.match.get(key, key) for key in side} for side in (one.first, one.second))
        for other in b.relations:
            if one.kind != other.kind:
                continue
            if one.kind != "rank" and not all((first, second, other.first, other.second)):
                continue
            are_both = (first & other.first and second & other.second) or (
                first & other.second and second & other.first
            )
            if one.kind == "order" and not are_both:
                # Before one thing and after another are two statements.
                continue
            straight = len(first & other.first) + len(second & other.second)
            crossed = len(first & other.second) + len(second & other.first)
            if straight != crossed:
                return one.span, other.span, crossed > straight
    return None
