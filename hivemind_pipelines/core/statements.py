"""Statements: a whole text as its claims, and which sentences of two texts to hold against each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.claims import Claim, read, read_whole
from hivemind_pipelines.core.model import Scope

#: Texts of up to so many sentences are also held against each other as a whole.
WHOLE_MAX = 4

NO_SCOPE = Scope()


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
        signs=frozenset(
            (side.axis, side.sign) for claim in claims for side in claim.sides if not side.is_condition
        ),
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
