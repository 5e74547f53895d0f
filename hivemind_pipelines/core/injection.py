"""Injection: whether a text talks to a model instead of telling its readers something, from the text alone."""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hivemind_pipelines.core.injection_rules import (
    ANY_TOPIC,
    POINTERS,
    POLITE,
    QUESTION_WORDS,
    TASK_OPENINGS,
    TASK_VERBS,
    WORD_GAME,
    Kind,
    matching_rules,
    rules_fingerprint,
)
from hivemind_pipelines.core.text import CODE_SPAN, clean, sentences

#: Raised by hand when the code around the rules changes what is suspicious.
_CODE_VERSION = 2

#: Kinds of evidence add up; from here on a text is suspicious.
SUSPICIOUS_MIN = 1.0

#: More of a text is not read: beyond it nobody reads either, and patterns are linear in what they read.
CHARACTERS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why a text is suspicious: the kinds of evidence, sorted, and their weights' sum; never a text."""

    kinds: tuple[Kind, ...]
    score: float


def suspicion(text: str) -> Suspicion | None:
    """The evidence that a text gives a model instructions, or None when it is not enough."""
    weights: dict[Kind, float] = {}
    for kind, weight in _evidence(text[:CHARACTERS_MAX]):
        weights[kind] = max(weight, weights.get(kind, 0.0))
    score = sum(weights.values())
    return Suspicion(tuple(sorted(weights)), score) if score >= SUSPICIOUS_MIN else None


def suspicion_stamp() -> str:
    """What changes when another text may be suspicious."""
    return f"{_CODE_VERSION}:{rules_fingerprint()}"


def _evidence(text: str) -> Iterator[tuple[Kind, float]]:
    if _HIDDEN.search(text):
        yield "hidden", 1.0
    plain = _plain(text)
    yield from _matched(plain)
    for decoded in _decoded(plain):
        yield "encoded", 0.6
        yield from ((kind, weight) for kind, weight in _matched(_plain(decoded)))
    yield from _shape(text, plain)


def _matched(plain: str) -> Iterator[tuple[Kind, float]]:
    yield from ((rule.kind, rule.weight) for rule in matching_rules(plain.lower()))


def _plain(text: str) -> str:
    """One line without accents' compositions, tricks of spacing and invisible characters."""
    line = " ".join(clean(text).split())
    return _SPACED.sub(lambda match: match.group().replace(" ", ""), line)


def _decoded(plain: str) -> Iterator[str]:
    """What hides in base64, hexadecimal or binary and reads like words."""
    candidates = (
        *(_from_base64(match.group()) for match in _BASE64.finditer(plain)),
        *(_from_digits(match.group(), 16) for match in _HEXADECIMAL.finditer(plain)),
        *(_from_digits(match.group(), 2) for match in _BINARY.finditer(plain)),
    )
    for decoded in candidates:
        if len(_WORDS.findall(decoded)) >= _ENCODED_WORDS_MIN and decoded.isprintable():
            yield decoded


def _from_base64(token: str) -> str:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _from_digits(digits: str, base: int) -> str:
    return bytes(int(group, base) & 0xFF for group in digits.split()).decode(errors="replace")


def _shape(text: str, plain: str) -> Iterator[tuple[Kind, float]]:
    """Evidence in how a text is built: dialogues without an end, questions in a row, words in a row."""
    prose = CODE_SPAN.sub(" ", text)
    turns = [match.group(1).lower() for match in _TURN.finditer(prose)]
    if len(turns) >= _TURNS_MIN and turns[-1] in _ASKING and not _ASKING.issuperset(turns):
        yield "transcript", 1.0
    said = [one for sentence in sentences(prose) for one in _split_questions(sentence)]
    asked = sum(one.rstrip("\"' ").endswith(_QUESTION_MARKS) for one in said)
    if asked >= _BARRAGE_MIN and asked >= _BARRAGE_SHARE * len(said):
        yield "barrage", 1.0
    if _is_repetitive(_WORDS.findall(CODE_SPAN.sub(" ", plain).lower())):
        yield "repetition", 1.0
    stems = Counter(_content_stems(text))
    if any(_is_foreign_request(index, said, stems) for index in range(len(said))):
        yield "foreign_request", 1.0


def _split_questions(sentence: str) -> list[str]:
    return [part.strip() for part in _AFTER_QUESTION.split(sentence) if part.strip()]


def _is_repetitive(words: list[str]) -> bool:
    """Whether a run of up to PERIOD_MAX words comes REPEATS_MIN times in a row."""
    for period in range(1, _PERIOD_MAX + 1):
        run = 0
        for index in range(period, len(words)):
            run = run + 1 if words[index] == words[index - period] else 0
            if run >= period * (_REPEATS_MIN - 1):
                return True
    return False


def _is_foreign_request(index: int, said: list[str], stems: Counter[str]) -> bool:
    """Whether a sentence asks for work on something that the rest of its text never mentions."""
    if len(said) < _SENTENCES_MIN or not is_request(said[index]):
        return False
    own = Counter(_content_stems(said[index]))
    return len(own) >= _OWN_WORDS_MIN and all(stems[stem] <= count for stem, count in own.items())


def is_request(sentence: str) -> bool:
    """Whether a sentence asks somebody a question, gives a writer a task, or plays with an answer's words."""
    folded = clean(sentence).lower()
    words = _WORDS.findall(folded)
    opening = next((word for word in words[:3] if word not in POLITE), "")
    if opening in TASK_VERBS or TASK_OPENINGS.match(folded) or WORD_GAME.search(folded):
        return True
    asks = sentence.rstrip("\"'”’)* ").endswith(_QUESTION_MARKS)
    return asks and opening in QUESTION_WORDS and POINTERS.isdisjoint(words)


def _content_stems(text: str) -> list[str]:
    words = _WORDS.findall(clean(text).lower())
    return [word[:5] for word in words if len(word) > 2 and word not in ANY_TOPIC and word not in TASK_VERBS]


# Tag characters spell invisible ASCII; overrides turn the reading direction of what follows.
_HIDDEN = re.compile("[\U000e0020-\U000e007f]{4}|[\u202d\u202e]")
_SPACED = re.compile(r"(?<!\S)(?:[A-Za-z] ){4,}[A-Za-z](?!\S)")
_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/]{24,}={0,2}(?![A-Za-z0-9+/=_-])")
_HEXADECIMAL = re.compile(r"\b(?:[0-9a-fA-F]{2} ){11,}[0-9a-fA-F]{2}\b")
_BINARY = re.compile(r"\b(?:[01]{8} ){5,}[01]{8}\b")
_ENCODED_WORDS_MIN = 3

_TURN = re.compile(
    r"(?:^|[\s.?!\"'])(q|question|a|answer|user|human|assistant|ai|bot)\s?:(?=\s)", re.IGNORECASE
)
_ASKING = frozenset({"q", "question", "user", "human"})
_TURNS_MIN = 3
_QUESTION_MARKS = ("?", "？", ";?", "؟")
_AFTER_QUESTION = re.compile(r"(?<=[?？؟])[\"')\]]*\s+")
_BARRAGE_MIN, _BARRAGE_SHARE = 3, 0.6
_PERIOD_MAX, _REPEATS_MIN = 6, 8
_SENTENCES_MIN, _OWN_WORDS_MIN = 3, 2
