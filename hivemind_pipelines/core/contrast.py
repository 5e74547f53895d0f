"""Contrast: what two texts share and where they part, as the numbers that the conflict model weighs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Final

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.differences import differences
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.lexicon import ANTONYMS, SIBLINGS
from hivemind_pipelines.core.measures import is_equal
from hivemind_pipelines.core.opposition import WEAK_AXES, opposite_sides
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.scoping import fork, is_contrasted, name_scopes
from hivemind_pipelines.core.statements import Text, counterparts

#: Terms that may only speak for a conflict.
FOR: Final = frozenset(
    {
        "number", "count", "opposite", "weak_opposite", "negation", "value", "default", "order",
        "assignment", "bound", "version", "alternative", "place", "cause", "clash_near", "clash_alike", "antonyms",
        "sides", "cosine", "alike", "containment", "same_opening", "lone_fewer", "lone_more", "same_name",
        "same_code",
    }
)  # fmt: skip
#: Terms that may only speak against one.
AGAINST: Final = frozenset(
    {
        "fork", "releases_differ", "release_open", "flag_open", "narrowed", "scopes_differ", "subjects_differ",
        "subject_opposite",
        "clash_of_subjects", "scoped_subject", "numbers_agree", "numbers_unlike", "both_deny", "code_differs",
        "sentences", "same_sides", "names_differ", "far", "same_release",
    }
)  # fmt: skip

#: Terms that may speak either way.
EITHER: Final = frozenset({"near", "number_open", "one_denies"})

#: The kinds of evidence that have a term of their own.
_KINDS: Final = (
    "number", "count", "opposite", "weak_opposite", "negation", "value", "default", "order",
    "assignment", "bound", "version", "alternative", "place", "cause",
)  # fmt: skip

#: Cosines above the first are near by themselves, below the second far.
NEAR, FAR = 0.75, 0.6

#: So many words open a sentence.
OPENING = 3


@dataclass(frozen=True, slots=True)
class Contrast:
    """The terms of the model by name, and the strongest evidence, None where there is none.

    `weight` is that of the evidence times how alike the claims are, in [0, 1]; `is_scoped` where they speak of
    two things, and both may be true.
    """

    terms: Mapping[str, float]
    evidence: Evidence | None
    weight: float
    is_scoped: bool


NOTHING = Contrast({}, None, 0.0, is_scoped=False)


def contrast(left: Text, right: Text, cosine: float | None) -> Contrast:
    """What the model weighs of two texts that make a claim each; symmetric but for the spans."""
    near = nearness(left, right, cosine)
    pairs = _pairs(left, right)
    found = () if are_entries(left, right) else tuple(_found(pairs, left, right, near))
    if not found:
        # Most near pairs part in nothing: nobody weighs them.
        return NOTHING
    shared = Shared(left.whole, right.whole, ())
    terms = {
        **_weights(found),
        **_likeness(pairs, shared, near),
        **_numbers(left, right),
        **_releases(left, right),
        **_words(left, right, shared, pairs),
    }
    best = max(found, key=lambda one: (not one.is_scoped, one.weight))
    return Contrast(terms | _together(terms, best.weight, near), best.evidence, best.weight, best.is_scoped)


def nearness(left: Text, right: Text, cosine: float | None) -> float:
    """The cosine, or what it passes for without an embedding."""
    return Shared(left.whole, right.whole, ()).nearness(None) if cosine is None else cosine


def are_entries(left: Text, right: Text) -> bool:
    """Whether both are entries of a log or a list of changes, which claim nothing of today."""
    return left.claims[0].is_entry and right.claims[0].is_entry


def _pairs(left: Text, right: Text) -> list[tuple[Claim, Claim]]:
    """The sentences to hold against each other; those of two lone sentences however little they share."""
    if len(left.claims) == 1 == len(right.claims):
        return [(left.claims[0], right.claims[0])]
    return list(counterparts(left, right)) or [(left.whole, right.whole)]


@dataclass(frozen=True, slots=True)
class _Found:
    """Evidence with its weight times how alike the two claims are, and whether they speak of two things."""

    evidence: Evidence
    weight: float
    is_scoped: bool


def _found(pairs: Iterable[tuple[Claim, Claim]], left: Text, right: Text, near: float) -> Iterator[_Found]:
    for a, b in pairs:
        opposite = tuple(opposite_sides(a, b, left, right))
        shared = Shared(a, b, opposite)
        if shared.count < 1:
            continue
        topical = shared.topical(near)
        for one in differences(a, b, shared, opposite, left, right):
            yield _Found(one, one.weight * topical, is_contrasted(a, b, shared, one))


def _weights(found: Sequence[_Found]) -> dict[str, float]:
    """The weightiest evidence of each kind; of two things it counts for nothing."""
    weights = dict.fromkeys(_KINDS, 0.0)
    for one in found:
        if not one.is_scoped:
            kind = _kind(one.evidence.reason)
            weights[kind] = max(weights[kind], one.weight)
    return weights


def _kind(reason: str) -> str:
    kind, _, detail = reason.partition(":")
    if kind == "opposite" and detail in WEAK_AXES:
        return "weak_opposite"
    return "count" if reason == "number:count" else kind


def _likeness(pairs: Sequence[tuple[Claim, Claim]], shared: Shared, near: float) -> dict[str, float]:
    lone = sorted((len(shared.lone_a), len(shared.lone_b)))
    return {
        "cosine": near,
        "near": max(0.0, near - NEAR),
        "far": max(0.0, FAR - near),
        "containment": shared.containment,
        "alike": max(Shared(a, b, ()).dice for a, b in pairs),
        "lone_fewer": log1p(lone[0]),
        "lone_more": log1p(lone[1]),
    }


def _numbers(left: Text, right: Text) -> dict[str, float]:
    """Whether values agree, clash within a dimension, or stand on one side only."""
    known_a, known_b = (
        [(one.dimension, one.value) for claim in text.claims for one in claim.quantities]
        for text in (left, right)
    )
    lone_a, lone_b = ([one for one in own if not _is_among(one, other)] for own, other in (
        (known_a, known_b), (known_b, known_a),
    ))  # fmt: skip
    dimensions = {dimension for dimension, _ in lone_a}, {dimension for dimension, _ in lone_b}
    clash = bool(dimensions[0] & dimensions[1])
    return {
        "numbers_agree": log1p(len(known_a) - len(lone_a)),
        "clash": float(clash),
        "number_open": float(bool(lone_a) != bool(lone_b)),
        "numbers_unlike": float(bool(lone_a) and bool(lone_b) and not clash),
    }


def _is_among(one: tuple[str, float], others: Iterable[tuple[str, float]]) -> bool:
    return any(one[0] == kind and is_equal(one[1], value, kind) for kind, value in others)


def _releases(left: Text, right: Text) -> dict[str, float]:
    versions_a, versions_b = (
        {one.version for claim in text.claims for one in claim.releases} for text in (left, right)
    )
    return {
        "fork": float(fork(left.whole, right.whole) is not None),
        "releases_differ": float(bool(versions_a - versions_b) and bool(versions_b - versions_a)),
        "release_open": float(versions_a != versions_b),
        "same_release": float(bool(versions_a & versions_b)),
    }


def _words(left: Text, right: Text, shared: Shared, pairs: Sequence[tuple[Claim, Claim]]) -> dict[str, float]:
    """What the words say that stand on one side only, and on both."""
    a, b = ([term for claim in text.claims for term in claim.terms] for text in (left, right))
    lone_a, lone_b = ([term for term in own if term.key in lone] for own, lone in (
        (a, shared.lone_a), (b, shared.lone_b),
    ))  # fmt: skip
    sides_a, sides_b = (_sides(text.claims) for text in (left, right))
    both = sides_a.keys() & sides_b.keys()
    names_a, names_b = ({term.key for term in own if term.is_name} for own in (a, b))
    code_a, code_b = ({term.key for term in own if term.is_code} for own in (a, b))
    return {
        "antonyms": float(any(frozenset((x.form, y.form)) in ANTONYMS for x in lone_a for y in lone_b)),
        "sides": log1p(
            sum(sides_a[axis] != sides_b[axis] for axis in both if _is_one(axis, sides_a, sides_b))
        ),
        "same_sides": log1p(sum(bool(sides_a[axis] & sides_b[axis]) for axis in both)),
        "scopes_differ": float(name_scopes(lone_a, lone_b)),
        "subjects_differ": float(any(Shared(x, y, ()).lead_apart(x, y) for x, y in pairs)),
        "subject_opposite": float(_is_subject_opposite(left.claims[0], right.claims[0])),
        "same_opening": max(_opening(x, y) for x, y in pairs),
        "names_differ": float(bool(names_a - right.keys) and bool(names_b - left.keys)),
        "same_name": float(bool(names_a & right.keys)),
        "code_differs": float(bool(code_a - code_b) and bool(code_b - code_a)),
        "same_code": float(bool(code_a & code_b)),
        "one_denies": float(_denies(left) != _denies(right)),
        "both_deny": float(_denies(left) and _denies(right)),
        "flag_open": float(any(term.form.startswith("-") for term in (*lone_a, *lone_b))),
        "narrowed": float(any(_is_narrowed(x, y) for x, y in pairs)),
        "sentences": log1p(len(left.claims) + len(right.claims) - 2),
    }


def _sides(claims: Iterable[Claim]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for claim in claims:
        for side in claim.sides:
            found[side.axis] = found.get(side.axis, frozenset()) | {side.sign}
    return found


def _is_one(axis: str, a: Mapping[str, frozenset[int]], b: Mapping[str, frozenset[int]]) -> bool:
    return len(a[axis]) == 1 == len(b[axis])


def _denies(text: Text) -> bool:
    return any(claim.negations for claim in text.claims)


def _is_subject_opposite(a: Claim, b: Claim) -> bool:
    """Whether the first words of two texts are opposites or siblings: they speak of two things."""
    first_a, first_b = a.terms[:2], b.terms[:2]
    signs_a, signs_b = ({side.axis: side.word_sign for side in claim.sides if side.term.place in {
        term.place for term in first
    }} for claim, first in ((a, first_a), (b, first_b)))  # fmt: skip
    if any(axis in signs_b and signs_a[axis] != signs_b[axis] for axis in signs_a):
        return True
    return any(
        frozenset((x.form, y.form)) in ANTONYMS or SIBLINGS.get(x.form, -1) == SIBLINGS.get(y.form, -2)
        for x in first_a
        for y in first_b
        if x.key != y.key
    )


def _is_narrowed(a: Claim, b: Claim) -> bool:
    """Whether one claim is about a kind of what the other begins with: `tokens` and `refresh tokens`."""
    return any(
        len(short.terms) > 0
        and len(long.terms) > 1
        and short.terms[0].key == long.terms[1].key
        and long.terms[1].place == long.terms[0].place + 1
        and long.terms[0].key not in short.keys
        for short, long in ((a, b), (b, a))
    )


def _opening(a: Claim, b: Claim) -> float:
    """The share of the first words of one claim that are among the first of the other."""
    match = Shared(a, b, ()).match
    first_a, first_b = ([term.key for term in claim.terms[:OPENING]] for claim in (a, b))
    return sum(match.get(key) in first_b for key in first_a) / max(1, min(len(first_a), len(first_b)))


def _together(terms: Mapping[str, float], strongest: float, near: float) -> dict[str, float]:
    """What counts only where something else is so."""
    return {
        "clash_near": terms["clash"] * near,
        "clash_alike": terms["clash"] * terms["alike"],
        "clash_of_subjects": terms["clash"] * terms["subjects_differ"],
        "scoped_subject": strongest * max(terms["subject_opposite"], terms["subjects_differ"]),
    }
