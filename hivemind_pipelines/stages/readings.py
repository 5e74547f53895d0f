"""Readings of near pairs: the cross-encoder is asked about those that it may say something of."""

from collections.abc import Sequence
from dataclasses import dataclass

from hivemind_pipelines.core import conflict
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.policy import ContradictionPolicy
from hivemind_pipelines.core.reading import Reading
from hivemind_pipelines.services.cross_encoder import CrossEncoder


@dataclass(frozen=True, slots=True)
class Beside:
    """Two texts beside each other with the scopes of their items; `cosine` is None without embeddings."""

    a: str
    b: str
    scope_a: Scope
    scope_b: Scope
    cosine: float | None

    @property
    def is_worth_reading(self) -> bool:
        """Whether a reading may say more than the rules."""
        return conflict.is_worth_reading(
            self.a, self.b, scope_a=self.scope_a, scope_b=self.scope_b, cosine=self.cosine
        )

    def judge(self, reading: Reading | None, score_min: float) -> conflict.Conflict:
        """What the two are to each other, by the rules and what was read."""
        return conflict.find(
            self.a, self.b, scope_a=self.scope_a, scope_b=self.scope_b, cosine=self.cosine, reading=reading,
            score_min=score_min,
        )  # fmt: skip


def read(
    pairs: Sequence[Beside], encoder: CrossEncoder, policy: ContradictionPolicy
) -> tuple[Reading | None, ...]:
    """What the cross-encoder makes of each pair, in order; None where it is not asked."""
    asked = [place for place, pair in enumerate(pairs) if policy.reads and pair.is_worth_reading]
    read = encoder.read([(pairs[place].a, pairs[place].b) for place in asked])
    reading_of = dict(zip(asked, read, strict=True))
    return tuple(reading_of.get(place) for place in range(len(pairs)))
