import math
import threading

import numpy as np
import pytest
import torch
from fakes import Brighter
from parity import answers, normal, rectangle, xmem_weights

from limnet.method.features import SliceFeature, SliceFeatures, encode_slices
from limnet.method.memory import Memory, MemoryConfig
from limnet.method.prompts import Crop
from limnet.method.propagation import (
    SliceDone,
    Stopped,
    propagate,
    propagate_masks,
    propagate_pass,
    smooth_across_slices,
)
from limnet.method.refinement import Refiner
from limnet.method.state import Recipe
from limnet.networks.checkpoints import lite
from limnet.networks.official import load_xmem
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig, SliceEncoding
from limnet.volumes import Volume

SHAPE = (5, 64, 96)


def mask(value=1.0):
    probability = torch.zeros(32, 48)
    probability[8:20, 10:30] = value
    return probability


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lite().propagation_net


@pytest.fixture(scope="module")
def features(network):
    images = torch.randn(9, 1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return [encode_slices(network, image)[0] for image in images]


def test_a_pass_agrees_with_xmem_through_two_consolidations():
    network = load_xmem(xmem_weights())
    expected = answers("xmem_seq12")
    frames = [normal(f"xmem.seq12.frame{t}", 1, 3, 96, 128) for t in range(12)]
    features = [encode_slices(network, frame)[0] for frame in frames]
    memory = Memory(MemoryConfig(min_work_slices=2, max_work_slices=4, num_prototypes=8))
    given = {0: rectangle(30, 60, 40, 80)[0, 0]}
    options = Recipe(memorize_every=2)
    sizes = [(48, 0)]
    for index, probability in propagate_pass(network, features, range(12), given, options, memory):
        torch.testing.assert_close(probability, expected["probs"][index, 1], atol=2e-3, rtol=0)
        sizes.append((memory.work_tokens, memory.long_tokens))
    assert sizes == [tuple(size) for size in expected["sizes"].tolist()]
    long = memory.tokens[: memory.long_tokens]
    torch.testing.assert_close(long.key.T, expected["long_key"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(long.value.T, expected["long_value"][0], atol=1e-3, rtol=0)


def test_every_slice_but_the_prompt_is_reached_once(network, features):
    reached = [index for index, _ in propagate(network, features, 9, 4, {4: mask()})]
    assert reached == [5, 6, 7, 8, 3, 2, 1, 0]


@pytest.mark.parametrize("keep", [True, False])
def test_given_slices_stay_in_working_memory(network, features, keep):
    memory = Memory(MemoryConfig(min_work_slices=2, max_work_slices=3))
    options = Recipe(memorize_every=1, permanent_prompt_memory=keep)
    list(propagate_pass(network, features, range(9), {0: mask(), 3: mask()}, options, memory))
    assert memory.kept_tokens == (2 if keep else 1) * 2 * 3


@pytest.mark.parametrize("prompt_slice", [-1, 9, 3])
def test_a_prompt_slice_without_mask_is_refused(network, features, prompt_slice):
    with pytest.raises(ValueError, match="the prompt slice must be one of the 9 slices"):
        list(propagate(network, features, 9, prompt_slice, {4: mask()}))


class Fades(PropagationNet):
    """Shows the object on the first two slices of each pass only, on the slices listed too."""

    sensory_dtype = torch.float32

    def __init__(self, shown):
        torch.nn.Module.__init__(self)
        self.config = PropagationNetConfig(hidden_dim=1)
        self.shown = shown

    def decode(self, parts, readout, sensory, *, update_sensory):
        logit = 9.0 if int(parts.decoder4) in self.shown else -9.0
        return torch.full((1, 1, 16, 16), logit), sensory

    def encode_value(self, frame, parts, sensory, *masks, update_sensory):
        return torch.zeros(1, 2, 1, 1), sensory


@pytest.mark.parametrize(
    ("given", "end_after", "reached"),
    [
        ({5}, None, [6, 7, 8, 9, 10, 11, 4, 3, 2, 1, 0]),
        ({5}, 2, [6, 7, 8, 4, 3, 2]),  # the object is on 5 and 6, and on 4
        ({5, 10}, 2, [6, 7, 8, 9, 10, 11, 4, 3, 2]),  # the user showed it on 10
        ({5}, 20, [6, 7, 8, 9, 10, 11, 4, 3, 2, 1, 0]),
    ],
)
def test_a_pass_ends_where_the_object_has_ended(given, end_after, reached):
    one = torch.ones(1, 1, 1, 1)
    features = [
        SliceFeature(torch.zeros(1, 3, 16, 16), SliceEncoding(*[one] * 6, index * one))
        for index in range(12)
    ]
    masks = {index: torch.ones(16, 16) for index in given}
    options = Recipe(end_after=end_after)
    passes = propagate(Fades({4, 5, 6}), features, 12, 5, masks, options)
    assert [index for index, _ in passes] == reached


class Updates(PropagationNet):
    """Remembers only who was asked to update sensory memory."""

    sensory_dtype = torch.float32

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.config = PropagationNetConfig(hidden_dim=1)
        self.seen = []

    def decode(self, *inputs, update_sensory):
        self.seen.append(("mask", update_sensory))
        return torch.zeros(1, 1, 16, 16), inputs[-1]

    def encode_value(self, frame, parts, sensory, *masks, update_sensory):
        self.seen.append(("value", update_sensory))
        return torch.zeros(1, 2, 1, 1), sensory


@pytest.mark.parametrize(
    ("every", "from_value", "from_mask"),
    [
        (None, [True, True], [True, False, False]),  # either or
        (1, [True, True], [True, True, False]),  # both, as XMem does where it does not synchronise
        (9, [True, False], [True, True, False]),
    ],
)
def test_sensory_memory_updates_where_it_is_asked_to(every, from_value, from_mask):
    network, one = Updates(), torch.ones(1, 1, 1, 1)
    feature = SliceFeature(torch.zeros(1, 3, 16, 16), SliceEncoding(*[one] * 7))
    options = Recipe(memorize_every=2, update_sensory_every=every)
    given = {0: torch.ones(16, 16)}
    list(propagate_pass(network, [feature] * 4, range(4), given, options, Memory()))
    assert [update for source, update in network.seen if source == "value"] == from_value
    assert [update for source, update in network.seen if source == "mask"] == from_mask


SPOT = (slice(20, 28), slice(40, 48))


class Unsure(Brighter):
    """Says the same of every pixel."""

    logit = 0.5

    def decode(self, parts, readout, sensory, *, update_sensory):
        height, width = (16 * side for side in parts.key.shape[2:])
        return torch.full((1, 1, height, width), self.logit), sensory


def on(images, network=None, *, close_up_size=0, working_size=32):
    """A network and the features that it makes of bright spots."""
    network = network or Brighter()
    network.config = PropagationNetConfig(hidden_dim=1, close_up_size=close_up_size)
    volume = Volume.from_array(images, window=(0, 1))
    return network, SliceFeatures(volume, network, working_size=working_size)


def spots():
    """The same small bright object on every slice."""
    images = np.zeros(SHAPE, dtype=np.float32)
    images[:, *SPOT] = 1
    return images


def spot():
    return spots()[0] > 0.5


def streak(slice_index):
    """On this slice the object is 50 pixels longer."""
    images = spots()
    images[slice_index, 20:28, 40:90] = 1
    return images


def test_given_masks_stay_as_they_are():
    given = {2: spot(), 4: np.eye(*SHAPE[1:], dtype=bool), 1: ~spot()}
    masks, errors = masks_and_errors(*on(spots()), given)
    assert all(np.array_equal(masks[index], mask) for index, mask in given.items())
    assert masks[[0, 3], *SPOT].all() and masks.shape == SHAPE and masks.dtype == bool
    assert not errors[[1, 2, 4]].any()


@pytest.mark.parametrize(("working_size", "logit"), [(16, -1.5), (32, 0.0), (64, 0.5)])
def test_errors_are_pixels_of_the_slice_times_the_less_likely(logit, working_size):
    network = Unsure()
    network.logit = logit
    _, errors = masks_and_errors(*on(spots(), network, working_size=working_size), {2: spot()})
    p = 1 / (1 + math.exp(-logit))
    p = p**2 / (p**2 + (1 - p) ** 2)  # XMem's soft aggregation with the background
    wrong = 64 * 96 * min(p, 1 - p)
    assert errors == pytest.approx([wrong, wrong, 0, wrong, wrong], rel=1e-4)


def observed(network, features, given):
    """The masks, the sizes of the close-ups in turn, and those at which slices were seen."""
    parts, frames = [], set()
    within, encode = features.within, network.encode_key
    features.within = lambda crop, size: parts.append(crop.size) or within(crop, size)
    network.encode_key = lambda frame: frames.add(tuple(frame.shape[2:])) or encode(frame)
    masks, _ = masks_and_errors(network, features, given)
    return masks, parts, frames


def test_a_small_object_is_seen_in_a_crop():
    masks, parts, frames = observed(*on(spots(), close_up_size=48), {2: spot()})
    assert parts == [Crop.from_masks(spot()[None]).size] and frames == {(48, 48)}
    assert np.array_equal(masks[0], masks[4]) and masks[0, 24, 44] and masks[0].sum() < 150


def test_an_object_that_comes_near_the_border_is_propagated_again_in_larger_ones():
    network, features = on(streak(3), close_up_size=48)
    masks, parts, _ = observed(network, features, {2: spot()})
    sides = [height for height, _ in parts]
    assert len(sides) > 1 and sides == sorted(set(sides))
    whole, _ = masks_and_errors(*on(streak(3)), {2: spot()})
    assert np.array_equal(masks, whole) and masks[3, 24, 85]


def column(*probabilities):
    """Slices of one pixel, by index from 0 on."""
    return {index: torch.tensor([[each]]) for index, each in enumerate(probabilities)}


def test_a_fifth_of_each_neighbour_counts_and_at_the_ends_the_slice_itself():
    slices = column(0.5, 0.9, 0.0, 0.4, 0.8)
    order = [3, 4, 1, 0]
    ordered = ((index, slices[index]) for index in order)
    found = smooth_across_slices(ordered, torch.ones(1, 1), 0.2)
    means = {index: round(mean.item(), 4) for index, mean in found}
    assert list(means) == order
    assert means == {
        3: round(0.2 * 1 + 0.6 * 0.4 + 0.2 * 0.8, 4),
        4: round(0.2 * 0.4 + 0.8 * 0.8, 4),
        1: round(0.2 * 1 + 0.6 * 0.9 + 0.2 * 0.5, 4),
        0: round(0.2 * 0.9 + 0.8 * 0.5, 4),
    }


def events(network, features, user_masks, prompt_slice=2, refine=None, **options):
    """What propagation yields, and what it returns last."""
    close_up = network.config.close_up_size > 0
    recipe = Recipe(close_up=close_up, refinements=int(refine is not None), **options)
    found = propagate_masks(network, features, user_masks, prompt_slice, recipe, Refines(refine))
    while True:
        try:
            yield next(found)
        except StopIteration as end:
            yield np.asarray(end.value[0]), end.value[1]
            return


def masks_and_errors(*arguments, **options):
    *_, last = events(*arguments, **options)
    return last


class Refines(Refiner):
    """A refiner that is a function of the probability."""

    def __init__(self, function):
        self.function = function

    def refine_propagated(self, image, probability):
        return self.function(probability)


def test_every_slice_is_done_once_the_prompt_first_and_with_its_mask():
    user_masks = {2: spot(), 4: spot()}
    *done, (masks, _) = events(*on(spots()), user_masks)
    assert [(each.index, each.done, each.total) for each in done] == [
        (index, number + 1, 5) for number, index in enumerate([2, 3, 4, 1, 0])
    ]
    assert all(np.array_equal(masks[each.index], each.mask) for each in done)


def test_slices_are_done_again_when_the_crop_grows():
    found = [
        each.index
        for each in events(*on(streak(4), close_up_size=48), {2: spot()})
        if isinstance(each, SliceDone)
    ]
    assert found.count(3) > 1 and found.count(4) == 1  # no mask of a slice that reached the border
    assert found[-5:] == [2, 3, 4, 1, 0]


def test_a_pass_says_where_it_stopped():
    images = np.zeros((12, 64, 96), dtype=np.float32)
    images[4:7, *SPOT] = 1
    *done, (masks, _) = events(*on(images), {5: spot()}, 5, end_after=2)
    assert [each.index for each in done if isinstance(each, Stopped)] == [2, 8]
    assert masks.any(axis=(1, 2)).nonzero()[0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("parallel_map", [True, False])
def test_propagated_slices_with_the_object_are_refined_and_smoothed(parallel_map):
    images, names = spots(), set()
    images[4] = 0  # no object

    def refine(probability):
        names.add(threading.current_thread().name.partition("_")[0])
        assert np.array_equal(probability.numpy() > 0.5, spot())
        return (probability < 0.5).float()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = {"refine": refine, "parallel_map": parallel_map}
        plain, _ = masks_and_errors(*on(images), {2: spot()}, **options)
        smooth, _ = masks_and_errors(*on(images), {2: spot()}, smoothing=0.4, **options)
        found = events(*on(images), {2: spot()}, **options)
        assert next(found).index == 2 and next(found).index == 3
        found.close()  # cancels: all threads are back at once
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (names != {"MainThread"}) == parallel_map
    assert all(np.array_equal(plain[index], ~spot()) for index in (0, 1, 3))
    assert np.array_equal(plain[2], spot()) and not plain[4].any()
    assert not smooth[3].any()  # 0.4 of the prompt, 0.2 of itself, 0.4 of an empty slice
