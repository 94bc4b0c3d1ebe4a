"""Pictures that several notebooks need: slices with masks and clicks, curves and bars.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; what a colour says
is said by a shape too: masks are filled, the truth is an outline, clicks are plus signs or crosses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from limnet.evaluation.calibration import Reliability
from limnet.method.prompts import Click, Crop

MASK = "#56B4E9"  # sky blue
TRUTH = "#F0E442"  # yellow
POSITIVE = "#009E73"  # bluish green
NEGATIVE = "#D55E00"  # vermilion
OPACITY = 0.5  # of masks
PROBABILITY = "magma"  # grows brighter evenly, for colour-blind readers too
INK = "0.25"  # grey of text and of lines that are not data
MARKS = {True: ("P", POSITIVE, "click on it"), False: ("X", NEGATIVE, "click off it")}

Images = Num[np.ndarray, "slices height width"] | Num[np.ndarray, "slices 3 height width"]
Masks = Bool[np.ndarray, "_ _ _"]  # (slices, height, width); checked where they come in
Image = Num[np.ndarray, "height width"] | Num[np.ndarray, "3 height width"]
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice and what is drawn on it, or a probability map in its place."""

    image: Image  # in [0, 1]
    mask: Mask | None = None
    target: Mask | None = None
    clicks: Sequence[Click] = ()  # those on this slice
    probability: Float[np.ndarray, "height width"] | None = None
    title: str = ""

    def within(self, part: Crop) -> "Panel":
        """The part alone; clicks keep their place in what is shown."""
        rows, columns = part.pixels
        shown = {
            name: each[..., rows, columns]
            for name in ("image", "mask", "target", "probability")
            if (each := getattr(self, name)) is not None
        }
        moved = [
            replace(click, row=click.row - part.top, column=click.column - part.left)
            for click in self.clicks
            if part.top <= click.row < part.bottom and part.left <= click.column < part.right
        ]
        return replace(self, **shown, clicks=moved)


def show_slices(
    images: Images,
    masks: Masks | None = None,
    target: Masks | None = None,
    clicks: Sequence[Click] = (),
    *,
    slice_indices: Sequence[int] | None = None,
    titles: Sequence[str] = (),
    row_names: Sequence[str] = (),
    columns: int = 6,
    panel_inches: float = 1.7,
) -> Figure:
    """Slices side by side, all on one scale of greys: masks filled, the truth as an outline.

    Args:
        images: in [0, 1].
        slice_indices: of the images in their volume, by which clicks find their slice; 0, 1, ...
            by default.
        titles: above the slices, the first ones where there are fewer.
        row_names: left of the rows.

    Raises:
        ValueError: there is no slice, or masks, target or slice_indices do not fit the images.
    """
    count, size = len(images), images.shape[-2:]
    indices = list(range(count) if slice_indices is None else slice_indices)
    if count == 0 or len(indices) != count:
        raise ValueError(f"every image needs its slice index, got {count} and {len(indices)}")
    for name, given in (("masks", masks), ("target", target)):
        if given is not None and given.shape != (count, *size):
            raise ValueError(f"{name} must be {(count, *size)} as the images, got {given.shape}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width, height = panel_inches * columns, panel_inches * rows * size[0] / size[1]
    figure = new_figure(width + 0.2, height + 0.22 * rows * bool(titles) + 0.4)
    axes = bare_axes(figure, rows, columns)
    for at, axis in enumerate(axes.flat[:count]):
        mask = None if masks is None else masks[at]
        truth = None if target is None else target[at]
        here = [click for click in clicks if click.slice_index == indices[at]]
        _draw(axis, Panel(images[at], mask, truth, here))
    for axis, title in zip(axes.flat[:count], titles, strict=False):
        axis.set_title(title, fontsize=8, color=INK, pad=3)
    for axis, name in zip(axes[:, 0], row_names, strict=False):
        axis.set_ylabel(name, fontsize=8, color=INK)
    shown = [click for click in clicks if click.slice_index in indices]
    _explain(figure, masks is not None, target is not None, shown)
    return figure


def show_panels(
    rows: Mapping[str, Sequence[Panel]], *, headings: Sequence[str] = (), panel_inches: float = 1.6
) -> Figure:
    """Named rows of slices of any size, each within a square; probabilities on one colour scale.

    Args:
        rows: by name; those with fewer panels leave the places on the right empty.
        headings: above the columns.

    Raises:
        ValueError: there is no panel.
    """
    columns = max(map(len, rows.values()), default=0)
    if columns == 0:
        raise ValueError(f"there must be a panel to show, got {len(rows)} rows without one")
    panels = [panel for row in rows.values() for panel in row]
    titled = 0.13 * len(rows) * max(len(panel.title.splitlines()) for panel in panels)
    figure = new_figure(panel_inches * columns + 0.9, panel_inches * len(rows) + titled + 0.6)
    axes, scale = bare_axes(figure, len(rows), columns), None
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, panel in zip(line, row, strict=False):
            scale = _draw(axis, panel) or scale
            axis.set_title(panel.title, fontsize=7, color=INK, pad=2)
        line[0].set_ylabel(name, fontsize=8, color=INK)
    for axis, heading in zip(axes[0], headings, strict=False):
        under = f"\n{axis.get_title()}" if axis.get_title() else ""
        axis.set_title(f"{heading}{under}", fontsize=8, color=INK, pad=3)
    if scale is not None:
        bar = figure.colorbar(
            scale, ax=axes, location="bottom", shrink=0.4, aspect=30, anchor=(1.0, 1.0), pad=0.01
        )
        bar.set_label("probability", fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=7, color=INK, labelcolor=INK)
        bar.outline.set_visible(False)
    has_mask = any(panel.mask is not None for panel in panels)
    has_target = any(panel.target is not None for panel in panels)
    _explain(figure, has_mask, has_target, [click for panel in panels for click in panel.clicks])
    return figure


def bars(
    quantities: Mapping[str, Mapping[str, float | int]],
    *,
    published: Mapping[str, float | int] | None = None,
    columns: int = 3,
) -> Figure:
    """A small panel a quantity, each on its own scale, with a bar and its number for every name.

    Args:
        quantities: {quantity: {name: value}}, the same names in each.
        published: the paper's value of some of them, a dashed line.
    """
    published, columns = published or {}, min(columns, len(quantities))
    lines, names = math.ceil(len(quantities) / columns), len(next(iter(quantities.values())))
    figure = new_figure(2.6 * columns + 0.8, lines * (0.28 * names + 0.75))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(quantities) :]:
        axis.set_visible(False)
    for axis, (quantity, values) in zip(axes.flat, quantities.items(), strict=False):
        drawn = axis.barh(list(values), list(values.values()), color="#0072B2", height=0.6)
        numbers = [f" {value:.3g}" for value in values.values()]
        axis.bar_label(drawn, numbers, fontsize=8, color=INK)
        paper = published.get(quantity)
        if paper is not None:
            axis.axvline(paper, color="#D55E00", ls="--", lw=1.4)
            said = f"dashed: paper, {paper:g}"
            axis.set_title(said, fontsize=8, color="#D55E00", loc="right", pad=3)
        largest = max([*values.values(), paper or 0])
        axis.set(xlim=(0, 1.3 * largest or 1), xticks=[])
        axis.set_title(quantity, fontsize=8, color=INK, loc="left")
        axis.tick_params(labelsize=8, length=0, labelcolor=INK)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0, 0].invert_yaxis()  # the first one on top; all share the axis
    return figure


def training_curve(
    losses: Sequence[float], scores: Sequence[tuple[int, float]] = (), *, title: str = ""
) -> Figure:
    """The loss of every iteration as dots, their running mean as a line; the loss axis is log.

    Args:
        scores: (iterations done, score) of a validation, for a panel below; none without them.
    """
    losses = np.asarray(losses, dtype=float)
    window = max(1, len(losses) // 20)
    # the mean of what there is, so that the line begins with the first iteration
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    smoothed = (sums[ends] - sums[starts]) / (ends - starts)
    figure = new_figure(6.0, 4.0 if scores else 2.4)
    axes = figure.subplots(1 + bool(scores), sharex=True, squeeze=False)[:, 0]
    axis = axes[0]
    axis.plot(ends, losses, ".", color="0.75", ms=3 if len(losses) < 300 else 1)
    axis.plot(ends, smoothed, color="#0072B2", lw=1.8)
    if len(losses):
        text = f" {smoothed[-1]:.3g}"
        axis.annotate(text, (ends[-1], smoothed[-1]), color="#0072B2", va="center", fontsize=9)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_title(title or f"loss (line: mean of {window})", fontsize=9, color=INK, loc="left")
    if scores:
        done, values = zip(*scores, strict=True)
        axes[1].plot(done, values, "o-", color="#0072B2", lw=1.8, ms=3.5)
        text = f" {values[-1]:.3g}"
        axes[1].annotate(text, (done[-1], values[-1]), color="#0072B2", va="center", fontsize=9)
        axes[1].set_title("validation", fontsize=9, color=INK, loc="left")
    for axis in axes:
        axis.tick_params(labelsize=8, color=INK, labelcolor=INK)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("iteration", fontsize=9, color=INK)
    return figure


def round_curves(
    scores: Mapping[str, Sequence[float]],
    *,
    label: str = "DSC",
    beside: Mapping[str, Sequence[float]] | None = None,
    methods: tuple[str, str] = ("", ""),
    most: float | int = 1,
) -> Figure:
    """A score after each round, one small panel a name, all on one scale.

    Args:
        scores: by name, one entry a round.
        beside: the same of another method, dashed.
        methods: what `scores` and `beside` are of.
        most: where the scale ends.
    """
    figure = new_figure(1.5 * len(scores) + 0.6, 2.0)
    axes = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axis, (name, values) in zip(axes, scores.items(), strict=True):
        rounds = np.arange(1, len(values) + 1)
        if beside is not None:
            axis.plot(rounds, beside[name], "--s", color="#D55E00", lw=1.4, ms=3, label=methods[1])
        axis.plot(rounds, values, "-o", color="#0072B2", lw=1.8, ms=3.5, label=methods[0])
        axis.annotate(
            f"{values[-1]:.2f}",
            (rounds[-1], values[-1]),
            (0, -11 if values[-1] > 0.2 * most else 5),  # not on the axis
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#0072B2",
        )
        axis.set(ylim=(0, most), xticks=rounds[:: max(1, len(rounds) // 6)])
        axis.set_title(name, fontsize=8, color=INK)
        axis.grid(axis="y", color="0.92")
        axis.tick_params(labelsize=7, color=INK, labelcolor=INK)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(label, fontsize=8, color=INK)
    figure.supxlabel("round", fontsize=8, color=INK)
    if beside is not None:
        axes[0].legend(fontsize=7, frameon=False, loc="best")
    return figure


def reliability_diagram(curves: Mapping[str, Reliability]) -> Figure:
    """What was said against what came true, one small panel a name; on the diagonal all is well.

    The area of a dot is the number of answers in its bin.
    """
    figure = new_figure(2.4 * len(curves) + 0.4, 2.7)
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.75", lw=1)
        axis.plot(curve.predicted, curve.observed, color="#0072B2", lw=1.2)
        areas = 160 * curve.answers / max(curve.answers.max(), 1)
        axis.scatter(curve.predicted, curve.observed, s=areas, color="#0072B2", alpha=0.7, lw=0)
        axis.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_xlabel("said", fontsize=8, color=INK)
        axis.tick_params(labelsize=8, colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("came true", fontsize=8, color=INK)
    return figure


def bare_axes(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """Rows and columns of axes without ticks and frame, for images."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return axes


def new_figure(width: float, height: float) -> Figure:
    """A figure that pyplot has let go: a notebook shows it once, where its cell returns it."""
    figure = pyplot.figure(figsize=(width, height), dpi=110, layout="constrained")
    pyplot.close(figure)
    return figure


def _draw(axis: Axes, panel: Panel) -> AxesImage | None:
    """The panel on bare axes; the map of probabilities if it shows one."""
    shown = None
    if panel.probability is not None:
        shown = axis.imshow(panel.probability, cmap=PROBABILITY, vmin=0, vmax=1)
    else:
        image = np.moveaxis(panel.image, 0, -1) if panel.image.ndim == 3 else panel.image
        axis.imshow(image.astype(float).clip(0, 1), cmap="gray", vmin=0, vmax=1)
    if panel.mask is not None:
        axis.imshow(np.where(panel.mask[..., None], to_rgba(MASK, OPACITY), 0.0))
    if panel.target is not None and panel.target.any() and not panel.target.all():
        axis.contour(panel.target, levels=[0.5], colors=TRUTH, linewidths=1.1)
    for click in panel.clicks:
        marker, colour, _ = MARKS[click.positive]
        axis.plot(click.column, click.row, marker, color=colour, ms=8, mec="white", mew=0.9)
    return shown


def _explain(figure: Figure, masks: bool, target: bool, clicks: Sequence[Click]) -> None:
    """One line below the slices: what the colours say."""
    handles: list[Any] = [Patch(facecolor=to_rgba(MASK, 0.7), label="mask")] * masks
    handles += [Line2D([], [], color=TRUTH, lw=2, label="truth")] * target
    for positive, (marker, colour, label) in MARKS.items():
        if any(click.positive is positive for click in clicks):
            handles.append(Line2D([], [], ls="", marker=marker, color=colour, ms=7, label=label))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=len(handles),
            fontsize=8,
            frameon=False,
            labelcolor=INK,
            handlelength=1.2,
        )
