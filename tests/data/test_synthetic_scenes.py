import numpy as np
import pytest

from limnet.data.synthetic.scenes import CLASSES, PAINTED, surgical_scene

INSTRUMENT = ("instrument shaft", "instrument wrist", "instrument clasper")
TINY = {"frames": 2, "size": (48, 60)}


def shown(scene):
    return {name for name, label in CLASSES.items() if label and (scene.labels == label).any()}


@pytest.mark.parametrize("seed", range(2))
def test_a_scene_shows_the_classes_that_it_is_asked_for_and_no_other(seed):
    for shows in (PAINTED, INSTRUMENT, ("clamps", "suturing needle"), ("ultrasound probe",)):
        scene = surgical_scene(seed, shows, frames=2, size=(96, 120))
        assert shown(scene) == set(shows)
        assert (scene.labels == 0).any()


def test_a_scene_depends_on_its_seed_alone():
    first, again, other = (surgical_scene(seed, **TINY) for seed in (5, 5, 6))
    longer = surgical_scene(5, frames=3, size=(48, 60))
    assert np.array_equal(longer.frames[:2], first.frames)  # for more frames it goes on
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_another_size_shows_the_same_scene():
    small, large = (surgical_scene(2, frames=1, size=size) for size in ((64, 80), (192, 240)))
    assert (small.labels == large.labels[:, 1::3, 1::3]).mean() > 0.97


def test_instruments_hide_what_is_behind_them():
    behind = surgical_scene(4, ["small intestine"], **TINY).labels == CLASSES["small intestine"]
    both = surgical_scene(4, ["small intestine", *INSTRUMENT], **TINY).labels
    hidden = behind & (both != CLASSES["small intestine"])
    assert hidden.any() and np.isin(both[hidden], [CLASSES[name] for name in INSTRUMENT]).all()


@pytest.mark.parametrize(
    ("shows", "more"),
    [(["liver"], {}), (["suction instrument"], {}), (PAINTED, {"frames": 0})],
)
def test_what_cannot_be_painted_is_refused(shows, more):
    with pytest.raises(ValueError, match="a scene must show classes"):
        surgical_scene(0, shows, **more)
