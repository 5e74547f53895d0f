"""evaluate: production code on labelled files, from the request to the figures."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar, assert_never

from hivemind_pipelines.core.model import Comparison
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import (
    conflict_fitting,
    contradictions,
    duplicate_clusters,
    duplicate_pairs,
    fitting,
    grounding,
    injection,
    labelled,
    pii,
    plots,
    prescreen,
    reading_fitting,
    secrets,
    verdicts,
)
from hivemind_pipelines.evaluation.duplicate_clusters import DistilledFile
from hivemind_pipelines.evaluation.fitting import Sample
from hivemind_pipelines.evaluation.labelled import ClusteredText, ContrastedPair
from hivemind_pipelines.evaluation.metrics import Confusion, pairs_within
from hivemind_pipelines.evaluation.report import Evaluation, Prediction, Task
from hivemind_pipelines.services import cross_encoder
from hivemind_pipelines.services.embedded_postgres import ensure_running
from hivemind_pipelines.services.embedding import Embedder
from hivemind_pipelines.services.gliner_names import name_finders
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages.context import Progress, Services, build_services
from hivemind_pipelines.store import outcomes
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines.store.scratch import ScratchRefusedError, scratch_store

Row = TypeVar("Row")
LeftOut = conflict_fitting.LeftOut | fitting.LeftOut

_log = logging.getLogger(__name__)


class EvaluationRequestError(ValueError):
    """A request that cannot be met as it stands; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to evaluate, and where to write predictions, plot, what was redacted and, with `fit`, the model.

    With `verdicts` a fit learns from the reviewers' verdicts of the configured commons as well.
    """

    task: Task
    files: tuple[Path, ...]
    predictions: Path | None = None
    plot: Path | None = None
    redacted: Path | None = None
    fit: bool = False
    model: Path | None = None
    readings: bool = False
    verdicts: bool = False


def run(
    request: Request,
    settings: Settings,
    policy: DistillationPolicy,
    *,
    progress: Progress | None = None,
    services: Services | None = None,
) -> dict[str, object]:
    """The figures of the contract, after everything that was asked for is written.

    Raises EvaluationRequestError and labelled.LabelledFileError, before anything slow is begun, where it can.
    """
    started = time.monotonic()
    _refuse_unfit(request)
    evaluation = _evaluate(request, settings, policy, services, progress or _silent)
    if request.predictions is not None:
        _write(request.predictions, evaluation.predictions)
    if request.plot is not None:
        _save(request.plot, plots.png(evaluation))
    if request.redacted is not None:
        lines = "".join(f"{line}\n" for line in evaluation.reading)
        _save(request.redacted, lines.encode("utf-8", "backslashreplace"))
    return evaluation.data(seconds=time.monotonic() - started)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""


def _refuse_unfit(request: Request) -> None:
    if len(set(request.files)) < len(request.files):
        raise EvaluationRequestError("a file is named twice")
    if request.task not in ("duplicates", "contradictions") and (request.fit or request.model):
        raise EvaluationRequestError("--fit and --model belong to the tasks duplicates and contradictions")
    if request.task != "duplicates" and request.verdicts:
        raise EvaluationRequestError("--verdicts belong to the task duplicates")
    if request.task not in ("duplicates", "pii") and request.plot:
        raise EvaluationRequestError("--plot belongs to the tasks duplicates and pii")
    if request.task != "pii" and request.redacted:
        raise EvaluationRequestError("--redacted belongs to the task pii")
    if request.model is not None and not request.fit:
        raise EvaluationRequestError("--model is where --fit writes to")
    if request.readings and not (request.fit and request.task == "contradictions"):
        raise EvaluationRequestError("--readings are what --fit of the task contradictions fits")
    if request.readings and request.model is not None and request.model.suffix == ".npz":
        raise EvaluationRequestError(f"{request.model}: the cross-encoder is written beside --model as .npz")
    if request.verdicts and not request.fit:
        raise EvaluationRequestError("--verdicts are what --fit learns from")
    if request.fit and (request.plot or request.predictions):
        raise EvaluationRequestError("--fit writes the model alone: ask for predictions in a run of its own")
    for path in (request.predictions, request.plot, request.redacted, request.model):
        if path is not None and (fault := _write_fault(path)) is not None:
            raise EvaluationRequestError(f"cannot write {path}: {fault}")


def _write_fault(path: Path) -> str | None:
    """Why a file can surely not be written, told before the work and not after it."""
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return "no such directory"
    return None if os.access(path.parent, os.W_OK) else "its directory may not be written to"


def _evaluate(
    request: Request,
    settings: Settings,
    policy: DistillationPolicy,
    services: Services | None,
    progress: Progress,
) -> Evaluation:
    files = request.files
    match request.task:
        case "duplicates":
            able = replace(services or build_services(settings, policy), reports_dir=None)
            if request.fit:
                return _fit(request, settings, policy, able, progress)
            return _duplicates(files, settings, policy, able, progress)
        case "contradictions":
            able = services or build_services(settings, policy)
            if request.fit:
                return _fit_conflicts(request, able.embedder, policy, progress)
            rows = _read(files, labelled.read_contrasts)
            return contradictions.report(contradictions.judge(rows, able, policy.contradiction, progress))
        case "pii":
            spans, more_names = _read(files, labelled.read_spans), name_finders(settings.gliner_model)
            scanned = pii.scan(spans, policy.pii, progress, more_names)
            return pii.report(scanned, policy.pii.score_threshold)
        case "secrets":
            return secrets.report(secrets.scan(_read(files, labelled.read_secrets), policy.pii, progress))
        case "injection":
            return injection.report(injection.judge(_read(files, labelled.read_injections), progress))
        case "prescreen":
            rows_of = _read(files, labelled.read_triaged)
            return prescreen.report(prescreen.judge(rows_of, policy.prescreen, progress))
        case "grounding":
            return grounding.report(
                grounding.check(_read(files, labelled.read_claims), policy.summary, progress)
            )
        case _:
            assert_never(request.task)


def _read(files: Sequence[Path], read: Callable[[Path], tuple[Row, ...]]) -> dict[str, tuple[Row, ...]]:
    return {str(file): read(file) for file in files}


def _duplicates(
    files: Sequence[Path],
    settings: Settings,
    policy: DistillationPolicy,
    services: Services,
    progress: Progress,
) -> Evaluation:
    shapes = {labelled.shape(file) for file in files}
    if len(shapes) > 1:
        raise EvaluationRequestError("pairs and clusters are measured differently: evaluate them one by one")
    if shapes == {"pairs"}:
        judged = duplicate_pairs.judge(_read(files, labelled.read_pairs), services, policy, progress)
        return duplicate_pairs.report(judged)
    rows = _read(files, labelled.read_clusters)
    distilled = []
    for name, own in rows.items():
        with scratch(settings) as store:
            distilled.append(
                duplicate_clusters.distil_file(
                    store, name, own, services, policy, now=datetime.now(UTC), progress=progress
                )
            )
    return duplicate_clusters.report(distilled)


@contextmanager
def scratch(settings: Settings) -> Iterator[Store]:
    """A database of its own on the configured server, or on the embedded one where that one refuses."""
    with ExitStack() as stack:
        if settings.database_url is not None:
            try:
                store = stack.enter_context(scratch_store(settings.database_url))
            except ScratchRefusedError as error:
                _log.warning(
                    "the configured server gives no scratch database (%s): the embedded one does", error
                )
                store = stack.enter_context(scratch_store(ensure_running(settings.home)))
        else:
            store = stack.enter_context(scratch_store(ensure_running(settings.home)))
        yield store


def _fit(
    request: Request,
    settings: Settings,
    policy: DistillationPolicy,
    services: Services,
    progress: Progress,
) -> Evaluation:
    """Fit on every file, judge each data set by the model of the others, write the model.

    All pair files together are one data set, for some of them hold one label only.
    """
    without_llm = replace(services, llm=None)
    samples = [
        *_samples_of_pairs(request.files, without_llm, policy, progress),
        *_samples_of_clusters(request.files, settings, without_llm, policy, progress),
        *(_samples_of_verdicts(settings, policy) if request.verdicts else ()),
    ]
    if not any(part.labels[~part.is_vetoed].any() for part in samples):
        raise EvaluationRequestError("nothing to fit: no labelled duplicate was compared")
    model = fitting.fit(samples)
    tried = fitting.left_out(samples, policy.matching)
    document = fitting.document(model, samples, tried)
    target = request.model or fitting.shipped_model()
    judged = tried or tuple(fitting.judge(model, part, policy.matching) for part in samples)
    return _fitted(request, target, document, sum(len(part.labels) for part in samples), tried, judged)


def _fit_conflicts(
    request: Request, embedder: Embedder, policy: DistillationPolicy, progress: Progress
) -> Evaluation:
    """Fit on labelled pairs and on the near notes of cluster files, judge each by the model of the others."""
    pair_files = [file for file in request.files if labelled.shape(file) == "pairs"]
    pairs = [pair for file in pair_files for pair in labelled.read_contrasts(file)]
    clusters = _read([file for file in request.files if file not in pair_files], labelled.read_clusters)
    if request.readings:
        return _fit_readings(request, pairs, clusters, embedder, policy, progress)
    parts = conflict_fitting.samples(pairs, clusters, embedder, policy.contradiction, progress)
    if not any(part.is_contradiction[part.may_flag].any() for part in parts):
        raise EvaluationRequestError("nothing to fit: no labelled contradiction outside the held-out pairs")
    model = conflict_fitting.fit(parts)
    tried = conflict_fitting.left_out(parts, policy.contradiction)
    document = conflict_fitting.document(model, parts, tried)
    target = request.model or conflict_fitting.shipped_model()
    judged = tried or tuple(conflict_fitting.judge(model, part, policy.contradiction) for part in parts)
    return _fitted(request, target, document, sum(len(part.labels) for part in parts), tried, judged)


def _fit_readings(
    request: Request,
    pairs: Sequence[ContrastedPair],
    clusters: Mapping[str, Sequence[ClusteredText]],
    embedder: Embedder,
    policy: DistillationPolicy,
    progress: Progress,
) -> Evaluation:
    """Fit the cross-encoder and how its readings are weighed; the former is written beside the latter."""
    if find_spec("jax") is None or find_spec("optax") is None:
        raise EvaluationRequestError("--readings needs JAX: install the extra `fit`")
    if (lacking := reading_fitting.lacking(pairs)) is not None:
        raise EvaluationRequestError(f"nothing to fit: {lacking}")
    target = request.model or reading_fitting.shipped_model()
    is_shipped = target.resolve() == reading_fitting.shipped_model().resolve()
    adapter = cross_encoder.shipped_adapter() if is_shipped else target.with_suffix(".npz")
    if (fault := _write_fault(adapter)) is not None:
        raise EvaluationRequestError(f"cannot write {adapter}: {fault}")
    found = reading_fitting.fit(pairs, clusters, embedder, policy.contradiction, progress)
    _save(adapter, cross_encoder.adapter_bytes(found.adapter))
    rows = sum(len(part.labels) for part in found.parts)
    judged = found.tried or tuple(
        conflict_fitting.judge(found.model, part, policy.contradiction) for part in found.parts
    )
    return _fitted(request, target, reading_fitting.document(found), rows, found.tried, judged)


def _fitted(
    request: Request,
    target: Path,
    document: Mapping[str, object],
    rows: int,
    tried: Sequence[LeftOut],
    judged: Sequence[LeftOut],
) -> Evaluation:
    """Write a model, and tell what it is and how it does on what it was fitted without."""
    _save(target, (json.dumps(document, indent=2) + "\n").encode())
    return Evaluation(
        task=request.task,
        files=tuple(map(str, request.files)),
        rows=rows,
        counted=sum((result.counted for result in judged), Confusion(0, 0, 0)),
        details={
            "model": str(target),
            "left_out_in_turn": {result.name: result.figures() for result in tried},
            "bias": document["bias"],
            "weights": document["weights"],
        },
        predictions=iter(()),
    )


def _samples_of_pairs(
    files: Sequence[Path], services: Services, policy: DistillationPolicy, progress: Progress
) -> Iterator[Sample]:
    named = _read([file for file in files if labelled.shape(file) == "pairs"], labelled.read_pairs)
    judged = duplicate_pairs.judge(named, services, policy, progress).pairs if named else ()
    made = fitting.sample(
        " + ".join(Path(name).name for name in named),
        ((pair.comparison, pair.pair.is_same) for pair in judged),
        sum(pair.pair.is_same for pair in judged),
    )
    if made is not None:
        yield made


def _samples_of_clusters(
    files: Sequence[Path],
    settings: Settings,
    services: Services,
    policy: DistillationPolicy,
    progress: Progress,
) -> Iterator[Sample]:
    for file in files:
        if labelled.shape(file) == "pairs":
            continue
        rows = labelled.read_clusters(file)
        with scratch(settings) as store:
            distilled = duplicate_clusters.distil_file(
                store, str(file), rows, services, policy, now=datetime.now(UTC), progress=progress
            )
            made = fitting.sample(
                file.name,
                _compared(store, distilled),
                pairs_within(distilled.gold),
                duplicate_clusters.alike(distilled),
            )
        if made is not None:
            yield made


def _samples_of_verdicts(settings: Settings, policy: DistillationPolicy) -> Iterator[Sample]:
    with open_store(settings.database_url or ensure_running(settings.home)) as store:
        judged = tuple(verdicts.compared(store, policy.matching))
    made = fitting.sample(verdicts.NAME, judged, sum(is_same for _, is_same in judged))
    if made is None:
        raise EvaluationRequestError(
            "no reviewer has judged a pair whose texts are still those that were judged"
        )
    yield made


def _compared(store: Store, distilled: DistilledFile) -> Iterator[tuple[Comparison, bool]]:
    is_same = duplicate_clusters.same_statement(distilled)
    for org_id in sorted({row.row.org_id for row in distilled.rows}):
        with store.read() as conn:
            for a_id, b_id, comparison in outcomes.read_comparisons(conn, org_id):
                yield comparison, is_same(a_id, b_id)


def _write(path: Path, predictions: Iterable[Prediction]) -> None:
    try:
        with path.open("w", encoding="ascii") as file:
            for prediction in predictions:
                # Escaped throughout: a text may hold lone surrogates, which UTF-8 has no bytes for.
                file.write(json.dumps(prediction) + "\n")
    except OSError as error:
        raise EvaluationRequestError(f"cannot write {path}: {error.strerror}") from None


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise EvaluationRequestError(f"cannot write {path}: {error.strerror}") from None
