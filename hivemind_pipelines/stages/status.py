"""How the commons stands: what each org holds, what is due or stale, and what the day has cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hivemind_pipelines.core.due import GateReading
from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, SectionGroup
from hivemind_pipelines.stages import backlog, staleness
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.store import status as store_status
from hivemind_pipelines.store import suspicions
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.status import Delay, LastRun, Spend, StaleRows


@dataclass(frozen=True, slots=True)
class OrgStatus:
    """One org: `live` counts `summaries`, `suspicious` originals and items `in_open_cases` in.

    `waiting_summaries` are topics without one; `delays` say what the last attempt at some came to.
    """

    org_id: OrgId
    live: int
    summaries: int
    expired: int
    pending: int
    open_cases: int
    in_open_cases: int
    suspicious: int
    waiting_summaries: int
    delays: tuple[Delay, ...]
    due: Mapping[Stage, int] = field(hash=False)
    stale: Mapping[SectionGroup, int] = field(hash=False)
    spend_today: Spend
    last_run: LastRun | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole deployment at one instant; `orgs` is sorted."""

    gate: GateReading
    orgs: tuple[OrgStatus, ...]
    last_run_keys: Mapping[str, str] = field(hash=False)


def read(store: Store, policy: DistillationPolicy, now: datetime, model_stamps: ModelStamps) -> Status:
    """Read the status; a day of spending begins at midnight UTC."""
    backlogs = backlog.read(store, policy, now, model_stamps)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with store.read() as conn:
        suspicious = suspicions.read_counts(conn)
        in_open_cases = store_status.read_case_item_counts(conn)
        summaries = store_status.read_summary_counts(conn)
        stale = store_status.read_stale_counts(conn, staleness.row_stamps(policy, model_stamps))
        delays = store_status.read_delays(conn)
        spend = store_status.read_spend(conn, since=midnight)
        last_runs = store_status.read_last_runs(conn)
        last_run_keys = store_status.read_last_run_keys(conn)
    orgs = tuple(
        OrgStatus(
            org_id=org.org_id,
            live=org.live,
            summaries=summaries.get(org.org_id, 0),
            expired=org.expired,
            pending=org.pending,
            open_cases=org.open_cases,
            in_open_cases=in_open_cases.get(org.org_id, 0),
            suspicious=suspicious.get(org.org_id, 0),
            waiting_summaries=org.waiting_summaries,
            delays=delays.get(org.org_id, ()),
            due=org.due,
            stale=_by_section(stale.get(org.org_id, {})),
            spend_today=spend.get(org.org_id, Spend()),
            last_run=last_runs.get(org.org_id),
        )
        for org in backlogs.counts
    )
    return Status(backlogs.gate, orgs, last_run_keys)


def _by_section(rows: Mapping[StaleRows, int]) -> dict[SectionGroup, int]:
    """Scores are rows of the quality section, though no org's own run takes them."""
    counts = {group: rows.get(group, 0) for group in SECTION_GROUPS}
    return {**counts, "quality": counts["quality"] + rows.get("scores", 0)}


def known_orgs(store: Store) -> tuple[OrgId, ...]:
    """Every org with an item or a pending row, sorted."""
    with store.read() as conn:
        return store_status.read_org_ids(conn)
