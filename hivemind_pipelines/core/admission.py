"""Admission: the parts of sources that a summary may rest on; what asks or orders instead of telling stays out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hivemind_pipelines.core.injection import is_request, suspicion
from hivemind_pipelines.core.model import SourceText
from hivemind_pipelines.core.text import CODE_SPAN, sentences


@dataclass(frozen=True, slots=True)
class Admitted:
    """Sources as a writer may see them, under their own numbers, and how many sentences were withheld."""

    sources: tuple[SourceText, ...]
    withheld: int


def admit(sources: Sequence[SourceText]) -> Admitted:
    """Withhold questions, tasks for a writer and whatever is suspicious by itself.

    A source of which nothing is left is left out; one of which all is admitted keeps its exact text.
    """
    admitted, withheld = [], 0
    for source in sources:
        said = sentences(source.content)
        kept = tuple(sentence for sentence in said if not is_withheld(sentence))
        withheld += len(said) - len(kept)
        if len(kept) == len(said):
            admitted.append(source)
        elif kept:
            admitted.append(replace(source, content="\n\n".join(kept)))
    return Admitted(tuple(admitted), withheld)


def is_withheld(sentence: str) -> bool:
    """Whether a line of a sentence asks or gives a task, or the whole is suspicious; its code goes with it."""
    lines = (line for line in CODE_SPAN.sub(" ` ", sentence).splitlines() if line.strip())
    return any(_asks(line) or is_request(line) for line in lines) or suspicion(sentence) is not None


def _asks(line: str) -> bool:
    return bool(_QUESTION.search(line))


# In the middle of a line a question mark may belong to a URL, an operator or a pattern.
_QUESTION = re.compile(r"[?？؟][\"'”’)*_\s]*\Z")
