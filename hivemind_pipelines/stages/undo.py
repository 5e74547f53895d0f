"""undo: turn the effects of a run, a merge or a case back, as the ledger has them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.undo import CaseTarget, MergeTarget, RunTarget, Target, UndoPlan, plan_undo
from hivemind_pipelines.store import ledger, merges, runs, undoing
from hivemind_pipelines.store.connection import Store

#: Who decides what an undo decides: the operator who called it, without a name.
BY = "undo"

#: Ledger rows that a canonical's `provenance_links` follow.
LINKING = frozenset({"merge", "repoint", "unmerge"})


class UnknownTarget(LookupError):
    """There is no such run, merge or case; the message is one line."""


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did, or would do, by org; `run_id` is None when nothing was written."""

    run_id: RunId | None
    plans: Mapping[OrgId, UndoPlan]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused."""
        return not any(plan.refusals for plan in self.plans.values())


def run(
    store: Store, policy: DistillationPolicy, target: Target, *, now: datetime, dry_run: bool = False
) -> Undone:
    """Undo what can be undone, one transaction an org; raises UnknownTarget.

    An undo is a run with ledger rows of its own, so it can be undone in its turn.
    """
    with store.read() as conn:
        found = undoing.find(conn, target)
    if found is None:
        raise UnknownTarget(_unknown(target))
    if dry_run:
        return Undone(None, {org_id: _preview(store, org_id, target, ids) for org_id, ids in found.items()})
    own = next(iter(found)) if len(found) == 1 else None
    opened = runs.Run(RunId(uuid4()), own, "undo", now, policy.version, policy.stamps())
    plans = {org_id: _undo(store, policy, opened, org_id, target, ids) for org_id, ids in found.items()}
    if not any(plan.changes for plan in plans.values()):
        return Undone(None, plans)
    with store.begin() as conn:
        runs.finish(conn, opened.run_id, "finished", _counts(plans.values()), now)
    return Undone(opened.run_id, plans)


def _unknown(target: Target) -> str:
    match target:
        case RunTarget(run):
            return f"there is no run {run!a}"
        case MergeTarget(duplicate_id):
            return f"no item {duplicate_id} was ever merged"
        case CaseTarget(case_id):
            return f"there is no case {case_id}"


def _preview(store: Store, org_id: OrgId, target: Target, run_ids: Sequence[RunId]) -> UndoPlan:
    with store.read() as conn:
        effects = undoing.read_effects(conn, org_id, target, run_ids)
        return plan_undo(effects, undoing.read_standing(conn, org_id, effects), by=BY)


def _undo(
    store: Store,
    policy: DistillationPolicy,
    opened: runs.Run,
    org_id: OrgId,
    target: Target,
    run_ids: Sequence[RunId],
) -> UndoPlan:
    stamp = policy.fingerprint("matching")
    with store.begin() as conn:
        undoing.lock(conn, org_id)
        effects = undoing.read_effects(conn, org_id, target, run_ids)
        standing = undoing.read_standing(conn, org_id, effects, locked=True)
        plan = plan_undo(effects, standing, by=BY)
        if plan.changes:
            runs.start(conn, opened, policy)
            entries = undoing.apply(
                conn, org_id, plan.changes, standing,
                run_id=opened.run_id, stamp=stamp, by=BY, at=opened.as_of,
            )  # fmt: skip
            ledger.record(conn, org_id, opened.run_id, entries, stamp=stamp, at=opened.as_of)
            merges.sync_provenance_links(conn, org_id, [one for one in entries if one.change in LINKING])
    return plan


def _counts(plans: Iterable[UndoPlan]) -> dict[str, int]:
    made = list(plans)
    changes = Counter(type(change).__name__ for plan in made for change in plan.changes)
    refused = sum(len(plan.refusals) for plan in made)
    return {**{COUNTED[name]: count for name, count in sorted(changes.items())}, "refused": refused}


#: What each change of a plan is called in counts.
COUNTED: Mapping[str, str] = {
    "Unmerge": "brought_back",
    "MergeAgain": "merged_again",
    "Retire": "summaries_expired",
    "ReviveSummary": "summaries_revived",
    "DecideCase": "cases",
    "Relabel": "labels",
    "Rescore": "scores",
    "Part": "pairs_remembered",
    "RestoreVerdict": "verdicts_restored",
    "RestoreSuperseded": "outdated_revived",
    "RestoreValidity": "validities_restored",
}


def counts(plan: UndoPlan) -> dict[str, int]:
    """How many changes of each kind a plan has, and what it leaves."""
    return {
        **_counts([plan]),
        "as_before": plan.as_before,
        "left": plan.left,
        "unremembered": plan.unremembered,
    }
