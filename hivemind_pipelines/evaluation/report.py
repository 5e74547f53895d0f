"""What an evaluation found: the figures of the contract, every decision, and curves to draw."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from hivemind_pipelines.evaluation.metrics import Confusion, Curve

Task = Literal["duplicates", "contradictions", "pii", "secrets", "injection", "prescreen", "grounding"]
TASKS: tuple[Task, ...] = get_args(Task)

Figures = Mapping[str, object]
Prediction = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a precision-recall plot."""

    name: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class TradeOffPoint:
    """What a threshold gains and what it harms, as shares; None of nothing."""

    threshold: float
    gain: float | None
    harm: float | None


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One line of a plot of gain over harm; `chosen` is the threshold in force."""

    name: str
    points: tuple[TradeOffPoint, ...]
    chosen: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one task on some files; `predictions` and `reading` are made while they are written."""

    task: Task
    files: tuple[str, ...]
    rows: int
    counted: Confusion
    details: Figures
    predictions: Iterator[Prediction]
    series: tuple[Series, ...] = ()
    trade_offs: tuple[TradeOff, ...] = ()
    #: Lines for a person to read.
    reading: Iterable[str] = ()

    def data(self, *, seconds: float) -> dict[str, object]:
        """The one JSON object that the command prints."""
        head = {"task": self.task, "files": list(self.files), "rows": self.rows, "seconds": round(seconds, 3)}
        return rounded(head | self.counted.figures() | dict(self.details))


def rounded(value: object) -> dict[str, object]:
    """A mapping of figures with every number cut to six decimals, however deep."""
    return {str(key): _rounded(inner) for key, inner in value.items()} if isinstance(value, Mapping) else {}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return rounded(value)
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
