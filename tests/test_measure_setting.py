import numpy as np
import pytest
import torch
from measure import setting
from measure.setting import Setting, phantom_slices

from limnet.data.synthetic.abdomen import ORGANS, Phantom
from limnet.networks.resizing import convolve_and_resize, resize_and_convolve
from limnet.volumes import Volume


@pytest.fixture
def phantom(monkeypatch):
    """Five slices of 16 x 16, of which the middle three show the liver; each has its own grey."""
    labels = np.zeros((5, 16, 16), dtype=np.uint8)
    labels[1:4, 4:12, 4:12] = ORGANS["liver"]
    images = np.broadcast_to(np.arange(0, 500, 100, dtype=np.int16)[:, None, None], labels.shape)
    made = Phantom(images.copy(), labels, labels, (5.0, 2.4, 2.4))
    monkeypatch.setattr(setting, "abdomen", lambda seed: made)


def test_slices_of_any_number_and_size_all_show_the_organ(phantom):
    for slices, size in ((3, 32), (7, 48)):
        images, target = phantom_slices(Setting(slices=slices, size=size))
        assert images.shape == target.shape == (slices, size, size)
        assert target.mean(axis=(1, 2)) == pytest.approx([0.25] * slices, abs=0.05)
        assert images[[0, -1], 0, 0].tolist() == [100, 300]  # the first and last that show it


def test_an_organ_too_small_for_the_slices_is_refused(phantom):
    setting.abdomen(0).labels[2] = 0
    with pytest.raises(ValueError, match="show the liver"):
        phantom_slices(Setting(slices=3, size=32))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"networks": "large"}, "one of lite, paper"),
        ({"organ": "tail"}, "'tail'"),
        ({"slices": 2}, "slices must be at least 3"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"rounds": 1}, "rounds must be at least 2"),
        ({"precision": "float64"}, "precision must be one of"),
        ({"close_up": "maybe"}, "'maybe'"),
        ({"cache_gb": -1}, "cache_gb must be at least 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Setting(**given)


def test_what_makes_it_fast_can_be_switched_off():
    fast = Setting(size=32)
    plain = Setting(size=32, fold=False, dense_read=True, close_up="no", cache_gb=0)
    assert (fast.options.memory.dense_read, fast.options.close_up) == (False, None)
    assert (plain.options.memory.dense_read, plain.options.close_up) == (True, False)
    norms = [
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
        for net in (fast.load().propagation_net, plain.load().propagation_net)
    ]
    assert norms[0] == 0 < norms[1]
    heads = [Setting(coarse_first=first).load().click_net.hrnet.head for first in (True, False)]
    assert [head.convolve for head in heads] == [convolve_and_resize, resize_and_convolve]


def test_networks_compute_and_features_are_kept_as_the_setting_says():
    small = Setting(size=32, precision="bfloat16", stored_as="float16", cache_gb=0.5)
    networks = small.load()
    assert networks.propagation_net.dtype == torch.bfloat16
    volume = Volume.from_array(np.zeros((3, 32, 32), np.int16), window=(0, 1))
    features = small.features(volume, networks)
    assert (features.kept.max_bytes, features.stored_as) == (2**29, torch.float16)
