"""Contradiction: cases from signals, so that people settle conflicts that belong together as one."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.changes import (
    CaseChange,
    KeepCase,
    OpenCase,
    ReopenCase,
    StampSuspect,
    WithdrawCase,
)
from hivemind_pipelines.core.model import (
    EMBEDDING_DIMENSION,
    CaseId,
    Category,
    ConflictFinding,
    ContradictionCase,
    ItemId,
    OrgId,
    StandingCase,
    SuspectSignal,
)
from hivemind_pipelines.core.policy import ContradictionPolicy
from hivemind_pipelines.core.stars import star_groups

_CASE_NAMESPACE = UUID("5d0c4f5e-3c0e-5f0b-9a3b-6e3a0b7c1d42")

#: A similarity at the very limit counts, whatever its last bits are.
_COSINE_MARGIN = 1e-6


def plan_cases(
    signals: Sequence[SuspectSignal],
    vectors: Mapping[ItemId, NDArray[np.float32]],
    *,
    org_id: OrgId,
    as_of: datetime,
    policy: ContradictionPolicy,
    standing: Sequence[StandingCase] = (),
    stamp: str = "",
) -> tuple[CaseChange, ...]:
    """Open a case for each group of similar suspects in a category; remember who stays alone.

    `signals` are those in no case yet, lone suspects of earlier runs among them, and those of open cases;
    `vectors` has shape (384,) per item, items without one stand alone. An open case under `stamp` stays as it
    is while the signals of its category count for the items they counted for. Those of any other open case
    are grouped anew: the case is kept when its group stands again, else withdrawn. A withdrawn case of a
    group is reopened, signals of a group whose case a person has decided are stamped with it. The order of
    the input does not matter, and planning against the applied plan gives nothing.
    """
    known = {case.case_id: case for case in standing}
    loose = _loose(known, signals, stamp)
    moved = {
        case.case_id for case in standing if case.is_open and (case.case_id in loose or case.stamp != stamp)
    }
    by_item: defaultdict[ItemId, list[SuspectSignal]] = defaultdict(list)
    for signal in sorted(signals, key=lambda signal: signal.signal_id):
        if signal.case_id is None or signal.case_id in loose:
            by_item[signal.item_id].append(signal)
    changes: list[CaseChange] = []
    for category, item_ids in _groups(by_item, vectors, policy):
        group = [signal for item_id in item_ids for signal in by_item[item_id]]
        if len(item_ids) < 2:
            changes += [
                _stamp(signal) for signal in group if not signal.is_stamped or _is_lent(signal, known)
            ]
            continue
        case = _case(org_id, category, item_ids, group)
        moved.discard(case.case_id)
        changes += _place(case, group, known.get(case.case_id), stamp, as_of)
    return (*(WithdrawCase(case_id) for case_id in sorted(moved)), *sorted(changes, key=_order))


def _loose(known: Mapping[CaseId, StandingCase], signals: Sequence[SuspectSignal], stamp: str) -> set[CaseId]:
    """The cases whose signals are grouped anew: of another policy, or in a category where one has moved.

    Where items were merged or came back a category is grouped as a whole, so that the groups do not depend
    on which merges held before.
    """
    held = [(signal, case) for signal in signals if (case := _holder(signal, known)) is not None]
    moved = {signal.category for signal, case in held if case.stamp != stamp or _is_elsewhere(signal, case)}
    return {case.case_id for signal, case in held if signal.category in moved}


def _is_lent(signal: SuspectSignal, known: Mapping[CaseId, StandingCase]) -> bool:
    """Whether it names a case that it does not hold open and would stay with, were it not taken away."""
    case = _holder(signal, known)
    return case is not None and not case.is_open


def _holder(signal: SuspectSignal, known: Mapping[CaseId, StandingCase]) -> StandingCase | None:
    """The case that a signal is stamped with."""
    return None if signal.case_id is None else known.get(signal.case_id)


def _is_elsewhere(signal: SuspectSignal, case: StandingCase) -> bool:
    """Whether it counts for an item outside the case, or for one party now while it was another's."""
    origin_id = signal.origin_id or signal.item_id
    return signal.item_id not in case.item_ids or (origin_id in case.item_ids and origin_id != signal.item_id)


def _place(
    case: ContradictionCase,
    group: Sequence[SuspectSignal],
    standing: StandingCase | None,
    stamp: str,
    as_of: datetime,
) -> Iterator[CaseChange]:
    if standing is None:
        yield OpenCase(case, detected_at=as_of)
        return
    if standing.is_withdrawn:
        yield ReopenCase(case)
        return
    if standing.is_open and standing.stamp != stamp:
        yield KeepCase(case.case_id)
    yield from (_stamp(signal, case.case_id) for signal in group if signal.case_id != case.case_id)


def _order(change: CaseChange) -> tuple[bool, UUID]:
    match change:
        case StampSuspect():
            return True, change.signal_id
        case OpenCase() | ReopenCase():
            return False, change.case.case_id
        case KeepCase() | WithdrawCase():
            return False, change.case_id


#: The detector of cases that conflicting pairs open.
RULES = "rules"


def plan_conflicts(
    findings: Sequence[ConflictFinding], standing: Sequence[StandingCase], *, as_of: datetime, stamp: str
) -> tuple[CaseChange, ...]:
    """Open a case for each conflicting pair; take back those of pairs that no longer conflict.

    A case that a person has decided stays so until its texts change. One that signals hold open already is
    left to them. The order of the input does not matter, and planning against the applied plan gives nothing.
    """
    known = {case.case_id: case for case in standing}
    found = {finding.case_id: finding for finding in sorted(findings, key=lambda one: one.case_id)}
    gone = sorted(
        case.case_id
        for case in standing
        if case.detector == RULES and not (case.is_withdrawn or case.is_decided) and case.case_id not in found
    )
    placed = (
        change for one in found.values() for change in _settle(one, known.get(one.case_id), stamp, as_of)
    )
    return (*map(WithdrawCase, gone), *placed)


def _settle(
    finding: ConflictFinding, standing: StandingCase | None, stamp: str, as_of: datetime
) -> Iterator[CaseChange]:
    case = ContradictionCase(
        finding.case_id,
        finding.category,
        (finding.a_id, finding.b_id),
        (),
        RULES,
        {
            "outcome": finding.outcome,
            "reason": finding.reason,
            "score": round(finding.score, 6),
            "spans": dict(finding.spans),
            "judged": finding.judged,
        },
    )
    if standing is None:
        yield OpenCase(case, detected_at=as_of)
    elif standing.is_withdrawn:
        yield ReopenCase(case)
    elif standing.is_decided:
        if not finding.is_settled:
            yield ReopenCase(case, is_new_evidence=True)
    elif standing.detector == RULES and standing.stamp != stamp:
        yield KeepCase(case.case_id)


def case_id(org_id: OrgId, item_ids: Iterable[ItemId]) -> CaseId:
    """The id that a set of conflicting items of an org has for ever."""
    name = json.dumps([org_id, *sorted(str(item_id) for item_id in set(item_ids))])
    return CaseId(uuid5(_CASE_NAMESPACE, name))


def _groups(
    by_item: Mapping[ItemId, Sequence[SuspectSignal]],
    vectors: Mapping[ItemId, NDArray[np.float32]],
    policy: ContradictionPolicy,
) -> Iterator[tuple[Category, tuple[ItemId, ...]]]:
    by_category: defaultdict[Category, list[ItemId]] = defaultdict(list)
    for item_id in sorted(by_item):
        by_category[by_item[item_id][0].category].append(item_id)
    for category, item_ids in sorted(by_category.items()):
        absent = np.zeros(EMBEDDING_DIMENSION, dtype=np.float32)
        stars = star_groups(
            np.stack([vectors.get(item_id, absent) for item_id in item_ids]),
            cosine_min=policy.cosine_min - _COSINE_MARGIN,
            size_min=2,
            size_max=policy.case_size_max,
        )
        grouped = {row for star in stars for row in star.members}
        yield from ((category, tuple(item_ids[row] for row in star.members)) for star in stars)
        yield from ((category, (item_ids[row],)) for row in range(len(item_ids)) if row not in grouped)


def _case(
    org_id: OrgId, category: Category, item_ids: tuple[ItemId, ...], signals: Iterable[SuspectSignal]
) -> ContradictionCase:
    signal_ids = tuple(sorted(signal.signal_id for signal in signals))
    return ContradictionCase(case_id(org_id, item_ids), category, item_ids, signal_ids)


def _stamp(signal: SuspectSignal, case: CaseId | None = None) -> StampSuspect:
    return StampSuspect(signal.signal_id, signal.origin_id or signal.item_id, case)
