"""What a session makes of clicks and of propagated masks: looks at the object (ours).

The pipeline of each look is RITM's (`limnet.method.refinement`).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import ndimage

from limnet.method.appearance import IntensityModel, surroundings
from limnet.method.prompts import Click
from limnet.method.refinement import (
    ClickNetLike,
    Image,
    Probability,
    ZoomIn,
    check_clicks,
    predict_prompt,
)
from limnet.networks.inference import parallel_map

HEART = 0.9  # of a mask's depth: a negative click deeper than that denies all of it
# of one click, each with the mask of the one before: the first sees where the object is, the
# second looks closer (RITM predicts twice where it starts from a mask)
PREDICTIONS = 2
# longer sides of crops that are averaged, of the zoom size: of a slice of which nothing is known,
# and of the object that was found
WHOLE_SIZES, OBJECT_SIZES = (1.0, 1.4), (0.8, 1.1)
SEEN_SHARE = 0.75  # of the click network in a weighted mean with what was propagated
VOTE = 0.25  # logits that a vote of the object's appearance counts
LIKELY = 0.02  # the least probability of a pixel that has a vote
BLUR = 3  # pixels: side of the mean of intensities that votes
# of the newest answer far from the newest clicks, and how far they reach, of the object's size
NEW_SHARE, REACH = 0.4, 0.25
SWINGING_CLICKS = 3  # from that many on, answers swing about the truth


def refine_prompt(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    probability: Probability,
    zoom_size: int,
    multi_scale: bool = False,
    postprocess: bool = False,
    new_clicks: int = 1,
) -> Probability:
    """What a session makes of clicks on a slice: zoomed in from the first click on, twice.

    Args:
        probability: what the clicks correct; zero, if there is nothing yet.
        zoom_size: pixels of the crop's longer side.
        multi_scale: the first look at a slice and the last one at the object are means over crops
            of two sizes (ours): what is seen at one size only is often wrong.
        refined: `add_intensity_prior` and `steady` have the last word (ours).
        new_clicks: how many clicks, the last ones, the probability does not know.

    Raises:
        ValueError: as predict_prompt.
    """
    check_clicks(image, clicks, probability)
    mask = (probability > 0.5).cpu().numpy()
    if rejects_object(clicks, mask):
        return torch.zeros_like(probability)
    implied = implicit_positive_click(clicks, mask)
    shown = [*clicks, implied] if implied else list(clicks)
    previous = probability if probability.any() else None
    for number in range(PREDICTIONS):
        sizes = (1.0,)
        if multi_scale and previous is None:
            sizes = WHOLE_SIZES
        elif multi_scale and number == PREDICTIONS - 1:
            sizes = OBJECT_SIZES
        predict = partial(_predict, click_net, image, shown, previous, zoom_size)
        threads = max(1, torch.get_num_threads() // len(sizes))
        seen = parallel_map(predict, sizes, image.device, threads=threads)
        previous = torch.stack(list(seen)).mean(dim=0)
    if postprocess:
        previous = add_intensity_prior(image, previous)
    if postprocess and len(clicks) >= SWINGING_CLICKS:
        previous = blend_with_previous(previous, probability, clicks[-new_clicks:])
    return previous


def add_intensity_prior(image: Image, probability: Probability) -> Probability:
    """What is likely to be the object, the likelier the more it looks like its mask (ours).

    As the region term of graph cuts (`appearance`) and the network's logits added up. It
    tells most where a network was never shown such images.
    """
    mask = (probability > 0.5).cpu().numpy()
    if not mask.any():
        return probability
    grey = image.float().mean(dim=0, keepdim=True)
    grey = F.avg_pool2d(grey, BLUR, 1, BLUR // 2, count_include_pad=False)[0].cpu().numpy()
    box = surroundings((probability > LIKELY).cpu().numpy(), 0)
    log_odds = torch.from_numpy(IntensityModel.of([(grey, mask)]).on(grey[box])).to(probability)
    before, weighed = probability[box], probability.clone()
    logits = torch.logit(before, eps=1e-4) + VOTE * log_odds
    weighed[box] = torch.where(before > LIKELY, logits.sigmoid(), before)
    return weighed


def blend_with_previous(
    new: Probability, before: Probability, newest: Sequence[Click]
) -> Probability:
    """A mean of two answers, in which the new one counts most near the newest clicks (ours).

    Args:
        new: with the newest clicks.
        before: without them; where it shows no object, the new one stays as it is.
    """
    if not (before > 0.5).any():
        return new
    differs = (new != before).cpu().numpy()
    if not differs.any():
        return new
    box = surroundings(differs, 0)
    rows, columns = (torch.arange(each.start, each.stop, device=new.device) for each in box)
    squared = new.new_full((len(rows), len(columns)), torch.inf)
    for click in newest:
        distance = (rows[:, None] - click.row) ** 2 + (columns - click.column) ** 2
        squared = torch.minimum(squared, distance)
    area = ((new > 0.5) | (before > 0.5)).sum()
    share = NEW_SHARE + (1 - NEW_SHARE) * torch.exp(-squared / (2 * REACH**2 * area))
    steadied = new.clone()
    steadied[box] = before[box] + share * (new - before)[box]
    return steadied


def refine_propagated(
    click_net: ClickNetLike,
    image: Image,
    probability: Probability,
    zoom_size: int,
    refinements: int,
) -> Probability:
    """A weighted mean of what propagation says and what the click network makes of it (ours).

    It sees the propagated mask as if its deepest pixel had been clicked. Propagation shrinks from
    slice to slice and smooths borders that the click network sees; the click network alone does not
    know the object from other slices. Where nothing would be left, what was propagated stays.

    Args:
        probability: above 0.5 somewhere.
        zoom_size: as of `refine_prompt`.
        looks: predictions, each with the one before.
    """
    mask, zoom = probability > 0.5, _zoom(zoom_size)
    clicks, seen = [Click(0, *_deepest(mask.cpu().numpy()), True)], mask.to(image.dtype)
    for _ in range(refinements):
        seen = predict_prompt(click_net, image, clicks, seen, zoom=zoom).probability
    mean = probability + SEEN_SHARE * (seen - probability)
    return mean if (mean > 0.5).any() else probability


def _predict(
    click_net: ClickNetLike,
    image: Image,
    clicks: Sequence[Click],
    previous: Probability | None,
    zoom_size: int,
    size: float,
) -> Probability:
    """In a crop of this size, of the zoom size."""
    zoom = _zoom(zoom_size, size)
    return predict_prompt(click_net, image, clicks, previous, zoom=zoom).probability


def _zoom(zoom_size: int, size: float = 1.0) -> ZoomIn:
    """From the first click on; RITM enlarges crops of at least 200 pixels to 400."""
    return ZoomIn(round(size * zoom_size), min_crop_size=zoom_size // 2, skip_clicks=-1)


def rejects_object(clicks: Sequence[Click], mask: Bool[np.ndarray, "height width"]) -> bool:
    """Whether lone negative clicks hit the heart of a mask: nothing of it is right then.

    As where propagation ran on beyond the end of an object.
    """
    if not mask.any() or any(click.positive for click in clicks):
        return False
    depth = _depth(mask)
    return bool(
        max(depth[int(each.row), int(each.column)] for each in clicks) > HEART * depth.max()
    )


def implicit_positive_click(
    clicks: Sequence[Click], mask: Bool[np.ndarray, "height width"]
) -> Click | None:
    """The positive click that lone negative clicks on a mask leave unsaid, or None.

    Who takes a part of a mask away agrees with the rest of it: its deepest pixel, unless the click
    `rejects_object`. (Networks that were mostly shown a positive click take away all of the mask
    where there is none.)
    """
    if not mask.any() or any(click.positive for click in clicks) or rejects_object(clicks, mask):
        return None
    return Click(clicks[0].slice_index, *_deepest(mask), True)


def _deepest(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int]:
    """Row and column of a pixel as far from the mask's border as any; the mask is not empty."""
    rows, columns = surroundings(mask, 1)
    depth = _depth(mask[rows, columns])
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return rows.start + int(row), columns.start + int(column)


def _depth(mask: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """How far each pixel is from those off the mask."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
