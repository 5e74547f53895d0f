"""Allowance: the ledger entry of a plan that only went through because a person lifted the breaker."""

from hivemind_pipelines.core.changes import Refusal
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store.ledger import Entry


def entries(ctx: StageContext, refusal: Refusal | None) -> tuple[Entry, ...]:
    """One entry with the breaker's numbers; none when it would have let the plan through."""
    if refusal is None:
        return ()
    numbers = {"expired": refusal.expired_count, "live": refusal.live_count}
    return (Entry("allow_mass_change", ctx.run_id, {}, numbers),)
