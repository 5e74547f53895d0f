"""Backlog: what waits in every org, measured against the stamps of the current policy and models."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION
from hivemind_pipelines.core.due import GateReading, OrgBacklog
from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.stages.cluster_summaries import rescan_fingerprint
from hivemind_pipelines.stages.context import Services, screening_stamps, settled_stamp, topic_stamp
from hivemind_pipelines.stages.contradiction_cases import judge_of
from hivemind_pipelines.store import backlog, erasures
from hivemind_pipelines.store.backlog import OrgCounts, Stamps
from hivemind_pipelines.store.connection import Store


@dataclass(frozen=True, slots=True)
class ModelStamps:
    """The names and versions of the outside services, as far as due-ness depends on them."""

    embedder: str
    scanner: str
    llm_model: str
    has_llm: bool
    queue_scanner: str = ""

    @classmethod
    def of(cls, services: Services) -> Self:
        """The stamps of these services; loads none of their models."""
        return cls(
            services.embedder.model_stamp,
            services.scanner.stamp,
            services.llm_model,
            services.llm is not None,
            services.queue_scanner.stamp,
        )


@dataclass(frozen=True, slots=True)
class Backlogs:
    """One reading of the gate and of every org's backlog, in org order."""

    gate: GateReading
    orgs: tuple[OrgBacklog, ...]
    counts: tuple[OrgCounts, ...]


def read(
    store: Store,
    policy: DistillationPolicy,
    now: datetime,
    model_stamps: ModelStamps,
    org_ids: Sequence[OrgId] | None = None,
) -> Backlogs:
    """One grouped query over all orgs, or those named; the gate counts what it read."""
    stamps = stamps_of(policy, model_stamps)
    can_summarise = policy.summary.method == "extractive" or model_stamps.has_llm
    with store.read() as conn:
        counts = backlog.read_counts(
            conn,
            stamps,
            now=now,
            can_summarise=can_summarise,
            can_confirm=model_stamps.has_llm and policy.matching.llm_confirm,
            can_judge=model_stamps.has_llm and policy.contradiction.llm_judge,
            org_ids=None if org_ids is None else list(org_ids),
        )
    gate = GateReading(
        pending_count=sum(org.pending for org in counts),
        conflict_count=sum(org.conflicts for org in counts),
        volume_threshold=policy.gate.volume_threshold,
        conflict_threshold=policy.gate.conflict_threshold,
    )
    return Backlogs(gate, tuple(map(_backlog, counts)), counts)


def stamps_of(policy: DistillationPolicy, model_stamps: ModelStamps) -> Stamps:
    """What every derived row is stamped with while this policy and these models are in force."""
    screened = screening_stamps(policy, model_stamps.embedder, model_stamps.queue_scanner)
    return Stamps(
        features=policy.feature_stamp(model_stamps.embedder),
        probes=policy.probe_stamp(model_stamps.embedder),
        matching=policy.fingerprint("matching"),
        settled=settled_stamp(policy, model_stamps.llm_model),
        contradiction=policy.fingerprint("contradiction"),
        topics=topic_stamp(policy, model_stamps.llm_model),
        labels=screened.labels,
        matches=screened.matches,
        pii=model_stamps.scanner,
        model=model_stamps.llm_model,
        prompt_version=CONFIRM_PROMPT_VERSION,
        rescan=rescan_fingerprint(model_stamps.scanner),
        judge=judge_of(policy, model_stamps.llm_model),
    )


def _backlog(org: OrgCounts) -> OrgBacklog:
    return OrgBacklog(org.org_id, org.due, org.oldest_due_at, org.last_started_at, org.watermark)


def erasure_orgs(store: Store) -> tuple[OrgId, ...]:
    """Orgs in which deleted, removed or restored items wait to be propagated."""
    with store.read() as conn:
        return erasures.read_orgs_with_losses(conn)
