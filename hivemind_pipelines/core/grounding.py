"""Grounding: whether a draft says only what its sources say, and how much of theirs it keeps."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hivemind_pipelines.core.injection import suspicion
from hivemind_pipelines.core.model import SourceText, SummaryDraft, SummarySentence
from hivemind_pipelines.core.policy import SummaryPolicy
from hivemind_pipelines.core.specifics import Kind, flat, ground, specifics
from hivemind_pipelines.core.text import CODE_SPAN, clean, sentences

#: A sentence of which fewer of its content words stand in the sources it cites is not theirs.
SUPPORT_MIN = 0.5

#: Reason code -> what to tell the model when it gets its one retry.
REASONS: Mapping[str, str] = {
    "malformed": "the answer does not have the required form",
    "empty": "there is no sentence with words of its own",
    "too_long": "the text is longer than allowed",
    "too_many_sentences": "there are more sentences than allowed",
    "uncited": "a sentence cites no source",
    "unknown_source": "a sentence cites a source number that does not exist",
    "code": "a code span does not stand in the cited sources",
    "url": "a URL does not stand in the cited sources",
    "path": "a path does not stand in the cited sources",
    "flag": "a command-line flag does not stand in the cited sources",
    "version": "a version does not stand in the cited sources",
    "number": "a number does not stand in the cited sources",
    "identifier": "an identifier does not stand in the cited sources",
    "name": "a name does not stand in the cited sources",
    "negation": "a sentence denies what the cited sources do not deny",
    "negation_lost": "a sentence asserts what the cited sources deny",
    "unsupported": "a sentence has too little in common with the cited sources",
    "html": "the text contains markup",
    "instruction": "the text reads like an instruction to a model",
    "placeholder": "the text is little more than placeholders",
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many distinct specifics of the sources a draft keeps, what kinds were lost, who is cited."""

    specifics_total: int
    specifics_kept: int
    sources_total: int
    sources_cited: int
    lost: Mapping[Kind, int] = field(default_factory=dict, hash=False)


def check_draft(draft: SummaryDraft, sources: Sequence[SourceText], policy: SummaryPolicy) -> tuple[str, ...]:
    """The reason codes that speak against storing the draft, in the order of REASONS; empty: it passes."""
    found = set(_form(draft, policy))
    by_number = {source.number: source.content for source in sources}
    for sentence in draft.sentences:
        found.update(_sentence(sentence, by_number))
    return tuple(reason for reason in REASONS if reason in found)


def check_sentence(text: str, cited: Sequence[str]) -> frozenset[str]:
    """The reason codes of one sentence against the texts it cites."""
    return frozenset((*_safety(text), *_ungrounded(text, tuple(cited))))


def feedback(reasons: Sequence[str]) -> str:
    """The reasons in words for a retry; they quote nothing."""
    return "; ".join(REASONS[reason] for reason in reasons if reason in REASONS)


def coverage(draft: SummaryDraft, sources: Sequence[SourceText]) -> Coverage:
    """The specifics of the sources that the draft keeps and loses, as numbers."""
    wanted = {specific for source in sources for specific in specifics(source.content)}
    kept_in = ground((draft.text,))
    lost = Counter(specific.kind for specific in wanted if not kept_in.holds(specific))
    known = {source.number for source in sources}
    cited = known & {number for sentence in draft.sentences for number in sentence.sources}
    return Coverage(
        len(wanted), len(wanted) - lost.total(), len(known), len(cited), dict(sorted(lost.items()))
    )


def _form(draft: SummaryDraft, policy: SummaryPolicy) -> Iterator[str]:
    if len(draft.sentences) > policy.sentences_max:
        yield "too_many_sentences"
    if len(draft.text) > policy.characters_max:
        yield "too_long"
    words = _WORD.findall(_PLACEHOLDER.sub(" ", draft.text))
    if len(words) < _WORDS_MIN:
        yield "placeholder" if _PLACEHOLDER.search(draft.text) else "empty"
    # A sentence alone may be harmless and its neighbours complete it.
    yield from _safety(draft.text)


def _sentence(sentence: SummarySentence, by_number: Mapping[int, str]) -> Iterator[str]:
    if not _WORD.search(sentence.text):
        yield "empty"
    if not sentence.sources:
        yield "uncited"
    if any(number not in by_number for number in sentence.sources):
        yield "unknown_source"
    cited = tuple(by_number[number] for number in sentence.sources if number in by_number)
    yield from check_sentence(sentence.text, cited)


def _safety(text: str) -> Iterator[str]:
    cleaned = clean(text)
    prose = CODE_SPAN.sub(" ", cleaned)
    if _MARKUP.search(prose) or _ACTIVE.search(cleaned):
        yield "html"
    if _INSTRUCTION.search(" ".join(cleaned.split())) or _talks_to_a_model(text):
        yield "instruction"


def _talks_to_a_model(text: str) -> bool:
    """Suspicious for what it says; a sentence beside others on another matter is no request."""
    found = suspicion(text)
    return found is not None and bool(set(found.kinds) - {"foreign_request"})


def _ungrounded(text: str, cited: tuple[str, ...]) -> Iterator[str]:
    if any(flat(text) in _quotable(content) for content in cited):
        return
    place = ground(cited)
    yield from (specific.kind for specific in specifics(text) if not place.holds(specific))
    words = _stems(text)
    if words and len(words & _stems(place.text)) < SUPPORT_MIN * len(words):
        yield "unsupported"
    statements = [statement for content in cited for statement in _statements(content)]
    for drafted in _statements(text):
        yield from _polarity(drafted, statements)


@lru_cache(maxsize=256)
def _quotable(content: str) -> frozenset[str]:
    """Whole sentences only: a part of one may assert what the whole denies."""
    return frozenset(flat(sentence) for sentence in sentences(content))


@dataclass(frozen=True, slots=True)
class _Statement:
    """A sentence's content words, and for each negation in it the words it bears on, nearest first."""

    words: frozenset[str]
    denied: tuple[tuple[str, ...], ...]
    is_contrast: bool


def _polarity(drafted: _Statement, statements: Sequence[_Statement]) -> Iterator[str]:
    denials = [statement for statement in statements if statement.denied]
    for denied in drafted.denied:
        if not any(statement.words.intersection(denied) or not denied for statement in denials):
            yield "negation"
    if drafted.denied or drafted.is_contrast or not drafted.words:
        return
    affirmed = max((_overlap(drafted, other) for other in statements if not other.denied), default=0.0)
    for other in denials:
        is_reversed = any(scope and drafted.words.issuperset(scope[:2]) for scope in other.denied)
        if is_reversed and _overlap(drafted, other) > max(affirmed, SUPPORT_MIN):
            yield "negation_lost"


def _overlap(drafted: _Statement, other: _Statement) -> float:
    return len(drafted.words & other.words) / len(drafted.words)


@lru_cache(maxsize=256)
def _statements(content: str) -> tuple[_Statement, ...]:
    return tuple(_statement(sentence) for sentence in sentences(content))


def _statement(sentence: str) -> _Statement:
    plain = flat(sentence).casefold()
    words = frozenset(_stems(plain))
    denied = []
    for match in _NEGATION.finditer(plain):
        scope = re.split(r"[.;:,!?](?:\s|\Z)", plain[match.end() :], maxsplit=1)[0]
        denied.append(tuple(_stem_list(scope))[:4] or tuple(_stem_list(plain[: match.start()]))[-4:])
    return _Statement(words, tuple(denied), bool(_CONTRAST.search(plain)))


def _stems(text: str) -> set[str]:
    return set(_stem_list(flat(text).casefold()))


def _stem_list(folded: str) -> Iterator[str]:
    for word in _WORD.findall(_NEGATION.sub(" ", folded)):
        if word not in _STOPWORDS and len(word) > 1:
            yield _SUFFIX.sub("", word)[:6]


_WORDS_MIN = 3
_WORD = re.compile(r"[^\W_]+")
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]{1,40}\]|<[A-Z][A-Z0-9_]{1,40}>")
_SUFFIX = re.compile(r"(?<=..)(?:ing|ies|ed|es|s|e|y)\Z")
_NEGATION = re.compile(
    r"\b(?:not|no|never|nor|none|neither|nothing|nobody|nowhere|without|cannot|unable|"
    r"avoid(?:s|ed|ing)?|forbid(?:s|den)?|prohibit(?:s|ed)?|\w+n't)\b"
)
_CONTRAST = re.compile(
    r"\b(?:instead|rather|only|fails?|failed|deprecated|removed|lacks?|unlike|stop|refuse[sd]?)\b"
)
_STOPWORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "being", "but", "by", "can", "could", "did",
    "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "if", "in", "into", "is",
    "it", "its", "may", "might", "more", "most", "must", "of", "on", "or", "our", "shall", "she",
    "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "to", "too", "very", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "will", "with", "would", "you", "your", "also", "any", "all", "both", "each",
    "other", "only", "same", "just", "about", "after", "before", "over", "under", "up", "out",
))  # fmt: skip

_TAGS = (
    "a|abbr|audio|b|base|blockquote|body|br|button|canvas|center|code|div|embed|em|font|footer|form|frame|h[1-6]|"
    "head|header|hr|html|i|iframe|img|input|label|li|link|marquee|math|meta|nav|object|ol|option|p|pre|script|"
    "section|select|span|strong|style|sub|sup|svg|table|tbody|td|template|textarea|th|title|tr|u|ul|video"
)
_MARKUP = re.compile(
    rf"(?<!\w)</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<(?:{_TAGS})\s+[a-z-]+\s*=|<!--|<!doctype|&#x?[0-9a-f]{{2,6}};",
    re.IGNORECASE,
)
_ACTIVE = re.compile(
    r"\b(?:java|vb)script\s*:|\bdata:text/html|!\[[^\]]*\]\(|<\s*script\b[^>]*\bsrc\b", re.IGNORECASE
)

_INSTRUCTION = re.compile(
    "|".join(
        (
            r"\b(?:ignor|disregard|forget|overrid|bypass)\w*\s+(?:\w+\s+){0,4}?"
            r"(?:previous|prior|above|preceding|earlier|foregoing|system|your|these|those)\s+(?:\w+\s+){0,3}?"
            r"(?:instruction|prompt|direction|rule|guideline|message|command|context|task)s?\b",
            r"\b(?:system|initial|hidden)\s+(?:prompt|instructions)\b",
            r"\b(?:your|reveal|print|repeat|leak|hidden)\s+(?:the\s+)?system\s+message\b",
            r"\byou\s+are\s+(?:now\s+)?(?:an?\s+)?(?:\w+\s+){0,3}?"
            r"(?:ai|assistant|chatbot|language model|chatgpt|claude|gpt)\b",
            r"\b(?:from now on|henceforth),?\s+(?:you|act|answer|respond|always)\b",
            r"\b(?:act|behave|pretend|roleplay)\s+(?:as|like)\s+(?:if\s+you|an?\s+(?:ai|assistant|dan|unrestricted))\b",
            r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b",
            r"\b(?:dan|developer|god|jailbreak|jailbroken)\s+mode\b|\bjailbreak\w*\b",
            r"\b(?:in|of|to|modify|adjust|end|begin|start|finish|render|format)\s+your\s+"
            r"(?:answer|reply|response|output|summary)\b",
            r"\b(?:do not|don't|never)\s+(?:tell|inform|mention|reveal|show)\s+(?:\w+\s+){0,3}?"
            r"(?:user|human|reviewer|operator)s?\b",
            r"<\|?(?:im_start|im_end|endoftext|system|assistant)\|?>|\[/?INST\]|<</?SYS>>",
            r"(?:^|\s)#{2,}\s*(?:system|instruction|assistant)s?\b|\b(?:begin|end)\s+(?:of\s+)?(?:system|hidden)\s+"
            r"(?:prompt|instructions?|message)",
            r"\bnew\s+(?:system\s+)?(?:instruction|directive|objective)s?\s*:",
        )
    ),
    re.IGNORECASE,
)
