"""Confirmation: the model's second look at possible pairs, cached, budgeted and never over a veto."""

import secrets
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION, confirmation_request, parse_verdict
from hivemind_pipelines.core.model import ItemId, LlmAnswer, LlmVerdict
from hivemind_pipelines.stages import claims
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.spending import Purse, open_purse
from hivemind_pipelines.store import confirmations, derivations, jobs
from hivemind_pipelines.store.pairs import StoredPair

#: Unconfirmed pairs looked at in one run, the likeliest first.
LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Calls made, verdicts cached, those that said `same`, and why calls failed."""

    calls: int = 0
    verdicts: int = 0
    same: int = 0
    note: str = ""


def run(ctx: StageContext) -> Confirmed:
    """Ask the model about possible pairs; without one they wait for a reviewer."""
    if not ctx.policy.matching.llm_confirm or ctx.services.llm is None:
        return Confirmed()
    with ctx.store.read() as conn:
        waiting = confirmations.read_unconfirmed_pairs(
            conn, ctx.org_id, model=ctx.services.llm_model, prompt_version=CONFIRM_PROMPT_VERSION,
            now=ctx.clock(), limit=LIMIT,
        )  # fmt: skip
        ids = sorted({item_id for pair in waiting for item_id in (pair.a_id, pair.b_id)})
        texts = derivations.read_texts(conn, ctx.org_id, ids)
    if ctx.dry_run or not waiting:
        return Confirmed(calls=len(waiting), note=f"forecast: {len(waiting)} calls" if waiting else "")
    return _ask(ctx, waiting, texts)


def _ask(ctx: StageContext, waiting: Sequence[StoredPair], texts: dict[ItemId, str]) -> Confirmed:
    purse = open_purse(ctx)
    with ThreadPoolExecutor(ctx.policy.safety.llm_concurrency) as threads:
        answers = list(
            threads.map(lambda pair: _confirm(ctx, purse, pair, texts[pair.a_id], texts[pair.b_id]), waiting)
        )
    verdicts = [answer for answer in answers if isinstance(answer, LlmVerdict)]
    failures = Counter(answer for answer in answers if isinstance(answer, str))
    note = ", ".join(f"{reason}: {count}" for reason, count in sorted(failures.items()))
    return Confirmed(purse.calls, len(verdicts), sum(verdict.same for verdict in verdicts), note)


def _confirm(ctx: StageContext, purse: Purse, pair: StoredPair, a: str, b: str) -> LlmVerdict | str:
    """The cached verdict of one pair, or the reason why the pair stays possible."""
    identity = {"model": ctx.services.llm_model, "prompt_version": CONFIRM_PROMPT_VERSION}
    claim = claims.take(ctx, confirmations.confirmation_fingerprint(pair, **identity))
    if claim is None:
        return "claimed"
    answer = _asked(purse, a, b)
    if isinstance(answer, str):
        claim.release(answer)
        return answer
    with ctx.store.begin() as conn:
        confirmations.store_verdict(conn, ctx.org_id, pair, answer, **identity)
        jobs.finish_job(conn, ctx.org_id, claim.fingerprint)
    return answer


def _asked(purse: Purse, a: str, b: str) -> LlmVerdict | str:
    outcome = purse.call(confirmation_request(a, b, secrets.token_hex(8)))
    if not isinstance(outcome, LlmAnswer):
        return outcome.reason
    return parse_verdict(outcome.data) or "malformed"
