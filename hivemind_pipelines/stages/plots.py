"""The report's pictures as PNG; each shows counts only."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from hivemind_pipelines.store.reporting import ClusterKind, ClusterSize, QualityBin, SimilarityBin

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


def thumbnail(counts: Sequence[int], *, title: str) -> bytes:
    """Counts in equal parts of [0, 1], a few kilobytes small."""

    def draw(axes: "Axes") -> None:
        width = 1 / len(counts)
        axes.bar([(part + 0.5) * width for part in range(len(counts))], counts, width * 0.95, color=_CALM)
        axes.set_xlim(0.0, 1.0)

    return _png(draw, title=title, x="", y="", size_inches=(3.2, 1.6), dpi=72)


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
