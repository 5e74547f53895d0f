"""Reading: what a cross-encoder makes of two texts, and how it is weighed beside what the rules found."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from math import exp, log
from typing import Final


@dataclass(frozen=True, slots=True)
class Reading:
    """The chances in [0, 1], together 1, of what two texts are to each other."""

    contradiction: float
    duplicate: float
    related: float
    version_fork: float


#: Terms that may only speak for a conflict, only against one, and either way.
FOR: Final = frozenset({"rules", "contradiction"})
AGAINST: Final = frozenset({"duplicate", "related"})
EITHER: Final = frozenset({"silent", "cosine"})

#: No chance counts for less, so that no reading is certain.
LEAST: Final = 1e-4


def terms(reading: Reading, rules: float | None, cosine: float) -> dict[str, float]:
    """What is weighed: the reading, and the chance in (0, 1) that the rules give, None where they found nothing."""
    return {
        "rules": 0.0 if rules is None else odds(rules),
        "silent": float(rules is None),
        "contradiction": odds(reading.contradiction),
        "duplicate": odds(reading.duplicate),
        "related": odds(reading.related),
        "cosine": cosine,
    }


def combined(reading: Reading, rules: float | None, cosine: float) -> float:
    """The probability in (0, 1) that two texts contradict each other, by what was read and what the rules say."""
    weighed = terms(reading, rules, cosine)
    total = _BIAS + sum(weight * weighed[name] for name, weight in _WEIGHTS.items())
    return 1.0 / (1.0 + exp(-min(max(total, -30.0), 30.0)))


def odds(chance: float) -> float:
    """The logarithm of the odds of a chance in [0, 1]."""
    held = min(max(chance, LEAST), 1.0 - LEAST)
    return log(held / (1.0 - held))


_CONTENT = files(__package__).joinpath("reading_model.json").read_bytes()
_DOCUMENT = json.loads(_CONTENT)
_BIAS: Final[float] = _DOCUMENT["bias"]
_WEIGHTS: Final[dict[str, float]] = _DOCUMENT["weights"]

#: The file of the additions that the weights were fitted to, which no others may be read with.
ADAPTER_SHA256: Final[str] = _DOCUMENT["adapter_sha256"]

#: Changes with the weights and with the additions: what was read under another version is read again.
READING_VERSION: Final = hashlib.sha256(_CONTENT).hexdigest()[:12]
