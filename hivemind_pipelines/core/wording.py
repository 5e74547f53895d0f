"""Wording: the words of a sentence as claims read them, phrases joined and contractions undone."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

from hivemind_pipelines.core.lexicon import FUNCTION_WORDS, NUMBER_WORDS, words


class Span(NamedTuple):
    """A stretch [start, end) of a text in code points."""

    start: int
    end: int


class Word(NamedTuple):
    """A word, or a phrase that counts as one, with the form it has in the text and where."""

    form: str
    lower: str
    span: Span
    is_code: bool


CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(
    r"""
    \d{1,2}:\d{2}(?::\d{2})?
  | \#\d+
  | \d{4}-\d{2}-\d{2}(?:T[\d:.Z+]*)?
  | [$€£]?\d+(?:[.,_]\d+)*(?:-?(?:[A-Za-zµ]+\b|%))?
  | --?[A-Za-z][\w-]*
  | [A-Za-z_$.~/][\w$]*(?:[-.'’/:][\w$]+)*(?:\(\))?
  | [=!]==?|=>|<=|>=|[%=:;,<>≤≥]
    """,
    re.VERBOSE,
)
_CONTRACTED = re.compile(r"(\w+?)n't\Z")
_PHRASES = {
    tuple(phrase.split()): word
    for word, phrases in tomllib.loads(files(__package__).joinpath("phrases.toml").read_text("utf-8"))[
        "phrases"
    ].items()
    for phrase in phrases.split(",")
}
_PHRASE_MAX = max(map(len, _PHRASES))
#: What ends a condition or the reach of a preposition.
CLAUSE_ENDS = words(", ; :") | {"then", "but"}
#: Words that are no content of a claim.
SMALL = FUNCTION_WORDS - {"in", "on", "from", "to", "by"} | words(
    """
    can could may might must shall should it its there have has had be get gets got still already also both
    if when while once unless whenever where after before until since because as than but in on to from by
    over under above below within without no not never always only every each any all some more most less
    least first last then so very quite just like such out off up down about around own same other another
    instead must-not refuse-to no-longer
    caused-by causing too either neither nor none however yet again per ever even much many few lot lots way thing
    things make makes made making let lets default now cannot he she what how why
    """
)
ARTICLES = words("a an the its our your their his her this that these those")


def is_inside(place: int, codes: Sequence[Span]) -> bool:
    """Whether an offset lies within a stretch of code."""
    return any(start < place < end for start, end in codes)


def read_words(text: str, span: Span, codes: Sequence[Span]) -> Iterator[Word]:
    """The words of a sentence in order; a phrase that stands for one word is that word."""
    plain = list(_plain_words(text, span, codes))
    place = 0
    while place < len(plain):
        for size in range(min(_PHRASE_MAX, len(plain) - place), 0, -1):
            run = plain[place : place + size]
            phrase = _PHRASES.get(tuple(word.lower for word in run))
            if phrase is not None and _is_meant(phrase, plain[place + size : place + size + 2]):
                yield Word(phrase, phrase, Span(run[0].span.start, run[-1].span.end), False)
                place += size
                break
        else:
            yield plain[place]
            place += 1


def _is_meant(phrase: str, behind: Sequence[Word]) -> bool:
    """Whether a phrase stands for what it is listed as; a limit is one only in front of a number."""
    if phrase not in ("≤", "≥"):
        return True
    return any(
        word.lower[0].isdigit() or word.lower in NUMBER_WORDS or word.lower[0] in "$€£" for word in behind
    )


def _plain_words(text: str, span: Span, codes: Sequence[Span]) -> Iterator[Word]:
    for match in _WORD.finditer(text, span.start, span.end):
        form = match.group()
        is_code = is_inside(match.start(), codes)
        lower = form.lower().replace("’", "'")
        stripped = lower.rstrip(".'") if not is_code else lower
        if not stripped:
            continue
        where = Span(match.start(), match.start() + len(stripped))
        contracted = _CONTRACTED.fullmatch(stripped)
        if contracted or stripped == "cannot":
            base = contracted.group(1) if contracted else "can"
            yield Word(base, {"wo": "will", "ca": "can"}.get(base, base), where, is_code)
            yield Word("not", "not", where, is_code)
            continue
        if stripped.endswith("'s"):
            stripped = stripped[:-2]
        yield Word(form[: len(stripped)], stripped, where, is_code)


def follows(found: Sequence[Word], place: int, wanted: Sequence[str]) -> bool:
    """Whether one of the wanted words stands close behind a place."""
    return any(word.lower in wanted for word in found[place + 1 : place + 4])
