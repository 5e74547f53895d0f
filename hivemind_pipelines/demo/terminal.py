"""The demo in a terminal: progress while it works, then everything it found."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

from hivemind_pipelines.demo import telling
from hivemind_pipelines.demo.telling import Outcome
from hivemind_pipelines.stages import reporting
from hivemind_pipelines.stages.context import Progress
from hivemind_pipelines.stages.reporting import Block, OrgReport, Paragraph, Quote, Section, Table

if TYPE_CHECKING:
    from rich.console import Console

_QUOTE_INDENT = 2
#: Cells up to this length stay on one line, however narrow the terminal is.
_SHORT_CELL = 25


@contextmanager
def progress() -> Iterator[Progress | None]:
    """A bar a stage on standard error, only on a terminal; yields what stages report to, or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        tasks = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage.replace("_", " "), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


def show(console: "Console", outcome: Outcome) -> None:
    """Counts per stage and org first, then samples, agreement, timings, and where to go from here."""
    parts = telling.sections(outcome)
    counts = (
        *(Section(f"What the run did to {report.org_id}", (_stages(report),)) for report in outcome.reports),
        Section("What the commons holds now", (reporting.standing_table(outcome.reports),)),
    )
    for section in (parts[0], *counts, *parts[1:]):
        _show_section(console, section)
    if outcome.is_noop:
        console.print(
            "\nEverything had been done before: nothing was loaded, embedded, merged or written again."
        )
    console.print(f"\nReport: {outcome.report_path}")
    console.print("Next, try:")
    for command in telling.next_commands(outcome):
        console.print(f"  {command}", soft_wrap=True)


def _stages(report: OrgReport) -> Table:
    """The report's table of stages without the column that says the org."""
    table = reporting.stage_table([report])
    return Table(table.columns[1:], tuple(row[1:] for row in table.rows))


def _show_section(console: "Console", section: Section) -> None:
    console.print(f"\n{section.heading}", style="bold")
    for block in section.blocks:
        _show(console, block)


def _show(console: "Console", block: Block) -> None:
    from rich.padding import Padding
    from rich.text import Text

    match block:
        case Paragraph(text):
            console.print(Text(text))
        case Quote(caption, text):
            console.print(Text(caption, style="dim"))
            console.print(Padding(Text(text), (0, 0, 0, _QUOTE_INDENT), expand=False))
        case Table():
            _show_table(console, block)
        case _:
            assert_never(block)


def _show_table(console: "Console", table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="dim")
    for position, column in enumerate(table.columns):
        cells = [row[position] for row in table.rows]
        is_number = all(isinstance(cell, int | float) for cell in cells)
        is_short = all(len(str(cell)) <= _SHORT_CELL for cell in cells)
        shown.add_column(column, justify="right" if is_number else "left", no_wrap=is_short)
    for row in table.rows:
        shown.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console.print(shown)
