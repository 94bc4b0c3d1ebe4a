import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fakes import Brighter
from torch import nn
from torch.nn import functional

from limnet.method.features import FeaturePrefetcher, Resizer, SliceFeatures
from limnet.method.prompts import Crop
from limnet.networks.propagation_net import (
    KeyFeatures,
    PropagationNet,
    PropagationNetConfig,
    SliceEncoding,
)
from limnet.volumes import Volume


class Counts(PropagationNet):
    """Counts the slices that it encodes; its features are as large as the slice."""

    def __init__(self, rgb=True):
        nn.Module.__init__(self)
        self.config = PropagationNetConfig(rgb=rgb)
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded = 0

    def encode_key(self, images):
        self.encoded += len(images)
        one = images.new_ones(len(images), 1, 1, 1)
        return KeyFeatures(one, one, one, one, one, functional.pixel_unshuffle(images, 4))

    def precompute(self, features):
        return SliceEncoding(*features[:4], *features[3:])


@pytest.fixture
def volume():
    images = np.random.default_rng(0).random((5, 32, 48), dtype=np.float32)
    return Volume.from_array(images, window=(0, 1))


def features(volume, **options):
    return SliceFeatures(volume, Counts(), working_size=32, **{"stored_as": None, **options})


def test_a_slice_is_encoded_once(volume):
    shared = features(volume)
    first = shared[3]
    assert [shared[index] for index in (1, 3, 1, 3)][1] is first
    assert shared.network.encoded == 2 and len(shared) == 5


def test_slices_encoded_at_once_are_what_they_are_alone(volume, monkeypatch):
    alone, ahead = features(volume), features(volume)
    monkeypatch.setattr(ahead, "_next", lambda index: list(range(index, min(index + 3, 5))))
    for index in range(5):
        torch.testing.assert_close(ahead[index].frame, alone[index].frame)
        torch.testing.assert_close(ahead[index].parts, alone[index].parts)
    assert ahead.network.encoded == 5


def test_a_gpu_encodes_slices_ahead_in_the_direction_in_which_they_are_asked_for(
    volume, monkeypatch
):
    shared = features(volume, ahead=3)
    shared[2], shared[1]
    assert shared._next(4) == [4]  # a CPU one at a time
    monkeypatch.setattr(SliceFeatures, "device", torch.device("cuda"))
    assert shared._next(0) == [0]
    assert shared._next(3) == [3, 4]
    shared._last_asked = 4
    assert shared._next(3) == [3]  # 2 and 1 are kept


def test_the_least_recently_used_slice_leaves_when_the_bytes_are_spent(volume):
    one = features(volume)[0].num_bytes
    assert one == 2 * 3 * 32 * 48 * 4 + 6 * 4  # slice, parts of the same size, six ones
    shared = features(volume, max_bytes=2 * one)
    for index in (0, 1, 0, 2):  # 1 has not been used for longest
        shared[index]
    assert shared.network.encoded == 3
    shared[0], shared[2]
    assert shared.network.encoded == 3
    shared[1]
    assert shared.network.encoded == 4


def test_a_sweep_through_too_many_slices_finds_again_what_there_was_room_for(volume):
    shared = features(volume, max_bytes=3 * features(volume)[0].num_bytes)
    for encoded in (5, 2, 2):  # slices 0, 1, 2 stay
        shared.cache.begin_sweep()
        before = shared.network.encoded
        for index in range(5):
            shared[index]
        assert shared.network.encoded == before + encoded


@pytest.mark.parametrize(
    ("slice_size", "size", "padding"),
    [
        ((512, 512), (192, 192), (0, 0, 0, 0)),
        ((96, 96), (192, 192), (0, 0, 0, 0)),  # enlarged
        ((400, 300), (256, 192), (0, 0, 0, 0)),
        ((300, 410), (192, 262), (5, 5, 0, 0)),
        ((300, 411), (192, 263), (4, 5, 0, 0)),  # the smaller half first
        ((1000, 100), (576, 58), (3, 3, 0, 0)),  # no longer than three times 192
        ((2000, 1), (576, 1), (7, 8, 0, 0)),
    ],
)
def test_the_shorter_side_has_the_working_size(slice_size, size, padding):
    frame = Resizer.fit(slice_size, 192)
    assert (frame.size, frame.padding) == (size, padding)


@pytest.mark.parametrize("size", [(60, 90), (20, 31), (32, 48)])  # smaller, larger, as it is
def test_a_mask_comes_back_within_a_pixel(size):
    mask = torch.zeros(size)
    height, width = size
    mask[height // 4 : height // 2, width // 3 : 3 * width // 4] = 1
    frame = Resizer.fit(size, 32)
    back = frame.to_slice(frame.unpad(frame.pad(frame.to_network(mask)))) > 0.5
    grown = functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0] > 0
    shrunk = functional.max_pool2d(1 - mask[None, None], 3, 1, 1)[0, 0] == 0
    assert (back <= grown).all() and (shrunk <= back).all()


def test_a_crop_of_the_slices_is_seen_at_its_own_size():
    images = np.random.default_rng(0).random((3, 40, 60), dtype=np.float32)
    volume = Volume.from_array(images, window=(0, 1))
    features = SliceFeatures(volume, Counts(), working_size=32)
    part = Crop(10, 26, 20, 36)
    close = features.within(part, 32)
    assert close[1].frame.shape == (1, 3, 32, 32)
    expected = functional.interpolate(
        torch.from_numpy(images[None, [1], 10:26, 20:36]), (32, 32), mode="bilinear"
    )
    torch.testing.assert_close(close.images([1])[:, :1], expected)
    assert features.within(part, 32)[1] is close[1] and features.within(part, 16)[1] is not close[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_stored_in_sixteen_bits_take_half_and_keep_their_keys(volume, dtype):
    small, full = features(volume, stored_as=dtype)[0], features(volume)[0]
    assert small.parts.decoder4.dtype == dtype and small.parts.key.dtype == torch.float32
    assert small.num_bytes < 0.8 * full.num_bytes and torch.equal(small.frame, full.frame)
    torch.testing.assert_close(
        small.parts.decoder4.float(), full.parts.decoder4, rtol=1e-2, atol=1e-2
    )


def test_threads_fill_and_read_the_same_features(volume):
    shared = features(volume, max_bytes=3 * features(volume)[0].num_bytes)
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda number: shared[number % 5].frame, range(400)))
    assert all(torch.equal(frame, seen[number % 5]) for number, frame in enumerate(seen))
    assert shared.cache.num_bytes <= shared.cache.max_bytes


@pytest.fixture
def empty():
    images = np.zeros((6, 32, 48), dtype=np.float32)
    return SliceFeatures(Volume.from_array(images, window=(0, 1)), Brighter())


@pytest.fixture
def prefetcher():
    prefetcher = FeaturePrefetcher()
    yield prefetcher
    prefetcher.stop()


def test_all_slices_are_filled_once(prefetcher, empty):
    empty[3]
    prefetcher.start(empty, 2)
    prefetcher.wait(10)
    assert all(index in empty for index in range(6)) and empty.network.encoded == 6


def slow(features):
    """Encoding a slice takes until it is let go; how many are under way."""
    let_go, entered = threading.Event(), threading.Semaphore(0)
    encode = features.network.encode_key

    def encode_key(images):
        entered.release()
        assert let_go.wait(10)
        return encode(images)

    features.network.encode_key = encode_key
    return let_go, entered


def test_nothing_is_computed_while_it_is_paused(prefetcher, empty):
    let_go, entered = slow(empty)
    prefetcher.start(empty, 0)
    assert entered.acquire(timeout=10)
    threading.Timer(0.05, let_go.set).start()
    with prefetcher.paused():
        encoded = empty.network.encoded
        time.sleep(0.1)
        assert empty.network.encoded == encoded < 6
    prefetcher.wait(10)
    assert empty.network.encoded == 6
