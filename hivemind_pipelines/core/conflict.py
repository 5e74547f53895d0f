"""Conflict: whether two texts can both be true, by the evidence of the rules and a small fitted model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from math import exp
from typing import Literal

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.contrast import Contrast, contrast
from hivemind_pipelines.core.differences import differences
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.opposition import opposite_sides
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.scoping import fork, scopes_differ, versions_differ
from hivemind_pipelines.core.statements import NO_SCOPE, Text, counterparts, read_text
from hivemind_pipelines.core.text import normalise
from hivemind_pipelines.core.wording import Span

Outcome = Literal["contradiction", "version_fork", "update", "both_true_in_scope", "none"]

#: Below this score two texts are not said to conflict, unless the policy says otherwise.
SCORE_MIN = 0.5

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
    score_min: float = SCORE_MIN,
) -> Conflict:
    """What two notes of one org are to each other without a language model, whichever comes first.

    `cosine` is the similarity of their embeddings in [0, 1], None where there is none.
    """
    if a > b:
        turned = find(b, a, scope_a=scope_b, scope_b=scope_a, cosine=cosine, score_min=score_min)
        return replace(turned, spans_a=turned.spans_b, spans_b=turned.spans_a)
    if normalise(a) == normalise(b):
        return NONE
    left, right = read_text(a, scope_a), read_text(b, scope_b)
    if not left.claims or not right.claims:
        return NONE
    found = _weigh(contrast(left, right, cosine), left, right)
    forked = max(forks(left, right, cosine), key=lambda one: one.score, default=None)
    if forked is not None:
        # Whatever else they part in, each speaks for a release of its own.
        found = replace(forked, score=max(forked.score, found.score))
    return found if found.score >= score_min else NONE


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


def _weigh(found: Contrast, left: Text, right: Text) -> Conflict:
    told = found.evidence
    if told is None:
        return NONE
    outcome: Outcome = "contradiction"
    if versions_differ(left.scope, right.scope):
        outcome = "version_fork"
    elif found.is_scoped or scopes_differ(left.scope, right.scope):
        outcome = "both_true_in_scope"
    elif _is_dated(left.claims) != _is_dated(right.claims):
        outcome = "update"
    score = chance(found.terms) if outcome in ("contradiction", "update") else found.weight
    return Conflict(outcome, told.reason, score, told.a, told.b)


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
