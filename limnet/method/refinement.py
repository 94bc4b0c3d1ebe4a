"""From clicks to the probability of a prompt mask: RITM's prediction pipeline (paper, II-B).

Pure functions; what RITM's predictor remembers between clicks is the `Prompt` that each returns:
its probability and its region go into the next call. Sources are the facts of RITM's official
evaluation (NoBRS predictor: zoom-in, previous mask, horizontal flip).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limnet.method.prompts import Click, disks

Image = Float[Tensor, "3 height width"]  # in [0, 1]
Probability = Float[Tensor, "height width"]

# (images, click maps, previous probabilities), batches all -> an object with `.mask`, the logits
ClickNetLike = Callable[[Tensor, Tensor, Tensor], Any]

WORTH_ZOOMING_IOU = 0.5  # of an object's region and the whole slice; fixed in RITM


class Region(NamedTuple):
    """A box of pixels that the prediction zooms in on; both ends of each axis belong to it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        return self.right - self.left + 1


class Prompt(NamedTuple):
    """A predicted slice."""

    probability: Probability
    region: Region | None = None  # what was zoomed in on; None: the whole slice, not resized


@dataclass(frozen=True)
class ZoomIn:
    """When and how far to zoom in on the object (defaults: RITM's evaluation)."""

    target_size: int = 400  # pixels of the crop's longer side, resized (600 for DAVIS)
    skip_clicks: int = 1  # this many clicks see the whole slice; -1: resize it from the first on
    expansion_ratio: float = 1.4  # region over the box of the object, along each axis
    min_crop_size: int = 200  # pixels, a region's least side
    recompute_iou: float = 0.5  # a region is kept while its IoU with a new one is at least this
    probability_threshold: float = 0.5  # above it a pixel belongs to the object


@torch.no_grad()
def predict_prompt(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    previous: Probability | None = None,
    *,
    zoom: ZoomIn | None = None,
    flip: bool = False,
    region: Region | None = None,
) -> Prompt:
    """What the click network makes of all clicks on a slice so far, and the region it looked at.

    With zoom, the object's region is found in the previous probability and the positive clicks; it
    is kept until a positive click falls outside or it has become another (ZoomIn.recompute_iou).
    Image, previous probability and clicks are cropped and resized together; the probability is
    resized back and is 0 outside the region. With skip_clicks <= 0, a small object found on the
    whole slice is predicted once more, zoomed in. With flip, the logits of the slice and of its
    mirror image are averaged.

    Args:
        click_net: in eval mode, on the image's device.
        clicks: of this slice, in the order in which they were made.
        previous: probability of the prompt before the last click; None is 0 everywhere.
        region: of the prompt before the last click.

    Raises:
        ValueError: there is no click, one lies outside the image or on another slice than the rest,
            or previous has another size.
    """
    check_clicks(image, clicks, previous)
    return _predict(click_net, image, clicks, previous, previous, zoom, flip, region)


@torch.no_grad()
def predict_from_mask(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    mask: Probability | Bool[Tensor, "height width"],
    *,
    zoom: ZoomIn | None = None,
    flip: bool = False,
) -> Prompt:
    """What the first click makes of a mask from elsewhere: predicted twice, as in RITM's demo.

    The mask is the previous probability of the first prediction only, and zoom-in does not look at
    it; the second prediction refines the first. (RITM also counts the mask as a click where it
    chooses among networks; here there is one.)

    Raises:
        ValueError: as predict_prompt.
    """
    mask = mask.to(image.dtype)
    check_clicks(image, clicks, mask)
    first = _predict(click_net, image, clicks, mask, None, zoom, flip, None)
    return predict_prompt(
        click_net, image, clicks, first.probability, zoom=zoom, flip=flip, region=first.region
    )


def check_clicks(image: Image, clicks: Sequence[Click], previous: Probability | None) -> None:
    """Refuse what no prompt can be made of.

    Raises:
        ValueError: as predict_prompt.
    """
    height, width = image.shape[1:]
    if previous is not None and previous.shape != (height, width):
        raise ValueError(
            f"the previous probability must have the image's size {(height, width)}, "
            f"got {tuple(previous.shape)}"
        )
    if len({click.slice_index for click in clicks}) != 1:
        raise ValueError(f"a prompt needs at least one click, all on one slice, got {list(clicks)}")
    if any(click.row >= height or click.column >= width for click in clicks):
        raise ValueError(f"clicks must lie in the {height} x {width} slice, got {list(clicks)}")


def _predict(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    previous: Probability | None,
    own: Probability | None,
    zoom: ZoomIn | None,
    flip: bool,
    region: Region | None,
) -> Prompt:
    """One prediction, or two if the first finds a small object.

    `previous` goes into the network, `own` is the last output: zoom-in reads only the latter.
    """
    height, width = image.shape[1:]
    whole = Region(0, height - 1, 0, width - 1)
    region = None if zoom is None else choose_region(own, clicks, whole, region, zoom)
    previous = torch.zeros_like(image[0]) if previous is None else previous
    stacked = torch.cat([image, previous[None]])[None]
    if region is not None:
        crop = crop_and_resize(stacked, region, zoom.target_size)
        inside = _probability(click_net, crop, clicks, region, flip)
        return Prompt(paste_back(inside, region, height, width), region)
    probability = _probability(click_net, stacked, clicks, whole, flip)
    if zoom is not None and zoom.skip_clicks <= 0:
        found = probability > zoom.probability_threshold
        if found.any() and region_iou(region_of_object(found, [], zoom), whole) < WORTH_ZOOMING_IOU:
            # The network gets the earlier output again; the new one only tells where to look.
            return _predict(click_net, image, clicks, own, probability, zoom, flip, None)
    return Prompt(probability)


def choose_region(
    own: Probability | None,
    clicks: Sequence[Click],
    whole: Region,
    region: Region | None,
    zoom: ZoomIn,
) -> Region | None:
    """The region to look at: the old one while it will do, else the object's; None is no zoom."""
    if len(clicks) <= zoom.skip_clicks:
        return None
    found = None if own is None else own > zoom.probability_threshold
    if found is not None and found.any():
        candidate = region_of_object(found, clicks, zoom)
    elif zoom.skip_clicks < 0:
        candidate = whole
    else:  # RITM squeezes a prediction of the whole slice into the old region, if there is one
        return None
    if region is None or not _holds(region, clicks):
        return candidate
    return region if region_iou(candidate, region) >= zoom.recompute_iou else candidate


def region_of_object(
    object_mask: Bool[Tensor, "height width"], clicks: Sequence[Click], zoom: ZoomIn
) -> Region:
    """The box of the mask and the positive clicks, enlarged about its centre, within the slice.

    Raises:
        ValueError: the mask is empty and no click is positive.
    """
    found = object_mask.cpu().numpy().copy()  # in which ends are found faster than in a tensor
    for click in clicks:
        if click.positive:
            found[int(click.row), int(click.column)] = True
    if not found.any():
        raise ValueError("a region needs an object: the mask is empty and no click is positive")
    ends = []
    for occupied in (found.any(axis=1), found.any(axis=0)):  # rows, columns
        first, last = np.flatnonzero(occupied)[[0, -1]].tolist()
        centre = 0.5 * (first + last)
        half = 0.5 * max(zoom.expansion_ratio * (last - first + 1), zoom.min_crop_size)
        # RITM rounds halves to even, as Python does.
        ends += [max(0, round(centre - half)), min(len(occupied) - 1, round(centre + half))]
    return Region(*ends)


def region_iou(first: Region, second: Region) -> float:
    """Product of both axes' intersection over hull (RITM; for boxes apart it is 0)."""
    product = 1.0
    for axis in (slice(0, 2), slice(2, 4)):
        (start, end), (other_start, other_end) = first[axis], second[axis]
        shared = max(0, min(end, other_end) - max(start, other_start) + 1)
        product *= shared / (max(end, other_end) - min(start, other_start) + 1)
    return product


def crop_and_resize(
    images: Float[Tensor, "batch channels height width"], region: Region, target_size: int
) -> Float[Tensor, "batch channels crop_height crop_width"]:
    """The region, resized bilinearly (corners aligned) so that its longer side is target_size."""
    scale = target_size / max(region.height, region.width)
    size = [max(1, round(side * scale)) for side in (region.height, region.width)]
    crop = images[:, :, region.top : region.bottom + 1, region.left : region.right + 1]
    return F.interpolate(crop, size, mode="bilinear", align_corners=True)


def paste_back(
    inside: Float[Tensor, "crop_height crop_width"], region: Region, height: int, width: int
) -> Probability:
    """The crop, resized to the region's own size, in a slice of zeros."""
    size = (region.height, region.width)
    resized = F.interpolate(inside[None, None], size, mode="bilinear", align_corners=True)
    probability = inside.new_zeros(height, width)
    probability[region.top : region.bottom + 1, region.left : region.right + 1] = resized[0, 0]
    return probability


def _probability(
    click_net: ClickNetLike,
    stacked: Float[Tensor, "1 4 height width"],
    clicks: Sequence[Click],
    region: Region,
    flip: bool,
) -> Probability:
    """The network's probability for a crop of region: image and previous probability, stacked."""
    height, width = stacked.shape[2:]
    rows = [height * (click.row - region.top) / region.height for click in clicks]
    columns = [width * (click.column - region.left) / region.width for click in clicks]
    centres = [list(zip(rows, columns, strict=True))]
    if flip:
        stacked = torch.cat([stacked, stacked.flip(3)])
        centres.append([(row, width - column - 1) for row, column in centres[0]])
    maps = torch.stack([_maps(clicks, points, stacked) for points in centres])
    logits = click_net(stacked[:, :3], maps, stacked[:, 3:]).mask
    if flip:  # RITM undoes the flip before the sigmoid: logits are averaged, not probabilities
        logits = 0.5 * (logits[:1] + logits[1:].flip(3))
    return logits[0, 0].sigmoid()


def _maps(
    clicks: Sequence[Click], centres: Sequence[tuple[float, float]], like: Tensor
) -> Float[Tensor, "2 height width"]:
    """Click maps of the size of `like`, with the clicks' centres, not rounded, in its pixels."""
    positive, negative = [], []
    for click, centre in zip(clicks, centres, strict=True):
        # RITM ignores a click with both coordinates negative, even where its disk reaches inside.
        if max(centre) >= 0:
            (positive if click.positive else negative).append(centre)
    points = [
        torch.tensor(each, dtype=torch.float32, device=like.device).reshape(-1, 2)
        for each in (positive, negative)
    ]
    return torch.stack([disks(each, *like.shape[2:]) for each in points])


def _holds(region: Region, clicks: Sequence[Click]) -> bool:
    """Whether all positive clicks are inside the region, whose last row and column do not count."""
    return all(
        region.top <= click.row < region.bottom and region.left <= click.column < region.right
        for click in clicks
        if click.positive
    )
