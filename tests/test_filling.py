import threading
import time

import numpy as np
import pytest
from fakes import Brighter

from limnet.method.features import SliceFeatures
from limnet.method.filling import FeaturePrefetcher, outward
from limnet.volumes import Volume


@pytest.fixture
def features():
    images = np.zeros((6, 32, 48), dtype=np.float32)
    return SliceFeatures(Volume.from_array(images, window=(0, 1)), Brighter(), working_size=32)


@pytest.fixture
def filling():
    filling = FeaturePrefetcher()
    yield filling
    filling.stop()


def test_the_nearest_slices_come_first():
    assert list(outward(6, 2)) == [2, 1, 3, 0, 4, 5]


def test_all_slices_are_filled_once(filling, features):
    features[3]
    filling.start(features, 2)
    filling.wait(10)
    assert all(index in features for index in range(6)) and features.network.encoded == 6


def test_it_ends_when_the_budget_is_spent(filling, features):
    features.kept.max_bytes = 3 * features[5].num_bytes
    filling.start(features, 5)
    filling.wait(10)
    assert [index in features for index in range(6)] == [False] * 3 + [True] * 3


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


def test_nothing_is_computed_while_it_is_paused(filling, features):
    let_go, entered = slow(features)
    filling.start(features, 0)
    assert entered.acquire(timeout=10)
    threading.Timer(0.05, let_go.set).start()
    with filling.paused():
        encoded = features.network.encoded
        time.sleep(0.1)
        assert features.network.encoded == encoded < 6
    filling.wait(10)
    assert features.network.encoded == 6


def test_another_start_ends_the_one_before(filling, features):
    let_go, entered = slow(features)
    filling.start(features, 0)
    assert entered.acquire(timeout=10)
    let_go.set()
    other = features.within(features.part, 16)
    filling.start(other, 0)
    filling.wait(10)
    assert all(index in other for index in range(6))


def test_a_stop_ends_it_even_while_it_is_paused(filling, features):
    filling.start(features, 0)
    filling.stop()
    filling.wait(10)
    assert not any(thread.name == "filling" for thread in threading.enumerate())
