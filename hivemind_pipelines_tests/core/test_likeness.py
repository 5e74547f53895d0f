"""What is told apart without an alignment is what an alignment tells apart too."""

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from uuid import UUID

import numpy as np
import pytest

from hivemind_pipelines.core import features, likeness, matching, prescreen
from hivemind_pipelines.core.calibration import probability
from hivemind_pipelines.core.likeness import FAR_PROBABILITY_MAX, may_be_near, shares_words
from hivemind_pipelines.core.matching import Prepared
from hivemind_pipelines.core.model import Discriminators, ItemId, MatchInput, Scope
from hivemind_pipelines.core.policy import DistillationPolicy

POLICY = DistillationPolicy()
SAME_WAY = np.eye(1, 384, dtype=np.float32)[0]


def prepared(content: str) -> Prepared:
    """A text that lies in the very place of every other one."""
    [signature] = features.signatures([content], POLICY.matching)
    given = MatchInput(ItemId(UUID(int=0)), "", content, Scope(), Discriminators(), signature, SAME_WAY)
    return matching.prepare(given, POLICY.matching)


def pairs() -> Iterator[tuple[str, str]]:
    """The golden pairs, and each text with a few of the others, with words cut out and a headline put in front."""
    golden = files("hivemind_pipelines.evaluation").joinpath("golden_pairs.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in golden.splitlines() if line.strip()]
    known = [(row["text_a"], row["text_b"]) for row in rows]
    yield from known
    chance = random.Random(3)
    texts = [text for pair in known for text in pair]
    for text in texts:
        words = text.split()
        yield text, " ".join(word for word in words if chance.random() < 0.7)
        yield text, f"{words[0]} {words[-1]} in short\n\n{text}"
        yield from ((text, other) for other in chance.sample(texts, 2))


def test_no_pair_is_told_apart_that_a_comparison_finds_near() -> None:
    told_apart = near = 0
    for a, b in pairs():
        one, other = prepared(a), prepared(b)
        comparison = matching.compare(one, other, POLICY.matching)
        decided = matching.decide(comparison, POLICY.matching)
        near += prescreen.is_near(comparison, decided, POLICY.prescreen)
        if not may_be_near(likeness.sketch(one), likeness.sketch(other)):
            told_apart += 1
            assert decided.decision != "duplicate"
            assert decided.probability <= FAR_PROBABILITY_MAX
    assert near > 100
    assert told_apart > 100


def test_shared_words_are_those_of_a_comparison() -> None:
    for a, b in list(pairs())[::7]:
        one, other = prepared(a), prepared(b)
        compared = matching.compare(one, other, POLICY.matching)
        assert shares_words(one, other) == bool(compared.score("is_near"))


def test_no_cosine_alone_is_more_than_far() -> None:
    compared = matching.compare(
        prepared("Rotate the logs"), prepared("Prune old images weekly"), POLICY.matching
    )
    furthest = {**dict(compared.scores), "cosine": 1.0, "content_overlap": 1.0, "shingle_jaccard": 1.0}
    assert probability(furthest) <= FAR_PROBABILITY_MAX


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (
            "Show the log: `git log --oneline --graph`",
            "A compact history as a tree is drawn by `git log --oneline --graph`",
        ),
        ("Restart the server.", "restart the server"),
    ],
)
def test_common_code_and_equal_texts_are_always_compared(a: str, b: str) -> None:
    assert may_be_near(likeness.sketch(prepared(a)), likeness.sketch(prepared(b)))
