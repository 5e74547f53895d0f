"""Summary writing: one topic from its claim through draft and gates to the transaction that stores it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hivemind_pipelines.core import grounding, summarization, text
from hivemind_pipelines.core.admission import admit
from hivemind_pipelines.core.changes import Publish
from hivemind_pipelines.core.grounding import Coverage
from hivemind_pipelines.core.model import (
    EMBEDDING_DIMENSION,
    LlmAnswer,
    SourceText,
    SummaryDraft,
    Vectors,
)
from hivemind_pipelines.core.upkeep import SOURCES_MIN, Writing
from hivemind_pipelines.services.embedding import EmbeddingModelError
from hivemind_pipelines.services.pii import Redacted
from hivemind_pipelines.stages import claims
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.spending import Purse
from hivemind_pipelines.store import derivations, items, jobs, ledger
from hivemind_pipelines.store.connection import StoreError
from hivemind_pipelines.store.derivations import SummaryStamps


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one topic: `rejected` by a gate, `skipped` for an outside reason, or published.

    `withheld` sentences of its sources were kept from the writer.
    """

    result: Literal["published", "rejected", "skipped"]
    reason: str = ""
    replaced: int = 0
    redacted: tuple[tuple[str, int], ...] = ()
    withheld: int = 0
    coverage: Coverage | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A draft that is grounded."""

    draft: SummaryDraft


def write(ctx: StageContext, writing: Writing, purse: Purse) -> Written:
    """Claim, draft, gate and publish; whatever fails gives the claim back with its reason and a backoff."""
    claim = claims.take(ctx, writing.cluster.fingerprint)
    if claim is None:
        return Written("skipped", "claimed")
    try:
        written = _write(ctx, writing, purse)
    except (StoreError, EmbeddingModelError) as error:
        # One topic's trouble, a lock that was waited for too long say, is no other's.
        written = Written("skipped", type(error).__name__)
    if written.result != "published":
        claim.release(written.reason)
    return written


def _write(ctx: StageContext, writing: Writing, purse: Purse) -> Written:
    with ctx.store.read() as conn:
        sources = derivations.read_sources(conn, ctx.org_id, writing.cluster)
    if len(sources) != len(writing.cluster.source_ids):
        return Written("skipped", "source_changed")
    admitted = admit(sources)
    if len(admitted.sources) < SOURCES_MIN:
        return Written("rejected", "withheld", withheld=admitted.withheld)
    draft = _draft(ctx, admitted.sources, purse)
    if isinstance(draft, Written):
        return replace(draft, withheld=admitted.withheld)
    outcome = ctx.services.scanner.redact([draft.draft.text])[0]
    if not isinstance(outcome, Redacted):
        return Written("rejected", f"pii_{outcome.reason}")
    published = _publish(ctx, writing, outcome.text)
    return replace(
        published,
        redacted=tuple(sorted(outcome.counts.items())),
        withheld=admitted.withheld,
        coverage=grounding.coverage(draft.draft, sources),
    )


def _draft(ctx: StageContext, sources: Sequence[SourceText], purse: Purse) -> _Draft | Written:
    """A draft that passed its gate, of the sources as far as they are admitted."""
    return _extract(ctx, sources) if ctx.policy.summary.method == "extractive" else _ask(ctx, sources, purse)


def _extract(ctx: StageContext, sources: Sequence[SourceText]) -> _Draft | Written:
    sentences = [(source.number, one) for source in sources for one in text.sentences(source.content)]
    vectors = _sentence_vectors(ctx, sources, sentences)
    draft = summarization.extract_summary(sources, sentences, vectors, ctx.policy.summary)
    reasons = grounding.check_draft(draft, sources, ctx.policy.summary)
    return Written("rejected", reasons[0]) if reasons else _Draft(draft)


def _sentence_vectors(
    ctx: StageContext, sources: Sequence[SourceText], sentences: Sequence[tuple[int, str]]
) -> Vectors:
    """Vectors of shape (len(sentences), 384); a source of one sentence has its vector already."""
    with ctx.store.read() as conn:
        ids, known = items.read_vectors(conn, ctx.org_id, [source.item_id for source in sources])
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    whole = {
        (source.number, source.content.strip()): known[row_of[source.item_id]]
        for source in sources
        if source.item_id in row_of
    }
    rest = [sentence for number, sentence in sentences if (number, sentence) not in whole]
    embedded = iter(ctx.services.embedder.embed(rest))
    rows = [whole[one] if one in whole else next(embedded) for one in sentences]
    return np.array(rows, dtype=np.float32).reshape(len(rows), EMBEDDING_DIMENSION)


def _ask(ctx: StageContext, sources: Sequence[SourceText], purse: Purse) -> _Draft | Written:
    """The model's draft; a draft the gate refuses is asked for once more, with the reasons."""
    policy, feedback = ctx.policy.summary, None
    reasons: tuple[str, ...] = ()
    share = ctx.policy.safety.llm_prompt_characters_max // (len(sources) + 2)
    for _ in range(2):
        request = summarization.build_request(
            sources, secrets.token_hex(12), policy, feedback=feedback, source_characters_max=share
        )
        outcome = purse.call(request)
        if not isinstance(outcome, LlmAnswer):
            return Written("skipped", outcome.reason)
        draft = summarization.parse_draft(outcome.data)
        reasons = ("malformed",) if draft is None else grounding.check_draft(draft, sources, policy)
        if draft is not None and not reasons:
            return _Draft(draft)
        feedback = grounding.feedback(reasons)
    return Written("rejected", reasons[0])


def _publish(ctx: StageContext, writing: Writing, content: str) -> Written:
    cluster, policy = writing.cluster, ctx.policy.summary
    content_hash = text.content_hash(content)
    change = Publish(
        summary_id=summarization.summary_id(ctx.org_id, cluster.fingerprint, content_hash),
        cluster=cluster,
        content=content,
        content_hash=content_hash,
        method=policy.method,
        model=ctx.summary_model,
        prompt_version=policy.prompt_version,
        vector=ctx.services.embedder.embed([content]),
        replaces=writing.replaces,
    )
    stamps = SummaryStamps(ctx.policy.fingerprint("summary"), ctx.services.scanner.stamp)
    with ctx.store.begin() as conn:
        entries = derivations.publish(
            conn, ctx.org_id, change, policy, run_id=ctx.run_id, stamps=stamps, as_of=ctx.as_of
        )
        if isinstance(entries, str):
            return Written("skipped", entries)
        ledger.record(conn, ctx.org_id, ctx.run_id, entries, stamp=stamps.summary, at=ctx.as_of)
        jobs.finish_job(conn, ctx.org_id, cluster.fingerprint)
    return Written("published", replaced=sum(entry.change == "retire" for entry in entries))
