"""Conflict: whether two texts can both be true, by the evidence of the rules and a small fitted model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from math import exp
from typing import Literal

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.contrast import are_entries, contrast, nearness
from hivemind_pipelines.core.differences import differences
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.opposition import opposite_sides
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.reading import Reading, combined
from hivemind_pipelines.core.scoping import fork, scopes_differ, versions_differ
from hivemind_pipelines.core.statements import NO_SCOPE, Text, counterparts, read_text
from hivemind_pipelines.core.text import normalise
from hivemind_pipelines.core.wording import Span

Outcome = Literal["contradiction", "version_fork", "update", "both_true_in_scope", "none"]

#: Below this score two texts are not said to conflict, unless the policy says otherwise.
SCORE_MIN = 0.5

#: Notes whose cosine and half of whose shared words are less together are not read: 5 % of labelled contradictions,
#: and half of the near notes of which hardly one is in conflict.
READ_MIN = 0.7

#: Longer pairs are not read: the encoder would cut off what they may part in.
READ_CHARACTERS = 800

#: A fork without evidence of a conflict weighs so much less than one with it.
UNEXPLAINED_FORK = 0.9


@dataclass(frozen=True, slots=True)
class Conflict:
    """What two texts are to each other; the spans [start, end) are where they part, never their text.

    The score is a chance in (0, 1) for contradictions and updates, and how alike the claims are otherwise.
    """

    outcome: Outcome
    reason: str
    score: float
    spans_a: tuple[Span, ...] = ()
    spans_b: tuple[Span, ...] = ()


NONE = Conflict("none", "none", 0.0)


def find(
    a: str,
    b: str,
    *,
    scope_a: Scope = NO_SCOPE,
    scope_b: Scope = NO_SCOPE,
    cosine: float | None = None,
    reading: Reading | None = None,
    score_min: float = SCORE_MIN,
) -> Conflict:
    """What two notes of one org are to each other without a language model, whichever comes first.

    `cosine` is the similarity of their embeddings in [0, 1], None where there is none; `reading` is what a
    cross-encoder makes of the two, None where only the rules are asked.
    """
    if a > b:
        turned = find(
            b, a, scope_a=scope_b, scope_b=scope_a, cosine=cosine, reading=reading, score_min=score_min
        )
        return replace(turned, spans_a=turned.spans_b, spans_b=turned.spans_a)
    if normalise(a) == normalise(b):
        return NONE
    left, right = read_text(a, scope_a), read_text(b, scope_b)
    if not left.claims or not right.claims:
        return NONE
    said = by_rules(left, right, cosine)
    found = said.conflict
    if reading is not None and said.is_open:
        score = combined(reading, said.chance, nearness(left, right, cosine))
        found = replace(found if said.chance is not None else _unexplained(left, right), score=score)
    forked = max(forks(left, right, cosine), key=lambda one: one.score, default=None)
    if forked is not None:
        # Whatever else they part in, each speaks for a release of its own.
        found = replace(forked, score=max(forked.score, found.score))
    return found if found.score >= score_min else NONE


def is_worth_reading(
    a: str, b: str, *, scope_a: Scope = NO_SCOPE, scope_b: Scope = NO_SCOPE, cosine: float | None = None
) -> bool:
    """Whether a reading may say more of two notes than the rules alone: it takes many times what they take."""
    if len(a) + len(b) > READ_CHARACTERS or normalise(a) == normalise(b) or _are_apart(scope_a, scope_b):
        return False
    left, right = read_text(a, scope_a), read_text(b, scope_b)
    if not (left.claims and right.claims and _make_claims(left, right)):
        return False
    shared = Shared(left.whole, right.whole, ())
    return shared.nearness(cosine) + shared.containment / 2 >= READ_MIN


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules alone make of two texts; forks aside.

    `chance` in (0, 1) is that of a contradiction, None without evidence; `is_open` where a reading may say more:
    not where they speak of two things or two releases.
    """

    conflict: Conflict
    chance: float | None
    is_open: bool


def by_rules(left: Text, right: Text, cosine: float | None) -> Ruling:
    """What the evidence of the rules makes of two texts that make a claim each."""
    found = contrast(left, right, cosine)
    told = found.evidence
    is_apart = _are_apart(left.scope, right.scope)
    if told is None:
        return Ruling(NONE, None, is_open=not is_apart and _make_claims(left, right))
    if is_apart or found.is_scoped:
        outcome: Outcome = (
            "version_fork" if versions_differ(left.scope, right.scope) else "both_true_in_scope"
        )
        return Ruling(Conflict(outcome, told.reason, found.weight, told.a, told.b), None, is_open=False)
    score = chance(found.terms)
    return Ruling(
        Conflict(_dated_outcome(left, right), told.reason, score, told.a, told.b), score, is_open=True
    )


def _are_apart(a: Scope, b: Scope) -> bool:
    return versions_differ(a, b) or scopes_differ(a, b)


def _make_claims(left: Text, right: Text) -> bool:
    """Whether both say what holds: recipes do not, nor do two entries of a list of changes or checks."""
    return not (are_entries(left, right) or left.whole.is_recipe or right.whole.is_recipe)


def _dated_outcome(left: Text, right: Text) -> Outcome:
    return "update" if _is_dated(left.claims) != _is_dated(right.claims) else "contradiction"


def _unexplained(left: Text, right: Text) -> Conflict:
    """A conflict that no rule found: the words of the two sentences nearest each other that the other lacks.

    Sentences that both say part in nothing; a side without a word of its own is shown whole.
    """
    pairs = [Shared(a, b, ()) for a, b in (*counterparts(left, right), (left.whole, right.whole))]
    shared = max((one for one in pairs if one.differs), key=lambda one: one.dice, default=pairs[-1])
    spans_a = tuple(term.span for term in shared.a if term.key in shared.lone_a)
    spans_b = tuple(term.span for term in shared.b if term.key in shared.lone_b)
    return Conflict(
        _dated_outcome(left, right), "read", 0.0,
        spans_a or (Span(0, len(left.text)),), spans_b or (Span(0, len(right.text)),),
    )  # fmt: skip


def forks(left: Text, right: Text, cosine: float | None) -> list[Conflict]:
    """Statements for two releases of one product that say different things."""
    found = []
    for a, b in counterparts(left, right):
        releases = None if a.is_recipe or b.is_recipe else fork(a, b)
        if releases is None:
            continue
        opposite = tuple(opposite_sides(a, b, left, right))
        shared = Shared(a, b, opposite)
        if shared.count < 1:
            continue
        told = max(differences(a, b, shared, opposite, left, right), key=lambda one: one.weight, default=None)
        if told is None and not shared.differs:
            continue
        score = shared.topical(cosine) * (UNEXPLAINED_FORK if told is None else 1.0)
        reason = f"fork:{'wording' if told is None else told.reason}"
        found.append(Conflict("version_fork", reason, score, (releases[0].span,), (releases[1].span,)))
    return found


def _is_dated(claims: tuple[Claim, ...]) -> bool:
    """Whether a text says that something holds now, or no longer."""
    return any(claim.is_dated for claim in claims)


def chance(terms: Mapping[str, float]) -> float:
    """The probability in (0, 1) that two near texts with these terms contradict each other."""
    total = _BIAS + sum(weight * terms[name] for name, weight in _WEIGHTS.items())
    return 1.0 / (1.0 + exp(-min(max(total, -30.0), 30.0)))


def _load() -> tuple[float, dict[str, float]]:
    document = json.loads(files(__package__).joinpath("conflict_model.json").read_text("utf-8"))
    return document["bias"], document["weights"]


_BIAS, _WEIGHTS = _load()
