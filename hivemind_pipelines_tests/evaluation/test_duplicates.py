"""duplicates: pairs in memory and clusters on a real Postgres, against counting one by one."""

import json
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.intake import IntakeDefaults, IntakeRow, parse_row
from hivemind_pipelines.core.model import Decision, ItemId, LlmOutcome, LlmRequest, PairDecision
from hivemind_pipelines.evaluation import duplicate_clusters, duplicate_pairs
from hivemind_pipelines.evaluation.duplicate_clusters import DistilledFile, JudgedPair
from hivemind_pipelines.evaluation.labelled import ClusteredText, LabelledPair
from hivemind_pipelines.evaluation.report import Evaluation
from hivemind_pipelines.services.llm import ClaudeLlm
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.messages_server import Body, MessagesServer
from hivemind_pipelines_tests.stages.commons import policy, services

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


PAIRS = (
    LabelledPair("same", "List all files: `ls -a`.", "list all files: `ls -a`", True),
    LabelledPair(
        "version", "Install Python 3.11 from the archive.", "Install Python 3.12 from the archive.", False
    ),
    LabelledPair("case", "Search upwards: `grep -r word .`", "Search upwards: `grep -R word .`", False),
    LabelledPair(
        "far", "Rotate the log files every night.", "Use a prepared statement for user input.", False
    ),
)


def judge(*pairs: LabelledPair, llm: Any = None, **sections: Any) -> Evaluation:
    using = services(llm=llm)
    return duplicate_pairs.report(duplicate_pairs.judge({"f": pairs}, using, policy(**sections), silent))


def test_pairs_are_decided_as_production_would() -> None:
    evaluation = judge(*PAIRS)
    data = evaluation.data(seconds=1.5)
    assert data["automatic"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert (data["triage_recall"], data["auc"], data["recall_at_precision_99"]) == (1.0, 1.0, 1.0)
    assert (data["task"], data["files"], data["rows"], data["seconds"], data["llm_calls"]) == (
        "duplicates", ["f"], 4, 1.5, 0,
    )  # fmt: skip
    reasons = {row["id"]: row["reason"] for row in evaluation.predictions}
    assert reasons["version"] == "veto:version"
    assert reasons["case"] == "veto:flag"


def test_pairs_of_one_label_alone_have_no_recall_and_no_auc() -> None:
    data = judge(PAIRS[1]).data(seconds=0.0)
    assert (data["recall"], data["auc"], data["recall_at_precision_99"]) == (None, None, None)


# Neither near enough to merge nor far enough to be told apart, but one statement to whoever knows.
UNSURE = LabelledPair(
    "unsure",
    "Remove every stopped container to free the disk space it holds.",
    "Delete all the stopped containers, which frees the disk.",
    True,
)


def oracle(body: Body) -> Body:
    """Knows the labels: answers `same` for the pair that is, whatever surrounds it."""
    prompt = body["messages"][0]["content"]
    is_same = UNSURE.text_a in str(prompt) and UNSURE.text_b in str(prompt)
    return {"same": is_same, "confidence": 1.0, "what_differs_code": "wording" if is_same else "topic"}


def test_a_model_that_knows_the_labels_settles_what_is_possible_and_no_veto() -> None:
    wide_open = {"matching": {"possible_min": 0.0}}
    without = judge(UNSURE, *PAIRS, **wide_open).data(seconds=0.0)
    with MessagesServer() as server:
        server.respond_with(oracle)
        llm = ClaudeLlm("key", "test-model", server.base_url, call_timeout_s=10.0)
        evaluation = judge(UNSURE, *PAIRS, llm=llm, **wide_open)
        asked = len(server.requests)
    data = evaluation.data(seconds=0.0)
    assert (without["recall"], without["llm_calls"]) == (0.5, 0)
    assert (data["precision"], data["recall"], data["llm_calls"]) == (1.0, 1.0, asked)
    # the two vetoed pairs and the duplicate are not asked about
    assert asked == 2


class CountingLlm:
    """Refuses to answer and counts."""

    model = "test-model"
    calls = 0

    def complete(self, request: LlmRequest) -> LlmOutcome:
        raise AssertionError("out of budget means no call")


def test_the_budget_of_a_run_holds_for_pairs() -> None:
    broke = {"matching": {"possible_min": 0.0}, "safety": {"llm_calls_per_run_max": 0}}
    assert judge(UNSURE, llm=CountingLlm(), **broke).data(seconds=0.0)["llm_calls"] == 0


def row(text: str, cluster: str, *, id: str, org: str = "acme", op: str = "base") -> ClusteredText:
    line = json.dumps({"id": id, "text": text, "org": org}).encode()
    parsed = parse_row(line, IntakeDefaults())
    assert isinstance(parsed, IntakeRow)
    return ClusteredText(id, cluster, op, parsed)


ROWS = (
    row("List all files: `ls -a`.", "ls", id="1"),
    row("list all files: `ls -a`", "ls", id="2", op="case"),
    row("List all files: `ls -a`.", "ls", id="3", op="exact"),
    row("List all files: `ls -A`.", "lsA", id="4", op="flag"),
    row("List all files: `ls -a`.", "ls2", id="5", org="globex", op="cross_org"),
    row("Use a prepared statement for whatever a user typed.", "sql", id="6"),
)


def distil(store: Store, *rows: ClusteredText, **options: Any) -> DistilledFile:
    using = services(**options)
    return duplicate_clusters.distil_file(store, "f", rows, using, policy(), now=NOW, progress=silent)


def test_clusters_of_the_production_stages_are_compared_with_the_labels(store: Store) -> None:
    distilled = distil(store, *ROWS)
    data = duplicate_clusters.report([distilled]).data(seconds=0.0)
    # the text that the table refuses counts as merged with its twin: three pairs of one statement
    assert (data["pair_precision"], data["pair_recall"], data["ari"]) == (1.0, 1.0, 1.0)
    assert (data["rows"], data["items"], data["cross_org_merges"]) == (6, 5, 0)
    assert (data["triage_recall"], data["blocking_recall"], data["wrong_by_op"]) == (1.0, 1.0, {})
    assert data["rows_by_op"] == {"base": 2, "case": 1, "cross_org": 1, "exact": 1, "flag": 1}
    assert (data["precision"], data["recall"], data["f1"]) == (1.0, 1.0, 1.0)
    assert set(data["seconds_by_stage"]) >= {"item_features", "duplicate_pairs", "duplicate_merges"}  # type: ignore[arg-type]


def test_predictions_name_rows_and_reasons(store: Store) -> None:
    predictions = list(duplicate_clusters.report([distil(store, *ROWS)]).predictions)
    merged = [row for row in predictions if "merged" in row]
    assert [(row["merged"], row["into"], row["label"]) for row in merged] in (
        [("2", "1", 1)], [("1", "2", 1)],
    )  # fmt: skip
    vetoed = [row for row in predictions if row.get("vetoes")]
    assert {row["reason"] for row in vetoed} == {"veto:flag"}
    assert "duplicate" not in {row["decision"] for row in vetoed}


def test_a_wrong_merge_is_counted_under_the_change_that_made_it() -> None:
    rows = (ROWS[0], ROWS[3], ROWS[5])
    ids = [ItemId(each.row.id) for each in rows]
    merged = DistilledFile(
        "f", rows, tuple(ids), {item_id: item_id for item_id in ids}, {ids[1]: ids[0]}, (), 0, {}
    )
    figures = duplicate_clusters.figures([merged])
    assert (figures["wrong_by_op"], figures["wrong_pairs"]) == ({"flag": 1}, 1)
    assert (figures["pair_precision"], figures["pair_recall"]) == (0.0, None)


def test_the_model_is_asked_through_the_production_stage(store: Store) -> None:
    rows = (row(UNSURE.text_a, "docker", id="1"), row(UNSURE.text_b, "docker", id="2"))
    wide_open = policy(matching={"possible_min": 0.0, "cosine_min": 0.0})
    with MessagesServer() as server:
        server.respond_with(oracle)
        using = services(llm=ClaudeLlm("key", "test-model", server.base_url, call_timeout_s=10.0))
        distilled = duplicate_clusters.distil_file(
            store, "f", rows, using, wide_open, now=NOW, progress=silent
        )
    data = duplicate_clusters.report([distilled]).data(seconds=0.0)
    assert (data["llm_calls"], data["pair_recall"], data["pair_precision"]) == (1, 1.0, 1.0)


ITEMS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=8)
NEAR = st.dictionaries(
    st.tuples(st.integers(0, 7), st.integers(0, 7)), st.sampled_from(["possible", "distinct"]), max_size=12
)


@given(ITEMS, NEAR)
def test_covered_pairs_are_counted_by_class_as_if_one_by_one(
    items: Sequence[tuple[int, int, int]], near: dict[tuple[int, int], Decision]
) -> None:
    ids = [ItemId(UUID(int=number + 1)) for number in range(len(items))]
    classes: dict[ItemId, Hashable] = {ids[n]: group for n, (_, group, _) in enumerate(items)}
    clusters = [item for item, _, _ in items]
    heads: dict[int, ItemId] = {}
    canonical_of = {
        ids[n]: heads[found]
        for n, (_, _, found) in enumerate(items)
        if heads.setdefault(found, ids[n]) != ids[n]
    }
    decided = {
        (min(a, b), max(a, b)): decision
        for (a, b), decision in near.items()
        if a != b and max(a, b) < len(items)
    }
    file = DistilledFile(
        file="f",
        rows=tuple(row(f"text {n}", f"{cluster}", id=f"{n}") for n, cluster in enumerate(clusters)),
        item_of=tuple(ids),
        class_of=classes,
        canonical_of=canonical_of,
        pairs=tuple(
            JudgedPair(ids[a], ids[b], PairDecision(decision, 0.5, "near:unsure"), decision, ())
            for (a, b), decision in decided.items()
        ),
        llm_calls=0,
        stage_seconds={},
    )
    compared = {frozenset((classes[ids[a]], classes[ids[b]])) for a, b in decided}
    kept = {
        frozenset((classes[ids[a]], classes[ids[b]]))
        for (a, b), said in decided.items()
        if said != "distinct"
    }
    blocking = triage = 0
    for a, b in combinations(range(len(items)), 2):
        if clusters[a] == clusters[b]:
            both = frozenset((classes[ids[a]], classes[ids[b]]))
            blocking += len(both) == 1 or both in compared
            triage += items[a][2] == items[b][2] or (len(both) == 2 and both in kept)
    assert duplicate_clusters.covered_pairs(file) == duplicate_clusters.Cover(blocking, triage)
