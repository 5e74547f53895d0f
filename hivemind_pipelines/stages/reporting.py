"""The distillation report: what a run did to each org, as one HTML file that needs nothing else."""

import html
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.stages import plots
from hivemind_pipelines.store import reporting as figures
from hivemind_pipelines.store import scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.reporting import ClusterSize, Count, QualityBin, SimilarityBin, Standing
from hivemind_pipelines.store.scores import DayOfScores

if TYPE_CHECKING:
    import pandas as pd

BINS = 40

#: Receipt counts that every stage has, shown apart from its own.
_COLUMN_COUNTS = ("due", "applied", "dropped")


@dataclass(frozen=True, slots=True)
class OrgReport:
    """One org's part of a report: counts of its run, what it holds now and how that is distributed."""

    org_id: OrgId
    receipts: Mapping[Stage, Receipt]
    standing: Standing
    cluster_sizes: tuple[ClusterSize, ...]
    similarities: tuple[SimilarityBin, ...]
    quality: tuple[QualityBin, ...]
    case_ages: tuple[Count, ...] = ()
    queue_labels: tuple[Count, ...] = ()
    history: tuple[DayOfScores, ...] = ()


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A quoted text under a short caption."""

    caption: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; every row is as long as `columns`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


Block = Paragraph | Quote | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part that the caller adds to a report."""

    heading: str
    blocks: tuple[Block, ...]


def read_org_report(
    store: Store, org_id: OrgId, receipts: Mapping[Stage, Receipt], *, as_of: datetime | None = None
) -> OrgReport:
    """Read an org's figures in one snapshot; ages are those at `as_of`, or now."""
    with store.read() as conn:
        return OrgReport(
            org_id=org_id,
            receipts=receipts,
            standing=figures.read_standing(conn, org_id),
            cluster_sizes=figures.read_cluster_sizes(conn, org_id),
            similarities=figures.read_similarities(conn, org_id, bins=BINS),
            quality=figures.read_quality(conn, org_id, bins=BINS),
            case_ages=figures.read_case_ages(conn, org_id, as_of or datetime.now(UTC)),
            queue_labels=figures.read_queue_labels(conn, org_id),
            history=scores.read_history(conn, org_id),
        )


def stage_table(reports: Sequence[OrgReport]) -> Table:
    """One row per org and stage: due, applied, the other counts that are not zero, and seconds."""
    rows = (
        (
            report.org_id,
            stage.value,
            receipt.outcome.replace("_", " "),
            receipt.due,
            receipt.applied,
            _counts(receipt),
            round(receipt.seconds, 2),
        )
        for report in reports
        for stage in Stage
        if (receipt := report.receipts.get(stage)) is not None
    )
    return Table(("org", "stage", "outcome", "due", "applied", "counts", "seconds"), tuple(rows))


def _counts(receipt: Receipt) -> str:
    dropped = f"{receipt.dropped:,} dropped" if receipt.dropped else ""
    return ", ".join(filter(None, (dropped, own_counts(receipt))))


def own_counts(receipt: Receipt) -> str:
    """The counts that only this kind of receipt has, those that are not zero, in words."""
    own = {name: count for name, count in receipt.counts().items() if name not in _COLUMN_COUNTS and count}
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in own.items())


def standing_table(reports: Sequence[OrgReport]) -> Table:
    """What each org holds now, one row an org."""
    names = tuple(field.name for field in fields(Standing))
    rows = tuple((report.org_id, *(getattr(report.standing, name) for name in names)) for report in reports)
    return Table(("org", *(name.replace("_", " ") for name in names)), rows)


def waiting_table(reports: Sequence[OrgReport]) -> Table:
    """What waits for people in each org: open cases by age, pending rows by label."""
    rows = (
        (report.org_id, what, one.name.replace("_", " "), one.count)
        for report in reports
        for what, counted in (("open case", report.case_ages), ("pending row", report.queue_labels))
        for one in counted
        if one.count
    )
    return Table(("org", "what", "age or label", "count"), tuple(rows))


def read_waiting(store: Store, org_id: OrgId, as_of: datetime) -> tuple[tuple[Count, ...], tuple[Count, ...]]:
    """Open cases of an org by age, and its pending rows by label."""
    with store.read() as conn:
        return figures.read_case_ages(conn, org_id, as_of), figures.read_queue_labels(conn, org_id)


def write_report(
    path: Path, reports: Sequence[OrgReport], *, title: str, as_of: datetime, sections: Sequence[Section] = ()
) -> Path:
    """Write the report in one step, so that a reader never sees half of it; returns `path`.

    Without `sections` the report holds counts, ids and distributions, no item text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_text(render(reports, title=title, as_of=as_of, sections=sections), encoding="utf-8")
    return unfinished.replace(path)


def render(
    reports: Sequence[OrgReport], *, title: str, as_of: datetime, sections: Sequence[Section] = ()
) -> str:
    """The whole report as one HTML document with its pictures inside."""
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='when'>as of {as_of:%Y-%m-%d %H:%M:%S} UTC</p>",
        "<h2>What the run did</h2>",
        _block(stage_table(reports)),
        "<h2>What the commons holds now</h2>",
        _block(standing_table(reports)),
        "<h2>What waits for people</h2>",
        _block(waiting_table(reports)),
        *(_section(section) for section in sections),
        *(_pictures(report) for report in reports),
    ]
    return _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(parts))


def _section(section: Section) -> str:
    return "\n".join((f"<h2>{html.escape(section.heading)}</h2>", *map(_block, section.blocks)))


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Quote(caption, text):
            said = f"<blockquote>{html.escape(text)}</blockquote>"
            return f"<figure><figcaption>{html.escape(caption)}</figcaption>{said}</figure>"
        case Table():
            return _frame(block).to_html(index=False, border=0, na_rep="")
        case _:
            assert_never(block)


def _frame(table: Table) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(table.rows), columns=list(table.columns))


def _pictures(report: OrgReport) -> str:
    width = 1 / BINS
    drawn = (
        ("cluster sizes", plots.cluster_sizes(report.cluster_sizes)),
        ("similarity of compared pairs", plots.similarities(report.similarities, width=width)),
        ("quality of live items", plots.quality(report.quality, width=width)),
        ("quality over time", plots.quality_history(report.history)),
        ("open cases by age", plots.counts(report.case_ages, title="Open cases by age", y="cases")),
        ("queue by label", plots.counts(report.queue_labels, title="Review queue by label", y="rows")),
    )
    images = (
        f"<img alt='{alt}' src='data:image/png;base64,{b64encode(png).decode()}'>" for alt, png in drawn
    )
    return "\n".join(
        (f"<h2>{html.escape(report.org_id)} in pictures</h2>", "<div class='row'>", *images, "</div>")
    )


_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; max-width: 68rem; margin: 2rem auto }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
.when { color: #6b7b88; margin-top: .2rem }
table { border-collapse: collapse; font-size: .88rem }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e4eaee }
th { font-weight: 600; color: #51626f }
figure { margin: .8rem 0 } figcaption { color: #51626f; font-size: .88rem }
blockquote { margin: .2rem 0; padding: .3rem .9rem; border-left: 3px solid #c2573a; background: #f6f8f9 }
.row { display: flex; flex-wrap: wrap; gap: .6rem } img { width: 21rem; max-width: 100% }
"""
