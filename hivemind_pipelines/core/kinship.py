"""Kinship of tokens: how a replaced token relates to the one in its place."""

import re
from enum import StrEnum
from functools import lru_cache

from hivemind_pipelines.core.lexicon import (
    ANTONYMS,
    CAPITAL_NAMES,
    FUNCTION_WORDS,
    LOOKALIKES,
    NEGATIONS,
    OPENERS,
    PARTIES,
    PLACEHOLDERS,
    QUANTIFIERS,
    REVERSALS,
    SIBLINGS,
    SYNONYMS,
    TENSED_WORDS,
    UNITS,
    words,
)
from hivemind_pipelines.core.tokens import Kind, Token


class ChangeKind(StrEnum):
    """What a replaced, added or moved token does to a statement, from nothing to everything."""

    CASE = "case"
    SPELLING = "spelling"
    INFLECTION = "inflection"
    FUNCTION = "function"
    OPENER = "opener"
    SYNONYM = "synonym"
    PLACEHOLDER = "placeholder"
    FLAG_LENGTH = "flag_length"
    MOVED = "moved"
    OPERATOR = "operator"
    WORD = "word"
    WORD_ADDED = "word_added"
    QUANTIFIER_ADDED = "quantifier_added"
    NUMBER_ADDED = "number_added"
    NAME_ADDED = "name_added"
    FLAG_ADDED = "flag_added"
    CODE_ADDED = "code_added"
    NUMBER = "number"
    VERSION = "version"
    UNIT = "unit"
    FLAG = "flag"
    CODE = "code"
    NAME = "name"
    QUANTIFIER = "quantifier"
    POLARITY = "polarity"
    NEGATION = "negation"


_SQUEEZE = re.compile(r"[\W_]+")
_FILE_LIKE = words(
    "file files filename filenames path paths infile outfile inputfile outputfile input output"
)
_FOLDER_LIKE = words("dir directory directories folder folders")
_GENERIC = words("name value id key string text n number")
_SORT_SUFFIX = re.compile(r"[_-](?:name|id|value|path|file|string)")
_TRAILING_DIGITS = re.compile(r"\d+\Z")
_EXTENSION = re.compile(r"\.([A-Za-z]\w{0,4})\Z")
_NUMBER_LIKE = frozenset({Kind.NUMBER, Kind.VERSION})
_LOGIN = re.compile(r"[^@/:]+@[^@/:]+")
_DOMAIN = re.compile(r"\w\.(?:com|org|net|io|dev)\b")
_VOWELS = frozenset("aeiouy")
_SIMILAR_LETTERS = frozenset(map(frozenset, ("sz", "cs", "ck", "iy")))


def relation(removed: Token, added: Token) -> ChangeKind | None:
    """How `added` stands for `removed`; None when neither is any version of the other."""
    if (
        removed.kind in _NUMBER_LIKE
        or added.kind in _NUMBER_LIKE
        or (_is_count(removed) and _is_count(added))
    ):
        return _number_relation(removed, added)
    if removed.kind is Kind.FLAG or added.kind is Kind.FLAG:
        return _flag_relation(removed, added)
    if removed.kind is Kind.OPERATOR or added.kind is Kind.OPERATOR:
        return ChangeKind.CODE if removed.kind is added.kind else None
    return _word_relation(removed, added)


def lone_kind(token: Token) -> ChangeKind:
    """What a token does that stands on one side only."""
    if token.key in NEGATIONS:
        return ChangeKind.NEGATION
    match token.kind:
        case Kind.NUMBER | Kind.VERSION:
            return ChangeKind.NUMBER_ADDED
        case Kind.FLAG:
            return ChangeKind.FLAG_ADDED
        case Kind.OPERATOR:
            return ChangeKind.OPERATOR
    if token.key in QUANTIFIERS:
        return ChangeKind.QUANTIFIER_ADDED
    if token.kind is Kind.CODE:
        return ChangeKind.CODE_ADDED
    if token.key in TENSED_WORDS:
        return ChangeKind.WORD_ADDED
    if token.key in FUNCTION_WORDS:
        return ChangeKind.FUNCTION
    if token.key in OPENERS:
        return ChangeKind.OPENER
    if _is_count(token):
        return ChangeKind.QUANTIFIER_ADDED
    return ChangeKind.NAME_ADDED if token.is_name else ChangeKind.WORD_ADDED


def is_placeholder(form: str) -> bool:
    """Whether a code token stands for a value that the reader fills in."""
    lower = form.lower().strip("<>{}[]")
    if _LOGIN.fullmatch(lower):
        return all(map(is_placeholder, lower.split("@")))
    if lower.startswith(("path/to", "/path/to", "path\\to")) or lower in PLACEHOLDERS or "example." in lower:
        return True
    plain = _TRAILING_DIGITS.sub("", lower).rstrip("_")
    return plain in PLACEHOLDERS or ("_" in plain and plain.rsplit("_", 1)[1] in PLACEHOLDERS)


def is_same_sort(removed: Token, added: Token) -> bool:
    """Whether both are values to fill in, and not a file in place of a folder."""
    a, b = removed.form.lower(), added.form.lower()
    if removed.is_literal or added.is_literal or not _is_value(removed.form, added.form):
        return False
    sorts = {(bool(parts & _FILE_LIKE), bool(parts & _FOLDER_LIKE)) for parts in (_parts(a), _parts(b))}
    return sorts != {(True, False), (False, True)}


def _is_value(a: str, b: str) -> bool:
    """Whether both are values to fill in: placeholders, or one a path or address in place of the other's."""
    if _is_named_after(a, b):
        return True
    if not is_placeholder(a):
        a, b = b, a
    if not is_placeholder(a):
        return False
    if is_placeholder(b):
        return True
    if "example." in a:
        return "://" in b or "@" in b or bool(_DOMAIN.search(b))
    extensions = _EXTENSION.search(a), _EXTENSION.search(b)
    return all(extensions) and "/" not in b and a.lower().startswith("path")


def _is_named_after(a: str, b: str) -> bool:
    """Whether one is the other with what sort of value it is: `language` and `language_name`."""
    short, long = sorted((a.lower(), b.lower()), key=len)
    rest = _SORT_SUFFIX.fullmatch(long.removeprefix(short)) if short.isidentifier() else None
    return long.startswith(short) and rest is not None


@lru_cache(maxsize=32_768)
def stem(word: str) -> str:
    """A word without the endings of number, tense and adverb."""
    for ending, stem_min in (("'s", 3), ("ing", 3), ("ed", 3), ("es", 3), ("ly", 4), ("s", 3)):
        if word.endswith(ending) and len(word) - len(ending) >= stem_min:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeious":
        word = word[:-1]
    if word.endswith("i") and len(word) > 3:
        return word[:-1] + "y"
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _is_count(token: Token) -> bool:
    return token.key.isdigit()


def _number_relation(removed: Token, added: Token) -> ChangeKind | None:
    kinds = {removed.kind, added.kind}
    if Kind.VERSION in kinds and kinds <= _NUMBER_LIKE:
        return ChangeKind.VERSION
    if kinds <= _NUMBER_LIKE or (_is_count(removed) and _is_count(added)):
        return ChangeKind.NUMBER
    return None


def _flag_relation(removed: Token, added: Token) -> ChangeKind | None:
    if removed.kind is not added.kind:
        return None
    short, long = sorted((removed.form, added.form), key=len)
    is_short_form = len(short) == 2 and long.startswith("--") and len(long) > 4
    if is_short_form and long[2].lower() == short[1].lower():
        return ChangeKind.FLAG_LENGTH
    return ChangeKind.FLAG


def _word_relation(removed: Token, added: Token) -> ChangeKind | None:
    a, b = removed.form.lower(), added.form.lower()
    is_code = removed.in_code and added.in_code
    if a == b and not is_code and removed.key.lower() != added.key.lower():
        return _other_sense(removed, added)
    if {removed.form, added.form} & CAPITAL_NAMES and a == b:
        return ChangeKind.WORD
    if a == b or _SQUEEZE.sub("", a) == _SQUEEZE.sub("", b) != "":
        return _case_relation(removed, added) if is_code else ChangeKind.CASE
    pair = frozenset((a, b))
    if pair in ANTONYMS or _is_reversed(a, b):
        return ChangeKind.POLARITY
    if (a in NEGATIONS) != (b in NEGATIONS):
        return None
    is_literal = removed.is_literal or added.is_literal
    if is_code and not is_literal and _is_value(removed.form, added.form):
        return _placeholder_relation(a, b)
    for groups, kind in ((UNITS, ChangeKind.UNIT), (QUANTIFIERS, ChangeKind.QUANTIFIER)):
        if a in groups and b in groups:
            return ChangeKind.SYNONYM if groups[a] == groups[b] else kind
    if pair in SYNONYMS and not is_code:
        return ChangeKind.SYNONYM
    if SIBLINGS.get(a, -1) == SIBLINGS.get(b, -2):
        return ChangeKind.NAME
    if removed.kind is Kind.CODE and added.kind is Kind.CODE:
        return ChangeKind.CODE
    if removed.kind is Kind.CODE or added.kind is Kind.CODE:
        return None
    return _prose_relation(removed, added)


def _other_sense(removed: Token, added: Token) -> ChangeKind:
    """One spelling for two things: Mb and MB, few and a few, a measure and a word by itself."""
    for groups, kind in ((UNITS, ChangeKind.UNIT), (QUANTIFIERS, ChangeKind.QUANTIFIER)):
        lines = [groups.get(token.key) for token in (removed, added)]
        if None not in lines and lines[0] != lines[1]:
            return kind
    return ChangeKind.CASE


def _prose_relation(removed: Token, added: Token) -> ChangeKind | None:
    a, b = removed.key, added.key
    if frozenset((a, b)) in SYNONYMS or (frozenset((stem(a), stem(b))) in SYNONYMS):
        return ChangeKind.SYNONYM
    if stem(a) == stem(b):
        return ChangeKind.WORD if _is_voiced(a, b) else ChangeKind.INFLECTION
    if is_misspelt(a, b):
        return ChangeKind.SPELLING
    if a in FUNCTION_WORDS and b in FUNCTION_WORDS:
        return ChangeKind.WORD if _is_other_party_or_time(a, b) else ChangeKind.FUNCTION
    if a in FUNCTION_WORDS or b in FUNCTION_WORDS:
        return None
    if removed.is_name and added.is_name:
        return ChangeKind.NAME
    return ChangeKind.WORD


def _is_voiced(a: str, b: str) -> bool:
    """Whether one says who does it and the other to whom it is done: a calling and a called service."""
    return {a.endswith("ing"), b.endswith("ing")} == {True, False} and (a.endswith("ed") or b.endswith("ed"))


def _is_other_party_or_time(a: str, b: str) -> bool:
    if TENSED_WORDS.get(a) != TENSED_WORDS.get(b):
        return True
    return a in PARTIES and b in PARTIES and PARTIES[a] != PARTIES[b]


def _case_relation(removed: Token, added: Token) -> ChangeKind:
    """In code case tells things apart, but for the spelling of a value to fill in."""
    if is_placeholder(removed.form) or is_placeholder(added.form):
        return ChangeKind.PLACEHOLDER
    shouted = (removed.form.isupper() and len(removed.form) > 2) or (
        added.form.isupper() and len(added.form) > 2
    )
    return ChangeKind.CASE if shouted else ChangeKind.CODE


def _placeholder_relation(a: str, b: str) -> ChangeKind:
    """Two values to fill in are one unless their extension, number or sort differs."""
    for pattern in (_EXTENSION, _TRAILING_DIGITS):
        left, right = pattern.search(a), pattern.search(b)
        if left and right and left.group() != right.group():
            return ChangeKind.CODE
    a_parts, b_parts = _parts(a), _parts(b)
    if not a_parts or not b_parts or a_parts & b_parts or _GENERIC & (a_parts | b_parts):
        return ChangeKind.PLACEHOLDER
    if (a_parts & _FOLDER_LIKE and b_parts & _FILE_LIKE) or (a_parts & _FILE_LIKE and b_parts & _FOLDER_LIKE):
        return ChangeKind.WORD
    if a_parts & _FILE_LIKE or b_parts & _FILE_LIKE or (a_parts & _FOLDER_LIKE and b_parts & _FOLDER_LIKE):
        return ChangeKind.PLACEHOLDER
    is_prefix = any(x.startswith(y) or y.startswith(x) for x in a_parts for y in b_parts)
    return ChangeKind.PLACEHOLDER if is_prefix else ChangeKind.WORD


def _parts(form: str) -> set[str]:
    plain = _EXTENSION.sub("", form.removeprefix("/").removeprefix("path/to"))
    pieces = (_TRAILING_DIGITS.sub("", piece) for piece in _SQUEEZE.split(plain))
    return {piece for piece in pieces if piece} - {"or", "to"}


def _is_reversed(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(short) < 3:
        return False
    return any(long == prefix + short or long == f"{prefix}-{short}" for prefix in REVERSALS)


def is_misspelt(a: str, b: str) -> bool:
    """Whether two words of four letters or more are one slip apart: a swap, a letter lost or doubled."""
    short, long = sorted((a, b), key=len)
    if len(short) < 4 or short[0] != long[0] or len(long) - len(short) > 1 or not (a + b).isascii():
        return False
    if frozenset((a, b)) in LOOKALIKES or frozenset((stem(a), stem(b))) in LOOKALIKES:
        return False
    start = next((index for index, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    if len(short) < len(long):
        return len(short) > 4 - (long[start] == long[start - 1]) and short[start:] == long[start + 1 :]
    if short[start:][:2] == long[start:][:2][::-1] and short[start + 2 :] == long[start + 2 :]:
        return True
    letters = frozenset((short[start], long[start]))
    is_alike = letters in _SIMILAR_LETTERS or (letters <= _VOWELS and len(short) > 5)
    return is_alike and short[start + 1 :] == long[start + 1 :]
