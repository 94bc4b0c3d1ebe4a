"""A synthetic endoscopic video with the classes of Table VI: organs, instruments, what they hold.

Inside this module positions are (y, x) in heights of the frame from its middle: y down, x to the
right. A `field` says for every pixel how far it lies inside a thing (negative outside). Things are
painted from the back to the front, each with light from the endoscope and a shadow behind it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage
from scipy.interpolate import CubicSpline

VERSION = 1  # raise it when the same seed gives another scene
_NAMES = (  # the index is the id, as in EndoVis 2018 (Allan et al., arXiv:2001.11190)
    "background tissue, instrument shaft, instrument clasper, instrument wrist, "
    "kidney parenchyma, covered kidney, thread, clamps, suturing needle, suction instrument, "
    "small intestine, ultrasound probe"
)
CLASSES = {name: index for index, name in enumerate(_NAMES.split(", "))}
PAINTED = tuple(name for name in CLASSES if name not in ("background tissue", "suction instrument"))
COLOURS = {  # red, green, blue in [0, 1]
    "fat": (0.88, 0.66, 0.44),
    "peritoneum": (0.80, 0.42, 0.36),
    "depth": (0.46, 0.13, 0.11),
    "vessel": (0.62, 0.13, 0.13),
    "small intestine": (0.92, 0.62, 0.56),
    "kidney parenchyma": (0.52, 0.17, 0.17),
    "covered kidney": (0.84, 0.57, 0.40),
    "instrument shaft": (0.17, 0.18, 0.20),
    "instrument wrist": (0.50, 0.52, 0.55),
    "instrument clasper": (0.76, 0.77, 0.79),
    "pin": (0.20, 0.20, 0.22),
    "clamps": (0.88, 0.74, 0.34),
    "suturing needle": (0.84, 0.86, 0.89),
    "thread": (0.25, 0.14, 0.42),
    "ultrasound probe": (0.33, 0.53, 0.60),
    "membrane": (0.86, 0.88, 0.88),
}
LIGHT = (-0.25, 0.1, 1.1)  # y, x, distance: the endoscope's, a little above its eye
PACE = 0.5  # radians that motion advances a frame
DEEPEST = 1e3  # a field without an edge


@dataclass(frozen=True)
class SurgicalScene:
    """One short synthetic video: RGB frames, and labels by CLASSES."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    labels: UInt8[np.ndarray, "frames height width"]


def surgical_scene(
    seed: int,
    shows: Collection[str] = PAINTED,
    *,
    frames: int = 8,
    size: tuple[int, int] = (128, 160),
) -> SurgicalScene:
    """The scene of a seed: the same one at every size, and for more frames it goes on.

    Instruments hold the ultrasound probe where both are shown. Each part of them can be left out.

    Args:
        shows: names of CLASSES, of those in PAINTED; all else is background tissue.
        size: height and width of a frame.

    Raises:
        ValueError: a class that is not painted, or no frame.
    """
    unknown = set(shows) - set(PAINTED)
    if unknown or frames < 1 or min(size) < 2:
        raise ValueError(
            f"a scene must show classes of {', '.join(PAINTED)} in frames of 2 x 2 pixels or more,"
            f" got {', '.join(sorted(unknown)) or shows}, {frames} frames of {size}"
        )
    views = [_View(seed, PACE * index, size) for index in range(frames)]
    for view in views:
        _paint_tissue(view)
        for paint, classes in PAINTERS:
            if not classes.isdisjoint(shows):
                paint(view, set(shows))
    return SurgicalScene(
        np.stack([view.photograph() for view in views]), np.stack([view.labels for view in views])
    )


class _View:
    """One frame: the canvas that things are painted on."""

    def __init__(self, seed, time, size):
        self.seed, self.time, self.pixel = seed, time, 1 / size[0]
        rows, columns = (np.arange(count) - (count - 1) / 2 for count in size)
        screen = np.array(np.meshgrid(rows, columns, indexing="ij")) * self.pixel
        self.screen, self.half_width = screen, size[1] / size[0] / 2
        rng = self.rng("camera")
        roll, zoom = 0.04 * self.swing(rng), 1 + 0.03 * self.swing(rng)
        cosine, sine = zoom * np.cos(roll), zoom * np.sin(roll)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        drift = np.array([0.03 * self.swing(rng), 0.04 * self.swing(rng)])
        self.tissue = np.tensordot(turn, screen, 1) + drift[:, None, None]  # moves with the camera
        self.colour = np.zeros((*size, 3))
        self.labels = np.zeros(size, np.uint8)

    def rng(self, name):
        """The same random numbers for a thing in every frame."""
        return np.random.default_rng([self.seed, *name.encode()])

    def swing(self, rng, pace=1.0):
        """A smooth motion in [-1, 1]."""
        phases, shares = rng.uniform(0, 2 * np.pi, 2), (0.7, 0.3)
        waves = np.sin(self.time * pace * np.array((1.0, 1.7)) + phases)
        return float(waves @ shares)

    def noise(self, name, scale, at=None):
        """A smooth random field of about unit deviation, fixed to the tissue."""
        nodes = self.rng(name).standard_normal((48, 48))
        where = (self.tissue if at is None else at) / scale + 24
        return 1.7 * ndimage.map_coordinates(nodes, where, order=3, mode="grid-wrap")

    def tube(self, points, radii, *, at=None):
        """Field of a tube along a line through points."""
        grid = self.tissue if at is None else at
        table = np.column_stack([points, np.broadcast_to(radii, len(points))])
        field = np.full(grid.shape[1:], -DEEPEST)
        for (*start, first), (*end, last) in pairwise(table):
            step = np.subtract(end, start)
            offset = grid - np.reshape(start, (2, 1, 1))
            share = np.clip(np.tensordot(step, offset, 1) / (step @ step + 1e-9), 0, 1)
            away = np.hypot(*(offset - step[:, None, None] * share))
            np.maximum(field, first + (last - first) * share - away, out=field)
        return field

    def paint(self, field, dome, name, colour=None, *, gloss=0.35, sharp=24, bump=0.0, lift=0.02):
        """Blend a lit surface over the image where the field is positive, and label its class.

        Args:
            dome: how far from its edge the thing is flat.
            colour: an image; by default that of the name.
            lift: how far its shadow falls; 0: none.
        """
        share = np.clip(field / self.pixel + 0.5, 0, 1)
        if lift:
            shade = ndimage.gaussian_filter(share, 0.6 * lift / self.pixel)
            shade = ndimage.shift(shade, np.array([lift, 0.4 * lift]) / self.pixel, order=1)
            self.colour *= 1 - 0.55 * shade[..., None]
        inside = np.clip(field, 0, dome)
        height = np.sqrt(inside * (2 * dome - inside)) + bump
        lit, glint = self.light(height + np.zeros_like(field), sharp)
        base = np.asarray(COLOURS[name]) if colour is None else colour
        shown = base * (0.25 + 0.85 * lit[..., None]) + gloss * glint[..., None]
        self.colour += share[..., None] * (shown - self.colour)
        if name in CLASSES:
            self.labels[field > 0] = CLASSES[name]

    def light(self, height, sharp):
        """How bright a surface is, and how much of the light it mirrors into the eye."""
        down, right = np.gradient(height, self.pixel)
        normal = np.array([-down, -right, np.ones_like(height)])
        normal /= np.linalg.norm(normal, axis=0)
        ray = np.array([*(np.reshape(LIGHT[:2], (2, 1, 1)) - self.screen), LIGHT[2] - height])
        ray /= np.linalg.norm(ray, axis=0)
        halfway = ray + np.reshape((0, 0, 1), (3, 1, 1))
        halfway /= np.linalg.norm(halfway, axis=0)
        lit = np.clip((normal * ray).sum(axis=0), 0, 1)
        return lit, np.clip((normal * halfway).sum(axis=0), 0, 1) ** sharp

    def photograph(self):
        """What the camera makes of it: falloff, vignette, bloom, grain."""
        far = np.hypot(self.screen[0], 0.85 * self.screen[1])
        image = self.colour * (1.1 - 0.75 * far**2)[..., None]
        image *= (1 / (1 + np.exp((far - 0.68) / 0.02)))[..., None]
        sigma = (0.02 / self.pixel, 0.02 / self.pixel, 0)
        image += 0.35 * ndimage.gaussian_filter(np.clip(image - 0.8, 0, 1), sigma)
        image = ndimage.gaussian_filter(image, (0.45, 0.45, 0))
        grain = np.random.default_rng([self.seed, int(self.time / PACE + 0.5)])
        image += grain.normal(0, 0.012, image.shape)
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _mixed(share, first, second):
    """One colour where the share is 0, another where it is 1."""
    first = np.asarray(COLOURS[first]) if isinstance(first, str) else first
    return first + np.clip(share, 0, 1)[..., None] * (np.asarray(COLOURS[second]) - first)


def _curve(points, count):
    """So many points on a smooth curve through the given ones."""
    times = np.linspace(0, len(points) - 1, count)
    return CubicSpline(np.arange(len(points)), points)(times)


def _towards(angle):
    """The unit step at an angle from the right, turning down."""
    return np.array([np.sin(angle), np.cos(angle)])


def _paint_tissue(view):
    wide, fine = view.noise("wide", 0.35), view.noise("fine", 0.09)
    colour = _mixed(0.5 + 0.6 * wide, "peritoneum", "fat")
    colour = _mixed(0.55 * view.noise("depth", 0.28) - 0.25, colour, "depth")
    colour = colour * (1 + 0.05 * view.noise("grain", 0.025)[..., None])
    bump = 0.035 * wide + 0.009 * fine + 0.002 * view.noise("wet", 0.035)
    edgeless = np.full(view.labels.shape, DEEPEST)
    view.paint(edgeless, 1e-6, "tissue", colour, bump=bump, gloss=0.5, sharp=110, lift=0)
    rng = view.rng("vessels")
    for _ in range(7):
        steps = rng.normal(0, 0.05, (5, 2)) + 0.1 * _towards(rng.uniform(0, 2 * np.pi))
        course = rng.uniform(-0.7, 0.7, 2) + np.cumsum(steps, axis=0)
        field = view.tube(_curve(course, 16), np.linspace(0.010, 0.002, 16))
        view.paint(field, 0.01, "vessel", gloss=0.15, lift=0)


def _paint_kidney(view, shows):
    rng = view.rng("kidney")
    centre = np.array([-0.14, 0.2]) + rng.normal(0, 0.03, 2)
    lean = rng.uniform(-0.5, 0.5)
    offset = view.tissue - centre[:, None, None]
    along, across = (np.tensordot(_towards(lean + angle), offset, 1) for angle in (0, np.pi / 2))
    rough = 0.012 * view.noise("outline", 0.12)
    bump = 0.006 * view.noise("lobes", 0.1) + 0.0015 * view.noise("wet", 0.03)
    for name, length, depth in (("covered kidney", 0.5, 0.36), ("kidney parenchyma", 0.34, 0.23)):
        if name not in shows:
            continue
        field = (1 - np.hypot(along / length, across / depth)) * depth + rough
        colour = _mixed(0.5 + 0.5 * view.noise("spots", 0.06), name, name)
        if name == "covered kidney":
            colour = _mixed(0.4 * view.noise("fascia", 0.12), colour, "peritoneum")
        colour = colour * (1 + 0.06 * view.noise("grain", 0.03)[..., None])
        view.paint(field, 0.2, name, colour, bump=bump, gloss=0.55, sharp=90, lift=0.012)


def _paint_intestine(view, shows):
    rng = view.rng("intestine")
    breath = 0.012 * view.swing(rng)
    for loop in range(3):
        start = np.array([0.16 + 0.15 * loop, -view.half_width - 0.1])
        knots = start + np.array([[0.0, 0.3 * step] for step in range(5)])
        knots += rng.normal(0, 0.035, knots.shape) + breath
        knots[:, 0] += 0.09 * np.sin(np.linspace(0, 3.0, 5) + loop)
        points = _curve(knots, 28)
        folds = 1 + 0.07 * np.sin(np.linspace(0, 24, 28) + rng.uniform(0, 6) + 0.5 * view.time)
        field = view.tube(points, 0.105 * folds) + 0.003 * view.noise("wall", 0.05)
        red = 0.35 + 0.5 * view.noise(f"loop {loop}", 0.12)
        colour = _mixed(0.5 * red, "small intestine", "peritoneum")
        fine = np.abs(view.noise(f"veins {loop}", 0.06))
        colour = _mixed(0.45 - 5 * fine, colour, "vessel")
        bump = 0.0012 * view.noise("wet", 0.03)
        view.paint(field, 0.1, "small intestine", colour, bump=bump, gloss=0.6, sharp=80)


def _paint_clamps(view, shows):
    rng = view.rng("clamps")
    vessel = _curve(np.array([[-0.6, -0.2], [-0.2, -0.28], [0.0, -0.05], [0.02, 0.8]]), 24)
    vessel = vessel + rng.normal(0, 0.02, 2)
    view.paint(view.tube(vessel, 0.04), 0.04, "vessel", gloss=0.6, sharp=40)
    for at, tilt in ((8, 0.2), (15, -0.3)):
        beat = 0.008 * np.array([view.swing(rng, 2.0), view.swing(rng, 2.0)])
        course = vessel[at + 1] - vessel[at - 1]
        angle = np.arctan2(*course) + np.pi / 2 + tilt + 0.1 * view.swing(rng)
        middle = vessel[at] + beat
        head = middle - 0.14 * _towards(angle)
        fields = [view.tube([head, head - 0.05 * _towards(angle)], [0.03, 0.024])]
        for side in (-1, 1):
            sideways = 0.02 * side * _towards(angle + np.pi / 2)
            ends = [head + sideways, middle + sideways, middle + 0.1 * _towards(angle)]
            fields.append(view.tube(ends, [0.017, 0.016, 0.012]))
        view.paint(np.max(fields, axis=0), 0.017, "clamps", gloss=0.7, sharp=16)


def _paint_needle(view, shows):
    rng = view.rng("needle")
    middle = np.array([0.2, 0.33]) + 0.05 * np.array([view.swing(rng), view.swing(rng)])
    turn = rng.uniform(0, 2 * np.pi) + 0.7 * view.swing(rng)
    angles = turn + np.linspace(0, 3.6, 20)
    points = middle + 0.12 * np.transpose(_towards(angles))
    if "thread" in shows:
        end, tail = points[0], np.array([0.42, 0.75])
        knots = [end, end + 0.1 * _towards(turn - 1.3), [0.4, 0.45], tail]
        line = view.tube(_curve(np.array(knots), 24), 0.006, at=view.screen)
        view.paint(line, 0.006, "thread", gloss=0.1, lift=0.012)
    if "suturing needle" in shows:
        field = view.tube(points, np.linspace(0.012, 0.008, 20), at=view.screen)
        view.paint(field, 0.012, "suturing needle", gloss=0.8, sharp=12)


def _pose(view, side):
    """Entry, ends of shaft and wrist, and angle and opening of the claspers of an instrument."""
    rng = view.rng(f"instrument {side}")
    entry = np.array([rng.uniform(0.1, 0.5), side * (view.half_width + 0.15)])
    home = np.array([rng.uniform(-0.08, 0.1), side * rng.uniform(0.26, 0.34)])
    shaft_end = home + 0.09 * np.array([view.swing(rng), view.swing(rng)])
    along = np.arctan2(*(shaft_end - entry))
    bend = along + 0.5 * view.swing(rng)
    wrist_end = shaft_end + 0.15 * _towards(bend)
    angle, opening = bend + 0.35 * view.swing(rng), 0.55 + 0.4 * view.swing(rng, 1.6)
    return entry, shaft_end, wrist_end, angle, opening


def _paint_instruments(view, shows):
    # an instrument that holds the probe is alone: the other one would hide it
    for side in (-1,) if "ultrasound probe" in shows else (-1, 1):
        entry, shaft_end, wrist_end, middle, opening = _pose(view, side)
        for leaf in (-1, 1) if "instrument clasper" in shows else ():
            angle = middle + leaf * opening / 2
            bent = wrist_end + 0.08 * _towards(angle + 0.25 * leaf)
            tip = bent + 0.11 * _towards(angle - 0.15 * leaf)
            field = view.tube([wrist_end, bent, tip], [0.032, 0.029, 0.014], at=view.screen)
            view.paint(field, 0.024, "instrument clasper", gloss=0.7, sharp=14, lift=0.035)
        if "instrument wrist" in shows:
            ends = [shaft_end, (shaft_end + wrist_end) / 2, wrist_end]
            field = view.tube(ends, [0.056, 0.046, 0.042], at=view.screen)
            view.paint(field, 0.045, "instrument wrist", gloss=0.6, sharp=14, lift=0.04)
            for joint in (shaft_end, wrist_end):
                pin = view.tube([joint, joint + 1e-3], 0.014, at=view.screen)
                view.paint(pin, 0.03, "pin", gloss=0.2, lift=0)
        if "instrument shaft" in shows:
            field = view.tube([entry, shaft_end], [0.075, 0.062], at=view.screen)
            view.paint(field, 0.07, "instrument shaft", gloss=0.4, sharp=10, lift=0.05)


def _paint_probe(view, shows):
    rng = view.rng("probe")
    held = "instrument wrist" in shows
    middle = np.array([-0.24, 0.3]) + 0.06 * np.array([view.swing(rng), view.swing(rng)])
    if held:
        _, _, wrist_end, angle, _ = _pose(view, -1)
        middle = wrist_end + 0.07 * _towards(angle)
    angle = (angle + 1.4 if held else -0.7) + 0.25 * view.swing(rng)
    ends = [middle - 0.12 * _towards(angle), middle + 0.12 * _towards(angle)]
    cable = np.array([ends[1], ends[1] + 0.16 * _towards(angle), [-0.35, 0.55], [-0.6, 0.75]])
    line = view.tube(_curve(cable, 20), 0.024, at=view.screen)
    view.paint(line, 0.024, "ultrasound probe", gloss=0.4, sharp=14, lift=0.04)
    head = view.tube(ends, 0.075, at=view.screen)
    view.paint(head, 0.06, "ultrasound probe", gloss=0.5, lift=0.05)
    face = view.tube([ends[0], middle], 0.035, at=view.screen)
    view.paint(face, 0.03, "membrane", gloss=0.3, lift=0)


PAINTERS = (  # from the back to the front, with the classes that each paints
    (_paint_kidney, {"kidney parenchyma", "covered kidney"}),
    (_paint_intestine, {"small intestine"}),
    (_paint_clamps, {"clamps"}),
    (_paint_needle, {"suturing needle", "thread"}),
    (_paint_instruments, {"instrument shaft", "instrument wrist", "instrument clasper"}),
    (_paint_probe, {"ultrasound probe"}),
)
