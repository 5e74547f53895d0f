"""An evaluation in a terminal: the figures as tables, nested ones below."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def show(console: "Console", data: Mapping[str, object]) -> None:
    """Scalars in one table, then a table for each group of figures."""
    _show_pairs(
        console, {name: value for name, value in data.items() if not isinstance(value, Mapping | list)}
    )
    for name, value in data.items():
        if isinstance(value, Mapping) and value and not _says_nothing_new(name, value):
            console.print(f"\n{_plain(name)}", style="bold")
            _show_group(console, value)


def _says_nothing_new(name: str, value: Mapping[str, object]) -> bool:
    return name == "by_file" and len(value) == 1


def _show_group(console: "Console", group: Mapping[str, object]) -> None:
    if all(isinstance(inner, Mapping) for inner in group.values()):
        _show_matrix(console, {name: dict(_flat(inner)) for name, inner in group.items()})
    else:
        _show_pairs(console, dict(_flat(group)))


def _show_pairs(console: "Console", values: Mapping[str, object]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in values.items():
        table.add_row(_plain(name), _cell(value))
    console.print(table)


def _show_matrix(console: "Console", rows: Mapping[str, Mapping[str, object]]) -> None:
    """One line a row where few columns are shared, otherwise one line a figure."""
    from rich.table import Table

    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = {column: {name: row.get(column) for name, row in rows.items()} for column in columns}
    shown = dict(rows) if len(rows) >= len(columns) else lines
    heads = list(dict.fromkeys(head for line in shown.values() for head in line))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold")
    for head in heads:
        table.add_column(_plain(head), justify="right", overflow="fold")
    for name, line in shown.items():
        table.add_row(_plain(name), *(_cell(line.get(head)) for head in heads))
    console.print(table)


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        yield prefix.rstrip(" "), value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}{name} ")


def _plain(name: str) -> str:
    spelled = name if name.isprintable() else ascii(name)[1:-1]
    # Names of ours become words; types and paths stay as they are written elsewhere.
    return spelled.replace("_", " ") if spelled.islower() and "/" not in spelled else spelled


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else _plain(str(value))
