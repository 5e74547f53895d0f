"""Evidence: one way in which two claims part, as the rules report it."""

from dataclasses import dataclass

from hivemind_pipelines.core.wording import Span


@dataclass(frozen=True, slots=True)
class Evidence:
    """One way in which two claims part: its weight, and the terms or values that say so."""

    reason: str
    weight: float
    a: tuple[Span, ...]
    b: tuple[Span, ...]
