from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from limnet.data.synthetic.abdomen import ORGANS, STRUCTURES, abdomen
from limnet.data.synthetic.lesions import GROWTHS, with_lesion

COARSE = {"shape": (28, 80, 80), "spacing_mm": (8.0, 4.8, 4.8)}
LESION = 77


@cache
def patient():
    return abdomen(2)


@cache
def coarse_patient():
    return abdomen(2, **COARSE)


@cache
def ill(organ):
    return with_lesion(patient(), organ, seed=5, label=LESION)


def organ_of(phantom, name):
    return phantom.structures == STRUCTURES[name]


def test_the_seed_decides_everything():
    first, again, other = (
        with_lesion(coarse_patient(), "left kidney", seed, LESION) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.images, again.images) and first.images.dtype == np.int16
    assert np.array_equal(first.labels, again.labels) and first.labels.dtype == np.uint8
    assert not np.array_equal(first.labels, other.labels)
    assert LESION not in coarse_patient().labels  # the patient stays as it is


@pytest.mark.parametrize("organ", GROWTHS)
def test_a_lesion_is_one_piece_of_a_real_size(organ):
    lesion = ill(organ).labels == LESION
    assert ndimage.label(lesion)[1] == 1
    assert lesion.sum() >= 60
    [box] = ndimage.find_objects(lesion.astype(int))
    for side, step in zip(box, patient().spacing_mm, strict=True):
        assert 10 <= (side.stop - side.start) * step <= 50


@pytest.mark.parametrize("organ", GROWTHS)
def test_a_lesion_is_in_or_on_its_organ_and_changes_nothing_else(organ):
    lesion = ill(organ).labels == LESION
    assert (lesion & organ_of(patient(), organ)).any()
    replaced = {*np.unique(patient().structures[lesion]).tolist()}
    growth = GROWTHS[organ]
    assert replaced <= {STRUCTURES[name] for name in (organ, *growth.contents, *growth.around)}
    for name, label in ORGANS.items():
        if name != organ:
            assert np.array_equal(ill(organ).labels == label, patient().labels == label)
    assert organ_of(ill(organ), organ)[lesion].all()
    outside = ill(organ).labels != LESION
    far = ndimage.distance_transform_edt(outside, sampling=patient().spacing_mm) > 15
    assert np.array_equal(ill(organ).images[far], patient().images[far])


def test_a_lesion_has_its_own_density_and_the_noise_of_the_scan():
    organ = "left kidney"
    lesion = ill(organ).labels == LESION
    core = ndimage.binary_erosion(lesion, np.ones((1, 3, 3)))
    before = np.median(patient().images[organ_of(patient(), organ)])
    assert 0.4 < np.median(ill(organ).images[core]) / before < 0.8
    liver = ndimage.binary_erosion(organ_of(patient(), "liver"), np.ones((1, 9, 9)))
    rough = [
        np.diff(ill(organ).images, axis=2)[where[..., 1:] & where[..., :-1]].std()
        for where in (core, liver)
    ]
    assert 0.5 < rough[0] / rough[1] < 1.5


def test_an_organ_without_lesions_or_out_of_sight_is_an_error():
    with pytest.raises(ValueError, match="spleen"):
        with_lesion(coarse_patient(), "spleen", seed=0, label=LESION)
    one_slice = abdomen(2, shape=(1, 80, 80), spacing_mm=(8.0, 4.8, 4.8))
    with pytest.raises(ValueError, match="shows no lung"):
        with_lesion(one_slice, "lung", seed=0, label=LESION)
