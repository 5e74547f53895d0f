"""judging: the model's word on pairs that the rules hold apart, cached, budgeted and never for settled ones."""

import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hivemind_pipelines.core.judging import JudgeVerdict, judging_request, parse_judgement
from hivemind_pipelines.core.model import LlmAnswer
from hivemind_pipelines.stages import claims
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.spending import Purse, open_purse
from hivemind_pipelines.store import conflicts, jobs
from hivemind_pipelines.store.conflicts import Judge, UnjudgedPair

#: Pairs asked about in one run, the surest first.
LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Judged:
    """Calls made, verdicts cached, and why calls failed."""

    calls: int = 0
    verdicts: int = 0
    note: str = ""


def run(ctx: StageContext, judge: Judge) -> Judged:
    """Ask the model about each pair once; without one, or when it fails, the rules' finding stands."""
    if not ctx.policy.contradiction.llm_judge or ctx.services.llm is None:
        return Judged()
    with ctx.store.read() as conn:
        waiting = conflicts.read_unjudged(conn, ctx.org_id, judge, now=ctx.clock(), limit=LIMIT)
    if ctx.dry_run or not waiting:
        return Judged(calls=len(waiting), note=f"forecast: {len(waiting)} calls" if waiting else "")
    purse = open_purse(ctx)
    with ThreadPoolExecutor(ctx.policy.safety.llm_concurrency) as threads:
        answers = list(threads.map(lambda pair: _judge(ctx, purse, judge, pair), waiting))
    failures = Counter(answer for answer in answers if isinstance(answer, str))
    note = ", ".join(f"{reason}: {count}" for reason, count in sorted(failures.items()))
    return Judged(purse.calls, len(answers) - failures.total(), note)


def _judge(ctx: StageContext, purse: Purse, judge: Judge, pair: UnjudgedPair) -> JudgeVerdict | str:
    """The cached verdict of one pair, or the reason why there is none."""
    claim = claims.take(ctx, conflicts.judging_fingerprint(pair, judge))
    if claim is None:
        return "claimed"
    answer = _asked(purse, pair)
    if isinstance(answer, str):
        claim.release(answer)
        return answer
    with ctx.store.begin() as conn:
        conflicts.store_verdict(conn, ctx.org_id, pair, answer, judge)
        jobs.finish_job(conn, ctx.org_id, claim.fingerprint)
    return answer


def _asked(purse: Purse, pair: UnjudgedPair) -> JudgeVerdict | str:
    outcome = purse.call(judging_request(pair.a_text, pair.b_text, secrets.token_hex(8)))
    if not isinstance(outcome, LlmAnswer):
        return outcome.reason
    return parse_judgement(outcome.data, pair.a_text, pair.b_text) or "malformed"
