"""Overlap: which content words of two claims mean the same, and how surely they speak of one thing."""

from collections.abc import Sequence

from hivemind_pipelines.core.claims import Claim
from hivemind_pipelines.core.kinship import is_misspelt
from hivemind_pipelines.core.lexicon import SYNONYMS, words
from hivemind_pipelines.core.opposites import SAME
from hivemind_pipelines.core.sides import Side, Term

#: Sentences with fewer shared content words are near by so much less.
SHARED_MIN = 2

LONELY = 0.75

#: Without an embedding a pair passes for as near as its words are.
UNKNOWN_BASE, UNKNOWN_SLOPE = 0.4, 0.5


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
                term.key if term.key in rest else next((k for k, o in rest.items() if is_same(term, o)), None)
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


_NOUN_ENDINGS = words("ness ity ment er or ation ure ature atur ur")


def is_same(a: Term, b: Term) -> bool:
    if SAME.get(a.key, -1) == SAME.get(b.key, -2):
        return True
    if frozenset((a.form, b.form)) in SYNONYMS or frozenset((a.key, b.key)) in SYNONYMS:
        return True
    if a.is_code or b.is_code:
        short, long = sorted((a.form.strip("()"), b.form.strip("()")), key=len)
        return short == long or (a.is_code and b.is_code and long.endswith(f".{short}"))
    if is_misspelt(a.form, b.form):
        return True
    short, long = sorted((a.key, b.key), key=len)
    start = 0
    while start < len(short) and short[start] == long[start]:
        start += 1
    if start == len(short) >= 4 and long[start:] in _NOUN_ENDINGS:
        return True
    return start >= 5 and (start == len(short) or start >= len(short) - 2) and len(long) - start <= 5
