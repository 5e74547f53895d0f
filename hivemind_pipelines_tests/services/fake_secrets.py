"""Fake secrets, built at run time: no live format stands in a file, so no push protection trips."""

import random
import re
import string

_ALPHABETS = {
    "A": string.ascii_letters + string.digits,
    "a": string.ascii_lowercase + string.digits,
    "U": string.ascii_uppercase + string.digits,
    "L": string.ascii_letters,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "d": string.digits,
    "q": "abcdefghijklmnopqrstuvwxyz234567",
    "Q": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "b": string.ascii_letters + string.digits + "+/",
    "B": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
}
_HOLE = re.compile(r"\{([A-Za-z]):(\d+)\}")


def fake(template: str, seed: int = 0) -> str:
    """The template with each `{alphabet:length}` filled at random, the same for the same seed."""
    draw = random.Random(f"{template}/{seed}")
    return _HOLE.sub(lambda hole: _fill(draw, _ALPHABETS[hole[1]], int(hole[2])), template)


def _fill(draw: random.Random, alphabet: str, length: int) -> str:
    """At least one letter and one digit wherever the alphabet has both, as in real ones."""
    while True:
        text = "".join(draw.choices(alphabet, k=length))
        kinds = [kind for kind in (str.isdigit, str.isalpha) if any(map(kind, alphabet))]
        if length < 4 or all(sum(map(kind, text)) >= 2 for kind in kinds):
            return text


def uuid(letter: str = "h") -> str:
    """The template of a UUID."""
    return f"{{{letter}:8}}-{{{letter}:4}}-{{{letter}:4}}-{{{letter}:4}}-{{{letter}:12}}"
