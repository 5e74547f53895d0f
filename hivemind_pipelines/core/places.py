"""Places: evidence from other words in one place of two claims: a value, a location, an agent or a cause."""

from collections.abc import Iterator, Sequence

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.evidence import Evidence
from hivemind_pipelines.core.lexicon import SIBLINGS, words
from hivemind_pipelines.core.opposites import ALTERNATIVES, SAME
from hivemind_pipelines.core.overlap import Shared
from hivemind_pipelines.core.sides import Term
from hivemind_pipelines.core.statements import Text

#: What opens a place of which another value makes another claim, where the claims agree in everything else.
_VALUED = ("as", "per", "in", "use", "uses", "is", "to", "via", "using", "through", "with", "by", "under")


def replaced(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Other words in the one place of two claims that agree in everything else."""
    if not shared.lone_a or not shared.lone_b or a.is_task or b.is_task:
        return
    for opener in _VALUED:
        one, other = (claim.slots.get(opener, ()) for claim in (a, b))
        if not one or not other or not _fills(one, shared.lone_a, a) or not _fills(other, shared.lone_b, b):
            continue
        is_value = all(any(term.is_code or term.is_name for term in side) for side in (one, other))
        rest = min(len(shared.keys_a), len(shared.keys_b)) - min(len(shared.lone_a), len(shared.lone_b))
        if (is_value or opener not in ("is", "to", "with", "by", "under")) and shared.count >= max(2, rest):
            yield Evidence("value", 0.8, tuple(t.span for t in one), tuple(t.span for t in other))
    yield from _other_default(a, b, shared)


def alternatives(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
    """Two values of one kind, of which each text names its own alone."""
    values_a = [(term, _kinds(term)) for term in a.terms if _is_own(term, shared.lone_a, right)]
    values_b = [(term, _kinds(term)) for term in b.terms if _is_own(term, shared.lone_b, left)]
    for x, kinds in values_a:
        for y, others in values_b:
            if SIBLINGS.get(x.form, -1) == SIBLINGS.get(y.form, -2):
                yield Evidence("alternative:sibling", 0.8, (x.span,), (y.span,))
            for kind in sorted(kinds.keys() & others.keys()):
                if kinds[kind] != others[kind]:
                    yield Evidence(f"alternative:{kind}", 0.8, (x.span,), (y.span,))


def _is_own(term: Term, lone: set[str], other: Text) -> bool:
    """Whether a word stands in its claim alone, and nowhere in the other text."""
    return term.key in lone and term.key not in other.keys


def _kinds(term: Term) -> dict[str, int]:
    """The kinds of value that a word is one of, with its number among them."""
    forms = (term.form, term.key, term.form.strip("()"))
    return {kind: number for form in forms for kind, number in ALTERNATIVES.get(form, ())}


def placed(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
    """Altogether different words behind one preposition that follows the same word: `sharded by region`."""
    for opener, other_opener in _openers(a, b):
        one, other = a.slots[opener], b.slots[other_opener]
        own_a, own_b = _without_head(one, other, shared)
        if not (_is_lone(own_a, shared.lone_a, right) and _is_lone(own_b, shared.lone_b, left)):
            continue
        if opener in ("is", "are") and not all(term.is_code or term.is_name for term in (one[0], other[0])):
            # A thing may be this and that; it has one name or value.
            continue
        if opener in ("return", "returns") and not any("nothing" in _kinds(term) for term in (*one, *other)):
            # A thing may return this and that; it returns nothing or something.
            continue
        if _follow_one_verb(a, one[0], b, other[0], shared):
            yield Evidence(f"place:{opener}", 0.7, tuple(t.span for t in one), tuple(t.span for t in other))


def _without_head(
    one: Sequence[Term], other: Sequence[Term], shared: Shared
) -> tuple[Sequence[Term], Sequence[Term]]:
    """Two phrases without the noun they both end with: of `transaction mode` and `session mode` what differs."""
    while len(one) > 1 and len(other) > 1 and shared.match.get(one[-1].key) == other[-1].key:
        one, other = one[:-1], other[:-1]
    return one, other


#: Openers that place something, in whichever way.
_PLACING = words("in on at into inside")
#: Openers of what something is done by means of. A route is no tool: what is sent "with labels" may well go
#: "through the proxy".
_MEANS = (words("using via through"), words("with using"))


def _openers(a: Claim, b: Claim) -> Iterator[tuple[str, str]]:
    """The openers of both claims that ask for one thing."""
    for opener in sorted(a.slots):
        for other in sorted(b.slots):
            is_means = any({opener, other} <= means for means in _MEANS)
            is_placing = {opener, other} <= _PLACING and (
                _is_kept(a, a.slots[opener][0]) or _is_kept(b, b.slots[other][0])
            )
            if opener == other or is_means or is_placing:
                yield opener, other


def _follow_one_verb(a: Claim, one: Term, b: Claim, other: Term, shared: Shared) -> bool:
    """Whether the same word stands in front of two slots, or farther ahead of one where its verb is known."""
    before_a, before_b = _before_place(a, one), _before_place(b, other)
    if not before_a or not before_b:
        return False
    if shared.match.get(before_a[-1]) == before_b[-1]:
        return True
    known_b = {shared.match[key] for key in before_a if key in shared.match}
    back = {to: key for key, to in shared.match.items()}
    known_a = {back[key] for key in before_b if key in back}
    is_known_a, is_known_b = before_a[-1] in known_a, before_b[-1] in known_b
    # "Index it by X" and "it is indexed by Y": the same verb and the same thing, either way round.
    return (
        (is_known_a and is_known_b)
        or (is_known_b and before_b[-1] in SAME)
        or (is_known_a and before_a[-1] in SAME)
    )


def _before_place(claim: Claim, term: Term) -> list[str]:
    """The content words in front of another one, without a verb that only says that something is there."""
    before = _before(claim, term)
    return before[:-1] if before and SAME.get(before[-1]) == _KEPT else before


def _is_kept(claim: Claim, term: Term) -> bool:
    """Whether a verb in front of a word says that something is there."""
    return any(SAME.get(key) == _KEPT for key in _before(claim, term))


_KEPT = SAME["stor"]

#: Past forms that no ending tells.
_PARTICIPLES = words(
    "kept sent taken written built made read run set reset put stored done given held found split known"
)


def _is_participle(term: Term) -> bool:
    """Whether it says what happens to something: two of them may both be true."""
    return term.form.endswith("ed") or term.form in _PARTICIPLES


def causes(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Two causes of one effect that have nothing in common."""
    for one in a.relations:
        for other in b.relations:
            if not one.kind == other.kind == "cause" or not (one.second and other.second):
                continue
            effect, cause = ({shared.match.get(key, key) for key in side} for side in (one.first, one.second))
            is_same = 2 * len(effect & other.first) >= min(len(effect), len(other.first)) > 0
            if is_same and cause.isdisjoint(other.second):
                yield Evidence("cause", 0.85, *(
                    tuple(term.span for term in claim.terms if term.key in side.second)
                    for claim, side in ((a, one), (b, other))
                ))  # fmt: skip


def agents(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Who does a thing by one claim, `done by X`, against who does it by the other, `Y does it`."""
    back = {to: key for key, to in shared.match.items()}
    for passive, active, to_active, is_turned in ((a, b, shared.match, False), (b, a, back, True)):
        agent = passive.slots.get("by", ())
        done_by = [term for term in passive.terms if agent and term.place < agent[0].place][-1:]
        if not done_by or not _is_participle(done_by[0]):
            continue
        before = _before(passive, agent[0])
        verb = to_active.get(before[-1])
        place = next((term.place for term in active.terms if term.key == verb), 0)
        subject = [term for term in active.terms if term.place < place]
        if not subject or "by" in active.slots:
            continue
        done = {to_active[key] for key in before[:-1] if key in to_active}
        is_same_done = not done.isdisjoint(term.key for term in active.terms if term.place > place)
        # Who does it is told by the noun that a phrase ends with: the release bot, the release manager.
        doer = to_active.get(agent[-1].key, agent[-1].key)
        if is_same_done and doer != subject[-1].key:
            spans = tuple(term.span for term in agent), tuple(term.span for term in subject)
            yield Evidence("value:agent", 0.8, *(reversed(spans) if is_turned else spans))


def _is_lone(slot: Sequence[Term], lone: set[str], other: Text) -> bool:
    return all(_is_own(term, lone, other) for term in slot)


def _before(claim: Claim, term: Term) -> list[str]:
    """The content words in front of another one, in order."""
    return [other.key for other in claim.terms if other.place < term.place]


def _other_default(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Two defaults that differ in one name or code word."""
    if not (a.is_default and b.is_default):
        return
    named = [
        tuple(term for term in terms if term.key in lone and (term.is_code or term.is_name))
        for terms, lone in ((shared.a, shared.lone_a), (shared.b, shared.lone_b))
    ]
    # Beside the value each side may have a verb of its own.
    unnamed = max(len(shared.lone_a) - len(named[0]), len(shared.lone_b) - len(named[1]))
    if all(named) and unnamed <= 1 and max(map(len, named)) <= 3:
        yield Evidence("default", 0.9, *(tuple(term.span for term in terms) for terms in named))


def _fills(slot: Sequence[Term], lone: set[str], claim: Claim) -> bool:
    """Whether the words that stand alone are those of the slot, but for the verb that opens it."""
    start = slot[0].place
    opened = {
        term.key
        for term in claim.terms
        if start - 3 <= term.place < start and term.form.endswith(("ed", "t", "n"))
    }
    return bool(lone & {term.key for term in slot}) and lone <= {term.key for term in slot} | opened
