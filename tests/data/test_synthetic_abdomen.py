from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from limnet.data.synthetic.abdomen import ORGANS, STRUCTURES, abdomen

COARSE = {"shape": (28, 80, 80), "spacing_mm": (8.0, 4.8, 4.8)}
MILLILITRES = {  # of healthy adults, widely
    "spleen": (80, 350),
    "right kidney": (80, 260),
    "left kidney": (80, 260),
    "gallbladder": (15, 90),
    "oesophagus": (8, 45),
    "liver": (1000, 2600),
    "stomach": (120, 650),
    "aorta": (35, 140),
    "inferior vena cava": (30, 130),
    "portal and splenic vein": (6, 40),
    "pancreas": (30, 130),
    "right adrenal gland": (0.8, 11),
    "left adrenal gland": (0.8, 11),
}


@cache
def patient(seed):
    return abdomen(seed, **COARSE)


def middle(mask):
    return np.array(ndimage.center_of_mass(mask))


def where(name, seed=0):
    return middle(patient(seed).labels == ORGANS[name])


def test_the_seed_decides_everything():
    again = abdomen(0, **COARSE)
    assert np.array_equal(again.images, patient(0).images)
    assert np.array_equal(again.structures, patient(0).structures)
    assert not np.array_equal(patient(1).labels, patient(0).labels)
    assert again.images.dtype == np.int16 and again.images.shape == (28, 80, 80)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("organ", ORGANS)
def test_every_organ_is_one_piece_of_a_natural_size(organ, seed):
    mask = patient(seed).labels == ORGANS[organ]
    least, most = MILLILITRES[organ]
    assert least <= mask.sum() * 8.0 * 4.8 * 4.8 / 1000 <= most
    assert ndimage.label(mask)[1] == 1


def test_slices_run_to_the_head_rows_to_the_back_columns_to_the_left():
    assert where("liver")[2] < 40 < where("spleen")[2]
    assert where("right kidney")[2] < 40 < where("left kidney")[2]
    assert where("oesophagus")[0] > where("right kidney")[0]
    spine = middle(patient(0).structures == STRUCTURES["bone"])
    assert where("stomach")[1] < where("aorta")[1] < spine[1]


def test_tissues_have_their_hounsfield_units():
    images, structures = patient(1).images, patient(1).structures

    def typical(name):
        inside = ndimage.binary_erosion(structures == STRUCTURES[name])
        return np.median(images[inside])

    assert typical("lung") < -600
    assert -130 < typical("fat") < -70
    assert 30 < typical("muscle") < 80 < typical("bone")
    assert 40 < typical("liver") < 140
    assert np.median(images[0, :4, :4]) < -900  # the air around


def test_another_grid_shows_the_same_patient():
    coarse = patient(0).structures == STRUCTURES["liver"]
    fine = abdomen(0, shape=(56, 80, 80), spacing_mm=(4.0, 4.8, 4.8))
    fine = (fine.structures == STRUCTURES["liver"]).reshape(28, 2, 80, 80).mean(axis=1) >= 0.5
    assert 2 * (coarse & fine).sum() / (coarse.sum() + fine.sum()) > 0.9


def test_a_grid_of_no_size_is_an_error():
    for bad in ({"shape": (0, 8, 8)}, {"spacing_mm": (5.0, 0.0, 1.0)}):
        with pytest.raises(ValueError, match="must be positive"):
            abdomen(0, **bad)
