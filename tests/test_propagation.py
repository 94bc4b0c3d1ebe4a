from dataclasses import replace

import pytest
import torch
from parity import answers, normal, rectangle, xmem_weights

from limnet.method.features import SliceFeature, encode_slices
from limnet.method.memory import Memory, MemoryConfig
from limnet.method.passes import PropagationOptions, propagate, propagate_pass
from limnet.networks.checkpoints import lite
from limnet.networks.inference import fuse_batchnorm
from limnet.networks.official import load_xmem
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig, SliceEncoding


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lite().propagation_net


@pytest.fixture(scope="module")
def features(network):
    images = torch.randn(9, 1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return [encode_slices(network, image)[0] for image in images]


def mask(value=1.0):
    probability = torch.zeros(32, 48)
    probability[8:20, 10:30] = value
    return probability


def test_a_pass_agrees_with_xmem_through_two_consolidations():
    network = load_xmem(xmem_weights())
    expected = answers("xmem_seq12")
    frames = [normal(f"xmem.seq12.frame{t}", 1, 3, 96, 128) for t in range(12)]
    features = [encode_slices(network, frame)[0] for frame in frames]
    memory = Memory(MemoryConfig(min_work_slices=2, max_work_slices=4, num_prototypes=8))
    given = {0: rectangle(30, 60, 40, 80)[0, 0]}
    options = PropagationOptions(memorize_every=2)
    sizes = [(48, 0)]
    for index, probability in propagate_pass(network, features, range(12), given, memory, options):
        torch.testing.assert_close(probability, expected["probs"][index, 1], atol=2e-3, rtol=0)
        sizes.append((memory.work_tokens, memory.long_tokens))
    assert sizes == [tuple(size) for size in expected["sizes"].tolist()]
    long = memory.tokens[: memory.long_tokens]
    torch.testing.assert_close(long.key.T, expected["long_key"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(long.value.T, expected["long_value"][0], atol=1e-3, rtol=0)


def test_every_slice_but_the_prompt_is_reached_once(network, features):
    reached = [index for index, _ in propagate(network, features, 9, 4, {4: mask()})]
    assert reached == [5, 6, 7, 8, 3, 2, 1, 0]


def test_both_directions_start_with_a_memory_of_their_own(network, features):
    both = dict(propagate(network, features, 9, 4, {4: mask()}))
    alone = dict(propagate_pass(network, features, range(4, -1, -1), {4: mask()}, Memory()))
    torch.testing.assert_close(both[0], alone[0])


def test_a_given_mask_is_passed_on_as_it_is(network, features):
    given = {4: mask(), 6: mask(0.0)}
    masks = dict(propagate(network, features, 9, 4, given))
    assert not (masks[6] > 0.5).any()


@pytest.mark.parametrize("keep", [True, False])
def test_given_slices_stay_in_working_memory(network, features, keep):
    memory = Memory(MemoryConfig(min_work_slices=2, max_work_slices=3))
    options = PropagationOptions(memorize_every=1, permanent_prompt_memory=keep)
    list(propagate_pass(network, features, range(9), {0: mask(), 3: mask()}, memory, options))
    assert memory.kept_tokens == (2 if keep else 1) * 2 * 3


def test_a_slice_given_ahead_is_known_before_it_is_reached(network, features):
    features = [*features[:8], features[1]]  # what slice 1 looks like is known from slice 8
    given = {8: 1 - mask()}
    without = dict(propagate(network, features, 9, 0, {0: mask()}))
    ahead = dict(propagate(network, features, 9, 0, {0: mask()} | given))
    assert not torch.equal(without[1], ahead[1])


def test_the_last_slice_is_never_memorized(network, features):
    memory = Memory()
    options = PropagationOptions(memorize_every=1)
    list(propagate_pass(network, features, range(3), {0: mask()}, memory, options))
    assert memory.work_tokens == 2 * 2 * 3


def test_a_volume_of_one_slice_needs_no_propagation(network, features):
    assert list(propagate(network, features, 1, 0, {0: mask()})) == []


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
    options = PropagationOptions(end_after=end_after)
    passes = propagate(Fades({4, 5, 6}), features, 12, 5, masks, options)
    assert [index for index, _ in passes] == reached


def test_beyond_an_empty_slice_of_the_user_nothing_is_looked_for():
    one = torch.ones(1, 1, 1, 1)
    feature = SliceFeature(torch.zeros(1, 3, 16, 16), SliceEncoding(*[one] * 7))
    masks = {0: torch.ones(16, 16), 2: torch.zeros(16, 16), 3: torch.zeros(16, 16)}
    options = PropagationOptions(end_after=2)
    passes = propagate(Fades({1}), [feature] * 9, 9, 0, masks, options)
    assert [index for index, _ in passes] == [1, 2, 3]


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
    options = PropagationOptions(memorize_every=2, update_sensory_every=every)
    given = {0: torch.ones(16, 16)}
    list(propagate_pass(network, [feature] * 4, range(4), given, Memory(), options))
    assert [update for source, update in network.seen if source == "value"] == from_value
    assert [update for source, update in network.seen if source == "mask"] == from_mask


@pytest.mark.parametrize("exact", [False, True])
def test_sensory_memory_has_one_type_from_the_beginning(exact, features, monkeypatch):
    config = replace(lite().propagation_net.config, fp32_memory=exact)
    network, types = fuse_batchnorm(PropagationNet(config), torch.bfloat16), set()
    for name in ("decode", "encode_value"):
        monkeypatch.setattr(network, name, seen_types(getattr(network, name), types))
    list(propagate_pass(network, features, range(5), {0: mask()}, Memory()))
    assert types == {torch.float32 if exact else torch.bfloat16} == {network.sensory_dtype}


def seen_types(function, types):
    def noting(*inputs, **how):
        answer = function(*inputs, **how)
        types.update({inputs[2].dtype, answer[1].dtype})
        return answer

    return noting
