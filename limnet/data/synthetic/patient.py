"""The canvas of a synthetic patient: organs as fields that are painted one after the other.

Positions are (z, y, x) in mm from the middle of the volume: z to the head, y to the back, x to the
patient's left, the order of the arrays. A `field` says for every voxel about how many mm it lies
inside a structure (negative outside).
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy import interpolate, ndimage

_NAMES = (  # the index is the id; 1 to 13 as in BTCV ("Beyond the cranial vault", abdomen)
    "air, spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, "
    "inferior vena cava, portal and splenic vein, pancreas, right adrenal gland, "
    "left adrenal gland, skin, fat, muscle, bone, disc, spinal canal, cartilage, lung, heart, "
    "duodenum, colon, small bowel, bowel gas, other vessels"
)
NAMES = _NAMES.split(", ")
STRUCTURES = {name: index for index, name in enumerate(NAMES) if index}
ORGANS = {name: index for name, index in STRUCTURES.items() if index <= 13}
# HU without contrast, in the arterial and in the portal venous phase
TISSUES = """
aorta: 42 300 155; inferior vena cava: 38 80 140; portal and splenic vein: 40 120 170; heart: 42 220 140
hepatic veins: 38 75 155; liver: 54 72 108; spleen: 46 115 120; pancreas: 38 105 92; muscle: 50 55 60
cortex: 34 185 190; medulla: 28 75 165; adrenal glands: 18 70 65; bowel wall: 38 75 80
"""  # noqa: E501 - a table
# Curves of the tubular organs: points "z y x radius breath", all in mm but the last, the share
# of the respiratory shift. What comes in pairs is written for the left side.
COURSES = """
psoas: 20 50 24 3 0, -40 46 32 12 0, -130 38 44 22 0
crus of the diaphragm: 70 22 17 3 0, 20 19 15 5 0, -45 26 11 2 0
aorta: 130 15 20 11.5 0, 60 13 11 11 0, 0 11 8 10.5 0, -130 14 4 9 0
inferior vena cava: 96 -10 -22 10 .9, 74 -2 -27 10.5 .9, 30 6 -25 10 0, 0 9 -23 9.5 0, -130 16 -20 9 0
oesophagus: 130 -3 1 9.5 0, 95 -5 6 9.5 0, 72 -7 20 9 .5, 56 -6 42 8.5 .8
portal vein: -8 -15 -10 7 .4, 8 -14 -28 7.5 .6, 22 -22 -52 6 .8
splenic vein: -8 -15 -10 5.5 .4, 8 -8 34 4.5 .5, 20 20 82 3.6 .8
mesenteric artery: -4 4 8 4 0, -18 -12 4 4 0, -60 -22 2 3.5 0, -130 -20 0 3 0
mesenteric vein: -12 -16 -10 6.5 .4, -40 -24 -8 5.5 0, -130 -22 -8 4 0
left renal vein: -32 26 46 4 .5, -30 -4 12 4.5 .3, -30 10 -16 4.5 0
pancreas: -44 -14 -32 10 .4, -26 -15 -28 15 .4, -10 -28 -8 10 .4, 6 -19 34 11.5 .5, 20 12 78 9.5 .8
gallbladder: -2 -34 -58 6 .8, -24 -48 -68 14 .8, -46 -62 -74 16 .8
duodenum: -16 -42 -34 10 .3, -22 -32 -50 12 .3, -55 -14 -52 12 .2, -85 0 -38 11 0, -88 -6 10 10 0, -60 -16 38 11 0
stomach: 66 22 60 28 .9, 52 0 68 33 .9, 26 -32 74 30 .7, 2 -58 60 25 .5, -18 -65 24 20 .3, -20 -56 -10 15 .2, -16 -44 -28 11 .2
ascending colon: -135 10 -98 24 0, -90 6 -102 25 0, -52 -12 -96 22 .3
transverse colon: -48 -40 -92 19 .3, -50 -60 -70 18 0, -62 -76 -25 19 0, -58 -78 20 18 0, -34 -70 64 18 .2, 6 -42 104 17 .4
descending colon: 14 -14 113 17 .4, -20 20 112 15 .2, -70 28 110 15 0, -135 22 108 16 0
adrenal gland: 10 10 34 2.2 0, 10 19 34 2.8 0, 10 39 39 2 0
adrenal limb: 10 19 34 2.6 0, 8 36 49 1.8 0
"""  # noqa: E501 - a table


class Patient:
    """The canvas that structures are painted on, one after the other."""

    def __init__(self, rng, shape, spacing_mm):
        self.rng, self.spacing_mm = rng, spacing_mm
        self.size = rng.uniform(0.97, 1.1)
        self.fat_mm = rng.uniform(7, 30 if self.size < 1.04 else 20)
        self.breath_mm = rng.uniform(-12, 10)
        phase = rng.choice(3, p=[0.2, 0.2, 0.6])
        tissues = _table(TISSUES.replace("; ", "\n")).items()
        self.hu_of = {name: float(row[0, phase]) * rng.uniform(0.9, 1.1) for name, row in tissues}
        self.axes = [
            (np.arange(count) - (count - 1) / 2) * step / self.size
            for count, step in zip(shape, spacing_mm, strict=True)
        ]
        mesh = np.meshgrid(*self.axes, indexing="ij")
        warped = [axis + 4.5 * self.noise(75.0) + 1.7 * self.noise(30.0) for axis in mesh]
        self.z, self.y, self.x = self.grid = np.array(warped, np.float32)
        self.x += rng.normal(0, 0.04) * self.y  # the patient lies a little turned
        self.roughness = [self.noise(22.0) for _ in range(4)]
        self.hu = np.full(shape, -1000, np.float32)
        self.structures = np.zeros(shape, np.uint8)
        self.taken = np.full(shape, -1e3, np.float32)

    def noise(self, scale_mm):
        """A smooth random field of unit deviation: cubic splines between nodes of a wide cube."""
        nodes = int(520 / scale_mm)
        field = self.rng.standard_normal((nodes,) * 3).astype(np.float32)
        for axis in self.axes:
            offset = np.abs(axis[:, None] / scale_mm + nodes / 2 - np.arange(nodes))
            weights = np.clip(2 - offset, 0, 2) ** 3 / 6 - np.clip(1 - offset, 0, 1) ** 3 * 2 / 3
            field = np.tensordot(field, weights.astype(np.float32), (0, 1))
        return field / 0.332  # the deviation of white noise under these weights

    def ellipsoid(self, centre, radii, *, lean=0.0, turn=0.0, breath=0.0, spread_mm=3.0):
        """Field of an ellipsoid; `lean` moves y per mm of z, `turn` (radians) is in the slice."""
        centre = centre + self.rng.normal(0, spread_mm, 3) + (breath * self.breath_mm, 0, 0)
        z, y, x = self.grid - _per_axis(centre)
        y -= lean * z
        cosine, sine = float(np.cos(turn)), float(np.sin(turn))
        scaled = np.array((z, cosine * y + sine * x, cosine * x - sine * y)) / _per_axis(radii)
        slope = np.sqrt(((scaled / _per_axis(radii)) ** 2).sum(axis=0)) + 1e-4
        inner = np.sqrt((scaled**2).sum(axis=0)) + 1e-3
        return inner * (1 - inner) / slope

    def column(self, half_depth, half_width, *, back=0.0, power=2.0):
        """Field of an outline that is the same at each z: distance along the ray."""
        y = self.y - back
        scaled = np.abs(y / half_depth) ** power + np.abs(self.x / half_width) ** power + 1e-6
        return np.hypot(y, self.x) * (scaled ** (-1 / power) - 1)

    def tube(self, name, *, side=1, thick=1.0, tall=1.0, spread_mm=2.5, shift=(0, 0, 0)):
        """Field of a tubular organ of COURSES; `tall` > 1 stretches its section along z."""
        table = _table(COURSES)[name]
        points = table[:, :3] * (1, 1, side) + shift
        points[:, 0] += table[:, 4] * self.breath_mm
        points += self.rng.normal(0, spread_mm, 3) + self.rng.normal(0, spread_mm / 2, points.shape)
        radii = table[:, 3] * thick * self.rng.uniform(0.9, 1.1, len(table))
        return self.along(points, radii, tall=tall)

    def along(self, points, radii, *, tall=1.0):
        """Field of a tube along a smooth curve through the points."""
        field = np.full(self.hu.shape, -1e3, np.float32)
        table = np.column_stack([points, radii])
        times = np.linspace(0, len(table) - 1, 6 * len(table) - 5)
        curve = interpolate.CubicSpline(np.arange(len(table)), table)(times)
        squeeze = np.array((1 / tall, 1, 1))
        for (*origin, radius), (*end, last_radius) in pairwise(curve):
            reach = max(radius, last_radius) / squeeze + 28  # the warp and the soft edge
            corners = np.minimum(origin, end) - reach, np.maximum(origin, end) + reach
            limits = zip(self.axes, *corners, strict=True)
            box = tuple(slice(*axis.searchsorted(ends)) for axis, *ends in limits)
            offset = (self.grid[(slice(None), *box)] - _per_axis(origin)) * _per_axis(squeeze)
            step = _per_axis((np.array(end) - origin) * squeeze)
            share = np.clip((offset * step).sum(axis=0) / ((step**2).sum() + 1e-6), 0, 1)
            away = np.sqrt(((offset - step * share) ** 2).sum(axis=0))
            inside = float(radius) + float(last_radius - radius) * share - away
            field[box] = np.maximum(field[box], inside)
        return field

    def paint(self, field, hu, name=None):
        """Blend `hu` over the image where the field is positive and give those voxels a name."""
        share = np.clip(field / 2.4 + 0.5, 0, 1)  # a soft edge, as partial volume gives
        self.hu += share * (hu - self.hu)
        if name is not None:
            self.structures[field > 0] = STRUCTURES[name]

    def claim(self, field, hu, name, *, gap_mm=0.5, halo_mm=0.0, rough_mm=1.0):
        """Paint what is still free of a structure and keep it from those that come later."""
        rough = self.roughness[self.rng.integers(4)] * float(rough_mm * self.rng.choice((-1, 1)))
        field = field + np.flip(rough, np.flatnonzero(self.rng.integers(0, 2, 3)))
        field = np.minimum(field, -self.taken - gap_mm)
        if name in ORGANS:  # one piece in life
            field = one_piece(field, -2.0)
        self.paint(field, hu, name)
        self.taken = np.maximum(self.taken, field + halo_mm)
        return field


def one_piece(
    field: Float[np.ndarray, "slices height width"], outside: float
) -> Float[np.ndarray, "slices height width"]:
    """The field of the largest piece alone; it is `outside` in the others."""
    pieces, _ = ndimage.label(field > 0)
    largest = np.argmax(np.bincount(pieces[pieces > 0], minlength=2))
    return np.where((pieces == 0) | (pieces == largest), field, np.float32(outside))


def _table(text):
    """The rows of numbers of each line "name: row, row, ..."."""
    lines = (line.split(": ") for line in text.strip().splitlines())
    return {name: np.array([row.split() for row in rows.split(",")], float) for name, rows in lines}


def _per_axis(numbers):
    """Three numbers in the shape that spreads them over the grids of z, y, x."""
    return np.array(numbers, np.float32)[:, None, None, None]
