"""review: what waits for a person, one pair or case side by side, and what people decide."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args
from uuid import UUID, uuid4

from hivemind_pipelines.core import matching
from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION
from hivemind_pipelines.core.model import CaseId, ItemId, OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.resolution import Party, ResolutionError, Resolving, plan_fork, plan_update
from hivemind_pipelines.core.review import (
    EFFECTIVE,
    CaseOutcome,
    DetectorRecord,
    Verdict,
    case_records,
    detector_records,
)
from hivemind_pipelines.store import contributions, items, ledger, resolutions, reviews, runs, suspicions
from hivemind_pipelines.store.connection import Store, wait_lock
from hivemind_pipelines.store.contributions import QueuePage
from hivemind_pipelines.store.reviews import CaseDetail, Page, PairDetail, ShownItem
from hivemind_pipelines.store.suspicions import SuspiciousPage

#: The fewest digits of a pair's id that are looked up.
PREFIX_MIN = 6


class ReviewError(ValueError):
    """An id or an outcome that there is not; the message is one line."""


@dataclass(frozen=True, slots=True)
class PairRef:
    """A pair of items of one org, `a_id < b_id`."""

    org_id: OrgId
    a_id: ItemId
    b_id: ItemId


@dataclass(frozen=True, slots=True)
class CaseRef:
    """A contradiction case of one org."""

    org_id: OrgId
    case_id: CaseId


Ref = PairRef | CaseRef


@dataclass(frozen=True, slots=True)
class Queue:
    """A page of what waits for a person, and how each detector fared by people's verdicts so far."""

    page: Page
    precision: tuple[DetectorRecord, ...]
    case_precision: tuple[DetectorRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair or a case with its texts; `differences` says of each item but the first what is different."""

    ref: Ref
    items: tuple[ShownItem, ...]
    differences: Mapping[ItemId, str]
    pair: PairDetail | None = None
    case: CaseDetail | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that was stored; `run_id` is None when it stood already."""

    ref: Ref
    outcome: str
    run_id: RunId | None


def pending(store: Store, org_id: OrgId | None, *, limit: int, offset: int) -> QueuePage:
    """The server's review queue, by what a look at each row is worth; `org_id` None means every org."""
    with store.read() as conn:
        return contributions.read_queue(conn, org_id, limit=limit, offset=offset)


def suspicious(store: Store, org_id: OrgId | None, *, limit: int, offset: int) -> SuspiciousPage:
    """Live items that seem to give a model instructions, the most harmful first; None means every org."""
    with store.read() as conn:
        return suspicions.read_listed(conn, org_id, limit=limit, offset=offset)


def queue(store: Store, org_id: OrgId | None, *, model: str, limit: int, offset: int) -> Queue:
    """What nobody decided yet, the most harmful first; `org_id` None means every org."""
    with store.read() as conn:
        page = reviews.read_waiting(
            conn, org_id, model=model, prompt_version=CONFIRM_PROMPT_VERSION, limit=limit, offset=offset
        )
        return Queue(
            page,
            detector_records(reviews.read_decided(conn, org_id)),
            case_records(reviews.read_cases_decided(conn, org_id)),
        )


def find(store: Store, name: str) -> Ref:
    """The pair or case that an id means: a case's id, the digits of a pair's, or `ITEM_ID:ITEM_ID`.

    Raises ReviewError when there is none, or more than one.
    """
    first, colon, second = name.strip().partition(":")
    if colon:
        return _find_items(store, _uuid(first, name), _uuid(second, name))
    digits = first.replace("-", "").lower()
    if not re.fullmatch(rf"[0-9a-f]{{{PREFIX_MIN},32}}", digits):
        raise ReviewError(f"{name!a} is no id of a pair or a case, nor ITEM_ID:ITEM_ID")
    with store.read() as conn:
        if len(digits) == 32:
            case_id = CaseId(UUID(digits))
            org_id = reviews.find_case(conn, case_id)
            if org_id is not None:
                return CaseRef(org_id, case_id)
        found = reviews.find_pairs(conn, digits)
    if len(found) > 1:
        raise ReviewError(f"more than one pair has an id that begins with {name!a}; give more digits")
    if not found:
        raise ReviewError(f"there is no pair or case {name!a}")
    return PairRef(*found[0])


def _uuid(digits: str, name: str) -> ItemId:
    try:
        return ItemId(UUID(digits))
    except ValueError:
        raise ReviewError(f"{name!a} does not name two items as ITEM_ID:ITEM_ID") from None


def _find_items(store: Store, first: ItemId, second: ItemId) -> PairRef:
    if first == second:
        raise ReviewError("a pair has two different items")
    a_id, b_id = sorted((first, second))
    with store.read() as conn:
        orgs = reviews.read_originals(conn, [a_id, b_id])
    missing = [item_id for item_id in (first, second) if item_id not in orgs]
    if missing:
        raise ReviewError(f"there is no item {missing[0]} to compare; summaries are not")
    if orgs[a_id] != orgs[b_id]:
        raise ReviewError("the two items belong to different orgs")
    return PairRef(orgs[a_id], a_id, b_id)


def show(store: Store, ref: Ref, *, model: str) -> Shown:
    """A pair or case with its texts as they are now; raises ReviewError when an item is gone."""
    with store.read() as conn:
        match ref:
            case PairRef(org_id, a_id, b_id):
                pair = reviews.read_pair(
                    conn, org_id, a_id, b_id, model=model, prompt_version=CONFIRM_PROMPT_VERSION
                )
                shown = reviews.read_shown(conn, org_id, [a_id, b_id])
                if pair is None or len(shown) < 2:
                    raise ReviewError("an item of this pair was deleted or removed")
                return Shown(ref, shown, _differences(shown), pair=pair)
            case CaseRef(org_id, case_id):
                case = reviews.read_case(conn, org_id, case_id)
                if case is None:
                    raise ReviewError(f"there is no case {case_id}")
                shown = reviews.read_shown(conn, org_id, case.item_ids)
                return Shown(ref, shown, _differences(shown), case=case)


def _differences(shown: tuple[ShownItem, ...]) -> dict[ItemId, str]:
    return {item.id: matching.difference(shown[0].content, item.content) for item in shown[1:]}


def decide(
    store: Store,
    policy: DistillationPolicy,
    ref: Ref,
    outcome: str,
    *,
    by: str,
    now: datetime,
    older: ItemId | None = None,
    at: datetime | None = None,
) -> Decided:
    """Store what a person decided, with its ledger row; the org's next run acts on a verdict.

    `older` and `at` say of an update or a version fork what its items do not. Raises ReviewError when pairs
    or cases have no such outcome, or when it needs to be told more.
    """
    allowed = get_args(Verdict if isinstance(ref, PairRef) else CaseOutcome)
    if outcome not in allowed:
        what = "pair" if isinstance(ref, PairRef) else "case"
        raise ReviewError(f"unknown outcome {outcome!a}; a {what} is decided as {' or '.join(allowed)}")
    if (older is not None or at is not None) and outcome not in EFFECTIVE:
        raise ReviewError(f"--older and --at belong to {' and '.join(sorted(EFFECTIVE))}")
    run = runs.Run(RunId(uuid4()), ref.org_id, "review", now, policy.version, policy.stamps())
    with store.begin() as conn:
        wait_lock(conn, ref.org_id, "review")
        match ref:
            case PairRef(org_id, a_id, b_id):
                if len(reviews.read_originals(conn, [a_id, b_id])) < 2:
                    raise ReviewError("an item of this pair was deleted or removed")
                items.register_originals(conn, org_id, [a_id, b_id])
                verdict: Verdict = "same" if outcome == "same" else "distinct"
                entries = reviews.judge(
                    conn, org_id, [(a_id, b_id, True)], verdict,
                    source="review", by=by, at=now, run_id=run.run_id,
                )  # fmt: skip
            case CaseRef(org_id, case_id):
                _refuse_second_effect(reviews.read_case(conn, org_id, case_id), outcome, case_id)
                kept = None if outcome in ("resolved", "dismissed") else outcome
                entries = reviews.decide_case(conn, org_id, case_id, _status(outcome), kept, by=by, at=now)
                if entries and outcome in EFFECTIVE:
                    plan = _resolving(resolutions.read_parties(conn, org_id, case_id), outcome, older, at)
                    entries = (*resolutions.apply(conn, org_id, case_id, plan, at=now), *entries)
        if not entries:
            return Decided(ref, outcome, None)
        runs.start(conn, run, policy)
        ledger.record(conn, ref.org_id, run.run_id, entries, stamp=policy.version, at=now)
        runs.finish(conn, run.run_id, "finished", {"decided": len(entries)}, now)
    return Decided(ref, outcome, run.run_id)


def _refuse_second_effect(case: CaseDetail | None, outcome: str, case_id: CaseId) -> None:
    if case is not None and case.status != "open" and case.outcome in EFFECTIVE and case.outcome != outcome:
        raise ReviewError(f"the case is decided as {case.outcome}: take that back with undo --case {case_id}")


def _resolving(
    parties: Sequence[Party], outcome: str, older: ItemId | None, at: datetime | None
) -> tuple[Resolving, ...]:
    try:
        return plan_update(parties, older) if outcome == "update" else plan_fork(parties, older, at)
    except ResolutionError as error:
        raise ReviewError(str(error)) from None


def _status(outcome: str) -> str:
    """The status of a case by what people decided: a conflict there was is resolved, any other dismissed."""
    return "resolved" if outcome in ("resolved", *EFFECTIVE) else "dismissed"
