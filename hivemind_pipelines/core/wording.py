"""Wording: the words of a sentence as claims read them, phrases joined and contractions undone."""

import re
from collections.abc import Iterator, Sequence
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
_PHRASES: dict[tuple[str, ...], str] = {
    tuple(phrase.split()): word
    for word, phrases in {
        "enable": "turn on,turned on,turns on,turning on,switch on,switched on,switches on,switching on",
        "disable": "turn off,turned off,turns off,turning off,switch off,switched off,switches off,switching off",
        "no-longer": "no longer,not any more,not anymore",
        "default": "out of the box,by default,unless configured otherwise,unless told otherwise,unless set otherwise",
        "must": "have to,has to,had to,need to,needs to",
        "give-up": "give up,gives up,gave up,giving up",
        "≤": "at most,up to,no more than,a maximum of,maximum of,not more than,capped at,limited to",
        "≥": "at least,no less than,no fewer than,a minimum of,minimum of,not less than",
        ">": "more than,greater than,larger than,bigger than,longer than,older than,in excess of,higher than",
        "<": "less than,fewer than,smaller than,shorter than,younger than,lower than",
        "instead": "instead of,rather than",
        "always": "at all times,every time,in every case,in all cases",
        "never": "under no circumstances,at no time,in no case",
        "in-memory": "in memory",
        "on-demand": "on demand",
        "built-in": "built in,builtin",
        "override": (
            "take precedence over,takes precedence over,wins over,win over,has priority over,override,overrides"
        ),
        "because": "so that,in order to",
        "caused-by": (
            "caused by,was caused by,were caused by,due to,was due to,because of,came from,comes from,come from,"
            "traced to,was traced to,traced back to,was traced back to,a result of,the result of,stems from,"
            "stemmed from,down to,rooted in"
        ),
        "causing": "the reason for,responsible for,to blame for",
        "at-least-once": "at least once,more than once",
        "exactly-once": "exactly once",
        "at-most-once": "at most once",
        "sequentially": "one after another,one after the other,one by one,one at a time",
        "real-time": "in real time,on the fly",
        "continue": "carry on,carries on,carried on,go on,goes on,keeps going,keep going",
        "quarterly": "every quarter,each quarter,once a quarter,per quarter",
        "before": "prior to,ahead of",
        "read-only": "read only",
        "single-threaded": "single threaded",
        "multi-threaded": "multi threaded",
        "unnecessary": "no need,not needed,not necessary,not required,needs no,need no,requires no,require no",
        "gzip": "gzip compression",
        "daily": "every day,each day,once a day,every night,nightly,once per day,per day",
        "hourly": "every hour,each hour,once an hour,once per hour,per hour",
        "weekly": "every week,each week,once a week,once per week,per week",
        "monthly": "every month,each month,once a month,once per month,per month",
        "yearly": "every year,each year,once a year,annually,annual,per year",
        "minutely": "every minute,per minute,each minute",
        "secondly": "every second,per second,each second",
    }.items()
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
