"""Noise: how little a contribution can be worth to anybody, from its text alone, and what says so."""

import math
import re
from dataclasses import dataclass

from hivemind_pipelines.core.literals import Sieve
from hivemind_pipelines.core.text import clean

#: Raised by hand when the code changes what counts as noise.
NOISE_VERSION = 1

#: More of a text is not read; patterns are linear in what they read.
CHARACTERS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Noise:
    """`score` in [0, 1] over so many words, and its parts, each in [0, 1]: what speaks for noise on its own."""

    score: float
    words: int
    parts: tuple[tuple[str, float], ...]

    def part(self, name: str) -> float:
        """One part by its name."""
        return dict(self.parts)[name]


#: How much a part alone says; parts combine as independent reasons: 1 - product of (1 - weight * part).
WEIGHTS: dict[str, float] = {
    "empty": 1.0,
    "gibberish": 0.95,
    "spam": 0.95,
    "repetition": 0.6,
    "short": 0.4,
    "chatter": 0.2,
    "plain": 0.05,
}


def noise(content: str) -> Noise:
    """The noise of a text; the parts name why."""
    text = clean(content[:CHARACTERS_MAX])
    words = _WORD.findall(text)
    count = _count(text, words)
    parts = {
        "empty": 0.0 if words else 1.0,
        "gibberish": gibberish(text),
        "spam": _spam(text, count),
        "repetition": _repetition(words),
        "short": max(0.0, 1.0 - count / FULL_WORDS),
        "chatter": _chatter(text, count),
        "plain": _plainness(text),
    }
    clear = math.prod(1.0 - WEIGHTS[name] * part for name, part in parts.items())
    return Noise(1.0 - clear, count, tuple(parts.items()))


#: A note of so many words is not short.
FULL_WORDS = 6

_WORD = re.compile(r"\w+(?:['’]\w+)?")
#: Scripts without spaces between words, of which two characters make about one.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def _count(text: str, words: list[str]) -> int:
    return len(words) + len(_UNSPACED.findall(text)) // 2


# Letters that follow a letter in at least 1.8 in 100 English words that have it. Other European languages
# in Latin script keep to them too: their sentences reach 0.84 and more, keyboards struck at random 0.6.
_FOLLOWERS = {
    "a": "bcdgilmnprstuvy", "b": "aeijlorsuy", "c": "aehiklortu", "d": "adeiosu", "e": "acdeflmnprstvx",
    "f": "aefilortu", "g": "aeghilnorsu", "h": "aeiot", "i": "acdefglmnorstvx", "j": "aeiosu", "k": "aeins",
    "l": "adeilostuy", "m": "abeimopu", "n": "acdefgiost", "o": "cdlmnoprstuvw", "p": "adeiloprstuy",
    "q": "lu", "r": "adeikmnorstuy", "s": "acehiopstu", "t": "aehiorstuy", "u": "abcdegilmnprst",
    "v": "aeio", "w": "aehinors", "x": "aceipt", "y": "eilmnopstw", "z": "aefiosyz",
}  # fmt: skip
_COMMON_PAIRS = frozenset(first + second for first, seconds in _FOLLOWERS.items() for second in seconds)

#: Words of prose: letters between spaces or punctuation, so that no identifier, path or flag is judged.
_PROSE_WORD = re.compile(r"(?<![^\s(\"'])[A-Za-z]{4,20}(?![^\s.,;:!?)\"'])")
_PAIRS_MIN = 12
_GIBBERISH_BELOW, _SENSE_FROM = 0.55, 0.7


def gibberish(text: str) -> float:
    """1 for letters that make no words, 0 for words of a language; too few letters say nothing."""
    words = sorted({word.lower() for word in _PROSE_WORD.findall(text) if not word.isupper()})
    pairs = [word[at : at + 2] for word in words for at in range(len(word) - 1)]
    if len(pairs) < _PAIRS_MIN:
        return _symbols(text)
    known = sum(pair in _COMMON_PAIRS for pair in pairs) / len(pairs)
    return min(1.0, max(0.0, (_SENSE_FROM - known) / (_SENSE_FROM - _GIBBERISH_BELOW)))


_RUN = re.compile(r"(.)\1{5,}")


def _symbols(text: str) -> float:
    """1 for a text of runs of one character or of hardly any letters."""
    dense = "".join(text.split())
    if not dense:
        return 0.0
    letters = sum(character.isalnum() for character in dense) / len(dense)
    in_runs = sum(len(run.group()) for run in _RUN.finditer(dense)) / len(dense)
    return 1.0 if letters < 0.2 or in_runs > 0.6 else 0.0


# What advertisements, scams and chain letters say, whatever they sell: (pattern, weight).
_SPAM_CUES: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), weight)
    for pattern, weight in (
        (r"\b(?:you(?:'ve| have)?|u) (?:have )?(?:won|been (?:selected|chosen|awarded))\b", 1.2),
        (r"\b(?:prizes?|jackpot|lottery|giveaway|raffle|winners?|vouchers?)\b", 0.9),
        (r"\bclaim (?:your|ur|now|code|it|this|the)\b|\bto claim\b|\bclaim\b.{0,40}\b\d{5,}", 0.9),
        (r"\bfree\b(?! (?:space|memory|list|disk|up|form|software|the|of|function|tier|and open|variable))", 0.4),
        (r"[$£€]\s?\d|\b\d+(?:\.\d+)?\s?(?:usd|gbp|eur|ppm|p/min|pence|p per min)\b", 0.5),
        (r"(?<![\w.:/-])(?:\+?\d[\s-]?){10,13}(?![\w.:/-])", 0.7),
        (r"\b(?:call|text|txt|reply|send|dial|msg|sms|whatsapp|telegram)\b.{0,30}?(?<![\w.])\+?\d{4,}", 1.0),
        (r"\b(?:txt|msg|sms|ringtones?|polyphonic|callertune|mobile upd8)\b", 0.5),
        (r"\b(?:text|reply|send|txt) (?:stop|yes|win|the word)\b|\bopt[- ]?out\b|\bunsubscribe\b", 0.8),
        (r"\b(?:urgent|congrat(?:s|ulations)|guaranteed?|bonus|exclusive|limited[- ]time|act now|hurry)\b", 0.5),
        (r"\b(?:offers?|discounts?|cheap(?:est)?|sale|deals?|best price|\d+% off|half price|promo(?:tion)?)\b", 0.35),
        (r"\b(?:buy|order|shop|subscribe|sign up|apply|join|visit|click|download) (?:now|here|today|us)\b", 0.8),
        (r"\b(?:earn|make) (?:\w+ ){0,3}(?:money|cash|income)\b|\bcash\b|\bwork from home\b", 0.7),
        (r"\b(?:loans?|credit score|casino|poker|betting|slots|viagra|cialis|pills|weight loss|crypto"
         r" (?:invest|profit)\w*|backlinks?|seo (?:services?|expert|agency)|followers|escorts?|dating|singles|sexy?)\b",
         0.8),
        (r"\b(?:dear (?:customer|user|friend|sir|madam|valued)|valued (?:customer|network))\b", 0.7),
        (r"\b(?:100|1000)% (?:free|legit|safe|guaranteed)\b|\brisk[- ]free\b|\bno risk\b", 0.9),
        (r"\bt(?:s ?)?&c'?s?\b|\bterms and conditions apply\b|\bover ?18\b|\b18\+|\b16\+", 0.7),
        (r"\b(?:camera phone|latest (?:nokia|phone)|nokia|mobile (?:number|phone|account))\b", 0.4),
        (r"\b(?:per|a) (?:week|wk|min|msg)\b|\bweekly\b|\bwkly\b", 0.25),
        (r"!\s*!|(?:!.*){3}", 0.3),
        (r"\b(?:www\.|https?://)\S+", 0.15),
    )
)  # fmt: skip
_SPAM_SIEVE = Sieve([pattern for pattern, _ in _SPAM_CUES])
#: Of a longer text the cues weigh less: one of them may stand there by chance.
SPAM_WORDS = 30.0
#: What a single weak cue weighs, which stands in honest texts too.
CHANCE_WEIGHT = 0.15
_SHOUT = re.compile(r"\b[A-Z]{4,}\b")


def _spam(text: str, word_count: int) -> float:
    """What the cues add up to."""
    cues = (_SPAM_CUES[number] for number in sorted(_SPAM_SIEVE.candidates(text)))
    weight = sum(weight for pattern, weight in cues if pattern.search(text))
    shouted = len(_SHOUT.findall(text))
    if word_count and shouted >= 3 and shouted / word_count > 0.12:
        weight += 0.4
    dilution = min(1.0, SPAM_WORDS / word_count) if word_count else 0.0
    return 1.0 - math.exp(-2.0 * max(0.0, weight * dilution - CHANCE_WEIGHT))


def _repetition(words: list[str]) -> float:
    """How often a text says the same words again, beyond what prose does."""
    if len(words) < 12:
        return 0.0
    distinct = len({word.lower() for word in words}) / min(len(words), 60)
    return min(1.0, max(0.0, (0.35 - distinct) / 0.25))


_PERSONAL = re.compile(
    r"(?i)\b(?:i|im|i'm|i've|ive|i'll|i'd|me|my|mine|myself|u|ur|r|ya|lol|haha|hehe|ok|okay|pls|plz|thx|thanks?"
    r"|hi|hey|hello|guys|anyone|somebody|someone|maybe|idk|dunno|gonna|wanna|sorry|love)\b"
)
_HEDGES = re.compile(
    r"(?i)\b(?:not (?:quite |really )?sure|no idea|can (?:any|some)(?:one|body)|could (?:any|some)(?:one|body)"
    r"|any help|help me|please help|does anyone|is it possible|it seems|seems (?:like|to)|for some reason"
    r"|what is wrong|user agent)\b|\?\s*$",
    re.MULTILINE,
)


def _chatter(text: str, word_count: int) -> float:
    """Talk about oneself, greetings, hedges and questions: what one writes in a chat and not in a note."""
    if not word_count:
        return 0.0
    personal = len(_PERSONAL.findall(text)) / word_count
    hedges = len(_HEDGES.findall(text))
    return min(1.0, 5.0 * personal + 0.3 * min(hedges, 3))


#: What hardly stands in prose that is about nothing technical.
_TECHNICAL = re.compile(
    r"""(?x)
      `[^`]+` | ```
    | (?<!\w)--?[A-Za-z][\w-]* | \b\w+\(\) | \b[a-z]+[A-Z]\w* | \b\w+_\w+ | \b[\w-]+\.[a-z]{1,5}\b(?!\.) | \w/\w
    | \bv?\d+\.\d+(?:\.\d+)* | [{}<>|=;$]{1,2} | \b[A-Z]{2,6}\d*\b | ::|->|=>|&& | \b0x[0-9a-f]+
    """
)


def _plainness(text: str) -> float:
    """1 for a text without a trace of code, names, versions or abbreviations."""
    return 0.0 if _TECHNICAL.search(text) else 1.0
