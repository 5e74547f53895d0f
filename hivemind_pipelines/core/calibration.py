"""Calibration: the small shipped model that turns a comparison's scores into a probability."""

import json
from collections.abc import Mapping
from importlib.resources import files
from math import exp, log1p
from typing import Final

#: Changes that leave a statement as it is, or nearly.
MILD_KINDS: Final = (
    "case", "spelling", "inflection", "function", "opener", "synonym", "placeholder", "flag_length",
    "moved",
)  # fmt: skip
#: Changes that may make it another one without being a veto.
GRAVE_KINDS: Final = (
    "word", "word_added", "operator", "quantifier_added", "number_added", "name_added", "flag_added", "code_added",
)  # fmt: skip

#: Where more of the longer text than this share changed, the changes are another text.
ALIGNED_SHARE_MAX: Final = 0.6

#: What may turn a statement round and needs a reader to tell.
UNCLEAR: Final = ("order_broken", "negation_open", "voice_changed", "mood_changed")

#: Terms that may only speak for a duplicate; every other term may only speak against one.
SIMILARITIES: Final = frozenset(
    {
        "cosine", "far_cosine", "far_content", "far_shingle", "shingle_jaccard", "word_jaccard", "containment",
        "same_code", "same_code_share",
    }
)  # fmt: skip

Scores = Mapping[str, float]


def terms(scores: Scores) -> dict[str, float]:
    """What the model weighs, by name: similarities, and counts of changes damped by log(1 + n)."""
    near = float(is_aligned(scores))
    size = max(scores["tokens_max"], 1.0)
    changes = {
        "code_differs": scores["has_code"] * (1.0 - scores["same_code"]),
        "changed_share": scores["changed"] / size,
        "both_sides_lone": log1p(scores["both_sides_lone"]),
        "sentences_moved": log1p(scores["sentences_moved"]),
        **{kind: log1p(scores[f"n_{kind}"]) for kind in (*MILD_KINDS, *GRAVE_KINDS)},
        **{f"{kind}_share": scores[f"n_{kind}"] / size for kind in GRAVE_KINDS},
    }
    return {
        "cosine": scores["cosine"] * near,
        "far_cosine": scores["cosine"] * (1.0 - near),
        "far_content": scores["content_overlap"] * (1.0 - near),
        "far_shingle": scores["shingle_jaccard"] * (1.0 - near),
        "far": 1.0 - near,
        "shingle_jaccard": scores["shingle_jaccard"] * near,
        "word_jaccard": scores["word_jaccard"] * near,
        "containment": scores["containment"] * near,
        "same_code": scores["same_code"],
        "same_code_share": same_code_share(scores),
        **{name: value * near for name, value in changes.items()},
    }


def is_aligned(scores: Scores) -> bool:
    """Whether so much of two texts is the same that counting what differs says something."""
    share = scores["changed"] / max(scores["tokens_max"], 1.0)
    return bool(scores["is_near"]) and share <= ALIGNED_SHARE_MAX


def same_code_share(scores: Scores) -> float:
    """The share of the longer text that is code equal on both sides."""
    return scores["same_code"] * scores["code_tokens"] / max(scores["tokens_max"], 1.0)


def probability(scores: Scores) -> float:
    """The chance in (0, 1) that a pair without a veto is one statement."""
    total = _BIAS + sum(_WEIGHTS[name] * value for name, value in terms(scores).items())
    return 1.0 / (1.0 + exp(-min(max(total, -30.0), 30.0)))


def is_in_range(scores: Scores) -> bool:
    """Whether a pair is of the sort the model was fitted on, so that it may merge without a question.

    Both texts have a vector and were aligned token by token. Either nothing but mild changes was found,
    or both hold the same code, large enough to carry the statement, and little else was reworded.
    """
    if not (scores["is_near"] and scores["is_exact"] and scores["cosine"] >= _LIMITS["cosine_min"]):
        return False
    if scores["tokens_min"] < _LIMITS["tokens_min"]:
        return False
    # A comparison that an older version stored lacks what that version did not look at.
    if any(scores.get(name, 0.0) for name in UNCLEAR):
        return False
    grave = sum(scores[f"n_{kind}"] for kind in GRAVE_KINDS)
    if grave == 0.0:
        return scores["changed"] <= _LIMITS["mild_share_max"] * scores["tokens_max"]
    replaced = scores["n_word"] + scores["both_sides_lone"]
    if replaced > _LIMITS["replaced_max"] or (replaced and scores["n_quantifier_added"]):
        return False
    share_min = _LIMITS["replaced_share_min" if replaced else "same_code_share_min"]
    return same_code_share(scores) >= share_min and scores["code_tokens"] >= _LIMITS["code_tokens_min"]


def _load() -> tuple[float, dict[str, float], dict[str, float]]:
    document = json.loads(files(__package__).joinpath("duplicate_model.json").read_text("utf-8"))
    return document["bias"], document["weights"], document["limits"]


_BIAS, _WEIGHTS, _LIMITS = _load()
