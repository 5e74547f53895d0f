"""The report's pictures as PNG; each shows counts only."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from hivemind_pipelines.core.planning import ScoreEffects
from hivemind_pipelines.store.reporting import ClusterKind, ClusterSize, Count, QualityBin, SimilarityBin
from hivemind_pipelines.store.scores import DayOfScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (6.4, 3.2)
_DPI = 110
_CALM, _STRONG = "#9db4c8", "#c2573a"
#: Where a kind's bar stands beside its size, its colour and its name in the legend.
_CLUSTER_BARS: dict[ClusterKind, tuple[float, str, str]] = {
    "duplicates": (-0.2, _STRONG, "duplicates"),
    "topic": (0.2, _CALM, "topics"),
}


def cluster_sizes(sizes: Sequence[ClusterSize]) -> bytes:
    """How many duplicate clusters and topics there are of each size."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        for kind, (offset, colour, label) in _CLUSTER_BARS.items():
            own = [size for size in sizes if size.kind == kind]
            places = [size.size + offset for size in own]
            axes.bar(places, [size.count for size in own], 0.4, color=colour, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _png(draw, title="Cluster sizes", x="items in the cluster", y="clusters")


def similarities(bins: Sequence[SimilarityBin], *, width: float) -> bytes:
    """Cosine similarity of compared pairs, those that were merged beside those that were not.

    Both are shares of their own total: merges are few beside the pairs that were told apart.
    """
    merged = sum(part.merged for part in bins)
    unmerged = sum(part.unmerged for part in bins)

    def draw(axes: "Axes") -> None:
        middles = [part.lower + width / 2 for part in bins]
        apart = [part.unmerged / max(unmerged, 1) for part in bins]
        together = [part.merged / max(merged, 1) for part in bins]
        axes.bar(middles, apart, width * 0.95, color=_CALM, label=f"not merged ({unmerged:,})")
        axes.bar(middles, together, width * 0.45, color=_STRONG, label=f"merged ({merged:,})")
        axes.set_xlim(0.0, 1.0)

    return _png(draw, title="Similarity of compared pairs", x="cosine similarity", y="share of pairs")


def quality(bins: Sequence[QualityBin], *, width: float) -> bytes:
    """Quality scores of live items."""

    def draw(axes: "Axes") -> None:
        heights = [part.count for part in bins]
        axes.bar([part.lower + width / 2 for part in bins], heights, width * 0.95, color=_CALM)
        axes.set_xlim(0.0, 1.0)

    return _png(draw, title="Quality of live items", x="quality score", y="items")


#: Shares of the items below each line of the quality over time; the middle one is the median.
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def quality_history(days: Sequence[DayOfScores]) -> bytes:
    """The median score of live items day by day, between bands that hold a half and four fifths of them."""

    def draw(axes: "Axes") -> None:
        when = np.array([day.day for day in days], dtype="datetime64[D]")
        lines = [[quantile(day.counts, share) for day in days] for share in _QUANTILES]
        axes.fill_between(when, lines[0], lines[4], color=_CALM, alpha=0.35, label="80 % of items")
        axes.fill_between(when, lines[1], lines[3], color=_CALM, alpha=0.8, label="50 %")
        axes.plot(when, lines[2], color=_STRONG, marker="." if len(days) < 30 else "", label="median")
        axes.set_ylim(0.0, 1.0)
        axes.tick_params(axis="x", rotation=20)

    return _png(draw, title="Quality over time", x="", y="quality score")


def quantile(counts: Sequence[int], share: float) -> float:
    """The score below which `share` of the items lie, from counts in equal parts of [0, 1]; 0 of none."""
    total, below = sum(counts), 0
    for part, count in enumerate(counts):
        if count and below + count >= share * total:
            return (part + (share * total - below) / count) / len(counts)
        below += count
    return 0.0


def counts(counted: Sequence[Count], *, title: str, y: str) -> bytes:
    """One bar a name, in the order given."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        names = [one.name.replace("_", " ") for one in counted]
        axes.barh(names[::-1], [one.count for one in counted][::-1], color=_CALM)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _png(draw, title=title, x=y, y="")


def thumbnail(counts: Sequence[int], *, title: str) -> bytes:
    """Counts in equal parts of [0, 1], a few kilobytes small."""

    def draw(axes: "Axes") -> None:
        width = 1 / len(counts)
        axes.bar([(part + 0.5) * width for part in range(len(counts))], counts, width * 0.95, color=_CALM)
        axes.set_xlim(0.0, 1.0)

    return _png(draw, title=title, x="", y="", size_inches=(3.2, 1.6), dpi=72)


#: The counts of a plan that are drawn, with their names.
_EFFECTS: dict[str, str] = {
    "matching.merged": "merges made",
    "matching.unmerged": "merges unmade",
    "contradiction.opened": "cases opened",
    "contradiction.withdrawn": "cases withdrawn",
    "summaries.written": "summaries written",
    "summaries.rewritten": "summaries rewritten",
    "summaries.retired": "summaries retired",
    "labels.flagged": "labels set",
    "labels.cleared": "labels removed",
    "scores.changed": "scores moved",
}


def policy_effects(counts: Mapping[str, int], scores: ScoreEffects) -> bytes:
    """What a policy would change, as bars on a logarithmic axis, and the scores before and after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(reversed(_EFFECTS))
    bars = left.barh([_EFFECTS[name] for name in names], [counts[name] for name in names], color=_STRONG)
    left.bar_label(bars, fmt="{:,.0f}", padding=3)
    left.set_xscale("symlog", linthresh=1)
    left.set(title="What would change", xlim=(0, 10 * max(1, *(counts[name] for name in names))))
    width = 1 / max(len(scores.before), 1)
    places = [(number + 0.5) * width for number in range(len(scores.before))]
    right.bar(places, scores.before, width * 0.95, color=_CALM, label="before")
    right.bar(places, scores.after, width * 0.45, color=_STRONG, label="after")
    right.set(title="Quality of live items", xlabel="quality score", ylabel="items", xlim=(0.0, 1.0))
    if scores.scored:
        right.legend(frameon=False)
    else:
        right.text(0.5, 0.5, "not scored again", ha="center", transform=right.transAxes)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _png(
    draw: Callable[["Axes"], None],
    *,
    title: str,
    x: str,
    y: str,
    size_inches: tuple[float, float] = _SIZE_INCHES,
    dpi: int = _DPI,
) -> bytes:
    # A Figure of its own needs no pyplot: no display, no state that outlives the call.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
