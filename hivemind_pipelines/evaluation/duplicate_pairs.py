"""duplicates on pairs: features, comparison and decision of production on each pair, without blocking."""

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from uuid import UUID, uuid5

from hivemind_pipelines.core import features, matching
from hivemind_pipelines.core.intake import DEFAULT_ORG
from hivemind_pipelines.core.model import (
    Category,
    Comparison,
    Decision,
    Item,
    ItemId,
    LlmAnswer,
    LlmUsage,
    LlmVerdict,
    MatchInput,
    PairDecision,
    Scope,
)
from hivemind_pipelines.core.policy import DistillationPolicy, MatchingPolicy
from hivemind_pipelines.core.safety import Budget, OutOfBudget
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.evaluation.labelled import LabelledPair
from hivemind_pipelines.evaluation.metrics import (
    auc,
    confusion,
    precision_recall,
    recall_at_precision,
    share,
)
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction, Series
from hivemind_pipelines.services.embedding import Embedder
from hivemind_pipelines.services.llm import Llm
from hivemind_pipelines.stages.context import Progress, Services

PRECISION_MIN = 0.99

#: Pairs compared between two reports of progress.
BATCH = 500

#: A text with the scope it was given.
Side = tuple[str, Scope]

_TEXTS = UUID("b1f6c0de-51f0-5d6a-8a0e-3f0d5f7d9e21")


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A labelled pair with what matching says of it; `decision` is the one that counts."""

    file: str
    pair: LabelledPair
    comparison: Comparison
    decided: PairDecision
    decision: Decision
    llm: LlmVerdict | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """The pairs of all files, in order, and the calls that were paid for them."""

    pairs: tuple[JudgedPair, ...]
    llm_calls: int = 0


def judge(
    files: Mapping[str, Sequence[LabelledPair]],
    services: Services,
    policy: DistillationPolicy,
    progress: Progress,
) -> Judged:
    """Embed each text once, compare and decide every pair, then ask the model about the possible ones."""
    sides = tuple(dict.fromkeys(side for pairs in files.values() for pair in pairs for side in _sides(pair)))
    prepared = _prepared(sides, services.embedder, policy.matching, progress)
    total = sum(map(len, files.values()))
    judged: list[JudgedPair] = []
    for name, pairs in files.items():
        for pair in pairs:
            a, b = _sides(pair)
            comparison = matching.compare(prepared[a], prepared[b], policy.matching)
            decided = matching.decide(comparison, policy.matching)
            judged.append(JudgedPair(name, pair, comparison, decided, decided.decision))
            if len(judged) % BATCH == 0:
                progress("comparison", len(judged), total)
    if services.llm is None or not policy.matching.llm_confirm:
        return Judged(tuple(judged))
    return _confirmed(judged, services.llm, policy, progress)


def _sides(pair: LabelledPair) -> tuple[Side, Side]:
    return (pair.text_a, pair.scope_a), (pair.text_b, pair.scope_b)


def report(judged: Judged) -> Evaluation:
    """The figures of all files together, and of each by itself."""
    pairs = judged.pairs
    files = tuple(dict.fromkeys(pair.file for pair in pairs))
    by_file = {name: figures([pair for pair in pairs if pair.file == name]) for name in files}
    labels = [pair.pair.is_same for pair in pairs]
    return Evaluation(
        task="duplicates",
        files=files,
        rows=len(pairs),
        counted=confusion([pair.decision == "duplicate" for pair in pairs], labels),
        details={**figures(pairs), "llm_calls": judged.llm_calls, "by_file": by_file},
        predictions=_predictions(pairs),
        series=(
            Series("probability", precision_recall([pair.decided.probability for pair in pairs], labels)),
            Series("cosine", precision_recall([pair.comparison.score("cosine") for pair in pairs], labels)),
        ),
    )


def figures(pairs: Sequence[JudgedPair]) -> Figures:
    """What the contract asks of pairs; the cosine's figures beside them are the baseline."""
    labels = [pair.pair.is_same for pair in pairs]
    probabilities = [pair.decided.probability for pair in pairs]
    cosines = [pair.comparison.score("cosine") for pair in pairs]
    automatic = confusion([pair.decision == "duplicate" for pair in pairs], labels)
    found = sum(pair.decision != "distinct" for pair in pairs if pair.pair.is_same)
    vetoed = [bool(pair.comparison.vetoes) for pair in pairs]
    return {
        "rows": len(pairs),
        "automatic": automatic.figures(),
        "triage_recall": share(found, sum(labels)),
        "auc": auc(probabilities, labels),
        "recall_at_precision_99": _recall_at_99(probabilities, labels),
        "cosine": {"auc": auc(cosines, labels), "recall_at_precision_99": _recall_at_99(cosines, labels)},
        "wrong": automatic.fp,
        "wrong_by_kind": _wrong_by_kind(pairs),
        "possible": sum(pair.decision == "possible" for pair in pairs),
        "possible_vetoed": sum(
            pair.decision == "possible" and is_vetoed for pair, is_vetoed in zip(pairs, vetoed, strict=True)
        ),
        "positives_vetoed": sum(label and is_vetoed for label, is_vetoed in zip(labels, vetoed, strict=True)),
    }


def _wrong_by_kind(pairs: Sequence[JudgedPair]) -> dict[str, int]:
    """Pairs of two statements that were called one, by what the labeller had changed."""
    wrong = (pair.pair.kind for pair in pairs if pair.decision == "duplicate" and not pair.pair.is_same)
    return dict(sorted(Counter(kind or "unnamed" for kind in wrong).items()))


def _recall_at_99(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    return recall_at_precision(precision_recall(scores, labels), PRECISION_MIN) if any(labels) else None


def _prepared(
    sides: Sequence[Side], embedder: Embedder, policy: MatchingPolicy, progress: Progress
) -> dict[Side, matching.Prepared]:
    texts = [text for text, _ in sides]
    vectors = embedder.embed(texts, lambda done, total: progress("embedding", done, total))
    items = [_item(text, scope) for text, scope in sides]
    extracted = features.extract_all(items, policy)
    prepared = {}
    for item, feature, vector in zip(items, extracted, vectors, strict=True):
        usable = vector if vector.any() else None
        made = MatchInput(
            item_id=item.id, content_hash=item.content_hash, content=item.content, scope=item.scope,
            discriminators=feature.discriminators, signature=feature.signature, vector=usable,
        )  # fmt: skip
        prepared[item.content, item.scope] = matching.prepare(made, policy)
    return prepared


def _item(text: str, scope: Scope) -> Item:
    digest = content_hash(text)
    return Item(ItemId(uuid5(_TEXTS, digest)), DEFAULT_ORG, text, digest, Category.GENERAL, scope)


@dataclass(slots=True)
class _Purse:
    """The run's budget of calls, shared by the threads that ask."""

    llm: Llm
    budget: Budget
    calls: int = 0
    _lock: Lock = field(default_factory=Lock)

    def ask(self, pair: LabelledPair) -> LlmVerdict | None:
        request = matching.confirmation_request(pair.text_a, pair.text_b, secrets.token_hex(8))
        with self._lock:
            reserved = self.budget.reserve(request)
            if isinstance(reserved, OutOfBudget):
                return None
            self.budget = reserved
        outcome = self.llm.complete(request)
        usage: LlmUsage = outcome.usage
        with self._lock:
            self.budget = self.budget.settle(request, usage)
            self.calls += usage.attempts
        return matching.parse_verdict(outcome.data) if isinstance(outcome, LlmAnswer) else None


def _confirmed(
    judged: Sequence[JudgedPair], llm: Llm, policy: DistillationPolicy, progress: Progress
) -> Judged:
    """Ask about possible pairs, the likeliest first, as far as the budget of one run goes."""
    purse = _Purse(llm, Budget(policy.safety))
    waiting = sorted(
        (
            place
            for place, pair in enumerate(judged)
            if matching.is_confirmable(pair.decided, pair.comparison)
        ),
        key=lambda place: (-judged[place].decided.probability, place),
    )
    answered = list(judged)
    with ThreadPoolExecutor(policy.safety.llm_concurrency) as threads:
        verdicts = threads.map(purse.ask, [judged[place].pair for place in waiting])
        for done, (place, verdict) in enumerate(zip(waiting, verdicts, strict=True), start=1):
            pair = judged[place]
            decision = matching.effective_decision(pair.decided, pair.comparison, verdict, policy.matching)
            answered[place] = replace(pair, llm=verdict, decision=decision)
            progress("confirmation", done, len(waiting))
    return Judged(tuple(answered), purse.calls)


def _predictions(pairs: Sequence[JudgedPair]) -> Iterator[Prediction]:
    for pair in pairs:
        yield {
            "file": pair.file,
            "id": pair.pair.id,
            "label": int(pair.pair.is_same),
            "decision": pair.decision,
            "probability": round(pair.decided.probability, 6),
            "reason": pair.decided.reason,
            "vetoes": list(pair.comparison.vetoes),
            "llm": None if pair.llm is None else {"same": pair.llm.same, "confidence": pair.llm.confidence},
            "difference": matching.difference(pair.pair.text_a, pair.pair.text_b),
        }
