"""duplicates on clusters: the production stages on a scratch database, their clusters against the labelled."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from hivemind_pipelines.core import matching
from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION
from hivemind_pipelines.core.model import Comparison, Decision, ItemId, OrgId, PairDecision, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import PairsReceipt, Receipt
from hivemind_pipelines.evaluation.labelled import ClusteredText, LabelledFileError
from hivemind_pipelines.evaluation.metrics import (
    Confusion,
    adjusted_rand,
    pair_confusion,
    precision_recall,
    share,
)
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction, Series
from hivemind_pipelines.stages import confirmation
from hivemind_pipelines.stages.context import Progress, Services
from hivemind_pipelines.stages.distillation import distill
from hivemind_pipelines.stages.loading import load_rows
from hivemind_pipelines.store import outcomes, reporting
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.outcomes import PairOutcome

#: Labelled pairs that were never compared are listed one by one up to so many labelled pairs.
LISTED_PAIRS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A compared pair of items; `decision` is the one that counts."""

    a_id: ItemId
    b_id: ItemId
    decided: PairDecision
    decision: Decision
    vetoes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DistilledFile:
    """What the stages made of one file: row by row the item that holds its text, and what became of items."""

    file: str
    rows: tuple[ClusteredText, ...]
    item_of: tuple[ItemId, ...]
    class_of: Mapping[ItemId, Hashable]
    canonical_of: Mapping[ItemId, ItemId]
    pairs: tuple[JudgedPair, ...]
    llm_calls: int
    stage_seconds: Mapping[Stage, float]

    @property
    def gold(self) -> list[Hashable]:
        """The labelled cluster of each row; a statement of two orgs is two."""
        return [(self.file, row.row.org_id, row.cluster) for row in self.rows]

    @property
    def found(self) -> list[Hashable]:
        """The cluster that each row ended in; an equal text that was refused is with its twin."""
        return [(self.file, self.canonical_of.get(item_id, item_id)) for item_id in self.item_of]


def distil_file(
    store: Store,
    file: str,
    rows: Sequence[ClusteredText],
    services: Services,
    policy: DistillationPolicy,
    *,
    now: datetime,
    progress: Progress,
) -> DistilledFile:
    """Load the rows into an empty store and run features, pairs and merges of every org on them.

    Raises LabelledFileError when the database refuses a row.
    """
    loaded = load_rows(store, [row.row for row in rows], target="items", now=now)
    if loaded.refusals:
        refusal = loaded.refusals[0]
        raise LabelledFileError(f"{file}: row {refusal.line}: {refusal.reason}")
    orgs = tuple(sorted({row.row.org_id for row in rows}))
    seconds: Counter[Stage] = Counter()
    llm_calls = sum(
        _distil_org(store, org_id, services, policy, now=now, progress=progress, seconds=seconds)
        for org_id in orgs
    )
    return _read(store, file, rows, orgs, services, policy, llm_calls, dict(seconds))


def _distil_org(
    store: Store,
    org_id: OrgId,
    services: Services,
    policy: DistillationPolicy,
    *,
    now: datetime,
    progress: Progress,
    seconds: Counter[Stage],
) -> int:
    """One run of the org, pairs repeated while the model had a full round, within one run's calls."""

    def run(*stages: Stage, calls_max: int) -> Mapping[Stage, Receipt]:
        safety = policy.safety.model_copy(update={"llm_calls_per_run_max": calls_max})
        capped = policy.model_copy(update={"safety": safety, "orgs": {}})
        receipts = distill(
            store, services, capped, [org_id], now=now, stages=stages, allow_mass_change=True,
            progress=progress,
        )[org_id]  # fmt: skip
        seconds.update({stage: receipt.seconds for stage, receipt in receipts.items()})
        return receipts

    left = policy.safety.llm_calls_per_run_max
    receipts = run(Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, calls_max=left)
    calls = total = _llm_calls(receipts)
    while calls >= confirmation.LIMIT and total < left:
        calls = _llm_calls(run(Stage.DUPLICATE_PAIRS, calls_max=left - total))
        total += calls
    run(Stage.DUPLICATE_MERGES, calls_max=0)
    return total


def _llm_calls(receipts: Mapping[Stage, Receipt]) -> int:
    receipt = receipts[Stage.DUPLICATE_PAIRS]
    return receipt.llm_calls if isinstance(receipt, PairsReceipt) else 0


def _read(
    store: Store,
    file: str,
    rows: Sequence[ClusteredText],
    orgs: Sequence[OrgId],
    services: Services,
    policy: DistillationPolicy,
    llm_calls: int,
    stage_seconds: Mapping[Stage, float],
) -> DistilledFile:
    class_of: dict[ItemId, Hashable] = {}
    canonical_of: dict[ItemId, ItemId] = {}
    pairs: list[JudgedPair] = []
    for org_id in orgs:
        with store.read() as conn:
            keys = outcomes.read_class_keys(conn, org_id)
            canonical_of |= reporting.read_followers(conn, org_id)
            stored = outcomes.read_pair_outcomes(
                conn, org_id, model=services.llm_model, prompt_version=CONFIRM_PROMPT_VERSION
            )
        class_of |= {item_id: (org_id, key) for item_id, key in keys.items()}
        pairs += (_judged(pair, policy) for pair in stored)
    stored_as: dict[tuple[OrgId, str], ItemId] = {}
    item_of = tuple(
        stored_as.setdefault((row.row.org_id, row.row.content_hash), ItemId(row.row.id)) for row in rows
    )
    return DistilledFile(
        file, tuple(rows), item_of, class_of, canonical_of, tuple(pairs), llm_calls, stage_seconds
    )


def _judged(pair: PairOutcome, policy: DistillationPolicy) -> JudgedPair:
    known = Comparison((), pair.vetoes)
    decision = matching.effective_decision(pair.decided, known, pair.llm, policy.matching)
    return JudgedPair(pair.a_id, pair.b_id, pair.decided, decision, pair.vetoes)


def report(files: Sequence[DistilledFile]) -> Evaluation:
    """The figures of all files together, and of each by itself."""
    seconds: Counter[Stage] = Counter()
    for file in files:
        seconds.update(file.stage_seconds)
    return Evaluation(
        task="duplicates",
        files=tuple(file.file for file in files),
        rows=sum(len(file.rows) for file in files),
        counted=_confusion(files),
        details={
            **figures(files),
            "by_file": {file.file: figures([file]) for file in files},
            "seconds_by_stage": {str(stage): spent for stage, spent in seconds.items()},
        },
        predictions=(prediction for file in files for prediction in _predictions(file)),
        series=(_series(files),),
    )


def figures(files: Sequence[DistilledFile]) -> Figures:
    """What the contract asks of clusters."""
    counted = _confusion(files)
    true = counted.tp + counted.fn
    covered = [covered_pairs(file) for file in files]
    pairs = [pair for file in files for pair in file.pairs]
    items = sum(len(set(file.item_of)) for file in files)
    return {
        "rows": sum(len(file.rows) for file in files),
        "items": items,
        "pair_precision": counted.precision,
        "pair_recall": counted.recall,
        "pair_f1": counted.f1,
        "ari": adjusted_rand(*_labels(files)),
        "triage_recall": share(sum(cover.triaged for cover in covered), true),
        "cross_org_merges": sum(map(_cross_org_merges, files)),
        "wrong_by_op": _wrong_by_op(files),
        "rows_by_op": dict(sorted(Counter(row.op for file in files for row in file.rows if row.op).items())),
        "wrong_pairs": counted.fp,
        "blocking_recall": share(sum(cover.compared for cover in covered), true),
        "candidates_per_item": share(2 * len(pairs), items),
        "confirmable_per_item": share(
            sum(pair.decided.decision == "possible" and not pair.vetoes for pair in pairs), items
        ),
        "pairs_compared": len(pairs),
        "llm_calls": sum(file.llm_calls for file in files),
    }


def _confusion(files: Sequence[DistilledFile]) -> Confusion:
    return pair_confusion(*_labels(files))


def _labels(files: Sequence[DistilledFile]) -> tuple[list[Hashable], list[Hashable]]:
    gold = [label for file in files for label in file.gold]
    return gold, [label for file in files for label in file.found]


@dataclass(frozen=True, slots=True)
class Cover:
    """Of the labelled pairs of rows: how many blocking found, and how many are merged or kept as possible."""

    compared: int
    triaged: int


def covered_pairs(file: DistilledFile) -> Cover:
    """Count by class: pairs are stored for one item of each class and hold for all of its rows.

    Rows of equal class, refused twins included, need no comparison.
    """
    golds, placed = _counted_by_class(file)
    compared, near = _class_pairs(file)
    within = sum(count * (count - 1) // 2 for counts in golds.values() for count in counts.values())
    merged = pair_confusion(file.gold, file.found).tp
    return Cover(
        compared=within + sum(_product(golds[a], golds[b]) for a, b in compared),
        triaged=merged + sum(_product(golds[a], golds[b]) - _product(placed[a], placed[b]) for a, b in near),
    )


ByClass = dict[Hashable, Counter[Hashable]]
ClassPair = tuple[Hashable, Hashable]


def _counted_by_class(file: DistilledFile) -> tuple[ByClass, ByClass]:
    """How many rows of each class carry each label, and how many each label in each cluster found."""
    golds: ByClass = defaultdict(Counter)
    placed: ByClass = defaultdict(Counter)
    for item_id, gold, found in zip(file.item_of, file.gold, file.found, strict=True):
        golds[file.class_of[item_id]][gold] += 1
        placed[file.class_of[item_id]][gold, found] += 1
    return golds, placed


def _class_pairs(file: DistilledFile) -> tuple[set[ClassPair], set[ClassPair]]:
    """The pairs of different classes that were compared, and those of them that are not distinct."""
    compared: dict[frozenset[Hashable], bool] = {}
    for pair in file.pairs:
        key = frozenset((file.class_of[pair.a_id], file.class_of[pair.b_id]))
        compared[key] = compared.get(key, False) or pair.decision != "distinct"
    both = {(*key,): is_near for key, is_near in compared.items() if len(key) == 2}
    every: set[ClassPair] = {(a, b) for a, b in both}
    return every, {(a, b) for (a, b), is_near in both.items() if is_near}


def _product(a: Counter[Hashable], b: Counter[Hashable]) -> int:
    smaller, larger = (a, b) if len(a) <= len(b) else (b, a)
    return sum(count * larger[label] for label, count in smaller.items() if label in larger)


def _cross_org_merges(file: DistilledFile) -> int:
    org_of = {item_id: row.row.org_id for item_id, row in zip(file.item_of, file.rows, strict=True)}
    return sum(org_of[item_id] != org_of[canonical] for item_id, canonical in file.canonical_of.items())


def _wrong_by_op(files: Sequence[DistilledFile]) -> dict[str, int]:
    """Rows, by how they were made, that joined a cluster which held another statement before them."""
    wrong: Counter[str] = Counter()
    statements: dict[Hashable, set[Hashable]] = defaultdict(set)
    for file in files:
        for row, gold, found in zip(file.rows, file.gold, file.found, strict=True):
            if row.op is not None and statements[found] - {gold}:
                wrong[row.op] += 1
            statements[found].add(gold)
    return dict(sorted(wrong.items()))


def _series(files: Sequence[DistilledFile]) -> Series:
    """Pairs of rows by probability, those of one class surely the same; recall counts what was not compared."""
    entries = [entry for file in files for entry in _scored(file)]
    counted = _confusion(files)
    curve = precision_recall(
        [score for score, _, _ in entries],
        [label for _, label, _ in entries],
        counts=[count for _, _, count in entries],
        positives=counted.tp + counted.fn,
    )
    return Series("probability", curve)


def _scored(file: DistilledFile) -> Iterator[tuple[float, bool, int]]:
    """Probability, label and number of pairs of rows, class by class and compared pair by compared pair."""
    golds, _ = _counted_by_class(file)
    sizes = {key: counts.total() for key, counts in golds.items()}
    for key, counts in golds.items():
        same = sum(count * (count - 1) // 2 for count in counts.values())
        yield 1.0, True, same
        yield 1.0, False, sizes[key] * (sizes[key] - 1) // 2 - same
    likeliest: dict[frozenset[Hashable], float] = {}
    for pair in file.pairs:
        both = frozenset((file.class_of[pair.a_id], file.class_of[pair.b_id]))
        likeliest[both] = max(pair.decided.probability, likeliest.get(both, 0.0))
    for both, probability in likeliest.items():
        if len(both) == 2:
            a, b = both
            same = _product(golds[a], golds[b])
            yield probability, True, same
            yield probability, False, sizes[a] * sizes[b] - same


def same_statement(file: DistilledFile) -> Callable[[ItemId, ItemId], bool]:
    """Whether two items of the file carry one label."""
    gold_of = _gold_of_items(file)
    return lambda a_id, b_id: gold_of[a_id] == gold_of[b_id]


def alike(file: DistilledFile) -> Confusion:
    """The labelled pairs that a class of equal normalised texts puts together, and those it leaves apart."""
    return pair_confusion(file.gold, [(file.file, file.class_of[item_id]) for item_id in file.item_of])


def _gold_of_items(file: DistilledFile) -> dict[ItemId, Hashable]:
    return dict(zip(reversed(file.item_of), reversed(file.gold), strict=True))


def _predictions(file: DistilledFile) -> Iterator[Prediction]:
    """Merged items first, then every compared pair, then the labelled pairs that were never compared."""
    first = dict(zip(reversed(file.item_of), reversed(file.rows), strict=True))
    is_same = same_statement(file)
    for item_id, canonical in sorted(file.canonical_of.items()):
        yield {
            "file": file.file, "merged": first[item_id].id, "into": first[canonical].id,
            "org": first[item_id].row.org_id, "label": int(is_same(item_id, canonical)),
        }  # fmt: skip
    compared = set()
    for pair in file.pairs:
        compared.add((pair.a_id, pair.b_id))
        yield _pair_prediction(file, pair, first, is_same=is_same(pair.a_id, pair.b_id))
    yield from _missed(file, first, compared)


def _pair_prediction(
    file: DistilledFile, pair: JudgedPair, first: Mapping[ItemId, ClusteredText], *, is_same: bool
) -> Prediction:
    a, b = first[pair.a_id], first[pair.b_id]
    prediction: dict[str, object] = {
        "file": file.file, "id_a": a.id, "id_b": b.id, "org": a.row.org_id, "label": int(is_same),
        "decision": pair.decision, "probability": round(pair.decided.probability, 6),
        "reason": pair.decided.reason, "vetoes": list(pair.vetoes),
    }  # fmt: skip
    # Aligning two texts again is dear, and most compared pairs have nothing in common.
    if is_same or pair.decision != "distinct":
        prediction["difference"] = matching.difference(a.row.content, b.row.content)
    return prediction


def _missed(
    file: DistilledFile, first: Mapping[ItemId, ClusteredText], compared: set[tuple[ItemId, ItemId]]
) -> Iterator[Prediction]:
    members: dict[Hashable, list[ItemId]] = defaultdict(list)
    for item_id, gold in _gold_of_items(file).items():
        members[gold].append(item_id)
    if sum(len(ids) * (len(ids) - 1) // 2 for ids in members.values()) > LISTED_PAIRS_MAX:
        return
    for ids in members.values():
        for a_id, b_id in combinations(sorted(ids), 2):
            if (a_id, b_id) not in compared and file.class_of[a_id] != file.class_of[b_id]:
                a, b = first[a_id], first[b_id]
                yield {
                    "file": file.file, "id_a": a.id, "id_b": b.id, "org": a.row.org_id, "label": 1,
                    "decision": "not_compared", "probability": None, "reason": "blocking", "vetoes": [],
                    "difference": matching.difference(a.row.content, b.row.content),
                }  # fmt: skip
