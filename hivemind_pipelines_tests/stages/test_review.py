"""Review: the queue in order of harm, texts side by side, and verdicts that stand above every detector."""

from datetime import timedelta
from typing import Any

import pytest

from hivemind_pipelines.core.model import ItemId, LlmAnswer, LlmRequest, LlmUsage, Stage
from hivemind_pipelines.core.review import DetectorRecord, pair_id, short_id
from hivemind_pipelines.core.undo import RunTarget
from hivemind_pipelines.stages import review, undo
from hivemind_pipelines.stages.review import CaseRef, Decided, PairRef, Queue, ReviewError
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    execute,
    insert_item,
    insert_signal,
    public_dump,
    read_item,
    rows,
    scalar,
    set_item,
    unit_vector,
    vector_near,
)
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

FIX = "Set the pool timeout to avoid stale connections after a database failover"
#: Every vetoed pair is shown to people.
OPEN = policy(matching={"vetoed_possible_min": 0.0})
#: Two texts without a word in common and the cosine of their vectors to one of them.
CONFLICT = (("Warm the cache before every release", 1.0), ("Never preload anything", 0.7))


def later(hours: int) -> Any:
    return NOW + timedelta(hours=hours)


def queue(store: Store, *, limit: int = 20, offset: int = 0, org: Any = None) -> Queue:
    return review.queue(store, org, model="test-model", limit=limit, offset=offset)


def decide(store: Store, a: ItemId, b: ItemId, outcome: str, hours: int = 1) -> Decided:
    return review.decide(store, OPEN, review.find(store, f"{a}:{b}"), outcome, by="ana", now=later(hours))


def two_versions(store: Store, **columns: object) -> tuple[ItemId, ItemId]:
    kept = insert_item(store, f"{FIX} on Postgres 14.1", quality_score=0.9, **columns)
    return kept, insert_item(store, f"{FIX} on Postgres 15.2", **columns)


def waiting_cases(store: Store) -> int:
    return sum(one.kind == "case" for one in queue(store).page.waiting)


def is_expired(store: Store, item: ItemId) -> bool:
    return read_item(store, item)["expired_at"] is not None


def holds(store: Store) -> None:
    with store.read() as conn:
        assert invariants.violations(conn) == ()


class YesMan:
    """A model that calls everything the same."""

    model = "test-model"

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request: LlmRequest) -> LlmAnswer:
        self.calls += 1
        return LlmAnswer({"same": True, "confidence": 1.0, "what_differs_code": "wording"}, LlmUsage(10, 10))


def test_what_does_most_harm_comes_first_and_nothing_is_left_out(store: Store) -> None:
    quiet = two_versions(store)
    loud = [
        insert_item(
            store,
            f"Restart the ingest worker after a crash of node {number}",
            retrieval_count=50,
            confidence=0.9,
        )
        for number in ("11", "12")
    ]
    vector = unit_vector(1)
    for content, near in CONFLICT:
        item = insert_item(store, content, embedding=vector_near(vector, near), retrieval_count=5)
        insert_signal(store, item)
    distil(store, under=OPEN)
    found = queue(store).page
    assert [one.kind for one in found.waiting] == ["pair", "case", "pair"]
    assert [set(one.item_ids) for one in found.waiting][::2] == [set(loud), set(quiet)]
    assert [one.harm for one in found.waiting] == pytest.approx([90.0, 8.0, 0.0])
    assert found.waiting[0].vetoes
    pages = [queue(store, limit=1, offset=offset).page for offset in range(4)]
    assert [page.total for page in pages] == [3] * 4
    assert [one for page in pages for one in page.waiting] == list(found.waiting)
    assert queue(store, org="globex").page.total == 0


def test_a_pair_is_found_by_its_digits_and_by_its_items(store: Store) -> None:
    a, b = sorted(two_versions(store))
    distil(store, under=OPEN)
    [waiting] = queue(store).page.waiting
    assert waiting.id == pair_id(ACME, a, b) == pair_id(ACME, b, a)
    for name in (short_id(waiting.id), str(waiting.id), f"{a}:{b}", f"{b}:{a}"):
        assert review.find(store, name) == PairRef(ACME, a, b)


def test_two_texts_are_shown_side_by_side_with_what_differs(store: Store) -> None:
    a, b = sorted(two_versions(store))
    distil(store, under=OPEN)
    shown = review.show(store, PairRef(ACME, a, b), model="test-model")
    assert [item.id for item in shown.items] == [a, b]
    assert {"14.1", "15.2"} <= set(shown.differences[b].replace("vetoed: ", "").split())
    assert shown.pair is not None
    assert shown.pair.vetoes == ("veto:version",)
    assert shown.pair.scores["word_jaccard"] > 0.5


def test_same_merges_a_vetoed_pair_and_a_decided_pair_leaves_the_queue(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    assert queue(store).page.total == 1
    assert decide(store, kept, other, "same").run_id is not None
    assert queue(store).page.total == 0
    for hours in (2, 3, 4):
        distil(store, under=OPEN, now=later(hours))
        assert is_expired(store, other)
    assert distil(store, under=OPEN, now=later(5))[Stage.DUPLICATE_MERGES].outcome == "nothing_due"
    holds(store)


def test_same_joins_the_classes_of_its_items_whatever_was_found_between_them(store: Store) -> None:
    kept, other = two_versions(store)
    twin = insert_item(store, f"{FIX} on Postgres 15.2.", quality_score=0.1)
    distil(store, under=OPEN)
    assert is_expired(store, twin)
    decide(store, kept, twin, "same")
    distil(store, under=OPEN, now=later(2))
    assert [is_expired(store, item) for item in (kept, other, twin)] == [False, True, True]
    holds(store)


def test_distinct_stands_against_a_probability_of_one(store: Store) -> None:
    kept, other = insert_item(store, FIX, quality_score=0.9), insert_item(store, f"{FIX}.")
    decide(store, kept, other, "distinct")
    distil(store)
    execute(
        store, "UPDATE distillation.candidate_pairs SET decision = 'duplicate', probability = 1, reason = 'x'"
    )
    for hours in (2, 3, 4):
        execute(store, "UPDATE distillation.item_features SET settled_stamp = NULL")
        distil(store, now=later(hours))
        assert not is_expired(store, other)


def test_distinct_takes_a_merge_back_and_outlives_changes_of_the_policy(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    other = insert_item(store, FIX.replace("avoid", "avoid the"))
    distil(store)
    assert is_expired(store, other)
    decide(store, kept, other, "distinct")
    loose = policy(matching={"duplicate_min": 0.2})
    for hours, under in enumerate((policy(), loose, policy(), loose, OPEN), start=2):
        distil(store, under=under, now=later(hours))
        assert not is_expired(store, other)
    holds(store)


def test_a_verdict_holds_only_while_both_texts_are_those_it_was_given_for(store: Store) -> None:
    kept, other = insert_item(store, FIX, quality_score=0.9), insert_item(store, "Something else")
    decide(store, kept, other, "distinct")
    distil(store)
    execute(
        store,
        "UPDATE public.knowledge_items SET content = :text, embedding = NULL,"
        " content_hash = encode(sha256(convert_to(:text, 'UTF8')), 'hex') WHERE id = :id",
        text=f"{FIX}.",
        id=other,
    )
    distil(store, now=later(2))
    assert is_expired(store, other)
    holds(store)


def test_a_model_that_says_yes_to_everything_is_not_asked_about_a_decided_pair(store: Store) -> None:
    a = insert_item(store, FIX, language="python", quality_score=0.9)
    b = insert_item(store, f"{FIX}.")
    decide(store, a, b, "distinct")
    yes = YesMan()
    distil(store, using=services(yes))
    assert not is_expired(store, b)
    assert yes.calls == 0


def test_a_verdict_is_undone_by_the_run_that_gave_it(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    first = decide(store, kept, other, "distinct")
    second = decide(store, kept, other, "same", hours=2)
    distil(store, under=OPEN, now=later(3))
    assert is_expired(store, other)
    assert undo.run(store, OPEN, RunTarget(str(second.run_id)), now=later(4)).is_complete
    [row] = rows(store, "SELECT verdict, source, decided_by FROM distillation.pair_verdicts")
    assert tuple(row) == ("distinct", "review", "ana")
    distil(store, under=OPEN, now=later(5))
    assert not is_expired(store, other)
    holds(store)
    assert undo.run(store, OPEN, RunTarget(str(first.run_id)), now=later(6)).is_complete
    assert scalar(store, "SELECT count(*) FROM distillation.pair_verdicts") == 0
    assert queue(store).page.total == 1
    holds(store)


def test_an_undo_of_what_was_decided_again_is_refused(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    first = decide(store, kept, other, "distinct")
    decide(store, kept, other, "same", hours=2)
    done = undo.run(store, OPEN, RunTarget(str(first.run_id)), now=later(3))
    assert [refusal.reason for refusal in done.plans[ACME].refusals] == ["it was decided again since"]


def test_deciding_the_same_again_changes_nothing(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    decide(store, kept, other, "distinct")
    before = scalar(store, "SELECT count(*) FROM distillation.ledger")
    assert decide(store, other, kept, "distinct", hours=2).run_id is None
    assert scalar(store, "SELECT count(*) FROM distillation.ledger") == before


def test_a_decision_changes_no_public_row(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    before = public_dump(store)
    decide(store, kept, other, "same")
    assert public_dump(store) == before


def test_detectors_are_measured_by_the_verdicts_on_what_they_said(store: Store) -> None:
    kept, other = two_versions(store)
    merged_into, merged = (
        insert_item(store, "Close idle sockets", quality_score=0.9),
        insert_item(store, "Close idle sockets."),
    )
    distil(store, under=OPEN)
    decide(store, kept, other, "distinct")
    undo.run(
        store,
        OPEN,
        RunTarget(str(scalar(store, "SELECT run_id FROM distillation.runs WHERE job = 'distillation'"))),
        now=later(2),
    )
    unheard = insert_item(store, "An unrelated note")
    decide(store, kept, unheard, "distinct", hours=3)
    assert DetectorRecord("veto:version", 0, 1) in queue(store).precision
    assert sum(record.total for record in queue(store).precision) in (1, 2)
    assert not is_expired(store, merged)
    assert merged_into != merged


def test_verdicts_go_with_an_item_that_the_server_removed(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    decide(store, kept, other, "distinct")
    delete_item(store, other)
    distil(store, under=OPEN, now=later(2))
    assert scalar(store, "SELECT count(*) FROM distillation.pair_verdicts") == 0
    with pytest.raises(ReviewError, match="no item"):
        decide(store, kept, other, "same", hours=3)


def test_a_case_is_shown_and_settled(store: Store) -> None:
    vector = unit_vector(1)
    items = [insert_item(store, content, embedding=vector_near(vector, near)) for content, near in CONFLICT]
    for item in items:
        insert_signal(store, item)
    distil(store)
    case = scalar(store, "SELECT case_id FROM distillation.contradiction_cases")
    ref = review.find(store, str(case))
    assert ref == CaseRef(ACME, case)
    shown = review.show(store, ref, model="test-model")
    assert {item.id for item in shown.items} == set(items)
    decided = review.decide(store, policy(), ref, "dismissed", by="ana", now=later(1))
    assert waiting_cases(store) == 0
    distil(store, now=later(2))
    [row] = rows(store, "SELECT status, decided_by FROM distillation.contradiction_cases")
    assert tuple(row) == ("dismissed", "ana")
    holds(store)
    assert undo.run(store, policy(), RunTarget(str(decided.run_id)), now=later(3)).is_complete
    assert waiting_cases(store) == 1
    holds(store)


@pytest.mark.parametrize(
    "name", ["", "nonsense", "abc", "0" * 12, "0" * 32, "a:b", "00000000-0000-0000-0000-000000000000:x"]
)
def test_an_id_of_nothing_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ReviewError):
        review.find(store, name)


def test_pairs_over_two_orgs_of_summaries_or_of_one_item_are_refused(store: Store) -> None:
    here, there = insert_item(store, FIX), insert_item(store, FIX, "globex")
    summary = insert_item(store, "A summary", source_agent_id="distillation", tags={"distilled": True})
    for pair in (f"{here}:{there}", f"{here}:{summary}", f"{here}:{here}"):
        with pytest.raises(ReviewError):
            review.find(store, pair)


def test_an_unknown_outcome_is_refused(store: Store) -> None:
    kept, other = two_versions(store)
    with pytest.raises(ReviewError, match="same or distinct"):
        decide(store, kept, other, "dismissed")


def test_a_pair_with_a_deleted_item_is_not_decided(store: Store) -> None:
    kept, other = two_versions(store)
    distil(store, under=OPEN)
    ref = review.find(store, short_id(queue(store).page.waiting[0].id))
    set_item(store, other, deleted_at=NOW)
    assert queue(store).page.total == 0
    with pytest.raises(ReviewError, match="deleted"):
        review.decide(store, OPEN, ref, "same", by="ana", now=later(1))
    assert not is_expired(store, kept)
