"""What a person sees of an answer: rich tables and lines, without any item text."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.stages.claims import SAID_ALREADY
from hivemind_pipelines.stages.loading import LoadReport
from hivemind_pipelines.stages.reporting import own_counts
from hivemind_pipelines.stages.status import OrgStatus, Status
from hivemind_pipelines.store.migrations.migrate import MigrationResult
from hivemind_pipelines.store.status import Delay

#: Pipes and files have no width; a table there must not be cut to 80 columns.
PLAIN_WIDTH = 200

Receipts = Mapping[OrgId, Mapping[Stage, Receipt]]


def open_console(stream: TextIO) -> Console:
    """A console on a stream that never interprets markup found in data."""
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def printable(name: str) -> str:
    """A name from outside as it may be shown: escapes and invisible characters are spelled out."""
    return name if name.isprintable() else ascii(name)[1:-1]


def show_migration(console: Console, result: MigrationResult) -> None:
    """What a migration added, or that there was nothing to do."""
    if result.is_noop:
        _say(console, "the database was up to date: nothing was changed")
    for what, names in (
        ("tables created", result.tables),
        ("indexes added", result.indexes),
        ("schema revisions run", result.revisions),
    ):
        if names:
            _say(console, f"{what}: {', '.join(names)}")
    imported = {name: count for name, count in asdict(result.imported).items() if count}
    if imported:
        _say(console, f"entered from what a HiveMind server did before: {_listed(imported)}")


def show_load(console: Console, report: LoadReport, *, pending: bool) -> None:
    """What became of a file's rows, in total and by org."""
    where = "the review queue" if pending else "the commons"
    _say(
        console,
        f"{report.loaded:,} of {report.rows:,} rows loaded into {where}, "
        f"{report.known:,} were there already, {report.refused:,} refused",
    )
    if len(report.loaded_by_org) > 1:
        table = _table("org", "loaded")
        for org_id, loaded in report.loaded_by_org.items():
            table.add_row(_cell(org_id), f"{loaded:,}")
        console.print(table)


def show_receipts(console: Console, receipts: Receipts, *, dry_run: bool) -> None:
    """A table of counts per stage and org."""
    done = "planned" if dry_run else "applied"
    table = _table("org", "stage", "outcome", "due", done, "dropped", "counts", "seconds")
    for org_id, by_stage in receipts.items():
        for stage, receipt in by_stage.items():
            table.add_row(
                _cell(org_id),
                stage,
                receipt.outcome.replace("_", " "),
                f"{receipt.due:,}",
                f"{receipt.applied:,}",
                f"{receipt.dropped:,}",
                own_counts(receipt),
                f"{receipt.seconds:.2f}",
            )
        table.add_section()
    if table.rows:
        console.print(table)


def show_end(console: Console, receipts: Receipts, *, dry_run: bool) -> None:
    """One line that says whether anything was changed."""
    if not receipts:
        _say(console, "there is no knowledge yet: load a file with `hivemind-pipelines load FILE.jsonl`")
    elif is_nothing_due(receipts):
        _say(console, "nothing was due: nothing was changed")
    elif dry_run:
        _say(console, "this was a dry run: features and pairs may have been cached, nothing else was changed")


def is_nothing_due(receipts: Receipts) -> bool:
    """Whether no stage of any org found work; also when there is no org."""
    return all(
        receipt.outcome == "nothing_due" for by_stage in receipts.values() for receipt in by_stage.values()
    )


_STATUS_COLUMNS = (
    "live", "summaries", "expired", "pending", "due", "open cases", "items in them", "suspicious", "stale",
    "spent today", "last run",
)  # fmt: skip


def show_status(console: Console, status: Status) -> None:
    """One row an org, then the gate."""
    table = _table("org", *_STATUS_COLUMNS)
    for org in status.orgs:
        table.add_row(_cell(org.org_id), *_org_cells(org))
    if status.orgs:
        console.print(table)
    else:
        _say(console, "the commons is empty: load a file with `hivemind-pipelines load FILE.jsonl`")
    for org in status.orgs:
        for delay in org.delays:
            _say(console, _delayed(org, delay))
    _say(console, str(status.gate))
    for key, value in status.last_run_keys.items():
        _say(console, f"{key}: {printable(value)}")


def _delayed(org: OrgStatus, delay: Delay) -> str:
    if delay.reason == SAID_ALREADY:
        return (
            f"{printable(org.org_id)}: {delay.topics:,} topics have no summary of their own, another says the same"
            f" ({delay.reason}), until their notes change"
        )
    again = (
        f"again from {delay.next_attempt_at:%Y-%m-%d %H:%M}" if delay.next_attempt_at else "at the next run"
    )
    return f"{printable(org.org_id)}: {delay.topics:,} topics wait for a summary ({delay.reason}), {again}"


def _org_cells(org: OrgStatus) -> Iterator[str]:
    for count in (org.live, org.summaries, org.expired, org.pending):
        yield f"{count:,}"
    yield _listed(org.due)
    yield f"{org.open_cases:,}"
    yield f"{org.in_open_cases:,}"
    yield f"{org.suspicious:,}"
    yield _listed(org.stale)
    yield f"${org.spend_today.usd:.2f}, {org.spend_today.calls:,} calls" if org.spend_today.calls else "-"
    yield f"{org.last_run.as_of:%Y-%m-%d %H:%M} {org.last_run.status}" if org.last_run else "never"


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "-"


def show_policy_changes(
    console: Console, changes: Sequence[Mapping[str, object]], stale: Sequence[str]
) -> None:
    """Each path that differs, and the sections whose rows become stale."""
    if not changes:
        _say(console, "the policies are equal")
        return
    table = _table("path", "in force", "proposed")
    for change in changes:
        table.add_row(*(_cell(str(change[column])) for column in ("path", "in_force", "proposed")))
    console.print(table)
    _say(console, f"stale under the proposed policy: {', '.join(stale) if stale else 'nothing'}")


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int, str], None] | None]:
    """A progress bar on standard error, only on a terminal; yields a function (completed, note) or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=open_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda completed, note: bar.update(task, completed=completed, description=f"{label} {note}")


def _say(console: Console, line: str) -> None:
    # The terminal wraps a line better than rich does, and a pipe not at all.
    console.print(line, soft_wrap=True)


_NUMBERS = frozenset(
    {
        "live",
        "summaries",
        "expired",
        "pending",
        "open cases",
        "items in them",
        "suspicious",
        "applied",
        "planned",
        "dropped",
        "loaded",
        "seconds",
    }
)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    return table


def _cell(value: str) -> Text:
    return Text(printable(value))
