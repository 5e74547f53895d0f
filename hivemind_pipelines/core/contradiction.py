"""Contradiction: cases from signals, so that people settle conflicts that belong together as one."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.changes import OpenCase, StampSuspect
from hivemind_pipelines.core.model import (
    EMBEDDING_DIMENSION,
    CaseId,
    Category,
    ContradictionCase,
    ItemId,
    OrgId,
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
    known_cases: Collection[CaseId] = (),
) -> tuple[OpenCase | StampSuspect, ...]:
    """Open a case for each group of similar suspects in a category; remember who stays alone.

    `signals` are those in no case yet, lone suspects of earlier runs among them; `vectors` has shape
    (384,) per item, items without one stand alone. Signals of a group whose case is already known are
    stamped with that case instead of opening it again. The order of the input does not matter.
    """
    by_item: defaultdict[ItemId, list[SuspectSignal]] = defaultdict(list)
    for signal in sorted(signals, key=lambda signal: signal.signal_id):
        by_item[signal.item_id].append(signal)
    opened: list[OpenCase] = []
    stamped: list[StampSuspect] = []
    for category, item_ids in _groups(by_item, vectors, policy):
        group = [signal for item_id in item_ids for signal in by_item[item_id]]
        case = _case(org_id, category, item_ids, group)
        if len(item_ids) < 2:
            stamped.extend(_stamp(signal) for signal in group if not signal.is_stamped)
        elif case.case_id in known_cases:
            stamped.extend(_stamp(signal, case.case_id) for signal in group)
        else:
            opened.append(OpenCase(case, detected_at=as_of))
    opened.sort(key=lambda change: change.case.case_id)
    stamped.sort(key=lambda change: change.signal_id)
    return (*opened, *stamped)


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
    return StampSuspect(signal.signal_id, signal.item_id, case)
