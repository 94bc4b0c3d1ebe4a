import math
import threading

import numpy as np
import pytest
import torch
from fakes import Brighter

from limnet.method import propagation as mask_propagation
from limnet.method.close_up import CloseUp
from limnet.method.features import SliceFeatures
from limnet.method.passes import PropagationOptions
from limnet.method.propagation import close_up, smooth_across_slices
from limnet.networks.propagation_net import PropagationNetConfig
from limnet.volumes import Volume

SHAPE = (5, 64, 96)
SPOT = (slice(20, 28), slice(40, 48))


def propagate_masks(*arguments, **options):
    """With the masks unpacked."""
    masks, errors = mask_propagation.propagate_masks(*arguments, **options)
    return np.asarray(masks), errors


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
    masks, errors = propagate_masks(*on(spots()), given, 2)
    assert all(np.array_equal(masks[index], mask) for index, mask in given.items())
    assert masks[[0, 3], *SPOT].all() and masks.shape == SHAPE and masks.dtype == bool
    assert not errors[[1, 2, 4]].any()


def test_every_mask_that_is_not_given_arrives_once():
    arrived, done = {}, []
    masks, _ = propagate_masks(
        *on(spots()),
        {2: spot(), 4: spot()},
        2,
        progress=lambda *counted: done.append(counted),
        arrived=lambda index, mask: arrived.update({index: mask.copy()}),
    )
    assert list(arrived) == [3, 1, 0] and done == [(n, 5) for n in (1, 2, 3, 4, 5)]
    assert all(np.array_equal(masks[index], mask) for index, mask in arrived.items())


@pytest.mark.parametrize("working_size", [16, 32, 64])
@pytest.mark.parametrize("logit", [-1.5, 0.0, 0.5])
def test_errors_are_pixels_of_the_slice_times_the_less_likely(logit, working_size):
    network = Unsure()
    network.logit = logit
    _, errors = propagate_masks(*on(spots(), network, working_size=working_size), {2: spot()}, 2)
    p = 1 / (1 + math.exp(-logit))
    p = p**2 / (p**2 + (1 - p) ** 2)  # XMem's soft aggregation with the background
    wrong = 64 * 96 * min(p, 1 - p)
    assert errors == pytest.approx([wrong, wrong, 0, wrong, wrong], rel=1e-4)


def test_in_a_close_up_errors_are_counted_in_pixels_of_the_slice_too():
    network = Unsure()
    network.logit = -1.5
    _, errors = propagate_masks(*on(spots(), network, close_up_size=48), {2: spot()}, 2)
    side = CloseUp.around(spot()[None]).size[0]
    p = 1 / (1 + math.exp(3))  # aggregated
    assert side < 48 and errors[0] == pytest.approx(side**2 * p, rel=1e-4)


def observed(network, features, given):
    """The masks, the sizes of the close-ups in turn, and those at which slices were seen."""
    parts, frames = [], set()
    within, encode = features.within, network.encode_key
    features.within = lambda part, size: parts.append(part.size) or within(part, size)
    network.encode_key = lambda frame: frames.add(tuple(frame.shape[2:])) or encode(frame)
    masks, _ = propagate_masks(network, features, given, 2)
    return masks, parts, frames


def test_without_a_size_for_close_ups_the_whole_slices_are_seen():
    _, parts, frames = observed(*on(spots()), {2: spot()})
    assert parts == [] and frames == {(32, 48)}


def test_a_small_object_is_seen_in_a_close_up():
    masks, parts, frames = observed(*on(spots(), close_up_size=48), {2: spot()})
    assert parts == [CloseUp.around(spot()[None]).size] and frames == {(48, 48)}
    assert np.array_equal(masks[0], masks[4]) and masks[0, 24, 44] and masks[0].sum() < 150


def test_an_object_that_comes_near_the_border_is_propagated_again_in_larger_ones():
    network, features = on(streak(3), close_up_size=48)
    masks, parts, _ = observed(network, features, {2: spot()})
    sides = [height for height, _ in parts]
    assert len(sides) > 1 and sides == sorted(set(sides))
    whole, _ = propagate_masks(*on(streak(3)), {2: spot()}, 2)
    assert np.array_equal(masks, whole) and masks[3, 24, 85]


def test_masks_arrive_again_when_the_close_up_grows():
    arrived = []
    propagate_masks(
        *on(streak(4), close_up_size=48),
        {2: spot()},
        2,
        arrived=lambda index, mask: arrived.append(index),
    )
    assert arrived.count(3) > 1 and arrived.count(4) == 1  # where it was reached nothing arrives
    assert arrived[-4:] == [3, 4, 1, 0]


def test_with_empty_masks_only_the_whole_slices_are_seen():
    empty = np.zeros(SHAPE[1:], dtype=bool)
    _, parts, _ = observed(*on(spots(), close_up_size=48), {2: empty})
    assert parts == []


def test_a_prompt_slice_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="have a mask"):
        propagate_masks(*on(spots()), {2: spot()}, 3)


def test_where_a_pass_ended_is_told():
    images = np.zeros((12, 64, 96), dtype=np.float32)
    images[4:7, *SPOT] = 1
    ends, done = [], []
    options = PropagationOptions(end_after=2)
    masks, _ = propagate_masks(
        *on(images),
        {5: spot()},
        5,
        options,
        ended=ends.append,
        progress=lambda *counted: done.append(counted),
    )
    assert ends == [2, 8] and done[-1] == (12, 12)
    assert masks.any(axis=(1, 2)).nonzero()[0].tolist() == [4, 5, 6]


def test_a_close_up_can_be_asked_for_or_refused():
    for trained, asked, expected in ((0, True, (13, 13)), (48, False, (32, 48))):
        network, features = on(spots(), close_up_size=trained)
        options = PropagationOptions(close_up=asked)
        inside = close_up(network, features, {2: spot()}, options)
        assert inside.frame.size == expected or asked
        assert (inside is features) == (not asked)
    assert inside.frame.size == (32, 48)


def test_each_slice_but_those_given_is_seen_again_before_its_mask_is_kept():
    seen, arrived = {}, {}

    def again(index, probability):
        seen[index] = probability.numpy() > 0.5
        return (probability < 0.5).float()

    how = {"again": again, "arrived": arrived.__setitem__}
    found, _ = propagate_masks(*on(spots()), {2: spot()}, 2, **how)
    assert sorted(seen) == [0, 1, 3, 4] and np.array_equal(found[2], spot())
    for index, mask in seen.items():
        assert np.array_equal(mask, spot())
        assert np.array_equal(found[index], ~spot())
        assert np.array_equal(arrived[index], ~spot())


def test_a_slice_without_the_object_is_not_seen_again():
    images = spots()
    images[4] = 0
    seen = []
    propagate_masks(*on(images), {2: spot()}, 2, again=lambda index, p: seen.append(index) or p)
    assert sorted(seen) == [0, 1, 3]


@pytest.mark.parametrize("parallel_map", [True, False])
def test_slices_are_seen_again_on_other_threads_unless_switched_off(parallel_map):
    before, names = torch.get_num_threads(), set()

    def again(index, probability):
        names.add(threading.current_thread().name.partition("_")[0])
        return probability

    options = PropagationOptions(parallel_map=parallel_map)
    torch.set_num_threads(2)
    try:
        propagate_masks(*on(spots()), {2: spot()}, 2, options, again=again)
    finally:
        torch.set_num_threads(before)
    assert ("side" in names) == parallel_map


def test_whoever_cancels_has_all_threads_back_at_once():
    before = torch.get_num_threads()

    def cancel(done, total):
        if done > 1:
            raise InterruptedError

    torch.set_num_threads(2)
    try:
        propagate_masks(*on(spots()), {2: spot()}, 2, progress=cancel, again=lambda _, p: p)
    except InterruptedError:
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def column(*probabilities):
    """Slices of one pixel, by index from 0 on."""
    return {index: torch.tensor([[each]]) for index, each in enumerate(probabilities)}


def test_a_fifth_of_each_neighbour_counts_and_at_the_ends_the_slice_itself():
    slices = column(0.5, 0.9, 0.0, 0.4, 0.8)
    order = [3, 4, 1, 0]
    found = smooth_across_slices(
        ((index, slices[index]) for index in order), {2: np.array([[True]])}, 2
    )
    means = {index: round(mean.item(), 4) for index, mean in found}
    assert list(means) == order
    assert means == {
        3: round(0.2 * 1 + 0.6 * 0.4 + 0.2 * 0.8, 4),
        4: round(0.2 * 0.4 + 0.8 * 0.8, 4),
        1: round(0.2 * 1 + 0.6 * 0.9 + 0.2 * 0.5, 4),
        0: round(0.2 * 0.9 + 0.8 * 0.5, 4),
    }


def test_without_slices_there_are_no_means():
    assert not list(smooth_across_slices((), {2: np.array([[True]])}, 2))


@pytest.mark.parametrize(("share", "shown"), [(0.0, False), (0.3, True)])
def test_what_is_doubtful_on_a_slice_alone_is_decided_by_its_neighbours(share, shown):
    def again(index, probability):
        return probability * (share if index == 3 else 1)

    masks, _ = propagate_masks(*on(spots()), {1: spot()}, 1, again=again)
    inside = masks[:, 22:26, 42:46]  # where the propagated probability is 1
    assert inside[[0, 1, 2, 4]].all()
    assert inside[3].all() == inside[3].any() == shown
