"""The golden set guards every landing: real embeddings, production decisions, not one wrong merge."""

from collections import Counter
from collections.abc import Sequence

import pytest

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import duplicate_pairs, golden, labelled
from hivemind_pipelines.evaluation.duplicate_pairs import JudgedPair
from hivemind_pipelines.evaluation.labelled import LabelledPair
from hivemind_pipelines.services.embedding import MiniLmEmbedder
from hivemind_pipelines_tests.stages.commons import services

POLICY = DistillationPolicy()

#: What the kinds of change in the issue of merging are called here; each needs look-alikes of its own.
HARD_KINDS = {
    "version", "number", "unit", "date", "currency", "identifier", "flag", "path", "url", "hash", "code_span",
    "code_only", "named_tool", "polarity", "negation", "quantifier", "argument_order", "scope", "added_condition",
    "topic", "comment_language", "function_word", "inflection", "spelling", "synonym", "word_order", "opener",
    "same_code",
}  # fmt: skip
EASY_KINDS = {
    "function_word", "inflection", "spelling", "synonym", "case_and_markup", "word_order", "placeholder",
    "opener", "rewording", "same_code", "passive", "polarity_kept",
}  # fmt: skip


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def written() -> tuple[LabelledPair, ...]:
    return labelled.read_pairs(golden.golden_file())


@pytest.fixture(scope="module")
def judged() -> tuple[JudgedPair, ...]:
    return golden.judge(services(embedder=MiniLmEmbedder()), POLICY, silent)


def test_half_of_three_hundred_pairs_and_more_are_look_alikes(written: Sequence[LabelledPair]) -> None:
    look_alikes = [pair for pair in written if not pair.is_same]
    assert len(written) >= 300
    assert 2 * len(look_alikes) >= len(written)


def test_every_kind_of_change_is_there(written: Sequence[LabelledPair]) -> None:
    assert {pair.kind for pair in written if not pair.is_same} >= HARD_KINDS
    assert {pair.kind for pair in written if pair.is_same} >= EASY_KINDS


def test_no_pair_stands_there_twice_or_is_one_text(written: Sequence[LabelledPair]) -> None:
    sides = [((pair.text_a, pair.scope_a), (pair.text_b, pair.scope_b)) for pair in written]
    assert all(a != b for a, b in sides)
    assert max(Counter(frozenset(side) for side in sides).values()) == 1


def test_nothing_merges_that_must_not(judged: Sequence[JudgedPair]) -> None:
    wrong = [pair.pair for pair in judged if pair.decision == "duplicate" and not pair.pair.is_same]
    assert wrong == []


def test_what_is_the_same_is_merged_often_and_hardly_ever_lost(judged: Sequence[JudgedPair]) -> None:
    figures = duplicate_pairs.figures(judged)
    assert figures["automatic"]["recall"] >= 0.55  # type: ignore[index]
    assert figures["triage_recall"] >= 0.96  # type: ignore[operator]


def test_no_policy_merges_what_a_veto_parts(written: Sequence[LabelledPair]) -> None:
    careless = DistillationPolicy.parse({"matching": {"duplicate_min": 0.0, "possible_min": 0.0}})
    rows = {row.kind: row for row in golden.figures_by_kind(golden.judge(services(), careless, silent))}
    assert [rows[kind].wrong for kind in ("version", "number", "unit", "flag", "polarity")] == [0] * 5


def test_the_figures_by_kind_add_up(judged: Sequence[JudgedPair]) -> None:
    rows = golden.figures_by_kind(judged)
    assert sum(row.pairs for row in rows) == len(judged)
    assert sum(row.same for row in rows) == sum(pair.pair.is_same for pair in judged)
    assert [row.kind for row in rows] == sorted({row.kind for row in rows})
