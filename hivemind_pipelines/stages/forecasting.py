"""Forecasting: what writing summaries would ask of the model, before anything is asked."""

from collections.abc import Iterable, Mapping, Sequence

from hivemind_pipelines.core import planning, summarization
from hivemind_pipelines.core.model import ItemId, SourceText, TopicCluster
from hivemind_pipelines.core.planning import LlmForecast
from hivemind_pipelines.core.safety import Budget
from hivemind_pipelines.core.upkeep import Writing
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import planning as stored


def writing_forecast(ctx: StageContext, writings: Sequence[Writing], budget: Budget) -> LlmForecast:
    """One call a topic and what they cost at most; nothing without a model or for extractive summaries."""
    if ctx.policy.summary.method != "llm" or ctx.services.llm is None:
        return LlmForecast()
    lengths = read_lengths(ctx, (item_id for one in writings for item_id in one.cluster.source_ids))
    characters = [_prompt_characters(ctx, one.cluster, lengths) for one in writings]
    return planning.forecast(characters, ctx.policy.summary.output_tokens_max, budget)


def read_lengths(ctx: StageContext, ids: Iterable[ItemId]) -> dict[ItemId, int]:
    """How many characters each item has."""
    wanted = set(ids)
    if not wanted:
        return {}
    with ctx.store.read() as conn:
        return stored.read_lengths(conn, ctx.org_id, wanted)


def _prompt_characters(ctx: StageContext, cluster: TopicCluster, lengths: Mapping[ItemId, int]) -> int:
    """The request around empty notes, and of each note what is quoted at most."""
    share = ctx.policy.safety.llm_prompt_characters_max // (len(cluster.source_ids) + 2)
    empty = [
        SourceText(number, item_id, "", "") for number, item_id in enumerate(cluster.source_ids, start=1)
    ]
    request = summarization.build_request(empty, "0" * 24, ctx.policy.summary)
    quoted = sum(min(lengths.get(item_id, 0), share) for item_id in cluster.source_ids)
    return len(request.system) + len(request.user) + quoted
