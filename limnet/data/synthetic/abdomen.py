"""A synthetic abdomen in CT units with the organs of Table IV and their neighbours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, UInt8
from scipy import ndimage

from limnet.data.synthetic.patient import NAMES, ORGANS, Patient
from limnet.data.synthetic.patient import STRUCTURES as STRUCTURES

VERSION = 2  # raise it when the same seed gives another patient


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
    """The abdomen of patient `seed`, from the heart to below the kidneys.

    The grid samples the patient about its middle: another grid shows the same anatomy.
    """
    if min(shape) < 1 or min(spacing_mm) <= 0:
        raise ValueError(f"shape and spacing_mm must be positive, got {shape} and {spacing_mm}")
    patient = Patient(np.random.default_rng(seed), shape, spacing_mm)
    for paint in PAINTERS:
        paint(patient)
    structures = patient.structures
    labels = np.where(structures <= max(ORGANS.values()), structures, 0).astype(np.uint8)
    return Phantom(_scan(patient), labels, structures, tuple(map(float, spacing_mm)))


def _smooth_minimum(first, second, width_mm):
    """Intersection of two fields with a rounded edge."""
    share = np.clip(0.5 + (second - first) / (2 * width_mm), 0, 1)
    return second + share * (first - second) - width_mm * share * (1 - share)


def _paint_wall(p):
    fat, rng, muscle = p.fat_mm, p.rng, p.hu_of["muscle"]
    depth, width, power = rng.uniform(80, 88), rng.uniform(132, 141), rng.uniform(2.15, 2.4)
    body = p.column(depth + 10 + fat, width + 14 + 0.8 * fat, back=-3 - 0.15 * fat, power=power)
    body -= (3 + 0.2 * fat) * np.exp(-((p.x / 14) ** 2)) * (p.y > 40)  # furrow of the back
    couch = 2.0 - np.abs(p.y - depth - 35 - fat + 0.0016 * p.x**2)
    p.hu += np.clip(couch, 0, 1) * 450 * (body < -2) * (np.abs(p.x) < 190)
    p.paint(body, 30, "skin")
    p.paint(body - 2.6, -105, "fat")
    outer = p.column(depth + 9, width + 13, back=-3, power=power)
    p.cavity = p.column(depth, width, back=-5, power=power) + 1.5 * p.noise(45.0)
    layers = np.clip(-np.cos(2 * np.pi * p.cavity / 5.5), 0, 1)  # three muscles, fat between
    p.paint(outer, muscle - 55 * layers * (p.y < 50) * (outer > 3), "muscle")
    p.paint(p.cavity, -105, "fat")
    p.taken = np.maximum(p.taken, -p.cavity)
    p.claim(p.column(26, 22, back=64), muscle, "muscle", gap_mm=-99)
    for side in (-1, 1):
        back = p.ellipsoid((0, 78, 36 * side), (900, 20, 30), turn=-0.12 * side, spread_mm=1)
        loin = p.ellipsoid((-95, 64, 64 * side), (85, 7, 17), turn=-0.35 * side, spread_mm=2)
        psoas = p.tube("psoas", side=side)
        for field in (np.minimum(back, outer - 1), loin, psoas):
            p.claim(field, muscle * rng.uniform(0.9, 1), "muscle", gap_mm=-99)


def _paint_spine(p):
    height, back = 33.0, 41.0  # of a vertebra with its disc; of the middle of its body
    level = (p.z + p.rng.uniform(0, height)) % height - height / 2  # 0 in mid vertebra
    canal = p.column(8.5, 10.0, back=back + 23)
    body = p.column(17.0, 23.0, back=back, power=2.6) - 2.5 * np.cos(np.pi * level / 12)
    body = np.minimum(body, -canal)
    disc = np.abs(level) - 12.0
    p.claim(np.minimum(body + 1, disc), 85, "disc", gap_mm=-99)
    arch = np.minimum(4 - np.abs(canal + 4.5), 11 - np.abs(level))
    spinous = np.minimum(12 - np.abs(level + 0.25 * (p.y - 70)), 14 - np.abs(p.y - back - 37))
    spinous = np.minimum(spinous, 4 - np.abs(p.x))
    transverse = 4.5 - np.hypot(p.y - back - 19 - 0.15 * np.abs(p.x), level - 3)
    transverse = np.minimum(transverse, 16 - np.abs(np.abs(p.x) - 25))
    bone = np.maximum.reduce([np.minimum(body, -disc), arch, spinous, transverse])
    hu = p.rng.uniform(110, 190) + 350 * np.clip(1 - bone / 2.5, 0, 1) + 35 * p.noise(9.0)
    p.claim(bone, hu, "bone", gap_mm=-99, rough_mm=0.4)
    p.claim(canal, 12, "spinal canal", gap_mm=-99, rough_mm=0.2)
    p.paint(canal - 3.5, 42)  # the cord


def _paint_chest(p):
    angle = np.abs(np.arctan2(p.x, p.y + 5))  # 0 at the back, pi in front
    level = (p.z + 62 * angle - p.rng.uniform(50, 65)) / 29.0  # ribs fall towards the front
    number = np.floor(level + 0.5)  # 0 is the twelfth rib
    rib = 3.6 * (1 - np.hypot((level - number) * 29.0 / 6.5, (p.cavity + 6.0) / 3.6))
    rib = np.minimum(rib, np.where(number >= 0, 40 * (angle - 0.55), -9))
    end = 1.25 + 0.35 * np.clip(number, 0, 4)
    bony = np.minimum(rib, 60 * (end - angle))
    p.paint(np.minimum(rib, np.where(number > 1, 60 * (end + 0.9 - angle), -9)), 105, "cartilage")
    p.paint(bony, 190 + 400 * np.clip(1 - bony / 2.5, 0, 1), "bone")
    reach = np.clip(1 - p.cavity / 95.0, 0, 1)  # 0 in the middle, 1 at the wall
    dome = 98 - 18 / (1 + np.exp(-p.x / 14)) - 8 * np.exp(-((p.x / 30) ** 2))
    p.dome = dome + p.breath_mm - (44 + 0.4 * p.y) * reach**5 - 18 * reach**2
    above = np.minimum(0.8 * (p.z - p.dome), -p.taken - 1)
    p.paint(np.minimum(above + 2.5, p.cavity), p.hu_of["muscle"], "muscle")
    heart = p.ellipsoid((126, -46, 28), (66, 44, 66), turn=0.4, breath=0.6)
    heart = np.minimum(np.minimum(heart, above - 1), p.cavity - 4)
    middle = p.column(48.0, 34.0, back=22.0)  # the mediastinum
    lung = np.minimum(above, p.cavity - 1)
    p.paint(lung, -860 + 250 * np.clip(p.noise(9.0) - 1.3, 0, 1), "lung")
    p.paint(np.minimum(np.maximum(middle, heart + 4), lung), -100, "fat")
    p.paint(heart, p.hu_of["heart"], "heart")
    p.taken = np.maximum(p.taken, np.where(middle > 0, heart + 1, above + 2))


def _paint_vessels(p):
    for name, gap_mm in (("oesophagus", -8), ("aorta", -2), ("inferior vena cava", 0.3)):
        hu = p.hu_of["bowel wall" if name == "oesophagus" else name]
        field = p.tube(name, thick=p.rng.uniform(0.88, 1.1))
        field = p.claim(field, hu, name, gap_mm=gap_mm, rough_mm=0.5)
        if name == "oesophagus":
            p.paint(np.minimum(field - 5, p.noise(12.0)), -500)  # a little air


def _paint_kidneys(p):
    for side, name, z in ((-1, "right kidney", -45), (1, "left kidney", -33)):
        p.claim(p.tube("crus of the diaphragm", side=side), p.hu_of["muscle"], "muscle")
        centre = np.array((z, 38, 69 * side)) + p.rng.normal(0, 4, 3)
        pose = {"lean": 0.12, "turn": -0.5 * side, "breath": 0.6, "spread_mm": 0}
        kidney = p.ellipsoid(centre, p.rng.uniform((49, 24, 27), (57, 28, 31)), **pose)
        hilum = centre - np.array((0, 9, 21 * side))
        sinus = p.ellipsoid(hilum, (22, 9, 20), **pose) + 2 * p.noise(12.0)
        depth = np.minimum(kidney, -sinus)
        medulla = np.clip((depth - 5.5) / 3, 0, 1) * (p.noise(11.0) > -0.3)
        hu = p.hu_of["cortex"] + medulla * (p.hu_of["medulla"] - p.hu_of["cortex"])
        p.claim(depth, hu, name, halo_mm=5.0, rough_mm=0.8)
        p.claim(sinus - 4.5, 20, "other vessels", gap_mm=-9, rough_mm=1.5)  # renal pelvis


def _paint_upper_organs(p):
    rng, hu_of = p.rng, p.hu_of
    for side, name in ((-1, "right adrenal gland"), (1, "left adrenal gland")):
        place = {"side": side, "tall": 4.5, "spread_mm": 0.6, "shift": rng.normal(0, 2, 3)}
        limbs = np.maximum(p.tube("adrenal gland", **place), p.tube("adrenal limb", **place))
        p.claim(limbs, hu_of["adrenal glands"], name, gap_mm=-3, rough_mm=0.2)
    veins = np.maximum(p.tube("portal vein", spread_mm=1), p.tube("splenic vein", spread_mm=1))
    p.claim(veins, hu_of[NAMES[10]], NAMES[10], rough_mm=0.3)
    for name, source in (("mesenteric artery", 8), ("mesenteric vein", 10), ("left renal vein", 9)):
        p.claim(p.tube(name, spread_mm=1), hu_of[NAMES[source]], "other vessels", rough_mm=0.2)
    lobules = hu_of["pancreas"] - 25 * (p.noise(7.0) > 0.9)
    p.claim(p.tube("pancreas"), lobules, "pancreas", rough_mm=2.2)
    p.claim(p.tube("gallbladder"), rng.uniform(4, 18), "gallbladder", rough_mm=0.8)
    _paint_hollow(p, p.tube("duodenum"), "duodenum", 22, gas=0.15)
    spleen = p.ellipsoid((38, 38, 108), (60, 58, 40), lean=-0.3, turn=-0.35, breath=0.9)
    p.claim(_smooth_minimum(spleen, p.cavity - 2, 6.0), hu_of["spleen"], "spleen", gap_mm=1.5)
    contents = rng.choice([25, 60, 220], p=[0.6, 0.25, 0.15])  # the last: oral contrast
    stomach = p.tube("stomach", thick=rng.uniform(0.75, 1.0))
    _paint_hollow(p, stomach, "stomach", contents, gas=rng.uniform(0.1, 0.4))


def _paint_hollow(p, field, name, content_hu, *, gas, wall_mm=2.8):
    """A hollow organ: wall, contents and, in the `gas` share that lies highest, gas."""
    field = p.claim(field, p.hu_of["bowel wall"], name, gap_mm=1.5, rough_mm=2.0)
    lumps = -350 * (p.noise(7.0) > 1.0) if name == "colon" else 0
    p.paint(field - wall_mm, content_hu + 12 * p.noise(9.0) + lumps)
    rows = p.y[field > 0]
    if rows.size:
        level = np.quantile(rows, gas) + 9 * p.noise(60.0)
        gas_name = None if name == "stomach" else "bowel gas"  # BTCV counts it to the stomach
        p.paint(np.minimum(field - wall_mm, level - p.y), -950, gas_name)


def _paint_liver(p):
    rng, shift = p.rng, p.breath_mm
    right = p.ellipsoid((10, 0, -78), (130, 90, 80), breath=1)
    left = p.ellipsoid((40, -56, 8), (50, 42, rng.uniform(50, 78)), lean=0.2, breath=1)
    liver = -_smooth_minimum(-right, -left, 14.0)
    floor = p.z - shift + rng.uniform(50, 75) - rng.uniform(0.5, 0.65) * (p.x + 130) - 0.22 * p.y
    liver = _smooth_minimum(liver, 0.85 * floor + 5 * p.noise(35.0), 10.0)
    liver = _smooth_minimum(np.minimum(liver, p.dome - p.z), p.cavity - 1.5, 6.0)
    liver = _smooth_minimum(liver, -p.column(52.0, 48.0, back=50.0), 8.0)
    fissure = 1.8 - np.abs(p.x + 12 - 0.3 * (p.y + 40) + 4 * p.noise(25.0))
    liver = np.minimum(liver, -np.minimum.reduce([fissure, -38 - p.y, 40 + shift - p.z]))
    field = p.claim(liver, p.hu_of["liver"], "liver", gap_mm=1.0, rough_mm=1.5)
    shift = np.array((shift, 0, 0))
    ends = ((20, 20, -105), (40, -45, -95), (45, -70, -20), (-10, 10, -110), (60, 30, -90))
    for hub, vein, radius in (((78, -2, -28), "hepatic veins", 5), ((24, -24, -54), NAMES[10], 6)):
        for end in np.array(ends) + shift + rng.normal(0, 9, (5, 3)):
            root = np.array(hub) + shift
            bend = (root + end) / 2 + rng.normal(0, 7, 3)
            branch = p.along([root, bend, end], [radius, radius * 0.65, 1.5])
            p.paint(np.minimum(branch, field), p.hu_of[vein])


def _paint_bowel(p):
    rng = p.rng
    for part in ("ascending colon", "transverse colon", "descending colon"):
        field = p.tube(part, spread_mm=5, thick=rng.uniform(0.85, 1.15)) + 2.5 * p.noise(18.0)
        _paint_hollow(p, field, "colon", rng.uniform(0, 50), gas=rng.uniform(0.2, 0.6))
    low, high = (-145, -64, -85), (-20, 6, 92)
    for _ in range(20):
        loop = rng.uniform(low, high) + np.cumsum(rng.normal(0, (11, 13, 24), (6, 3)), axis=0)
        loop[:, 0] += 0.25 * loop[:, 2]  # the jejunum lies high on the left
        field = p.along(np.clip(loop, low, np.add(high, (25, 0, 0))), rng.uniform(9, 14, 6))
        gas = rng.choice([0.0, 0.25], p=[0.7, 0.3])
        _paint_hollow(p, field, "small bowel", rng.uniform(10, 45), gas=gas)
    for _ in range(24):
        start = rng.uniform((-120, -66, -75), (15, -10, 95))
        course = start + np.cumsum(rng.normal(0, (14, 8, 14), (4, 3)), axis=0)
        vessel = p.along(course, [2.2, 2.0, 1.8, 1.5])
        p.claim(vessel, p.hu_of[NAMES[9]], "other vessels", rough_mm=0.3)


def _scan(p):
    """What the scanner makes of the patient: tissue texture, blur, correlated noise."""
    hu = p.hu + (p.structures > 0) * (5 * p.noise(14.0) + 3 * p.noise(45.0))
    hu = ndimage.gaussian_filter(hu, (0.45, 1.3 / p.spacing_mm[1], 1.3 / p.spacing_mm[2]))
    grain = ndimage.gaussian_filter(p.rng.standard_normal(hu.shape, np.float32), (0.3, 0.6, 0.6))
    grain -= ndimage.gaussian_filter(grain, (0, 3, 3))
    hu += p.rng.uniform(7, 16) * grain / (grain.std() + 1e-6)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


PAINTERS = (  # in this order; who comes later gets the room that is left
    _paint_wall, _paint_spine, _paint_chest, _paint_vessels, _paint_kidneys, _paint_upper_organs,
    _paint_liver, _paint_bowel,
)  # fmt: skip
