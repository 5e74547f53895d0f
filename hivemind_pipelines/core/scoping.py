"""Scoping: whether two claims hold for two releases, or are about two things, so that both may be true."""

from collections.abc import Iterable, Iterator, Sequence

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.features import normalise_scope
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.opposites import SCOPES
from hivemind_pipelines.core.opposition import WEAK_AXES
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.quantities import BOUNDS
from hivemind_pipelines.core.releases import Release
from hivemind_pipelines.core.sides import Term
from hivemind_pipelines.core.wording import Span


def fork(a: Claim, b: Claim) -> tuple[Release, Release] | None:
    scoped_a, scoped_b = ([one for one in claim.releases if one.role == "scope"] for claim in (a, b))
    for one in scoped_a:
        if any(_is_product(one, other) and one.version == other.version for other in scoped_b):
            continue
        for other in scoped_b:
            if _is_product(one, other):
                return one, other
    return None


def _is_product(one: Release, other: Release) -> bool:
    generic = ("", "version")
    return one.product == other.product or one.product in generic or other.product in generic


def versions_differ(a: Scope, b: Scope) -> bool:
    x, y = normalise_scope(a.version), normalise_scope(b.version)
    return bool(x and y and x != y)


def scopes_differ(a: Scope, b: Scope) -> bool:
    columns = ((a.framework, b.framework), (a.language, b.language))
    return any(x and y and x != y for x, y in ((normalise_scope(x), normalise_scope(y)) for x, y in columns))


def is_contrasted(a: Claim, b: Claim, shared: Shared, evidence: Evidence) -> bool:
    """Whether the claims are about two things: two scopes of a kind, or what stands ahead of where they part.

    That are words of their own in front of one noun or behind one preposition: `access tokens` and `refresh
    tokens`, a job `for invoices` and one `for reminders`.
    """
    used_a, used_b = set(evidence.a), set(evidence.b)
    if evidence.reason in ("number:period", "number:weekday"):
        firsts = [
            next((q.place for q in claim.quantities if q.span in used), 9)
            for claim, used in ((a, used_a), (b, used_b))
        ]
        if max(firsts) <= 1:
            return True
    lone_a = [term for term in shared.a if term.key in shared.lone_a and term.span not in used_a]
    lone_b = [term for term in shared.b if term.key in shared.lone_b and term.span not in used_b]
    start_a, start_b = min(evidence.a).start, min(evidence.b).start
    if evidence.reason.removeprefix("opposite:") in WEAK_AXES:
        # Who may or must is what they part about, not whom they are about, unless that is said first.
        lone_a = [term for term in lone_a if term.span.start < start_a]
        lone_b = [term for term in lone_b if term.span.start < start_b]
        return name_scopes(lone_a, lone_b)
    own_a = [term for term in a.terms if term.key not in b.keys and term.span not in used_a]
    own_b = [term for term in b.terms if term.key not in a.keys and term.span not in used_b]
    if name_scopes(own_a, own_b):
        return True
    return any(
        x.span.start < start_a and y.span.start < start_b
        for x, y in (
            *_modifiers(a, b, shared, lone_a, lone_b),
            *_phrases(a, b, shared, used_a | used_b),
        )
    )


def name_scopes(lone_a: Iterable[Term], lone_b: Sequence[Term]) -> bool:
    """Whether two words name two scopes of a kind: of two plans or platforms both may be true."""
    return any(SCOPES.get(x.form, -1) == SCOPES.get(y.form, -2) for x in lone_a for y in lone_b)


#: What opens a phrase that narrows down what a claim is about.
_SCOPING = ("from", "for", "of", "on", "in")


def _phrases(a: Claim, b: Claim, shared: Shared, used: set[Span]) -> Iterator[tuple[Term, Term]]:
    """The first words of phrases of a kind that name different things, neither of them the conflict itself."""
    for opener in _SCOPING:
        one, other = a.slots.get(opener, ()), b.slots.get(opener, ())
        if not one or not other or any(term.span in used for term in (*one, *other)):
            continue
        if one[0].key in shared.lone_a and other[0].key in shared.lone_b:
            yield one[0], other[0]


def _modifiers(
    a: Claim, b: Claim, shared: Shared, lone_a: Sequence[Term], lone_b: Sequence[Term]
) -> Iterator[tuple[Term, Term]]:
    """Words of their own that stand in front of one noun, but for those that set a bound."""
    heads_a, heads_b = ({term.place: term.key for term in claim.terms} for claim in (a, b))
    for x in lone_a:
        head = shared.match.get(heads_a.get(x.place + 1, ""))
        if head is None or x.form in BOUNDS:
            continue
        for y in lone_b:
            if heads_b.get(y.place + 1) == head and y.form not in BOUNDS:
                yield x, y
