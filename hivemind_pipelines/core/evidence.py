"""Evidence: the ways in which two texts part, from what their sentences claim, and where."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.claims import Claim, read, read_whole
from hivemind_pipelines.core.features import normalise_scope
from hivemind_pipelines.core.lexicon import SIBLINGS, SYNONYMS, words
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.opposites import ALTERNATIVES, PREFIXES, SCOPES
from hivemind_pipelines.core.quantities import BOUNDS, Quantity
from hivemind_pipelines.core.releases import Release
from hivemind_pipelines.core.sides import Side, Term
from hivemind_pipelines.core.wording import Span

#: Texts of up to so many sentences are also held against each other as a whole.
WHOLE_MAX = 4

#: Beyond so many sentences in all, a word in one place says nothing of the whole.
LONG_MIN = 5

#: Sentences with fewer shared content words are near by so much less.
SHARED_MIN = 2
LONELY = 0.75

#: A negation of one claim is one of the other where they share so much of their words.
DENIED_MIN = 0.5

#: Without an embedding a pair passes for as near as its words are.
UNKNOWN_BASE, UNKNOWN_SLOPE = 0.4, 0.5

#: Axes on which two words part that often stand beside one another: they count where nothing else does.
WEAK_AXES = frozenset({"leave", "breadth", "reach", "share", "choice"})


NO_SCOPE = Scope()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One way in which two claims part: its weight, and the terms or values that say so."""

    reason: str
    weight: float
    a: tuple[Span, ...]
    b: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """The claims of a whole text and what any of them says."""

    text: str
    claims: tuple[Claim, ...]
    scope: Scope
    signs: frozenset[tuple[str, int]]
    values: frozenset[tuple[str, float]]
    keys: frozenset[str]

    @property
    def whole(self) -> Claim:
        """All its claims as one; there is at least one."""
        return read_whole(self.text)


def read_text(text: str, scope: Scope) -> Text:
    """A text as claims, with the columns of its item."""
    claims = read(text)
    return Text(
        text=text,
        claims=claims,
        scope=scope,
        signs=frozenset((side.axis, side.sign) for claim in claims for side in claim.sides),
        values=frozenset((one.dimension, one.value) for claim in claims for one in claim.quantities),
        keys=frozenset(key for claim in claims for key in claim.keys),
    )


def counterparts(left: Text, right: Text) -> Iterator[tuple[Claim, Claim]]:
    """Each sentence with the one of the other text that it is nearest to, and short texts as a whole.

    What a sentence says is held against its counterpart alone: elsewhere a text may name the opposite.
    """
    nearest_b = [_nearest(claim, right.claims) for claim in left.claims]
    nearest_a = [_nearest(claim, left.claims) for claim in right.claims]
    for place, found in enumerate(nearest_b):
        if found is not None and nearest_a[found] == place:
            yield left.claims[place], right.claims[found]
    sizes = len(left.claims), len(right.claims)
    if min(sizes) >= 1 and 1 < max(sizes) <= WHOLE_MAX:
        yield left.whole, right.whole


def _nearest(claim: Claim, others: Sequence[Claim]) -> int | None:
    """The place of the claim that shares the largest part of its words, the first of equals."""
    shares = [2 * len(claim.keys & other.keys) / len(claim.keys | other.keys) for other in others]
    best = max(range(len(shares)), key=lambda place: (shares[place], -place), default=None)
    return best if best is not None and shares[best] > 0 else None


class Shared:
    """Which content words of two claims mean the same, and which stand alone."""

    def __init__(self, a: Claim, b: Claim, opposite: Sequence[tuple[Side, Side]]) -> None:
        used_a, used_b = {x.term.key for x, _ in opposite}, {y.term.key for _, y in opposite}
        self.a = [term for term in a.terms if term.key not in used_a]
        self.b = [term for term in b.terms if term.key not in used_b]
        self.match: dict[str, str] = {}
        rest = {term.key: term for term in self.b}
        for term in {term.key: term for term in self.a}.values():
            other = (
                term.key
                if term.key in rest
                else next((k for k, o in rest.items() if _is_same(term, o)), None)
            )
            if other is not None:
                self.match[term.key] = other
                rest.pop(other)
        self.keys_a, self.keys_b = {term.key for term in self.a}, {term.key for term in self.b}
        self.lone_a = self.keys_a - set(self.match)
        self.lone_b = self.keys_b - set(self.match.values())

    @property
    def count(self) -> int:
        return len(self.match)

    @property
    def differs(self) -> bool:
        return bool(self.lone_a or self.lone_b)

    @property
    def containment(self) -> float:
        return self.count / max(1, min(len(self.keys_a), len(self.keys_b)))

    @property
    def dice(self) -> float:
        return 2 * self.count / max(1, len(self.keys_a) + len(self.keys_b))

    def lead_apart(self, a: Claim, b: Claim) -> bool:
        """Whether each claim begins with a word of its own: they speak of two things."""
        return a.lead in self.lone_a and b.lead in self.lone_b

    def nearness(self, cosine: float | None) -> float:
        """The cosine, or what it passes for without an embedding: as near as the words are."""
        return UNKNOWN_BASE + UNKNOWN_SLOPE * self.containment if cosine is None else cosine

    def topical(self, cosine: float | None) -> float:
        """How surely the two speak of one thing, in [0, 1]."""
        lexical = (self.containment + self.dice) / 2
        if self.count < SHARED_MIN and min(len(self.keys_a), len(self.keys_b)) > 1:
            lexical *= LONELY
        near = min(1.0, max(0.0, (self.nearness(cosine) - 0.3) / 0.5))
        return 0.6 * lexical + 0.4 * near


def _is_same(a: Term, b: Term) -> bool:
    if frozenset((a.form, b.form)) in SYNONYMS or frozenset((a.key, b.key)) in SYNONYMS:
        return True
    if a.is_code or b.is_code:
        return a.key.strip("()") == b.key.strip("()")
    short, long = sorted((a.key, b.key), key=len)
    start = 0
    while start < len(short) and short[start] == long[start]:
        start += 1
    return start >= 5 and (start == len(short) or start >= len(short) - 2) and len(long) - start <= 5


def evidence(
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
        numbers = tuple(_numbers(a, b, shared, left, right))
        yield from numbers
        yield from _released(a, b, shared)
        if numbers:
            return
        if len(left.claims) + len(right.claims) < LONG_MIN:
            yield from _replaced(a, b, shared)
        yield from _alternatives(a, b, shared, left, right)
        yield from _placed(a, b, shared, left, right)
        yield from _causes(a, b, shared)
    yield from _opposed(a, b, opposite, shared)


def _assigned(a: Claim, b: Claim) -> Iterator[Evidence]:
    for key, (value, span) in a.settings.items():
        other = b.settings.get(key)
        if other is not None and other[0] != value:
            yield Evidence("assignment", 1.0, (span,), (other[1],))


# --- numbers


def _numbers(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
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
            if _are_compatible(one, other):
                continue
            yield Evidence(
                f"number:{one.dimension}", _slot(a, b, one, other, shared), (one.span,), (other.span,)
            )


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


def _released(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Versions of one product that two claims otherwise alike ask for."""
    if shared.dice < 0.75:
        return
    for one in a.releases:
        for other in b.releases:
            is_value = one.role == other.role == "value"
            if is_value and one.product == other.product != "" and one.version != other.version:
                yield Evidence("version", 0.8, (one.span,), (other.span,))


# --- order and comparison


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


# --- opposites


def _opposed(a: Claim, b: Claim, opposite: Sequence[tuple[Side, Side]], shared: Shared) -> Iterator[Evidence]:
    product = a.polarity * b.polarity
    # Two words may part on several axes; where one of them turns its sentence, that is what they do.
    by_terms = {
        (x.term.place, y.term.place): (x, y)
        for x, y in sorted(opposite, key=lambda pair: pair[0].turns or pair[1].turns)
    }
    product *= _reconciled(a, b)
    strong = [pair for pair in by_terms.values() if pair[0].axis not in WEAK_AXES]
    for x, y in strong:
        if x.word_sign != y.word_sign and not (x.turns or y.turns):
            product = -product
    if not strong and product > 0 and len({x.axis for x, _ in opposite}) == 1:
        product = -1
    if _is_beyond(a, b):
        product = -product
    if product > 0:
        return
    if opposite:
        x, y = (strong or opposite)[0]
        yield Evidence(f"opposite:{x.axis}", 1.0, (x.term.span,), (y.term.span,))
    elif a.is_open or b.is_open or a.is_whole or b.is_whole:
        return
    elif bool(a.negations) != bool(b.negations):
        if shared.dice < DENIED_MIN or not _is_denied(a, b, shared):
            return
        spans = tuple(term.span for term in (a.negations or b.negations))
        yield Evidence(
            "negation", 0.8, spans if a.negations else (a.span,), spans if b.negations else (b.span,)
        )


def _is_denied(a: Claim, b: Claim, shared: Shared) -> bool:
    """Whether what one claim negates is said by the other, and said without `only`."""
    denying, other = (a, b) if a.negations else (b, a)
    if any(side.axis == "reach" and side.sign > 0 for side in other.sides):
        return False
    known = set(shared.match) if denying is a else set(shared.match.values())
    known |= {side.term.key for side in other.sides}
    for negation in denying.negations:
        behind = [term for term in denying.terms if term.place > negation.place]
        if behind and behind[0].key in known:
            return True
        if negation.place <= 1 and shared.dice >= 0.6:
            # "Never do it so" against "do it so": the verb may be another.
            return True
    return False


def _reconciled(a: Claim, b: Claim) -> int:
    """-1 where a negated word says the same as its opposite does: `not open` and `closed`."""
    pairs = {
        (x.term.place, y.term.place)
        for x in a.sides
        for y in b.sides
        if x.axis == y.axis and x.sign == y.sign and x.word_sign != y.word_sign and not (x.turns or y.turns)
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


def _replaced(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
    """Other words in the one place of two claims that agree in everything else."""
    if not shared.lone_a or not shared.lone_b or a.is_task or b.is_task:
        return
    for opener in (
        "as",
        "per",
        "in",
        "use",
        "uses",
        "is",
        "to",
        "via",
        "using",
        "through",
        "with",
        "by",
        "under",
    ):
        one, other = (claim.slots.get(opener, ()) for claim in (a, b))
        if not one or not other or not _fills(one, shared.lone_a, a) or not _fills(other, shared.lone_b, b):
            continue
        is_value = all(any(term.is_code or term.is_name for term in side) for side in (one, other))
        rest = min(len(shared.keys_a), len(shared.keys_b)) - min(len(shared.lone_a), len(shared.lone_b))
        if (is_value or opener not in ("is", "to", "with", "by", "under")) and shared.count >= max(2, rest):
            yield Evidence("value", 0.8, tuple(t.span for t in one), tuple(t.span for t in other))
    yield from _other_default(a, b, shared)


def _alternatives(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
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


def _placed(a: Claim, b: Claim, shared: Shared, left: Text, right: Text) -> Iterator[Evidence]:
    """Altogether different words behind one preposition that follows the same word: `sharded by region`."""
    for opener in sorted(a.slots.keys() & b.slots.keys()):
        one, other = a.slots[opener], b.slots[opener]
        if not (_is_lone(one, shared.lone_a, right) and _is_lone(other, shared.lone_b, left)):
            continue
        if opener in ("is", "are") and (_is_participle(one[0]) or _is_participle(other[0])):
            continue
        before, behind = _before(a, one[0]), _before(b, other[0])
        if before is not None and shared.match.get(before) == behind:
            yield Evidence(f"place:{opener}", 0.7, tuple(t.span for t in one), tuple(t.span for t in other))


#: Past forms that no ending tells.
_PARTICIPLES = words(
    "kept sent taken written built made read run set put stored done given held found split known"
)


def _is_participle(term: Term) -> bool:
    """Whether it says what happens to something: two of them may both be true."""
    return term.form.endswith("ed") or term.form in _PARTICIPLES


def _causes(a: Claim, b: Claim, shared: Shared) -> Iterator[Evidence]:
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


def _is_lone(slot: Sequence[Term], lone: set[str], other: Text) -> bool:
    return all(_is_own(term, lone, other) for term in slot)


def _before(claim: Claim, term: Term) -> str | None:
    """The content word in front of another one."""
    earlier = [other.key for other in claim.terms if other.place < term.place]
    return earlier[-1] if earlier else None


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


def opposite_sides(a: Claim, b: Claim, left: Text, right: Text) -> Iterator[tuple[Side, Side]]:
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
            yield x, y
    yield from _prefixed(a, b, left, right)
    yield from ((x, y) for y, x in _prefixed(b, a, right, left))


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


# --- versions and scopes


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
    """Whether the claims are about two things: two scopes of a kind, or two modifiers of one noun."""
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
    if evidence.reason.removeprefix("opposite:") in WEAK_AXES:
        # Who may or must is what they part about, not whom they are about.
        return False
    if name_scopes(lone_a, lone_b):
        return True
    if _modifiers(a, b, shared, lone_a, lone_b):
        return True
    if any(
        _are_apart(a.slots.get(opener, ()), b.slots.get(opener, ()), shared, used_a | used_b)
        for opener in _SCOPING
    ):
        return True
    return shared.lead_apart(a, b)


def name_scopes(lone_a: Iterable[Term], lone_b: Sequence[Term]) -> bool:
    """Whether two words name two scopes of a kind: of two plans or platforms both may be true."""
    return any(SCOPES.get(x.form, -1) == SCOPES.get(y.form, -2) for x in lone_a for y in lone_b)


#: What opens a phrase that narrows down what a claim is about.
_SCOPING = ("from", "for", "of", "on", "in")


def _are_apart(one: Sequence[Term], other: Sequence[Term], shared: Shared, used: set[Span]) -> bool:
    """Whether two phrases of a kind name altogether different things, neither of them the conflict itself."""
    if not one or not other or any(term.span in used for term in (*one, *other)):
        return False
    return one[0].key in shared.lone_a and other[0].key in shared.lone_b


def _modifiers(a: Claim, b: Claim, shared: Shared, lone_a: Sequence[Term], lone_b: Sequence[Term]) -> bool:
    """Whether words of their own stand in front of one noun; what takes a side or sets a bound names nothing."""
    lone_a, lone_b = (
        [term for term in lone if _is_plain(term, claim)] for lone, claim in ((lone_a, a), (lone_b, b))
    )
    heads_b = {term.place: term.key for term in b.terms}
    heads_a = {term.place: term.key for term in a.terms}
    before_b = {heads_b[term.place + 1] for term in lone_b if term.place + 1 in heads_b}
    before_a = {shared.match.get(heads_a[term.place + 1], "") for term in lone_a if term.place + 1 in heads_a}
    return bool(before_a & before_b - {""})


def _is_plain(term: Term, claim: Claim) -> bool:
    return term.form not in BOUNDS and all(side.term.place != term.place for side in claim.sides)
