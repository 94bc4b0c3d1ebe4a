"""From clicks to a prompt mask, and what the click network makes of propagated masks (II-B).

`predict_prompt` is one prediction of RITM's pipeline: zoom-in, previous mask, horizontal flip.
`Refiner` puts predictions together as a `Recipe` says; most of that is beyond the paper.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from limnet.method.prompts import Click, Crop, ZoomIn, click_maps, deepest_pixel, pixel_depth
from limnet.method.state import Recipe
from limnet.networks.inference import parallel_map
from limnet.volumes.masks import Mask

Image = Float[Tensor, "3 height width"]  # in [0, 1]
Probability = Float[Tensor, "height width"]
Grey = Float[np.ndarray, "height width"]  # in [0, 1]

# (images, click maps, previous probabilities), batches all -> an object with `.mask`, the logits
ClickNetLike = Callable[[Tensor, Tensor, Tensor], Any]

REJECTING_DEPTH = 0.9  # of a mask's depth: a negative click deeper than that rejects all of it
# crop sizes of `Recipe.multi_scale`, of the zoom's: of an unknown slice, and of the object found
WHOLE_SIZES, OBJECT_SIZES = (1.0, 1.4), (0.8, 1.1)
CLICK_NET_SHARE = 0.75  # of the click network in a weighted mean with what was propagated
PRIOR_WEIGHT = 0.25  # logits that one log-odds of the intensity model counts
LEAST_PROBABILITY = 0.02  # of a pixel that the intensity prior may change
BLUR = 3  # pixels: side of the mean of intensities for the prior
# of the new prediction far from the newest clicks, and how far clicks reach, of the object's size
NEW_SHARE, REACH = 0.4, 0.25
CLICKS_TO_BLEND = 3  # from that many on, predictions swing about the truth

BINS = 32  # of intensities from 0 to 1
SMOOTHING = 1.0  # bins: deviation of the Gaussian over a histogram
UNSEEN = 2e-3  # share added to every bin of both histograms: an unseen intensity has no vote
LEAST_RING, RING = 3, 0.75  # width of what counts as around: pixels, and of the object's size
FINE_RING = 32  # pixels: of objects with wider rings every other pixel, or fewer, is counted


@torch.no_grad()
def predict_prompt(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    previous: Probability | None = None,
    *,
    zoom: ZoomIn | None = None,
    flip: bool = False,
) -> Probability:
    """One prediction of the click network from all clicks on a slice so far (RITM's NoBRS).

    With zoom, image, previous probability and clicks are cropped and resized together
    (`ZoomIn.crop`); the probability is 0 outside the crop. With skip_clicks <= 0, a small object
    found on the whole slice is predicted once more, zoomed in.

    Args:
        click_net: in eval mode, on the image's device.
        clicks: of this slice, in the order in which they were made.
        previous: probability of the prompt before the last click; None is 0 everywhere.

    Raises:
        ValueError: there is no click, one lies outside the image or on another slice than the rest,
            or previous has another size.
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
    whole = Crop.whole((height, width))
    before = torch.zeros_like(image[0]) if previous is None else previous
    stacked = torch.cat([image, before[None]])[None]
    crop = None if zoom is None else zoom.crop(previous, clicks, whole)
    if crop is None:
        probability = _probability(click_net, stacked, clicks, whole, flip)
        if zoom is None or zoom.skip_clicks > 0 or not zoom.worth_it(probability, whole):
            return probability
        # the network gets the same previous probability again; the new one tells where to look
        crop = zoom.crop(probability, clicks, whole)
    seen = crop_and_resize(stacked, crop, zoom.target_size)
    inside = _probability(click_net, seen, clicks, crop, flip)
    resized = F.interpolate(inside[None, None], crop.size, mode="bilinear", align_corners=True)
    probability = inside.new_zeros(height, width)
    probability[crop.pixels] = resized[0, 0]
    return probability


def crop_and_resize(
    images: Float[Tensor, "batch channels height width"], crop: Crop, target_size: int
) -> Float[Tensor, "batch channels crop_height crop_width"]:
    """The crop, resized bilinearly (corners aligned) so that its longer side is target_size."""
    scale = target_size / max(crop.size)
    size = [max(1, round(side * scale)) for side in crop.size]
    part = images[:, :, *crop.pixels]
    return F.interpolate(part, size, mode="bilinear", align_corners=True)


def _probability(
    click_net: ClickNetLike,
    stacked: Float[Tensor, "1 4 height width"],
    clicks: Sequence[Click],
    crop: Crop,
    flip: bool,
) -> Probability:
    """The network's probability for a crop: image and previous probability, stacked."""
    height, width = stacked.shape[2:]
    rows = [height * (click.row - crop.top) / crop.size[0] for click in clicks]
    columns = [width * (click.column - crop.left) / crop.size[1] for click in clicks]
    centres = [list(zip(rows, columns, strict=True))]
    if flip:
        stacked = torch.cat([stacked, stacked.flip(3)])
        centres.append([(row, width - column - 1) for row, column in centres[0]])
    signs = [bool(click.positive) for click in clicks]
    maps = [click_maps(each, signs, height, width, device=stacked.device) for each in centres]
    maps = torch.stack(maps)
    logits = click_net(stacked[:, :3], maps, stacked[:, 3:]).mask
    if flip:  # RITM undoes the flip before the sigmoid: logits are averaged, not probabilities
        logits = 0.5 * (logits[:1] + logits[1:].flip(3))
    return logits[0, 0].sigmoid()


class Refiner:
    """Predicts prompt masks and refines propagated masks: a click network and its recipe."""

    def __init__(self, click_net: ClickNetLike, recipe: Recipe) -> None:
        self.click_net, self.recipe = click_net, recipe

    def refine_prompt(
        self, image: Image, clicks: Sequence[Click], probability: Probability, new_clicks: int = 1
    ) -> Probability:
        """The prompt's probability after clicks on a slice (section II-B).

        Args:
            probability: what the clicks correct; zero, if there is nothing yet.
            new_clicks: how many clicks, the last ones, the probability does not know.

        Raises:
            ValueError: as `predict_prompt`.
        """
        recipe, shown = self.recipe, list(clicks)
        if recipe.implicit_clicks:
            mask = (probability > 0.5).cpu().numpy()
            if rejects_object(clicks, mask):
                return torch.zeros_like(probability)
            implicit = implicit_positive_click(clicks, mask)
            shown += [implicit] if implicit else []
        previous = probability if probability.any() else None
        for number in range(recipe.predictions):
            sizes = (1.0,)
            if recipe.multi_scale and previous is None:
                sizes = WHOLE_SIZES
            elif recipe.multi_scale and number == recipe.predictions - 1:
                sizes = OBJECT_SIZES
            threads = max(1, torch.get_num_threads() // len(sizes))
            predict = partial(self._predict, image, shown, previous)
            found = parallel_map(predict, sizes, image.device, threads=threads)
            previous = torch.stack(list(found)).mean(dim=0)
        if recipe.postprocess:
            previous = add_intensity_prior(image, previous)
            if len(clicks) >= CLICKS_TO_BLEND:
                previous = blend_with_previous(previous, probability, clicks[-new_clicks:])
        return previous

    def refine_propagated(self, image: Image, probability: Probability) -> Probability:
        """A weighted mean of what was propagated and what the click network makes of it.

        It sees the propagated mask as if its deepest pixel had been clicked. Propagation shrinks
        from slice to slice and smooths borders that the click network sees; the click network does
        not know the object from other slices. Where nothing would be left, nothing is changed.

        Args:
            probability: above 0.5 somewhere.
        """
        mask = probability > 0.5
        (row, column), _ = deepest_pixel(mask.cpu().numpy())
        seen = mask.to(image.dtype)
        for _ in range(self.recipe.refinements):
            seen = self._predict(image, [Click(0, row, column)], seen)
        mean = probability + CLICK_NET_SHARE * (seen - probability)
        return mean if (mean > 0.5).any() else probability

    def _predict(
        self,
        image: Image,
        clicks: Sequence[Click],
        previous: Probability | None,
        size: float = 1.0,
    ) -> Probability:
        """One prediction in a crop of this size, of the zoom's."""
        zoom = self.recipe.zoom
        zoom = replace(zoom, target_size=round(size * zoom.target_size))
        return predict_prompt(
            self.click_net, image, clicks, previous, zoom=zoom, flip=self.recipe.flip
        )


def rejects_object(clicks: Sequence[Click], mask: Mask) -> bool:
    """Whether lone negative clicks hit the middle of a mask: nothing of it is right then.

    As where propagation ran on beyond the end of an object.
    """
    if not mask.any() or any(click.positive for click in clicks):
        return False
    depth = pixel_depth(mask)
    deepest = max(depth[int(each.row), int(each.column)] for each in clicks)
    return bool(deepest > REJECTING_DEPTH * depth.max())


def implicit_positive_click(clicks: Sequence[Click], mask: Mask) -> Click | None:
    """The positive click that lone negative clicks on a mask imply, or None.

    Who takes a part of a mask away agrees with the rest of it: its deepest pixel. (Networks that
    were mostly trained with a positive click take away all of the mask where there is none.)
    """
    if not mask.any() or any(click.positive for click in clicks):
        return None
    return Click(clicks[0].slice_index, *deepest_pixel(mask)[0])


def add_intensity_prior(image: Image, probability: Probability) -> Probability:
    """Pixels of the mask's intensities become likelier, those of its surroundings less likely.

    As the region term of graph cuts (`IntensityModel`) and the network's logits added up. It
    helps most where a network was never trained on such images.
    """
    mask = (probability > 0.5).cpu().numpy()
    if not mask.any():
        return probability
    grey = image.float().mean(dim=0, keepdim=True)
    grey = F.avg_pool2d(grey, BLUR, 1, BLUR // 2, count_include_pad=False)[0].cpu().numpy()
    box = Crop.bounding((probability > LEAST_PROBABILITY).cpu().numpy()).pixels
    log_odds = torch.from_numpy(IntensityModel.of([(grey, mask)]).on(grey[box])).to(probability)
    before, weighed = probability[box], probability.clone()
    logits = torch.logit(before, eps=1e-4) + PRIOR_WEIGHT * log_odds
    weighed[box] = torch.where(before > LEAST_PROBABILITY, logits.sigmoid(), before)
    return weighed


def blend_with_previous(
    new: Probability, before: Probability, newest: Sequence[Click]
) -> Probability:
    """A mean of two predictions, in which the new one counts most near the newest clicks.

    Args:
        new: with the newest clicks.
        before: without them; where it shows no object, the new one stays as it is.
    """
    differs = (new != before).cpu().numpy()
    if not (before > 0.5).any() or not differs.any():
        return new
    box = Crop.bounding(differs).pixels
    rows, columns = (torch.arange(each.start, each.stop, device=new.device) for each in box)
    squared = new.new_full((len(rows), len(columns)), torch.inf)
    for click in newest:
        distance = (rows[:, None] - click.row) ** 2 + (columns - click.column) ** 2
        squared = torch.minimum(squared, distance)
    area = ((new > 0.5) | (before > 0.5)).sum()
    share = NEW_SHARE + (1 - NEW_SHARE) * torch.exp(-squared / (2 * REACH**2 * area))
    blended = new.clone()
    blended[box] = before[box] + share * (new - before)[box]
    return blended


@dataclass(frozen=True, eq=False)
class IntensityModel:
    """How bright an object is, and what is around it: the region term of interactive graph cuts.

    Boykov and Jolly, 2001: a histogram of what is inside against one of what is just outside.
    """

    log_odds: Float[np.ndarray, " bins"]  # log of p(intensity | inside) / p(intensity | around)

    @classmethod
    def of(
        cls, examples: Iterable[tuple[Float[np.ndarray, "_ _"], Bool[np.ndarray, "_ _"]]]
    ) -> "IntensityModel":
        """Learnt from grey slices and the object's masks there; without any, all odds are even."""
        inside, around = np.zeros(BINS), np.zeros(BINS)
        for grey, mask in examples:
            if not mask.any():
                continue
            width = max(LEAST_RING, int(RING * np.sqrt(mask.sum())))
            box, step = Crop.bounding(mask, width).pixels, math.ceil(width / FINE_RING)
            bins, mask = _bins(grey[box][::step, ::step]), mask[box][::step, ::step]
            off = step * ndimage.distance_transform_edt(~mask)
            inside += step**2 * np.bincount(bins[mask], minlength=BINS)
            around += step**2 * np.bincount(bins[(off > 0) & (off <= width)], minlength=BINS)
        inside, around = (
            ndimage.gaussian_filter1d(counts / max(1, counts.sum()), SMOOTHING, mode="nearest")
            for counts in (inside, around)
        )
        return cls(np.log(inside + UNSEEN) - np.log(around + UNSEEN))

    def on(self, grey: Grey) -> Float[np.ndarray, "height width"]:
        """The log-odds of each pixel."""
        return self.log_odds[_bins(grey)]

    def prefers(self, grey: Grey, first: Mask, second: Mask) -> float:
        """Mean log-odds for the first mask where the two differ; 0 if they do not."""
        differs = first ^ second
        if not differs.any():
            return 0.0
        log_odds = self.log_odds[_bins(grey[differs])]
        return float(np.where(first[differs], log_odds, -log_odds).mean())


def _bins(grey: np.ndarray) -> np.ndarray:
    return np.clip((grey * BINS).astype(np.intp), 0, BINS - 1)
