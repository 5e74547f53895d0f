"""The precision-recall plot of an evaluation as PNG; it shows figures only."""

from io import BytesIO

from hivemind_pipelines.evaluation.report import Evaluation

_SIZE_INCHES = (6.4, 4.4)
_DPI = 120
_COLOURS = ("#c2573a", "#9db4c8")


def precision_recall_png(evaluation: Evaluation) -> bytes:
    """Each series as a line, and what is decided automatically as a point."""
    # A Figure of its own needs no pyplot: no display, no state that outlives the call.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for series, colour in zip(evaluation.series, _COLOURS, strict=False):
        axes.step(series.curve.recall, series.curve.precision, where="pre", color=colour, label=series.name)
    counted = evaluation.counted
    if counted.precision is not None and counted.recall is not None:
        axes.plot(counted.recall, counted.precision, "o", color="#333333", label="automatic merges")
    axes.set(title="Precision and recall of merging", xlabel="recall", ylabel="precision")
    axes.set_xlim(0.0, 1.01)
    axes.set_ylim(0.0, 1.01)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
