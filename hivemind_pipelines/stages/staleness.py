"""staleness: which sections of which orgs another policy decided, by their rows and by their last runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, SectionGroup
from hivemind_pipelines.stages import claims
from hivemind_pipelines.stages.backlog import ModelStamps, stamps_of
from hivemind_pipelines.store import jobs, runs
from hivemind_pipelines.store import status as stored
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.status import StageStamp, StaleRows

#: The first stage that a section steers; every later one works on what it leaves.
FIRST_STAGE: Mapping[SectionGroup, Stage] = {
    "matching": Stage.ITEM_FEATURES,
    "contradiction": Stage.CONTRADICTION_CASES,
    "summary": Stage.TOPIC_CLUSTERS,
    "pii": Stage.CLUSTER_SUMMARIES,
    "quality": Stage.PRESCREENED_CONTRIBUTIONS,
}


@dataclass(frozen=True, slots=True)
class StaleOrg:
    """An org with the sections that are stale in it; `rows` counts the rows that carry another stamp."""

    org_id: OrgId
    sections: tuple[SectionGroup, ...]
    rows: Mapping[StaleRows, int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Staleness:
    """The stale orgs, sorted; `scores` says that the scores of all orgs were last taken by other weights."""

    orgs: tuple[StaleOrg, ...]
    scores: bool

    def within(self, org_ids: Sequence[OrgId] | None, sections: Sequence[SectionGroup] | None) -> "Staleness":
        """What of it concerns these orgs and sections; scores are taken for all orgs at once or not at all."""
        wanted = SECTION_GROUPS if sections is None else sections
        kept = [
            StaleOrg(one.org_id, tuple(section for section in one.sections if section in wanted), one.rows)
            for one in self.orgs
            if org_ids is None or one.org_id in org_ids
        ]
        return Staleness(
            tuple(one for one in kept if one.sections),
            self.scores and org_ids is None and "quality" in wanted,
        )

    def __bool__(self) -> bool:
        return bool(self.orgs) or self.scores


def read(store: Store, policy: DistillationPolicy, model_stamps: ModelStamps) -> Staleness:
    """Hold every stamp against the policy; an org that no run has seen yet is due, but not stale.

    Where a backfill failed half way, everything counts as stale: its assets have to be materialised.
    """
    with store.read() as conn:
        rows = stored.read_stale_counts(conn, row_stamps(policy, model_stamps))
        seen = stored.read_stale_receipts(conn, _stage_stamps(policy, model_stamps))
        half = stored.read_half_backfilled(conn)
        known = stored.read_org_ids(conn)
        last_scored = runs.last_run(conn, None, "quality")
    found = {
        org_id: set(SECTION_GROUPS) if org_id in half else {*seen.get(org_id, ()), *rows.get(org_id, ())}
        for org_id in known
    }
    orgs = [
        StaleOrg(org_id, tuple(one for one in SECTION_GROUPS if one in sections), rows.get(org_id, {}))
        for org_id, sections in found.items()
    ]
    is_other = last_scored is not None and last_scored.stamps.get("quality") != policy.fingerprint("quality")
    return Staleness(
        tuple(one for one in orgs if one.sections),
        scores=is_other or any("scores" in of_org for of_org in rows.values()),
    )


def reasons(store: Store, org_ids: Sequence[OrgId], *, now: datetime) -> dict[OrgId, str]:
    """What the newest runs of the orgs said of work they left: plans refused, locks met, topics skipped.

    What waits for its next attempt, after a failure or without a budget, is named with its time.
    """
    with store.read() as conn:
        found = {stage: runs.read_receipts(conn, stage.value, org_ids) for stage in Stage}
        waiting = jobs.read_waiting(conn, org_ids, now=now)
    said: dict[OrgId, list[str]] = {}
    for stage, receipts in found.items():
        for org_id, receipt in receipts.items():
            outcome, note = str(receipt.get("outcome", "")), str(receipt.get("note", ""))
            if outcome in ("refused", "busy"):
                said.setdefault(OrgId(org_id), []).append(f"{stage} {outcome}{note and ': '}{note}")
            elif note:
                said.setdefault(OrgId(org_id), []).append(f"{stage} left {note}")
    for one in waiting:
        if one.reason != claims.SAID_ALREADY:
            until = f"{one.next_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            said.setdefault(one.org_id, []).append(f"{one.jobs:,} wait until {until} ({one.reason})")
    return {org_id: "; ".join(lines) for org_id, lines in said.items()}


def row_stamps(policy: DistillationPolicy, model_stamps: ModelStamps) -> dict[str, str]:
    """The stamps by the names under which `store.status` counts rows of another one."""
    current = stamps_of(policy, model_stamps)
    placed = {"settled": current.settled, "topics": current.topics, "scanner": current.pii}
    return {**policy.stamps(), **placed}


def _stage_stamps(policy: DistillationPolicy, model_stamps: ModelStamps) -> list[StageStamp]:
    current = stamps_of(policy, model_stamps)
    return [
        StageStamp(Stage.DUPLICATE_PAIRS, "stamp", "matching", current.probes),
        StageStamp(Stage.DUPLICATE_MERGES, "stamp", "matching", current.matching),
        StageStamp(Stage.CONTRADICTION_CASES, "stamp", "contradiction", current.contradiction),
        StageStamp(Stage.TOPIC_CLUSTERS, "stamp", "summary", current.topics),
        StageStamp(Stage.CLUSTER_SUMMARIES, "stamp", "summary", policy.fingerprint("summary")),
        StageStamp(Stage.CLUSTER_SUMMARIES, "pii_stamp", "pii", current.pii),
        StageStamp(_QUEUE, "stamp", "quality", policy.fingerprint("quality")),
    ]


def stages_of(sections: Sequence[SectionGroup]) -> tuple[Stage, ...]:
    """The stages that bring these sections back to fresh, and those that work on what they change."""
    order: list[Stage] = [stage for stage in Stage if stage not in (_QUEUE, Stage.DISTILLATION_REPORT)]
    starts = [order.index(FIRST_STAGE[section]) for section in sections if section != "quality"]
    chain = order[min(starts) :] if starts else []
    # The queue is held against everything but the wording of summaries.
    return (*chain, *([_QUEUE] if set(sections) - {"summary"} else []))


_QUEUE = Stage.PRESCREENED_CONTRIBUTIONS
