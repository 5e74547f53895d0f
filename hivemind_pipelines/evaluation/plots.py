"""The plot of an evaluation as PNG: precision over recall, or gain over harm; it shows figures only."""

from io import BytesIO
from itertools import cycle
from typing import Any

from hivemind_pipelines.evaluation.report import Evaluation

_SIZE_INCHES = (6.4, 4.4)
_DPI = 120
_COLOURS = ("#c2573a", "#9db4c8")


def png(evaluation: Evaluation) -> bytes:
    """What the task trades off, otherwise its precision and recall."""
    return trade_off_png(evaluation) if evaluation.task == "pii" else precision_recall_png(evaluation)


def precision_recall_png(evaluation: Evaluation) -> bytes:
    """Each series as a line, and what is decided automatically as a point."""
    figure, axes = _axes("Precision and recall of merging", "recall", "precision")
    for series, colour in zip(evaluation.series, _COLOURS, strict=False):
        axes.step(series.curve.recall, series.curve.precision, where="pre", color=colour, label=series.name)
    counted = evaluation.counted
    if counted.precision is not None and counted.recall is not None:
        axes.plot(counted.recall, counted.precision, "o", color="#333333", label="automatic merges")
    axes.set_xlim(0.0, 1.01)
    axes.legend(frameon=False, loc="lower left")
    return _encoded(figure)


def trade_off_png(evaluation: Evaluation) -> bytes:
    """Each trade-off as a line through its thresholds, the one in force as a dot."""
    figure, axes = _axes(
        "Names found and clean texts touched", "share of clean texts touched", "share of names found"
    )
    for trade_off, colour in zip(evaluation.trade_offs, cycle(_COLOURS)):
        known = [(one.threshold, one.harm, one.gain) for one in trade_off.points if one.harm is not None]
        axes.plot([harm for _, harm, _ in known], [gain for _, _, gain in known], ".-", color=colour,
                  label=trade_off.name)  # fmt: skip
        for threshold, harm, gain in known:
            axes.annotate(f"{threshold:g}", (harm, gain), (4, -9), textcoords="offset points", fontsize=7)
        in_force = [point for point in known if point[0] >= trade_off.chosen]
        if in_force:
            axes.plot(*in_force[0][1:], "o", color=colour, markersize=9, fillstyle="none")
    axes.set_xlim(left=-0.002)
    if evaluation.trade_offs:
        axes.legend(frameon=False, loc="lower right", title="circled: pii.score_threshold")
    return _encoded(figure)


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    # A Figure of its own needs no pyplot: no display, no state that outlives the call.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(0.0, 1.01)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _encoded(figure: Any) -> bytes:
    encoded = BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
