"""The rules of injection.py as they stand in injection_rules.toml, and the words that open a request."""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from hivemind_pipelines.core.lexicon import words
from hivemind_pipelines.core.literals import Sieve

Kind = Literal[
    "override",
    "persona",
    "authority",
    "secret_request",
    "personal_data",
    "output_control",
    "code_graft",
    "hazard",
    "hijack",
    "splitting",
    "hypothetical",
    "template",
    "transcript",
    "barrage",
    "repetition",
    "hidden",
    "encoded",
    "foreign_request",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern over lower-case text on one line, and how much it says by itself; 1 is enough."""

    kind: Kind
    weight: float
    pattern: re.Pattern[str]


@cache
def rules() -> tuple[Rule, ...]:
    """The shipped rules, one a pattern; raises ValueError for a kind that nobody knows."""
    document = tomllib.loads(_shipped().decode())
    fragments = {f"<{name}>": pattern for name, pattern in document["fragments"].items()}
    return tuple(rule for entry in document["rules"] for rule in _rules(entry, fragments))


def matching_rules(folded: str) -> Iterator[Rule]:
    """The rules that find something in a lower-case text on one line."""
    shipped = rules()
    for number in sorted(_sieve().candidates(folded)):
        if shipped[number].pattern.search(folded):
            yield shipped[number]


@cache
def _sieve() -> Sieve:
    return Sieve([rule.pattern for rule in rules()])


@cache
def rules_fingerprint() -> str:
    """16 hex digits that change when a rule does."""
    return hashlib.sha256(_shipped()).hexdigest()[:16]


def _shipped() -> bytes:
    return files("hivemind_pipelines.core").joinpath("injection_rules.toml").read_bytes()


def _rules(entry: dict[str, object], fragments: dict[str, str]) -> Iterator[Rule]:
    kind, weight, patterns = entry["kind"], entry["weight"], entry["patterns"]
    if kind not in KINDS or not isinstance(weight, float) or not isinstance(patterns, list):
        raise ValueError(f"a rule of injection_rules.toml is malformed: {kind}")
    for pattern in patterns:
        whole = pattern
        for name, fragment in fragments.items():
            whole = whole.replace(name, fragment)
        yield Rule(kind, weight, re.compile(whole))


#: What a sentence opens with that gives a writer a task.
TASK_VERBS = words(
    """
    explain describe write compose draft translate summarize summarise provide develop outline discuss
    suggest recommend generate analyze analyse calculate solve teach remind schedule email craft invent
    narrate recite paraphrase rewrite classify categorize predict propose brainstorm elaborate formulate
    """
)

#: Tasks that their first word does not give away.
TASK_OPENINGS = re.compile(
    r"\W*(?:(?:please|kindly|now|also|then|and|next|finally),? )*(?:"
    r"(?:tell|give|show|teach|remind|help|sing|read|make|order|book|find|send|set|wake|call|text|buy|play|ask) "
    r"(?:me|us|him|her|them)\b|break down the\b|"
    r"(?:create|make|build|prepare|set up|design|organi[sz]e|plan|give|set|put together|come up with) "
    r"(?:an?|the|my|some) (?:[\w-]+ ){0,4}?"
    r"(?:list of|poem|story|schedule|reminder|alarm|recipe|itinerary|e-?mail|letter|speech|essay|"
    r"song|joke|quiz|slogan|tweet|survey|agenda|meeting|appointment|presentation|paragraph|dialogue|riddle)\b|"
    r"(?:name|recommend|suggest|interpret|evaluate|assess|rate) (?:the|an?|some|three|five|\d+)\b)"
)

#: What a sentence opens with that asks somebody; yes-or-no questions are often rhetorical.
QUESTION_WORDS = words("what what's who who's whose when where where's why how which can could")

#: A question that points at its own text is the author's.
POINTERS = words("this that it these those we our my here there's above if")

POLITE = words("please kindly now also then and next finally")

#: Words of any topic: a sentence has nothing in common with its text by sharing them.
ANY_TOPIC = words(
    """
    the and for with you your from into that this these those what which who whose when where why how can
    could would will does did are was were has have had not but its it's about their there then than them
    they our out use using used one some any all also just like make get way want need please following
    example examples work works working simple main different difference differences show number primary
    new first second third every each given many much most more
    """
)

#: A game with the letters and words of an answer.
WORD_GAME = re.compile(
    r"\b(?:replace|substitute|swap|exchange|represent|scramble|jumble|rearrange|reverse|shuffle|misspell|anagram|"
    r"encode|spell|shift|convert|change|turn|capitali[sz]e|group|remove|use|insert|add|write|translate)\b.{0,40}?"
    r"\b(?:letters?|vowels?|consonants?|words?|verbs?|nouns?|adjectives?|syllables?|sentences?|spaces)\b.{0,40}?"
    r"\b(?:emojis?|symbols?|numbers?|numerals?|positions?|rhymes?|synonyms?|antonyms?|alphabet|cipher|backwards?|"
    r"reverse|morse|binary|hexadecimal|leetspeak|order|typos?|opposites?|french|spanish|german|italian)\b"
)
