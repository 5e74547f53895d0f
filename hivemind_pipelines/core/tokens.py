"""Tokens: the smallest parts of a text that a comparison names, each with its kind and spelling."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from hivemind_pipelines.core.lexicon import (
    CAPITAL_NAMES,
    MEASURING_WORDS,
    NEGATED_FORMS,
    NEGATIONS,
    NUMBER_WORDS,
    UNIT_NAMES,
    UNITS,
)
from hivemind_pipelines.core.model import Discriminators
from hivemind_pipelines.core.text import CODE_SPAN, clean


class Kind(StrEnum):
    """What a token is; only plain words may differ in case without a change of meaning."""

    WORD = "word"
    NUMBER = "number"
    VERSION = "version"
    FLAG = "flag"
    CODE = "code"
    OPERATOR = "operator"


class Token(NamedTuple):
    """One token: `form` as written, `key` by which equal tokens are aligned.

    `is_literal` says that it stands in program text, where no word is a value for the reader to fill in.
    """

    form: str
    key: str
    kind: Kind
    in_code: bool
    is_name: bool
    is_literal: bool = False


_CHUNK = re.compile(r"\S+")
_EMPHASIS = re.compile(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1")
_MNEMONIC = re.compile(r"\[(\w{1,3})\](?=\w)|(?<=\w)\[(\w{1,3})\]")
_PART = re.compile(
    r"""
    (?P<slot>(?<![\w])<[A-Za-z][\w-]*>)
  | (?P<flag>(?<![\w/.])--?[A-Za-z?][\w-]*|(?<![\w/.)])\+[a-z]\w*)
  | (?P<negative>(?<![\w/.)\]])-\d[\d.,]*(?![\w-]))
  | (?P<url>[a-z][a-z+.-]*://[^\s`"'<>)\]]+)
  | (?P<money>[$€£¥](?=\d))
  | (?P<option>(?<![\w/.])/[A-Za-z?]{1,2}(?=\Z|:)|(?<![\w/.])/[A-Za-z]+(?=:))
  | (?P<contraction>[^\W\d_]+'[^\W\d_]+)
  | (?P<wordish>[\w@~.$%/\\][\w@~./\\:+$%-]*(?:\#\w+)?)
  | (?P<operator>[^\w\s]+)
    """,
    re.VERBOSE,
)
_VERSION = re.compile(r"[\^~<>=v]*\d+(?:\.\d+)+[a-z0-9.+-]*|v\d+", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", re.IGNORECASE)
_MEASURED = re.compile(r"(\d+(?:\.\d+)?)([a-zµ%]{1,4})", re.IGNORECASE)
_BITS = re.compile(r"[KMG]b")
_ALNUM = re.compile(r"\w")
_QUOTED_SYMBOL = re.compile(r"""(["'`])([^\w\s]{1,4})\1""")
_BRACKETED = re.compile(r"[^\w\s\"'`.,]+|[\[\]]\w{0,2}")
_PLAIN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_HYPHENATED = re.compile(r"[^\W\d_]+(?:[-/][^\W\d_]+)+")
_FENCE = re.compile(r"\A[ \t]*([\w+-]*)[ \t]*\n")
_COMMENT = re.compile(r"(?:\A|(?<=\s))(?:#|//|/\*)\s.*|\A\s*--\s.*")
_PROGRAM = re.compile(
    r"\A\s*(?:SELECT|INSERT|UPDATE|DELETE|ALTER|CREATE|DROP|GRANT|WITH)\b"
    r"|\w\([^)]*\)|\w [-+*]?= \w|;\s*\Z"
)
_COMPARING = re.compile(r"[<>=!]=|[-=]>|&&|\|\||>>|<<|:=")
_SENTENCE_MARKS = frozenset("`'\".,;:()[]{}")
_CURRENCIES = frozenset("$€£¥")
_INDENT, _DEDENT = "⇥", "⇤"
_NOISE = frozenset("`'\".,;:()[]{}<>!?…–—-*_#|~^/\\=•·&")


def tokenise(content: str) -> tuple[Token, ...]:
    """The tokens of a text in order; markup, quotes and sentence punctuation are none."""
    found: list[Token] = []
    for token in _tokens(clean(content)):
        found.append(token._replace(kind=Kind.VERSION) if found and _is_release(found[-1], token) else token)
    return tuple(_with_units(found))


def _with_units(found: Sequence[Token]) -> list[Token]:
    """Give each unit beside a number the key of its quantity, and a currency its place behind the amount."""
    units = list(found)
    for place, token in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        if token.key in MEASURING_WORDS and after is not None and _is_amount(after) and not token.in_code:
            units[place] = token._replace(key=f"{token.key} #")
        if token.form in _CURRENCIES and after is not None and after.kind is Kind.NUMBER:
            units[place : place + 2] = [after, _as_unit(token)]
        elif place and token.key in ("few", "little") and found[place - 1].key == "a":
            units[place] = token._replace(key="some")
        elif place and _is_amount(found[place - 1]) and token.form.lower() in UNITS and not token.in_code:
            units[place] = _as_unit(token)
    return units


def _is_amount(token: Token) -> bool:
    return token.kind is Kind.NUMBER or token.key.isdigit()


def _as_unit(token: Token) -> Token:
    if _BITS.fullmatch(token.form):
        return token._replace(key=f"{token.form[0].lower()}bit")
    return token._replace(key=UNIT_NAMES[UNITS[token.form.lower()]])


def discriminators(content: str) -> Discriminators:
    """The tokens of a text that change its meaning, sorted and unique."""
    found = tokenise(content)
    return Discriminators(
        numbers=_keys(found, Kind.NUMBER),
        versions=_keys(found, Kind.VERSION),
        flags=_keys(found, Kind.FLAG),
        code_tokens=_keys(found, Kind.CODE),
        negations=tuple(sorted({token.key for token in found if token.key in NEGATIONS})),
    )


def _keys(found: tuple[Token, ...], kind: Kind) -> tuple[str, ...]:
    return tuple(sorted({_storable(token.key) for token in found if token.kind is kind}))


def _storable(key: str) -> str:
    """Without NUL and lone surrogates, which jsonb refuses."""
    return key.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _is_release(before: Token, token: Token) -> bool:
    """Whether a decimal is a release number: it follows a name or the word version."""
    if token.kind is not Kind.NUMBER or "." not in token.key:
        return False
    return before.key in ("version", "release") or before.form[:1].isupper()


def _tokens(text: str) -> Iterator[Token]:
    for index, segment in enumerate(CODE_SPAN.split(text)):
        if index % 2 == 0:
            yield from _prose(segment)
        elif segment.startswith("```"):
            yield from _block(segment.strip("`"))
        else:
            yield from _code(segment.strip("`"))


def _prose(segment: str) -> Iterator[Token]:
    plain = _MNEMONIC.sub(lambda match: match.group(1) or match.group(2), _EMPHASIS.sub(r"\2", segment))
    is_start = True
    for chunk in _CHUNK.findall(plain):
        yield from _chunk(chunk, in_code=False, is_start=is_start)
        is_start = chunk[-1] in ".!?:"


def _code(segment: str) -> Iterator[Token]:
    if not _ALNUM.search(segment):
        yield Token(segment, segment, Kind.OPERATOR, True, False)
        return
    is_literal = bool(_PROGRAM.search(segment))
    for chunk in _CHUNK.findall(segment):
        if _BRACKETED.fullmatch(chunk):
            yield Token(chunk, chunk, Kind.OPERATOR, True, False)
            continue
        for token in _chunk(chunk, in_code=True, is_start=False):
            yield token._replace(is_literal=is_literal)


def _block(segment: str) -> Iterator[Token]:
    """A fenced block: its comments are prose, and indentation counts where a colon opens a body."""
    fence = _FENCE.match(segment)
    if fence and fence.group(1):
        yield Token(fence.group(1), fence.group(1), Kind.CODE, True, False)
    lines = segment[fence.end() if fence else 0 :].splitlines()
    is_indented = any(line.rstrip().endswith(":") for line in lines)
    depths = [0]
    for line in filter(str.strip, lines):
        code, comment = _commented(line)
        if is_indented and code.strip():
            yield from _steps(depths, len(line) - len(line.lstrip()))
        if code.strip():
            yield from _code(code)
        yield from _prose(comment)


def _commented(line: str) -> tuple[str, str]:
    """The code of a line and the words of its comment."""
    comment = _COMMENT.search(line)
    if comment is None:
        return line, ""
    return line[: comment.start()], comment.group().strip().strip("#/*-")


def _steps(depths: list[int], depth: int) -> Iterator[Token]:
    """The marks of a line that stands further in or out than the one before; `depths` are those open."""
    if depth > depths[-1]:
        depths.append(depth)
        yield Token(_INDENT, _INDENT, Kind.OPERATOR, True, False)
    while depth < depths[-1]:
        depths.pop()
        yield Token(_DEDENT, _DEDENT, Kind.OPERATOR, True, False)


def _chunk(chunk: str, *, in_code: bool, is_start: bool) -> Iterator[Token]:
    symbol = _QUOTED_SYMBOL.search(chunk)
    if symbol:
        yield Token(symbol.group(2), symbol.group(2), Kind.OPERATOR, in_code, False)
    for part in _PART.finditer(chunk):
        yield from _token(part, in_code, is_start)


def _token(part: re.Match[str], in_code: bool, is_start: bool) -> Iterator[Token]:
    form = part.group()
    match part.lastgroup:
        case "flag" | "option":
            yield Token(form, form, Kind.FLAG, in_code, False)
        case "url":
            form = form.rstrip(".,;:!?")
            yield Token(form, form, Kind.CODE, in_code, False)
        case "money":
            yield Token(form, form, Kind.WORD, in_code, False)
        case "contraction":
            yield from _word(form if form.lower() in NEGATED_FORMS else _owner(form), in_code, is_start)
        case "negative":
            yield Token(form, form.rstrip(".,"), Kind.NUMBER, in_code, False)
        case "slot":
            yield Token(form, form, Kind.CODE, in_code, False)
        case "operator":
            if _is_operator(form, part, in_code):
                yield Token(form, form, Kind.OPERATOR, in_code, False)
        case _:
            yield from _wordish(form, in_code, is_start)


def _is_operator(form: str, part: re.Match[str], in_code: bool) -> bool:
    """Whether punctuation says something: it compares, joins or directs; markup and sentence marks do not."""
    if not _NOISE.issuperset(form) or _COMPARING.search(form):
        return True
    if form[-1] in "<>" and part.string[part.end() : part.end() + 1].isdigit():
        return True
    return in_code and len(form) < 3 and not _SENTENCE_MARKS.issuperset(form)


def _wordish(form: str, in_code: bool, is_start: bool) -> Iterator[Token]:
    stripped = form.rstrip(".,:;!?")
    if not stripped and not in_code:
        return
    form = stripped or form
    lower = form.lower()
    measured = _MEASURED.fullmatch(form)
    if measured and measured.group(2).lower() in UNITS:
        yield Token(measured.group(1), _number(measured.group(1)), Kind.NUMBER, in_code, False)
        yield Token(measured.group(2), measured.group(2).lower(), Kind.WORD, in_code, False)
    elif _NUMBER.fullmatch(form):
        kind = Kind.VERSION if form.count(".") > 1 else Kind.NUMBER
        yield Token(form, _number(form), kind, in_code, False)
    elif _VERSION.fullmatch(form):
        yield Token(form, lower.lstrip("^~<>=v"), Kind.VERSION, in_code, False)
    elif _PLAIN.fullmatch(form):
        yield from _word(form, in_code, is_start)
    elif _HYPHENATED.fullmatch(form) and not in_code:
        for piece in re.split(r"[-/]", form):
            yield from _word(piece, in_code, is_start)
            is_start = False
    else:
        yield Token(form, form, Kind.CODE, in_code, False)


def _word(form: str, in_code: bool, is_start: bool) -> Iterator[Token]:
    lower = form.lower()
    if lower in NEGATED_FORMS and not in_code:
        for piece in NEGATED_FORMS[lower]:
            yield Token(piece, piece, Kind.WORD, in_code, False)
    elif lower in NUMBER_WORDS and not in_code:
        yield Token(form, NUMBER_WORDS[lower], Kind.WORD, in_code, False)
    elif any(letter.isupper() for letter in form[1:]) and not form.isupper():
        yield Token(form, form, Kind.CODE, in_code, not in_code)
    elif in_code:
        yield Token(form, form, Kind.CODE, True, False)
    elif form in CAPITAL_NAMES:
        yield Token(form, form, Kind.WORD, False, True)
    else:
        yield Token(form, lower, Kind.WORD, False, form[0].isupper() and not is_start)


def _owner(form: str) -> str:
    """The word of which a possessive says that it owns something."""
    return form[:-2] if form.lower().endswith("'s") else form


def _number(form: str) -> str:
    """1,000 and 1000 are one number, and so are +5 and 5; 1,5 is not 15."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|\Z))", "", form)
    return plain.lower().removeprefix("+")
