"""pii: what the gate finds in texts against the labelled spans, type by type."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.core.policy import PiiPolicy
from hivemind_pipelines.evaluation.labelled import Span, SpannedText
from hivemind_pipelines.evaluation.metrics import Confusion, share
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction, TradeOff, TradeOffPoint
from hivemind_pipelines.services.persons import NameFinder
from hivemind_pipelines.services.pii import GatedScanner, Scan, ScanFailed
from hivemind_pipelines.stages.context import Progress

#: What the gate calls the types that labelled files name otherwise.
SAME_TYPE: Mapping[str, str] = {
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "IBAN_CODE": "IBAN",
    "IP": "IP_ADDRESS",
}

#: The types that the gate promises to find; spans of others count in `by_type` alone.
PROMISED = frozenset({"EMAIL", "IBAN", "CREDIT_CARD", "IP_ADDRESS", "US_SSN", "PHONE", "PERSON"})

BATCH = 64

_TOKEN = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class ScannedText:
    """A labelled text with what the gate found; `failed` is the reason when nobody knows what it holds."""

    file: str
    labelled: SpannedText
    findings: tuple[Finding, ...]
    failed: str | None = None
    #: What a threshold chooses from: every finding by itself, names of any score among them.
    candidates: tuple[Finding, ...] = ()

    @property
    def is_touched(self) -> bool:
        """Whether the text would not be stored as it is."""
        return bool(self.findings) or self.failed is not None


def scan(
    files: Mapping[str, Sequence[SpannedText]],
    policy: PiiPolicy,
    progress: Progress,
    more_names: Sequence[NameFinder] = (),
) -> tuple[ScannedText, ...]:
    """Every text through the gate's first pass, in order."""
    rows = [(name, row) for name, labelled in files.items() for row in labelled]
    texts = [row.text for _, row in rows]
    scans = scan_texts(texts, policy, progress, more_names)
    every = GatedScanner(policy.model_copy(update={"score_threshold": 0.0}), more_names=more_names)
    candidates = _in_batches(texts, every.candidates, progress)
    return tuple(
        ScannedText(name, row, (), scan.reason)
        if isinstance(scan, ScanFailed)
        else ScannedText(name, row, scan, candidates=() if isinstance(all_, ScanFailed) else all_)
        for (name, row), scan, all_ in zip(rows, scans, candidates, strict=True)
    )


def scan_texts(
    texts: Sequence[str], policy: PiiPolicy, progress: Progress, more_names: Sequence[NameFinder] = ()
) -> list[Scan]:
    """What the gate finds in each text, batch by batch."""
    return _in_batches(texts, GatedScanner(policy, more_names=more_names).findings, progress)


def _in_batches(
    texts: Sequence[str], look: Callable[[Sequence[str]], list[Scan]], progress: Progress
) -> list[Scan]:
    scans: list[Scan] = []
    for start in range(0, len(texts), BATCH):
        scans += look(texts[start : start + BATCH])
        progress("scan", len(scans), len(texts))
    return scans


def report(scanned: Sequence[ScannedText], score_threshold: float = 0.5) -> Evaluation:
    """The figures of all files together, and of each by itself; `score_threshold` is the policy's."""
    files = tuple(dict.fromkeys(text.file for text in scanned))
    return Evaluation(
        task="pii",
        files=files,
        rows=len(scanned),
        counted=_promised(scanned),
        details={
            **figures(scanned),
            "by_file": {name: figures([text for text in scanned if text.file == name]) for name in files},
        },
        predictions=_predictions(scanned),
        trade_offs=tuple(_trade_offs(scanned, score_threshold)),
        reading=redacted_list(scanned),
    )


def figures(scanned: Sequence[ScannedText]) -> Figures:
    """What the contract asks of pii."""
    clean = [text for text in scanned if not text.labelled.spans]
    return {
        "rows": len(scanned),
        "by_type": by_type(scanned),
        "clean_rows": len(clean),
        "clean_rows_touched": share(sum(text.is_touched for text in clean), len(clean)),
        "person_trade_off": person_trade_off(scanned),
        "tokens_redacted": tokens_redacted(scanned),
        "characters": sum(len(text.labelled.text) for text in scanned),
        "failed": sum(text.failed is not None for text in scanned),
    }


def by_type(scanned: Sequence[ScannedText]) -> dict[str, dict[str, object]]:
    """Recall of labelled spans by the label's type; precision of findings by the gate's name of it."""
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    same: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for text in scanned:
        for span in text.labelled.spans:
            overlapping = [finding for finding in text.findings if overlaps(finding, span)]
            type_ = span[2]
            total[type_] += 1
            seen[type_] += bool(overlapping)
            same[type_] += any(finding.type == own_type(type_) for finding in overlapping)
            whole[type_] += _is_covered(span, overlapping, text.labelled.text)
        for finding in text.findings:
            found[finding.type] += 1
            right[finding.type] += any(
                overlaps(finding, span) and own_type(span[2]) == finding.type for span in text.labelled.spans
            )
    named = {own_type(type_): type_ for type_ in total}
    types = sorted({*total, *(named.get(type_, type_) for type_ in found)})
    return {
        type_: {
            "spans": total[type_],
            "recall_any_type": share(seen[type_], total[type_]),
            "recall_same_type": share(same[type_], total[type_]),
            "recall_whole_span": share(whole[type_], total[type_]),
            "findings": found[own_type(type_)],
            "precision": share(right[own_type(type_)], found[own_type(type_)]),
        }
        for type_ in types
    }


def person_trade_off(scanned: Sequence[ScannedText]) -> dict[str, dict[str, float | None]]:
    """For each `pii.score_threshold` that chooses differently the share of names found and clean texts touched."""
    return {
        f"{point.threshold:g}": {
            "person_recall_any_type": point.gain,
            "clean_rows_touched": point.harm,
        }
        for point in _points(scanned, scanned)
    }


def _trade_offs(scanned: Sequence[ScannedText], score_threshold: float) -> Iterator[TradeOff]:
    """The names of each file that has some against the clean texts of all files."""
    for name in dict.fromkeys(text.file for text in scanned):
        points = _points([text for text in scanned if text.file == name], scanned)
        if any(point.gain is not None and point.harm is not None for point in points):
            yield TradeOff(Path(name).name, points, score_threshold)


def _points(named: Sequence[ScannedText], touched: Sequence[ScannedText]) -> tuple[TradeOffPoint, ...]:
    names = [(text, span) for text in named for span in text.labelled.spans if span[2] == "PERSON"]
    clean = [text for text in touched if not text.labelled.spans]
    scores = {one.score for text in (*named, *clean) for one in text.candidates if one.type == "PERSON"}
    return tuple(
        TradeOffPoint(
            threshold,
            gain=share(sum(_is_met(text, span, threshold) for text, span in names), len(names)),
            harm=share(sum(bool(_above(text, threshold)) for text in clean), len(clean)),
        )
        for threshold in sorted({0.0, *scores, 1.0})
    )


def _is_met(text: ScannedText, span: Span, threshold: float) -> bool:
    return any(overlaps(one, span) for one in _above(text, threshold))


def _above(text: ScannedText, threshold: float) -> list[Finding]:
    return [one for one in text.candidates if one.type != "PERSON" or one.score >= threshold]


def own_type(type_: str) -> str:
    """What the gate calls a labelled type."""
    return SAME_TYPE.get(type_, type_)


def overlaps(finding: Finding, span: Span) -> bool:
    """Whether they share a character."""
    return finding.start < span[1] and span[0] < finding.end


def _is_covered(span: Span, findings: Sequence[Finding], text: str) -> bool:
    return all(
        text[place].isspace() or any(finding.start <= place < finding.end for finding in findings)
        for place in range(span[0], span[1])
    )


def _promised(scanned: Sequence[ScannedText]) -> Confusion:
    """Spans of promised types found under any type, against findings that meet no span at all."""
    tp = fp = fn = 0
    for text in scanned:
        for span in text.labelled.spans:
            if own_type(span[2]) in PROMISED:
                is_seen = any(overlaps(finding, span) for finding in text.findings)
                tp, fn = tp + is_seen, fn + (not is_seen)
        fp += sum(
            not any(overlaps(finding, span) for span in text.labelled.spans) for finding in text.findings
        )
    return Confusion(tp, fp, fn)


def tokens_redacted(scanned: Sequence[ScannedText]) -> float | None:
    """The share of white-space separated tokens that a finding touches."""
    tokens = touched = 0
    for text in scanned:
        for match in _TOKEN.finditer(text.labelled.text):
            tokens += 1
            touched += any(
                finding.start < match.end() and match.start() < finding.end for finding in text.findings
            )
    return share(touched, tokens)


def _predictions(scanned: Sequence[ScannedText]) -> Iterator[Prediction]:
    """Each text's findings with the words they took out, for reading."""
    for text in scanned:
        yield {
            "file": text.file,
            "id": text.labelled.id,
            "spans": [list(span) for span in text.labelled.spans],
            "findings": [
                [finding.start, finding.end, finding.type, text.labelled.text[finding.start : finding.end]]
                for finding in text.findings
            ],
            "missed": [
                list(span)
                for span in text.labelled.spans
                if not any(overlaps(finding, span) for finding in text.findings)
            ],
            "failed": text.failed,
        }


#: So many characters of the line on each side of what is redacted.
_AROUND = 40


def redacted_list(scanned: Sequence[ScannedText]) -> Iterator[str]:
    """Each value that was taken out, for reading: type, how often, value, first text, and the words around it.

    By type, then the most frequent first. Tab-separated; what is not printable is escaped.
    """
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[ScannedText, Finding]] = {}
    for text in scanned:
        for finding in text.findings:
            key = finding.type, text.labelled.text[finding.start : finding.end]
            counts[key] += 1
            first.setdefault(key, (text, finding))
    for (type_, value), count in sorted(counts.items(), key=lambda one: (one[0][0], -one[1], one[0][1])):
        text, finding = first[type_, value]
        before = text.labelled.text[max(0, finding.start - _AROUND) : finding.start]
        after = text.labelled.text[finding.end : finding.end + _AROUND]
        shown = f"{before}[{type_}]{after}"
        yield "\t".join(map(_printable, (type_, str(count), value, text.labelled.id, shown)))


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
