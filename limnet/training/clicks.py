"""Simulated clicks on all slices of a batch at once, on the device that holds it (after RITM).

A GPU that learns from a hundred slices at a time would wait for clicks that are found slice by
slice.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from scipy import ndimage
from torch import Tensor

from limnet.method.prompts import RADIUS

Regions = Bool[Tensor, "batch height width"]
Depths = Float32[Tensor, "batch height width"]  # pixels

AT_ONCE = 16  # regions, of which every distance between two rows is in memory


class BatchedClicks(NamedTuple):
    """Clicks on every slice of a batch; those of sign 0 are none."""

    rows: Int64[Tensor, "batch clicks"]
    columns: Int64[Tensor, "batch clicks"]
    signs: Int64[Tensor, "batch clicks"]  # 1: positive, -1: negative

    def where(self, chosen: Bool[Tensor, " batch"]) -> "BatchedClicks":
        """The clicks of the chosen slices; the others lose theirs."""
        return self._replace(signs=self.signs * chosen[:, None])

    def __add__(self, others: "BatchedClicks") -> "BatchedClicks":
        return BatchedClicks(*(torch.cat(pair, dim=1) for pair in zip(self, others, strict=True)))

    def maps(self, height: int, width: int) -> Float32[Tensor, "batch 2 height width"]:
        """The disks that `clicks.click_maps` draws, for every slice."""
        down, across = (torch.arange(n, device=self.rows.device) for n in (height, width))
        rows = (down - self.rows[..., None])[..., :, None] ** 2
        columns = (across - self.columns[..., None])[..., None, :] ** 2
        inside = rows + columns <= RADIUS**2
        signs = self.signs[..., None, None]
        return torch.stack([(inside & (signs == sign)).any(1) for sign in (1, -1)], 1).float()


def first_clicks(
    targets: Regions, generator: torch.Generator, *, decay: float, most: int
) -> BatchedClicks:
    """Clicks on slices of which nothing is predicted yet.

    One or more inside the target, none or more outside, most of these near its border; none inside
    an empty target.

    Args:
        decay: k further clicks of a polarity have a probability ~ decay^k.
        most: clicks of one polarity.
    """
    size, like = len(targets), {"generator": generator, "device": targets.device}
    depth, reach = depths(targets), depths(~targets, bordered=False)
    area = targets.flatten(1).sum(dim=1)
    near = (reach > 2) & (reach < (5 + 0.15 * area.sqrt())[:, None, None])
    chance = torch.rand(2, size, **like).clamp(min=1e-9)
    positive, negative = (chance.log() / math.log(decay)).floor().clamp(max=most - 1).long()
    positive, clicks = positive + 1, []
    deepest = depth.amax(dim=(1, 2))
    for number in range(int(positive.max())):
        # the user aims at the middle more often than not
        least = torch.rand(size, **like) * deepest * 0.999
        found = _clicks_in(depth > least[:, None, None], generator, 1)
        clicks.append(found.where(number < positive))
    for number in range(int(negative.max())):
        beside = near.any(dim=2).any(dim=1) & (torch.rand(size, **like) < 0.6)
        allowed = torch.where(beside[:, None, None], near, reach > 2)
        clicks.append(_clicks_in(allowed, generator, -1).where(number < negative))
    return sum(clicks[1:], clicks[0])


def corrective_clicks(
    targets: Regions, masks: Regions, generator: torch.Generator
) -> BatchedClicks:
    """One click on each slice, deep in the larger of both errors; none where there is no error.

    At random among the pixels over half as deep as the deepest one. Missing parts give a positive
    click, surplus parts a negative one, as equal depths do (RITM, iterative training).
    """
    missing, surplus = depths(torch.cat([targets & ~masks, masks & ~targets])).chunk(2)
    positive = missing.amax(dim=(1, 2)) > surplus.amax(dim=(1, 2))
    depth = torch.where(positive[:, None, None], missing, surplus)
    found = _clicks_in(depth > depth.amax(dim=(1, 2), keepdim=True) / 2, generator, 1)
    return found._replace(signs=found.signs * torch.where(positive, 1, -1)[:, None])


def depths(regions: Regions, *, bordered: bool = True) -> Depths:
    """How far each pixel of a region is from the nearest one off it; 0 off it.

    Args:
        bordered: pixels beyond the slice are off the region; else they are nothing.
    """
    if regions.device.type == "cpu":  # one after the other is faster there
        margins = ((0, 0), *[(int(bordered),) * 2] * 2)
        padded = np.pad(regions.numpy(), margins)
        found = np.stack([ndimage.distance_transform_edt(each) for each in padded])
        inner = slice(1, -1) if bordered else slice(None)
        return torch.from_numpy(found[:, inner, inner].astype(np.float32))
    return torch.cat([separable_edt(each, bordered) for each in regions.split(AT_ONCE)])


def separable_edt(regions: Regions, bordered: bool) -> Depths:
    """`depths`, first within each row and then over the rows, without a loop over pixels."""
    height, width = regions.shape[1:]
    down, across = (torch.arange(n, device=regions.device).float() for n in (height, width))
    far = float(4 * (height + width))
    left = torch.where(regions, -1.0 if bordered else -far, across).cummax(dim=2).values
    right = torch.where(regions, width if bordered else far, across).flip(2)
    right = right.cummin(dim=2).values.flip(2)
    in_row = torch.minimum(across - left, right - across).square()
    apart = (down[:, None] - down).square()
    squared = (in_row[:, None] + apart[None, :, :, None]).amin(dim=2)
    if bordered:
        beyond = torch.minimum((down + 1).square(), (height - down).square())
        squared = torch.minimum(squared, beyond[None, :, None])
    return torch.where(regions, squared, 0.0).sqrt()


def _clicks_in(allowed: Regions, generator: torch.Generator, sign: int) -> BatchedClicks:
    """One of the allowed pixels of each slice, every one as likely; none where there is none."""
    flat = allowed.flatten(1)
    chance = torch.rand(flat.shape, generator=generator, device=flat.device)
    best, index = chance.masked_fill_(~flat, -1).max(dim=1, keepdim=True)
    width = allowed.shape[2]
    signs = torch.where(best >= 0, sign, 0)
    return BatchedClicks(index // width, index % width, signs)
