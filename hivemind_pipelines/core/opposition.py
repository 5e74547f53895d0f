"""Opposition: evidence from sides of one axis, from antonyms and from what one of two claims denies."""

from bisect import bisect
from collections.abc import Iterator, Sequence

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.lexicon import ANTONYMS, words
from hivemind_pipelines.core.measures import is_equal
from hivemind_pipelines.core.opposites import PREFIXES, SCOPES
from hivemind_pipelines.core.overlap import Shared, is_same
from hivemind_pipelines.core.sides import Side, Term
from hivemind_pipelines.core.statements import Text

#: A negation of one claim is one of the other where they share so much of their words.
DENIED_MIN = 0.5

#: Two words that are opposites somewhere say less than two sides of an axis.
ANTONYM_WEIGHT = 0.8

#: Axes on which two words part that often stand beside one another: they count where nothing else does.
WEAK_AXES = frozenset({"leave", "breadth", "reach", "share", "choice", "assurance", "licence"})


def opposite_sides(a: Claim, b: Claim, left: Text, right: Text) -> Iterator[tuple[Side, Side]]:
    """The sides of one axis on which two claims stand apart, where neither text takes both."""
    counted = [{one.counted for one in claim.quantities} for claim in (a, b)]
    for x in a.sides:
        for y in b.sides:
            if x.axis != y.axis or x.sign == y.sign:
                continue
            if (x.axis, y.sign) in left.signs or (x.axis, x.sign) in right.signs:
                continue
            if x.axis.startswith("task:") and (a.is_task or b.is_task or x.word_sign == y.word_sign):
                continue
            if x.axis in ("give", "life") and a.is_task and b.is_task:
                continue
            if x.term.key in counted[0] and y.term.key in counted[1]:
                # A million rows and forty columns are two numbers.
                continue
            if x.axis == "leave" and not _are_of_one_verb(a, x.term, b, y.term):
                continue
            yield x, y
    if not (a.is_task or b.is_task):
        yield from _antonyms(a, b, left, right)
    yield from _prefixed(a, b, left, right)
    yield from ((x, y) for y, x in _prefixed(b, a, right, left))


_MODALS = words("may might can could must shall")


def _are_of_one_verb(a: Claim, x: Term, b: Claim, y: Term) -> bool:
    """Whether two modal verbs speak of the same verb; other words of leave and duty speak for themselves."""
    if x.form not in _MODALS or y.form not in _MODALS:
        return True
    behind = [
        next((term for term in claim.terms if term.place > one.place), None)
        for claim, one in ((a, x), (b, y))
    ]
    return (
        behind[0] is not None
        and behind[1] is not None
        and (behind[0].key == behind[1].key or is_same(behind[0], behind[1]))
    )


def _antonyms(a: Claim, b: Claim, left: Text, right: Text) -> Iterator[tuple[Side, Side]]:
    """Opposites of which each text names its own alone, where no axis knows them."""
    taken = {side.term.place for side in a.sides}, {side.term.place for side in b.sides}
    for x in a.terms:
        if x.key in right.keys or x.place in taken[0] or x.is_code:
            continue
        for y in b.terms:
            if SCOPES.get(x.form, -1) == SCOPES.get(y.form, -2):
                continue
            if y.key not in left.keys and y.place not in taken[1] and frozenset((x.form, y.form)) in ANTONYMS:
                yield Side("antonym", -1, -1, x), Side("antonym", 1, 1, y)


def _prefixed(a: Claim, b: Claim, left: Text, right: Text) -> Iterator[tuple[Side, Side]]:
    """A word that a prefix turns round against the word itself."""
    roots = {term.key: term for term in b.terms if len(term.key) >= 4 and not term.is_code}
    for term in a.terms:
        for prefix in PREFIXES:
            other = roots.get(term.key.removeprefix(prefix)) if term.key.startswith(prefix) else None
            if other is not None and term.key not in right.keys and other.key not in left.keys:
                own = next((side for side in a.sides if side.term.key == term.key), None)
                axis, turns = (own.axis, own.turns) if own else (f"prefix:{prefix}", False)
                yield Side(axis, -1, -1, term, turns), Side(axis, 1, 1, other)


def opposed(a: Claim, b: Claim, opposite: Sequence[tuple[Side, Side]], shared: Shared) -> Iterator[Evidence]:
    """Opposites that an even number of negations and turning words leaves opposite, or a lone denial."""
    product = a.polarity * b.polarity
    # Two words may part on several axes; where one of them turns its sentence, that is what they do.
    by_terms: dict[tuple[int, int], tuple[Side, Side]] = {}
    for x, y in opposite:
        known = by_terms.setdefault((x.term.place, y.term.place), (x, y))
        if (x.turns or y.turns) and not (known[0].turns or known[1].turns):
            by_terms[x.term.place, y.term.place] = x, y
    product *= _reconciled(a, b, shared)
    turning = _turning(a), _turning(b)
    # Several words of one side of an axis part from the other text once.
    by_axis = {x.axis: (x, y) for x, y in by_terms.values() if x.axis not in WEAK_AXES}
    strong = list(by_axis.values())
    flips = {}
    for x, y in strong:
        # What parts twice in one clause of both parts once: `guarantees the order`, `in any order`.
        flips[bisect(a.breaks, x.term.place), bisect(b.breaks, y.term.place)] = x, y
    for x, y in flips.values():
        # One word that turns its sentence round has turned the product already, two have turned it back.
        if x.word_sign != y.word_sign and (x.term.place in turning[0]) == (y.term.place in turning[1]):
            product = -product
    if not strong and product > 0 and len({(x.term.place, y.term.place) for x, y in opposite}) == 1:
        product = -1
    if _is_beyond(a, b) or _is_excepted(a, b, shared):
        product = -product
    if opposite and opposite[0][0].axis in _ENDING and _is_for_one_time(a, b):
        return
    yield from _disclaimed(a, b, shared)
    if product > 0:
        return
    if opposite:
        x, y = (strong or opposite)[0]
        weight = ANTONYM_WEIGHT if x.axis == "antonym" else 1.0
        yield Evidence(f"opposite:{x.axis}", weight, (x.term.span,), (y.term.span,))
    elif _is_conditional(a, b, shared) or a.is_whole or b.is_whole:
        return
    else:
        denials = _denials(a), _denials(b)
        if bool(denials[0]) == bool(denials[1]) or shared.dice < DENIED_MIN or not _is_denied(a, b, shared):
            return
        spans_a, spans_b = (tuple(term.span for term in own) for own in denials)
        yield Evidence("negation", 0.8, spans_a or (a.span,), spans_b or (b.span,))


#: Axes of which the word that turns round does nothing else: `validation is off`, `sharing is prohibited`.
_DENYING = frozenset({"switch", "permission", "support", "possible", "legality"})


def _denials(claim: Claim) -> tuple[Term, ...]:
    """The negations of a claim, and the words that deny as one does."""
    return claim.negations or tuple(
        side.term for side in claim.sides if side.turns and side.axis in _DENYING and not side.is_condition
    )


def _turning(claim: Claim) -> frozenset[int]:
    """The places of the words that turn the claim round by themselves."""
    return frozenset(side.term.place for side in claim.sides if side.turns)


#: Axes on which `kept for a week` and `deleted after a week` are one thing.
_ENDING = frozenset({"keep", "lifespan", "correct", "activity", "operation", "possible", "door"})


def _is_for_one_time(a: Claim, b: Claim) -> bool:
    return any(
        one.dimension == other.dimension == "time" and is_equal(one.value, other.value, "time")
        for one in a.quantities
        for other in b.quantities
    )


def _is_excepted(a: Claim, b: Claim, shared: Shared) -> bool:
    """Whether one claim excepts what the other speaks of: `hidden unless it is on`, `shown when it is on`."""
    if a.excepted and b.excepted:
        return False
    return not a.excepted.isdisjoint(shared.match) or not b.excepted.isdisjoint(shared.match.values())


def _disclaimed(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """What one claim says a thing is not, `encoded, not encrypted`, and the other says that it is."""
    back = {to: key for key, to in shared.match.items()}
    for one, other, known, is_turned in ((a, b, shared.match, False), (b, a, back, True)):
        if other.negations or any(relation.kind == "preference" for relation in other.relations):
            continue
        for negation in one.negations:
            is_aside = negation.form == "not" and negation.place - 1 in one.breaks and not one.is_whole
            behind = next((term.key for term in one.terms if term.place > negation.place), "")
            asserted = tuple(term.span for term in other.terms if term.key in (behind, known.get(behind)))
            if is_aside and asserted:
                spans = (negation.span,), asserted
                yield Evidence("negation:disclaimed", 0.8, *(reversed(spans) if is_turned else spans))


def _is_conditional(a: Claim, b: Claim, shared: Shared) -> bool:
    """Whether what is denied hangs on an alternative, or on an exception that the other claim speaks of too."""
    if a.excepted.isdisjoint(shared.match) and b.excepted.isdisjoint(shared.match.values()):
        return (a.is_open and not a.excepted) or (b.is_open and not b.excepted)
    return True


def _is_denied(a: Claim, b: Claim, shared: Shared) -> bool:
    """Whether what one claim negates is said by the other, and said without `only`."""
    denying, other = (a, b) if _denials(a) else (b, a)
    if any(side.axis == "reach" and side.sign > 0 for side in other.sides):
        return False
    known = set(shared.match) if denying is a else set(shared.match.values())
    known |= {side.term.key for side in other.sides}
    for negation in _denials(denying):
        behind = [term for term in denying.terms if term.place > negation.place]
        if behind and behind[0].key in known and (negation in denying.negations or _is_plain_verb(negation)):
            return True
        ahead = [term for term in denying.terms if term.place < negation.place]
        if negation not in denying.negations and ahead and ahead[-1].key in known:
            return True
        if negation.place <= 1 and shared.dice >= 0.75:
            # "Never do it so" against "do it so": the verb may be another.
            return True
    return False


def _is_plain_verb(term: Term) -> bool:
    """Whether a word that denies says what not to do: `disable caching`, where `disabled` comes behind."""
    return term.form == term.key or term.form in (f"{term.key}e", f"{term.key}s", f"{term.key}es")


def _reconciled(a: Claim, b: Claim, shared: Shared) -> int:
    """-1 where a negated word says the same as its opposite does: `not open` and `closed`."""
    pairs = {
        (x.term.place, y.term.place)
        for x in a.sides
        for y in b.sides
        if x.axis == y.axis
        and x.sign == y.sign
        and x.word_sign != y.word_sign
        and not (x.turns or y.turns)
        and x.term.key not in shared.match
        and y.term.key not in shared.match.values()
    }
    return -1 if len(pairs) % 2 else 1


def _is_beyond(a: Claim, b: Claim) -> bool:
    """Whether one speaks of what lies beyond a limit and the other of what lies within the same limit."""
    return any(
        one.dimension == other.dimension
        and is_equal(one.value, other.value, one.dimension)
        and one.bound != other.bound
        and not {one.bound, other.bound}.isdisjoint(("over", "under"))
        for one in a.quantities
        for other in b.quantities
    )
