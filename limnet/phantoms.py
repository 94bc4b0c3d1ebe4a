"""A synthetic abdomen in CT units with the organs of Table IV and their neighbours.

Inside this module positions are (z, y, x) in mm from the middle of the volume: z to the head,
y to the back, x to the patient's left, the order of the arrays. A `field` says for every voxel
about how many mm it lies inside a structure (negative outside).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, UInt8
from scipy import ndimage

ORGANS = {  # ids of BTCV ("Beyond the cranial vault", abdomen)
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "oesophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
STRUCTURES = ORGANS | {
    "skin": 14,
    "fat": 15,
    "muscle": 16,
    "bone": 17,
    "disc": 18,
    "spinal canal": 19,
    "cartilage": 20,
    "lung": 21,
    "heart": 22,
    "duodenum": 23,
    "colon": 24,
    "small bowel": 25,
    "bowel gas": 26,
    "other vessels": 27,
}
PHASES = {  # HU without contrast, in the arterial phase, in the portal venous phase
    "aorta": (42, 300, 155),
    "inferior vena cava": (38, 80, 140),
    "portal and splenic vein": (40, 120, 170),
    "hepatic veins": (38, 75, 155),
    "liver": (54, 72, 108),
    "spleen": (46, 115, 120),
    "cortex": (34, 185, 190),
    "medulla": (28, 75, 165),
    "pancreas": (38, 105, 92),
    "adrenal glands": (18, 70, 65),
    "wall": (38, 75, 80),
    "muscle": (50, 55, 60),
    "heart": (42, 220, 140),
}
WARPS_MM = ((75.0, 5.0), (30.0, 1.6))  # distance of the control points, size of the displacement
EXTENT_MM = 700.0  # the random fields are defined on a cube of this size around the middle


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient: images in HU, labels by ORGANS, structures by STRUCTURES.

    Slices run towards the head, rows towards the back, columns towards the patient's left.
    """

    images: Int16[np.ndarray, "slices height width"]
    labels: UInt8[np.ndarray, "slices height width"]
    structures: UInt8[np.ndarray, "slices height width"]
    spacing_mm: tuple[float, float, float]


def abdomen(
    seed: int,
    *,
    shape: tuple[int, int, int] = (44, 160, 160),
    spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
) -> Phantom:
    """The abdomen of patient `seed`, from the diaphragm to below the kidneys.

    The grid only samples the patient: the same seed on another grid is the same anatomy.
    """
    if len(shape) != 3 or min(shape) < 1 or min(spacing_mm) <= 0:
        raise ValueError(
            f"shape and spacing_mm must be three positive numbers each, got {shape}, {spacing_mm}"
        )
    rng = np.random.default_rng(seed)
    patient = _Patient(rng, shape, spacing_mm)
    _paint_wall(patient)
    _paint_spine(patient)
    _paint_chest(patient)
    _paint_retroperitoneum(patient)
    _paint_upper_organs(patient)
    _paint_bowel(patient)
    images = _scan(patient)
    structures = patient.structures
    labels = np.where(structures <= max(ORGANS.values()), structures, 0).astype(np.uint8)
    return Phantom(images, labels, structures, tuple(float(step) for step in spacing_mm))


class _Patient:
    """The canvas that structures are painted on, one after the other."""

    def __init__(self, rng, shape, spacing_mm):
        self.rng, self.spacing_mm = rng, spacing_mm
        self.axes = [
            (np.arange(count) - (count - 1) / 2) * step
            for count, step in zip(shape, spacing_mm, strict=True)
        ]
        self.size = rng.uniform(0.98, 1.12)
        self.fat_mm = rng.uniform(7, 28) if self.size < 1.05 else rng.uniform(6, 16)
        self.breath_mm = rng.uniform(-12, 10)
        phase = rng.choice(3, p=[0.2, 0.2, 0.6])
        self.tissue = {name: row[phase] * rng.uniform(0.9, 1.1) for name, row in PHASES.items()}
        mesh = np.meshgrid(*(axis / self.size for axis in self.axes), indexing="ij", sparse=True)
        self.z, self.y, self.x = (
            sum((size * self.noise(step) for step, size in WARPS_MM), axis).astype(np.float32)
            for axis in mesh
        )
        self.x += np.float32(rng.normal(0, 0.04)) * self.y  # the patient lies a little turned
        self.hu = np.full(shape, -1000, np.float32)
        self.structures = np.zeros(shape, np.uint8)
        self.taken = np.full(shape, -1e3, np.float32)

    def noise(self, scale_mm):
        """A smooth random field of zero mean and unit deviation: cubic splines between nodes."""
        nodes = int(EXTENT_MM / scale_mm)
        field = self.rng.standard_normal((nodes,) * 3).astype(np.float32)
        for axis in self.axes:
            offset = np.abs(axis[:, None] / scale_mm + nodes / 2 - np.arange(nodes))
            outer = np.clip(2 - offset, 0, None) ** 3 / 6
            weights = outer - 4 * np.clip(1 - offset, 0, None) ** 3 / 6
            field = np.tensordot(field, weights.astype(np.float32), (0, 1))
        return field / 0.332  # deviation of a sum of white noise under these weights

    def ellipsoid(self, centre, radii, *, lean=(0.0, 0.0), turn=0.0):
        """Field of an ellipsoid; `lean` shifts (y, x) per mm of z, `turn` is in radians."""
        z = self.z - centre[0]
        y = self.y - centre[1] - lean[0] * z
        x = self.x - centre[2] - lean[1] * z
        y, x = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
        scaled = [part / np.float32(radius) for part, radius in zip((z, y, x), radii, strict=True)]
        inner = np.sqrt(sum(part * part for part in scaled)) + 1e-3
        slope = np.sqrt(
            sum((part / radius) ** 2 for part, radius in zip(scaled, radii, strict=True))
        )
        return inner * (1 - inner) / (slope + 1e-4)

    def column(self, half_depth, half_width, *, back=0.0, power=2.3):
        """Field of a body-like outline, the same at each z: distance along the ray."""
        y = self.y - np.float32(back)
        radius = (np.abs(y / half_depth) ** power + np.abs(self.x / half_width) ** power) ** (
            1 / power
        ) + 1e-3
        return np.hypot(y, self.x) * (1 - radius) / radius

    def tube(self, points, radii, *, tall=1.0):
        """Field of a tube along a smooth curve; `tall` > 1 stretches its section along z."""
        points, radii = _smooth_curve(np.asarray(points, float), np.asarray(radii, float))
        field = np.full(self.hu.shape, -1e3, np.float32)
        for start, end, first, last in zip(points, points[1:], radii, radii[1:], strict=False):
            reach = max(first, last) * np.array([tall, 1, 1]) + 22  # the warp and the soft edge
            low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
            box = tuple(
                slice(*np.searchsorted(axis / self.size, (a, b)))
                for axis, a, b in zip(self.axes, low, high, strict=True)
            )
            step = (end - start) / (tall, 1, 1)
            offset = [
                (self.z[box] - start[0]) / tall,
                self.y[box] - start[1],
                self.x[box] - start[2],
            ]
            along = sum(part * np.float32(s) for part, s in zip(offset, step, strict=True))
            along = np.clip(along / (step @ step + 1e-6), 0, 1)
            away = sum((part - along * s) ** 2 for part, s in zip(offset, step, strict=True))
            np.maximum(
                field[box], first + (last - first) * along - np.sqrt(away), out=field[box]
            )
        return field

    def paint(self, field, hu, name=None, *, edge_mm=2.4):
        """Blend `hu` over the image where the field is positive and give those voxels a name."""
        share = np.clip(field / np.float32(edge_mm) + 0.5, 0, 1)
        self.hu += share * (hu - self.hu)
        if name is not None:
            self.structures[field > 0] = STRUCTURES[name]

    def claim(self, field, hu, name, *, gap_mm=0.5, halo_mm=0.0, rough_mm=1.0, whole=True):
        """Paint what is still free of a structure and keep it from those that come later."""
        field = field + np.float32(rough_mm) * self.noise(22.0)
        field = np.minimum(field, -self.taken - np.float32(gap_mm))
        if whole:
            field = _largest_piece(field)
        self.paint(field, hu, name)
        self.taken = np.maximum(self.taken, field + np.float32(halo_mm))
        return field

    def near(self, z, y, x, *, spread_mm=3.0, breath=0.0):
        """A landmark of this patient: the usual place, a little moved, breathing by a share."""
        return np.array([z + breath * self.breath_mm, y, x]) + self.rng.normal(0, spread_mm, 3)


def _smooth_curve(points, radii, steps=6):
    """Catmull-Rom curve through the points, with the radii interpolated along."""
    table = np.column_stack([points, radii])
    table = np.vstack([2 * table[0] - table[1], table, 2 * table[-1] - table[-2]])
    share = (np.arange(steps) / steps)[:, None]
    pieces = []
    for before, start, end, after in zip(table, table[1:], table[2:], table[3:], strict=False):
        cubic = 3 * start - before - 3 * end + after
        square = 2 * before - 5 * start + 4 * end - after
        pieces.append(start + 0.5 * share * (end - before + share * (square + share * cubic)))
    table = np.vstack([*pieces, table[-2:-1]])
    return table[:, :3], np.maximum(table[:, 3], 1.0)


def _largest_piece(field):
    """The field with all but its largest connected positive piece pushed below zero."""
    pieces, count = ndimage.label(field > 0)
    if count < 2:
        return field
    kept = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.where((pieces > 0) & ~kept, np.float32(-2), field)


def _smooth_minimum(first, second, width_mm):
    """Intersection of two fields with a rounded edge."""
    share = np.clip(0.5 + (second - first) / (2 * width_mm), 0, 1)
    return second + share * (first - second) - width_mm * share * (1 - share)


def _smooth_maximum(first, second, width_mm):
    """Union of two fields with a filled crease."""
    return -_smooth_minimum(-first, -second, width_mm)


def _paint_wall(p):
    fat, rng = p.fat_mm, p.rng
    depth, width = rng.uniform(80, 88), rng.uniform(132, 141)
    body = p.column(depth + 11 + fat, width + 14 + 0.8 * fat, back=-3 - 0.15 * fat, power=2.4)
    body -= (3 + 0.2 * fat) * np.exp(-((p.x / 14) ** 2)) * (p.y > 40)  # furrow of the back
    p.paint(body, 30, "skin")
    couch = 2.0 - np.abs(p.y - depth - 35 - fat + 0.0016 * p.x**2)
    p.hu += np.clip(couch, 0, 1) * 450 * (body < -2) * (np.abs(p.x) < 190)
    p.paint(body - 2.2, -105, "fat")
    outer = p.column(depth + 9, width + 13, back=-3, power=2.4)
    p.cavity = p.column(depth, width, back=-5) + 1.5 * p.noise(45.0)
    muscle = p.tissue["muscle"]
    layers = np.clip(-np.cos(2 * np.pi * p.cavity / 5.5), 0, 1)  # three muscles, fat between
    p.paint(outer, muscle - 55 * layers * (p.y < 50) * (outer > 3), "muscle")
    white_line = 3.0 - np.abs(p.x) + 0.05 * np.clip(-p.y - 60, 0, None)
    p.paint(np.minimum(np.minimum(white_line, outer), -p.y - 40), -20)
    p.paint(p.cavity, -105, "fat")
    p.taken = np.maximum(p.taken, -p.cavity)
    for side in (-1, 1):
        back = p.ellipsoid((0, 78, 36 * side), (900, 20, 30), turn=-0.12 * side)
        p.claim(np.minimum(back, outer - 1), muscle - 4, "muscle", gap_mm=-99, whole=False)
        square = p.ellipsoid((-95, 64, 64 * side), (85, 7, 17), turn=-0.35 * side)
        p.claim(square, muscle, "muscle", gap_mm=-99, whole=False)
        psoas = p.tube([(20, 50, 24 * side), (-40, 46, 32 * side), (-130, 38, 44 * side)],
                       [3, 12, 22])
        p.claim(psoas, muscle, "muscle", gap_mm=-99, whole=False)


def _paint_spine(p):
    height = 33.0  # of a vertebra with its disc
    start = p.rng.uniform(0, height)
    level = (p.z + start) % height - height / 2  # 0 in the middle of a vertebra
    waist = 2.5 * np.cos(np.pi * level / 12)
    centre = 41.0
    body = p.column(17.0, 23.0, back=centre, power=2.6) - np.float32(waist)
    heart_shape = p.column(11.0, 11.0, back=centre + 22)  # the canal dents the body
    body = np.minimum(body, -heart_shape + 1)
    bone_hu = p.rng.uniform(150, 240)
    disc = np.abs(level) - 12.0
    p.claim(np.minimum(body + 1, disc), 85, "disc", gap_mm=-99, whole=False)
    arch = 3.5 - np.abs(p.column(14.0, 15.0, back=centre + 22))
    arch = np.minimum(arch, 11 - np.abs(level))
    spinous = np.minimum(4 - np.abs(p.x), 12 - np.abs(level + 0.25 * (p.y - 70)))
    spinous = np.minimum(spinous, 14 - np.abs(p.y - centre - 37))
    transverse = 4.5 - np.hypot(p.y - centre - 19 - 0.15 * np.abs(p.x), level - 3)
    transverse = np.minimum(transverse, 16 - np.abs(np.abs(p.x) - 25))
    posterior = np.maximum(np.maximum(arch, spinous), transverse)
    vertebra = np.minimum(body, -disc)
    bone = np.maximum(vertebra, posterior)
    shell = np.clip(2.5 - bone, 0, 2.5) / 2.5
    hu = bone_hu + 330 * shell + 35 * p.noise(9.0)
    p.claim(bone, hu, "bone", gap_mm=-99, rough_mm=0.4, whole=False)
    canal = p.column(8.5, 10.0, back=centre + 23)
    p.claim(canal, 12, "spinal canal", gap_mm=-99, rough_mm=0.2)
    p.paint(canal - 3.5, 42)


def _paint_chest(p):
    angle = np.abs(np.arctan2(p.x, p.y + 5))  # 0 at the back, pi in front
    level = (p.z + 62 * angle - p.rng.uniform(50, 65)) / 29.0  # ribs fall towards the front
    number = np.floor(level + 0.5)  # 0 is the twelfth rib
    across = (level - number) * 29.0
    rib = 3.6 * (1 - np.hypot(across / 6.5, (p.cavity + 6.0) / 3.6))
    end = 1.25 + 0.35 * np.clip(number, 0, 4)
    rib = np.minimum(rib, np.where(number >= 0, 40 * (angle - 0.55), -9))
    bony = np.minimum(rib, 60 * (end - angle))
    gristle = np.minimum(rib, np.where(number > 1, 60 * (end + 0.9 - angle), -9))
    p.paint(gristle, 105, "cartilage")
    p.paint(bony, 190 + 400 * np.clip(1 - bony / 2.5, 0, 1), "bone")
    reach = np.clip(1 - p.cavity / 95.0, 0, 1)
    dome = 84 - 14 / (1 + np.exp(-p.x / 14)) - 10 * np.exp(-((p.x / 30) ** 2))
    p.dome = dome + p.breath_mm - (50 + 0.4 * p.y) * reach**5 - 18 * reach**2 + 14
    above = np.minimum(0.8 * (p.z - p.dome), -p.taken - 1)
    p.paint(np.minimum(above + 4, p.cavity), p.tissue["muscle"], "muscle")
    lung = np.minimum(above, p.cavity - 1)
    middle = p.column(46.0, 30.0, back=24.0)
    heart = p.ellipsoid(p.near(128, -36, 26, breath=0.6), (66, 48, 68), turn=0.45)
    heart = np.minimum(heart, above - 1)
    p.taken = np.maximum(p.taken, above + 4 - 60 * (middle > 0) * (p.z < 200))
    chest_fat = np.minimum(np.maximum(middle, heart + 4), lung)
    vessels = 250 * np.clip(p.noise(9.0) - 1.3, 0, 1)
    p.paint(lung, -860 + vessels, "lung")
    p.paint(chest_fat, -100, "fat")
    p.paint(heart, p.tissue["heart"], "heart")


def _paint_retroperitoneum(p):
    t = p.tissue
    aorta = [p.near(125, 16, 14), p.near(60, 14, 9), p.near(0, 11, 8), p.near(-125, 14, 4)]
    radius = p.rng.uniform(9.5, 12.0)
    p.claim(p.tube(aorta, [radius + 1, radius + 0.5, radius, radius - 2]), t["aorta"], "aorta",
            gap_mm=-6, rough_mm=0.4)
    cava = [p.near(94, -6, -24, breath=0.8), p.near(60, 3, -26), p.near(0, 9, -23),
            p.near(-125, 16, -20)]
    p.claim(p.tube(cava, p.rng.uniform(8.5, 11.5) * np.array([1.1, 1.05, 1, 0.9])),
            t["inferior vena cava"], "inferior vena cava", gap_mm=0.3, rough_mm=0.8)
    for side, name, z in ((-1, "right kidney", -45), (1, "left kidney", -33)):
        crus = p.tube([(70, 22, 17 * side), (20, 19, 15 * side), (-45, 26, 11 * side)], [3, 5, 2])
        p.claim(crus, t["muscle"], "muscle", whole=False)
        _paint_kidney(p, side, name, p.near(z, 38, 70 * side, spread_mm=4, breath=0.6))
    gullet = [p.near(125, -2, 6), p.near(88, -6, 10), p.near(66, -10, 22, breath=0.5),
              p.near(54, -8, 44, breath=0.8)]
    p.claim(p.tube(gullet, p.rng.uniform(8.0, 10.0, 4)), t["wall"], "oesophagus",
            gap_mm=-5, rough_mm=0.6)


def _paint_kidney(p, side, name, centre):
    length, depth, width = p.rng.uniform((51, 26, 29), (60, 30, 34))
    lean, turn = (0.12, -0.18 * side), -0.5 * side
    kidney = p.ellipsoid(centre, (length, depth, width), lean=lean, turn=turn)
    inward = centre + (0, -9, -22 * side)
    sinus = p.ellipsoid(inward, (23, 9, 20), lean=lean, turn=turn)
    kidney = np.minimum(kidney, -sinus)
    medulla = np.clip((kidney - 5.5) / 3, 0, 1) * (p.noise(11.0) > -0.3)
    hu = p.tissue["cortex"] + medulla * (p.tissue["medulla"] - p.tissue["cortex"])
    p.claim(kidney, hu, name, halo_mm=5.0, rough_mm=0.8)
    p.claim(np.minimum(sinus, -kidney) - 4.5, 20, "other vessels", gap_mm=-9, whole=False)


def _paint_upper_organs(p):
    t, near, rng = p.tissue, p.near, p.rng
    for side, name, x in ((-1, "right adrenal gland", -36), (1, "left adrenal gland", 33)):
        top = near(12 if side < 0 else 8, 19, x, spread_mm=2)
        limbs = [p.tube([top, top + (0, 20, 5 * side)], [2.6, 2.0], tall=5.0),
                 p.tube([top, top + (-2, 17, 15 * side)], [2.6, 1.8], tall=4.0),
                 p.tube([top - (0, 9, 0), top], [2.2, 2.8], tall=4.0)]
        p.claim(np.maximum.reduce(limbs), t["adrenal glands"], name, gap_mm=-3, rough_mm=0.2)
    hilum = near(22, -22, -52, breath=0.8)
    meeting, tail = near(-8, -16, -10, breath=0.4), near(22, 22, 84, breath=0.8)
    middle = near(8, -16, 34, breath=0.5)
    portal = p.tube([meeting, near(8, -14, -28, breath=0.6), hilum], [7, 7.5, 6])
    splenic = p.tube([meeting, middle + (0, 9, 0), tail], [5.5, 4.5, 3.6])
    p.claim(np.maximum(portal, splenic), t["portal and splenic vein"], "portal and splenic vein",
            rough_mm=0.3)
    artery = p.tube([near(-4, 4, 8), near(-18, -12, 4), near(-60, -22, 2), (-125, -20, 0)],
                    [4, 4, 3.5, 3])
    vein = p.tube([meeting, near(-40, -24, -8), (-125, -22, -8)], [6.5, 5.5, 4])
    renal = p.tube([near(-32, 30, 42), near(-30, -3, 12), near(-30, 10, -16)], [4, 4.5, 4.5])
    p.claim(artery, t["aorta"], "other vessels", whole=False, rough_mm=0.2)
    p.claim(np.maximum(vein, renal), t["inferior vena cava"], "other vessels", whole=False,
            rough_mm=0.2)
    head = near(-28, -14, -30, breath=0.4)
    pancreas = p.tube([head - (14, -4, 0), head, meeting - (-2, 13, -2), middle, tail - (0, 6, 6)],
                      [9, 14, 9, 10.5, 8.5])
    p.claim(pancreas, t["pancreas"] - 25 * (p.noise(7.0) > 0.9), "pancreas", rough_mm=2.2)
    neck = near(-2, -34, -58, breath=0.8)
    p.claim(p.tube([neck, neck - (22, 14, 10), neck - (44, 28, 16)], [6, 13, 15]),
            rng.uniform(4, 18), "gallbladder", rough_mm=0.8)
    duodenum = [near(-16, -42, -34), near(-22, -32, -50), near(-55, -14, -50), near(-85, 0, -38),
                near(-88, -6, 10), near(-60, -16, 38)]
    _paint_hollow(p, p.tube(duodenum, [10, 12, 12, 11, 10, 11]), "duodenum", 22, gas=0.15)
    _paint_stomach(p)
    spleen = p.ellipsoid(near(34, 34, 108, breath=0.9), (58, 58, 40), lean=(-0.3, 0), turn=-0.35)
    p.claim(_smooth_minimum(spleen, p.cavity - 2, 6.0), t["spleen"], "spleen", gap_mm=2)
    _paint_liver(p)


def _paint_stomach(p):
    size = p.rng.uniform(0.75, 1.05)
    course = [p.near(62, 22, 66, breath=0.9), p.near(48, -2, 74, breath=0.9),
              p.near(24, -34, 78, breath=0.7), p.near(0, -60, 58, breath=0.5),
              p.near(-20, -66, 22), p.near(-20, -56, -10), p.near(-16, -44, -28)]
    stomach = p.tube(course, size * np.array([27, 33, 30, 26, 21, 16, 11]))
    _paint_hollow(p, stomach, "stomach", p.rng.choice([25, 60, 220], p=[0.6, 0.25, 0.15]),
                  gas=p.rng.uniform(0.1, 0.4), whole=True)


def _paint_hollow(p, field, name, content_hu, *, gas, whole=False, wall_mm=3.0):
    """A hollow organ: wall, contents and, where it lies high, gas above a level."""
    field = p.claim(field, p.tissue["wall"], name, gap_mm=1.5, rough_mm=2.0, whole=whole)
    contents = content_hu + 18 * p.noise(8.0)
    p.paint(field - wall_mm, contents)
    rows = p.y[field > 0]
    if not rows.size:
        return
    level = np.quantile(rows, gas) + 9 * p.noise(60.0) + 1.5 * p.noise(10.0)
    bubble = np.minimum(field - wall_mm, level - p.y)
    p.paint(bubble, -950, None if name == "stomach" else "bowel gas")


def _paint_liver(p):
    rng, t = p.rng, p.tissue
    right = p.ellipsoid(p.near(18, 0, -78, breath=1), (100, 100, 88))
    left = p.ellipsoid(p.near(40, -58, 12, breath=1), (46, 42, rng.uniform(55, 80)), lean=(0.2, 0))
    liver = _smooth_maximum(right, left, 14.0)
    slope = rng.uniform(0.5, 0.65)
    floor = p.z - p.breath_mm + rng.uniform(60, 85) - slope * (p.x + 130) - 0.22 * p.y
    liver = _smooth_minimum(liver, 0.85 * floor + 5 * p.noise(35.0), 10.0)
    liver = _smooth_minimum(liver, p.cavity - 1.5, 6.0)
    behind = p.column(52.0, 48.0, back=50.0)
    liver = _smooth_minimum(liver, -behind, 8.0)
    field = p.claim(liver, t["liver"], "liver", gap_mm=1.0, rough_mm=1.5)
    root = np.array([80 + 0.8 * p.breath_mm, -2, -28])
    gate = np.array([24 + 0.8 * p.breath_mm, -24, -56])
    for hub, hu, radius in ((root, t["hepatic veins"], 5), (gate, t["portal and splenic vein"], 6)):
        for end in ((20, 20, -105), (40, -45, -95), (45, -70, -20), (-10, 10, -110), (60, 30, -90)):
            tip = p.near(*end, spread_mm=9, breath=1)
            bend = (hub + tip) / 2 + rng.normal(0, 7, 3)
            tree = p.tube([hub, bend, tip], [radius, radius * 0.65, 1.5])
            p.paint(np.minimum(tree, field), hu)


def _paint_bowel(p):
    near, rng = p.near, p.rng
    right = [near(-130, 10, -98), near(-90, 6, -102), near(-52, -12, -96, spread_mm=6)]
    across = [near(-50, -58, -70), near(-62, -76, -25, spread_mm=7), near(-55, -78, 20),
              near(-30, -70, 66), near(8, -42, 104), near(18, -8, 112)]
    left = [near(-20, 22, 112), near(-70, 28, 110), near(-130, 22, 108)]
    radii = rng.uniform(17, 26, 12) * np.tile([1.08, 0.92], 6)
    colon = p.tube([*right, *across, *left], radii)
    _paint_hollow(p, colon, "colon", rng.uniform(0, 50), gas=rng.uniform(0.3, 0.6))
    for _ in range(14):
        start = np.array([rng.uniform(-130, -35), rng.uniform(-62, -5), rng.uniform(-75, 85)])
        steps = np.cumsum(rng.normal(0, (12, 14, 26), (6, 3)), axis=0)
        loop = np.clip(start + steps, (-140, -66, -90), (-30, 8, 92))
        _paint_hollow(p, p.tube(loop, rng.uniform(9, 14, 6)), "small bowel",
                      rng.uniform(10, 45), gas=rng.choice([0.0, 0.25], p=[0.7, 0.3]), wall_mm=2.5)
    for _ in range(16):
        start = np.array([rng.uniform(-120, 10), rng.uniform(-60, -10), rng.uniform(-60, 80)])
        course = start + np.cumsum(rng.normal(0, (14, 8, 14), (4, 3)), axis=0)
        p.claim(p.tube(course, [2.2, 2.0, 1.8, 1.5]), p.tissue["inferior vena cava"],
                "other vessels", whole=False, rough_mm=0.3)


def _scan(p):
    """What the scanner makes of the patient: tissue texture, blur, correlated noise."""
    body = p.structures > 0
    hu = p.hu + body * (5 * p.noise(14.0) + 3 * p.noise(45.0))
    hu = ndimage.gaussian_filter1d(hu, 0.45, axis=0)
    for axis in (1, 2):
        hu = ndimage.gaussian_filter1d(hu, 1.3 / p.spacing_mm[axis], axis=axis)
    grain = p.rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, (0.3, 0.6, 0.6))
    grain -= ndimage.gaussian_filter(grain, (0, 3, 3))
    hu += p.rng.uniform(7, 16) * grain / grain.std()
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
