"""Text as matching sees it: cleaned, normalised without erasing meaning, cut into sentences and shingles."""

import hashlib
import re
import unicodedata
from functools import lru_cache

CODE_SPAN = re.compile(r"(```.*?```|``.+?``|`[^`]*`)", re.DOTALL)

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
_TYPOGRAPHY = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "‛": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "\u2010": "-",
        "\u2011": "-",
        "−": "-",
    }
)
# NFKC would turn 10⁶ into 106 and 3½ into 31⁄2, which are other numbers.
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻₀-₉]+")
_FRACTION = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")
_SPACES = re.compile(r"\s+")
_TRAILING_SPACE = re.compile(r"[^\S\n]+(?=\n)|\s+\Z")
_FINAL_PUNCTUATION = re.compile(r"(?<=[\w)\]`'\"*])[.!,;:…]+\Z")
_FOLDABLE = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=\S)|\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)])\s)")
_NOT_ALNUM = re.compile(r"[^\w]+|_+")


def content_hash(content: str) -> str:
    """The sha256 of the UTF-8 text as 64 hex digits; lone surrogates are passed through."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def clean(content: str) -> str:
    """The text in compatible characters (NFKC) without invisible ones and with plain quotes."""
    if content.isascii():
        return content
    separated = _FRACTION.sub(" ", _RAISED.sub(lambda match: "^" + match.group(), content))
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", separated)).translate(_TYPOGRAPHY)


def normalise(content: str) -> str:
    """The text that two items must share to be the same statement without any further question.

    Case is folded in plain words only: flags, paths, identifiers, abbreviations and all code keep it,
    and fenced blocks keep their line breaks and indentation.
    """
    parts = CODE_SPAN.split(clean(content))
    folded = "".join(_code(part) if index % 2 else _prose(part) for index, part in enumerate(parts))
    return _FINAL_PUNCTUATION.sub("", folded.strip())


def folded(content: str) -> str:
    """Lower-case letters and digits in words separated by one space: the text that is shingled."""
    return _NOT_ALNUM.sub(" ", clean(content).lower()).strip()


def shingles(normalised: str, size: int) -> set[bytes]:
    """The distinct runs of `size` characters as UTF-8; a shorter text is one shingle, an empty one none."""
    if len(normalised) <= size:
        return {normalised.encode("utf-8", "surrogatepass")} if normalised else set()
    runs = {normalised[start : start + size] for start in range(len(normalised) - size + 1)}
    return {run.encode("utf-8", "surrogatepass") for run in runs}


def sentences(content: str) -> tuple[str, ...]:
    """The sentences and list entries of a text, stripped, with code spans and blocks kept whole."""
    parts = CODE_SPAN.split(content)
    marked = "".join(part if index % 2 == 0 else f"\x00{index}\x00" for index, part in enumerate(parts))
    if content.count("\x00"):
        return _without_code(content)
    pieces = (
        re.sub(r"\x00(\d+)\x00", lambda match: parts[int(match.group(1))], piece) for piece in _cut(marked)
    )
    return tuple(piece for piece in pieces if piece)


def _without_code(content: str) -> tuple[str, ...]:
    return tuple(piece for piece in _cut(content) if piece)


def _cut(text: str) -> list[str]:
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece]


def _code(span: str) -> str:
    if span.startswith("```"):
        return _TRAILING_SPACE.sub("", span)
    return _SPACES.sub(" ", span)


def _prose(text: str) -> str:
    return " ".join(map(_fold, _SPACES.split(text)))


#: Longer chunks are no words of any language, and not kept.
_WORD_MAX = 24


def _fold(chunk: str) -> str:
    return _fold_word(chunk) if len(chunk) <= _WORD_MAX else _fold_chunk(chunk)


@lru_cache(maxsize=32_768)
def _fold_word(word: str) -> str:
    return _fold_chunk(word)


def _fold_chunk(chunk: str) -> str:
    """Lower-case a chunk that is plain words and punctuation; leave anything that looks like code."""
    core = chunk.strip("\"'()[]{}<>*.,;:!?…")
    if not _FOLDABLE.fullmatch(core) or not all(map(_is_plain, re.split(r"['-]", core))):
        return chunk
    return chunk.lower()


def _is_plain(word: str) -> bool:
    if word[1:].islower() or len(word) == 1:
        return len(word) > 1 or word in "AaIi" or word.islower()
    return word.islower() or (len(word) > 3 and word.isupper())
