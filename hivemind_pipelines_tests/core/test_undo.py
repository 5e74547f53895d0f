"""Undo as a pure plan: ledger rows and how things stand in, changes and refusals out."""

from datetime import UTC, datetime
from itertools import count
from uuid import UUID

import pytest

from hivemind_pipelines.core.changes import Rescore, Retire, Unmerge
from hivemind_pipelines.core.model import CaseId, ItemId, PendingId
from hivemind_pipelines.core.undo import (
    PARTED_CLUSTER_MAX,
    PARTED_PAIRS_MAX,
    CaseState,
    DecideCase,
    Effect,
    ItemState,
    LabelState,
    MergeAgain,
    Part,
    Relabel,
    ReviveSummary,
    Standing,
    SummaryState,
    UndoPlan,
    VerdictState,
    plan_undo,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 2, 12, tzinfo=UTC)
WHEN = AT.isoformat()

A, B, C, D = (ItemId(UUID(int=number)) for number in range(1, 5))


def merge(item: ItemId, into: ItemId, at: datetime = AT) -> Effect:
    before = {"expired_at": None, "canonical": None, "canonical_tags": "object"}
    return Effect("merge", item, before, {"expired_at": at.isoformat(), "canonical": str(into)})


def repoint(item: ItemId, source: ItemId, target: ItemId) -> Effect:
    return Effect("repoint", item, {"canonical": str(source)}, {"expired_at": WHEN, "canonical": str(target)})


def unmerge(item: ItemId, source: ItemId, reason: str = "no_longer_supported") -> Effect:
    after = {"expired_at": None, "canonical": None, "reason": reason}
    return Effect("unmerge", item, {"expired_at": WHEN, "canonical": str(source)}, after)


def merged(into: ItemId, at: datetime = AT) -> ItemState:
    return ItemState(is_live=False, canonical_id=into, merged_at=at)


def plan(*effects: Effect, **standing: object) -> UndoPlan:
    return plan_undo(effects, Standing(**standing), by="undo")  # type: ignore[arg-type]


def refusals(found: UndoPlan) -> list[str]:
    return [refusal.reason for refusal in found.refusals]


def test_nothing_is_undone_by_nothing() -> None:
    assert plan() == UndoPlan((), ())


def test_a_merge_is_taken_back_and_remembered() -> None:
    found = plan(merge(B, A), items={A: ItemState(), B: merged(A)})
    assert found.changes == (Unmerge(B, A, "undone"), Part(A, B, is_direct=True))
    assert found.refusals == ()


def test_all_that_a_cluster_had_brought_together_is_parted() -> None:
    items = {A: ItemState(), B: merged(A), C: merged(A), D: merged(A)}
    found = plan(merge(B, A), merge(C, A), items=items)
    direct = {(part.a_id, part.b_id) for part in found.changes if isinstance(part, Part) and part.is_direct}
    implied = {
        (part.a_id, part.b_id) for part in found.changes if isinstance(part, Part) and not part.is_direct
    }
    assert direct == {(A, B), (A, C)}
    assert implied == {(B, C), (B, D), (C, D)}


def test_a_verdict_that_stands_is_not_overwritten_by_what_an_undo_implies() -> None:
    spoken = VerdictState(UUID(int=9), "same", "review", "ana", AT, None, holds=True)
    items = {A: ItemState(), B: merged(A), C: merged(A)}
    found = plan(merge(B, A), items=items, verdicts={(B, C): spoken})
    assert [change for change in found.changes if isinstance(change, Part)] == [Part(A, B, is_direct=True)]


def test_a_large_cluster_is_remembered_by_its_centre_and_not_without_end() -> None:
    ids = [ItemId(UUID(int=number)) for number in range(1, PARTED_PAIRS_MAX + 12)]
    centre, *others = ids
    items = {centre: ItemState(), **dict.fromkeys(others, merged(centre))}
    found = plan(*(merge(item, centre) for item in others), items=items)
    parts = [change for change in found.changes if isinstance(change, Part)]
    assert len(others) > PARTED_CLUSTER_MAX
    assert (len(parts), found.unremembered) == (PARTED_PAIRS_MAX, len(others) - PARTED_PAIRS_MAX)
    assert sum(isinstance(change, Unmerge) for change in found.changes) == len(others)


def test_followers_go_back_to_the_canonical_that_comes_back() -> None:
    items = {A: ItemState(), B: merged(A, LATER), C: merged(A)}
    found = plan(merge(B, A, LATER), repoint(C, B, A), items=items)
    placed = [change for change in found.changes if not isinstance(change, Part)]
    assert placed == [Unmerge(B, A, "undone"), MergeAgain(C, B, AT, A)]
    parted = {(one.a_id, one.b_id) for one in found.changes if isinstance(one, Part)}
    assert parted == {(A, B), (A, C)}


def test_a_merge_that_moved_on_to_another_canonical_is_taken_back_from_there() -> None:
    found = plan(merge(C, B), items={A: ItemState(), B: merged(A), C: merged(A)})
    assert found.changes[0] == Unmerge(C, A, "undone")


def test_what_a_run_did_and_undid_itself_needs_nothing() -> None:
    found = plan(merge(B, A), unmerge(B, A), items={A: ItemState(), B: ItemState()})
    assert (found.changes, found.refusals, found.as_before) == ((), (), 1)


def test_a_repointing_that_the_same_run_took_back_expires_again_where_it_was() -> None:
    found = plan(repoint(C, B, A), unmerge(C, A), items={item: ItemState() for item in (A, B, C)})
    assert found.changes == (MergeAgain(C, B, AT),)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "the server removed it"),
        (ItemState(is_deleted=True, is_live=False), "its owner deleted it"),
        (ItemState(is_live=False), "somebody else changed its expiry since"),
        (merged(A, LATER), "it came back and was merged again by a later run; undo that run"),
    ],
)
def test_a_merge_that_is_no_longer_ours_is_refused(state: ItemState | None, reason: str) -> None:
    items = {A: ItemState()} | ({} if state is None else {B: state})
    found = plan(merge(B, A), items=items)
    assert (found.changes, refusals(found)) == ((), [reason])


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({B: ItemState()}, f"its canonical {A} is gone"),
        ({A: ItemState(is_deleted=True), B: ItemState()}, f"its canonical {A} was deleted by its owner"),
        ({A: merged(C), B: ItemState(), C: ItemState()}, f"its canonical {A} is expired itself"),
        ({A: ItemState(), B: ItemState(is_public=True)}, f"it is public and its canonical {A} is not"),
        ({A: ItemState(), B: ItemState(), C: merged(B)}, "other items were merged into it since"),
        ({A: ItemState(), B: merged(C), C: ItemState()}, "it was expired or merged again since"),
    ],
)
def test_an_item_does_not_follow_a_canonical_that_is_unfit(
    items: dict[ItemId, ItemState], reason: str
) -> None:
    found = plan(unmerge(B, A), items=items)
    assert (found.changes, refusals(found)) == ((), [reason])


def test_a_verdict_stands_in_the_way_of_merging_again() -> None:
    spoken = VerdictState(UUID(int=9), "distinct", "review", "ana", AT, None, holds=True)
    items = {A: ItemState(), B: ItemState()}
    found = plan(unmerge(B, A), items=items, verdicts={(A, B): spoken})
    assert refusals(found) == [f"a verdict says that it is distinct from {A}"]


def test_what_others_took_back_is_not_expired_again() -> None:
    found = plan(unmerge(B, A, "changed_by_others"), items={A: ItemState(), B: ItemState()})
    assert refusals(found) == ["somebody else had changed its expiry; we only took note"]


PUBLISHED = Effect("publish", A, {"fingerprint": None}, {"fingerprint": "f", "expired_at": None})
RETIRED = Effect("retire", B, {"expired_at": None}, {"expired_at": WHEN, "reason": "superseded"})


def test_a_summary_is_expired_and_its_predecessor_comes_back() -> None:
    summaries = {
        A: SummaryState(),
        B: SummaryState(is_live=False, expired_at=AT, retired_reason="superseded"),
    }
    found = plan(PUBLISHED, RETIRED, summaries=summaries)
    assert found.changes == (Retire(A, "undone"), ReviveSummary(B, AT))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "the server removed it"),
        (SummaryState(is_deleted=True, is_live=False), "its owner deleted it"),
        (SummaryState(is_live=False, expired_at=LATER), "it came back and was expired again since"),
        (
            SummaryState(is_live=False, expired_at=AT, retired_reason="pii_found"),
            "personal data was found in it",
        ),
        (
            SummaryState(is_live=False, expired_at=AT, is_whole=False),
            "its sources were changed, expired or lost since",
        ),
    ],
)
def test_a_summary_that_must_not_come_back_is_refused(state: SummaryState | None, reason: str) -> None:
    found = plan(RETIRED, summaries={} if state is None else {B: state})
    assert (found.changes, refusals(found)) == ((), [reason])


CASE = CaseId(UUID(int=7))
OPENED = Effect("open_case", CASE, {"status": None}, {"status": "open", "items": [], "signal": "s"})


def test_an_open_case_is_withdrawn_and_a_decided_one_is_not() -> None:
    found = plan(OPENED, cases={CASE: CaseState("open")})
    before = {"status": "open", "outcome": None, "by": None}
    assert found.changes == (DecideCase(CASE, before, "dismissed", "undone", "undo"),)
    decided = plan(OPENED, cases={CASE: CaseState("resolved", None, "ana")})
    assert refusals(decided) == ["it was resolved by ana since; undo that first"]


def test_a_case_whose_items_are_not_all_live_is_not_opened_again() -> None:
    decided = Effect("decide_case", CASE, {"status": "open"}, {"status": "dismissed", "outcome": None})
    found = plan(decided, cases={CASE: CaseState("dismissed", is_whole=False)})
    assert refusals(found) == ["not all of its items are live any more"]


def test_labels_scores_and_embeddings_are_undone_left_or_as_before() -> None:
    row, other, gone = (PendingId(UUID(int=number)) for number in (11, 12, 13))
    unlabelled = {"low_quality": False, "score": None, "tags": "sql_null"}
    labelled = {"low_quality": True, "score": 0.1}
    flags = [Effect("flag", one, unlabelled, labelled) for one in (row, other, gone)]
    scores = [Effect("rescore", one, {"quality_score": 0.5}, {"quality_score": 0.25}) for one in (A, B, C)]
    items = {
        A: ItemState(quality_score=0.25),
        B: ItemState(quality_score=0.9),
        C: ItemState(quality_score=0.5),
    }
    found = plan(
        *flags, *scores, Effect("embed", A, {"embedding": None}, {"embedding": "m"}),
        labels={row: LabelState(is_low_quality=True), other: LabelState()}, items=items,
    )  # fmt: skip
    assert found.changes == (Relabel(row, False, 0.1, "sql_null"), Rescore(A, 0.25, 0.5))
    assert (found.as_before, found.left, found.refusals) == (2, 3, ())


def test_a_label_that_a_later_run_changed_stays_and_the_rest_goes_back() -> None:
    row, short, near = PendingId(UUID(int=11)), {"labels": ["short"]}, {"labels": ["near"]}
    before = {"low_quality": False, "score": None, "tags": "sql_null", "prescreen": None}
    after = {"low_quality": True, "score": 0.1, "prescreen": short}
    found = plan(Effect("flag", row, before, after), labels={row: LabelState(True, short)})
    assert found.changes == (Relabel(row, False, 0.1, "sql_null", None),)
    found = plan(Effect("flag", row, before, after), labels={row: LabelState(True, near)})
    assert found.changes == (Relabel(row, False, 0.1, "sql_null", near),)
    found = plan(Effect("flag", row, before, after), labels={row: LabelState(False, near)})
    assert (found.changes, found.left) == ((), 1)


@pytest.mark.parametrize("change", ["lose", "restore", "import_merge", "import_derivation", "something_new"])
def test_what_cannot_be_undone_says_so(change: str) -> None:
    found = plan(Effect(change, A, {}, {}), items={A: ItemState()})
    assert (found.changes, len(found.refusals)) == ((), 1)
    assert found.refusals[0].reason


def test_the_order_of_the_standing_does_not_matter() -> None:
    ids = [ItemId(UUID(int=number)) for number, _ in zip(count(1), range(12), strict=False)]
    items = {ids[0]: ItemState(), **dict.fromkeys(ids[1:], merged(ids[0]))}
    effects = [merge(item, ids[0]) for item in ids[1:7]]
    forwards = plan(*effects, items=items)
    assert forwards == plan(*reversed(effects), items=dict(reversed(items.items())))
