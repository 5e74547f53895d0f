"""The structured tier: secrets and identifiers in any text, code included, behind one prefilter."""

from collections.abc import Sequence
from functools import cache

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.services.deadline import UNBOUNDED, Deadline
from hivemind_pipelines.services.identifiers import SHAPES, find_identifiers
from hivemind_pipelines.services.prefilter import Prefilter
from hivemind_pipelines.services.secrets import find_secrets, load_rules


def find_structured(texts: Sequence[str], deadline: Deadline = UNBOUNDED) -> list[list[Finding]]:
    """What each text holds, as [start, end) in code points; spans may overlap.

    Raises DeadlineError at the first rule that would begin too late.
    """
    candidates = prefilter().candidates(texts)
    return [
        _find(text, numbers, deadline) if numbers else []
        for text, numbers in zip(texts, candidates, strict=True)
    ]


def _find(text: str, numbers: Sequence[int], deadline: Deadline) -> list[Finding]:
    rules = load_rules()
    known = len(rules)
    secrets = (rules[number] for number in numbers if number < known)
    shapes = (SHAPES[number - known] for number in numbers if number >= known)
    return [
        *find_secrets(text, deadline.each(secrets)),
        *find_identifiers(text, deadline.each(shapes)),
    ]


@cache
def prefilter() -> Prefilter:
    """The patterns of all rules, then the hints of all shapes; compiled once in a process."""
    return Prefilter([*(rule.pattern for rule in load_rules()), *(shape.hint for shape in SHAPES)])
