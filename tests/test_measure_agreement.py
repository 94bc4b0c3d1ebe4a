import numpy as np
import pytest
from fakes import fakes
from measure.agreement import agreement
from measure.setting import Setting

from limnet.networks.checkpoints import load_networks
from limnet.volumes import Volume


@pytest.fixture
def volume():
    """A bright column on every slice, and one that is a little darker."""
    images = np.zeros((4, 32, 48), dtype=np.float32)
    images[:, :, 10:16], images[:, :, 30:32] = 1.0, 0.6
    return Volume.from_array(images, window=(0, 1))


def test_two_ways_that_differ_in_one_column_are_counted(volume):
    target = volume.images > 0.9
    one, other = fakes(), fakes()
    other.propagation_net.level = 0.7  # does not paint the darker one
    found = agreement(volume, target, (Setting(), one), (Setting(), other))
    assert found.pixels == 3 * 32 * 2 / target.size  # not on the prompt slice
    assert found.object_pixels == 3 * 32 * 2 / target.sum()
    assert (found.probability, found.dice_fast) == (pytest.approx(1), 1)
    assert found.dice_plain == pytest.approx(2 * 4 * 6 / (2 * 4 * 6 + 3 * 2))


def test_the_same_way_twice_agrees(volume):
    both = (Setting(), fakes()), (Setting(), fakes())
    found = agreement(volume, volume.images > 0.9, *both)
    assert (found.pixels, found.probability) == (0, 0)


def test_what_makes_it_fast_changes_next_to_nothing():
    rng = np.random.default_rng(0)
    volume = Volume.from_array(rng.random((5, 48, 48), dtype=np.float32), window=(0, 1))
    target = np.zeros((5, 48, 48), dtype=bool)
    target[:, 10:30, 12:32] = True
    plain = Setting(fold=False, dense_read=True, cache_gb=0, close_up="no")
    fast = Setting(close_up="no")
    networks = load_networks("lite", fold=False)
    found = agreement(volume, target, (plain, networks), (fast, networks))
    assert found.pixels <= 1e-4 and found.probability < 1e-3
