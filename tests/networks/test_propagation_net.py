import parity
import pytest
import torch

from limnet.networks.official import load_xmem
from limnet.networks.propagation_net import (
    Gate,
    PropagationNet,
    PropagationNetConfig,
    SliceEncoding,
    aggregate,
)

TINY = PropagationNetConfig(
    key_backbone="resnet10",
    value_backbone="resnet10",
    width=4,
    key_dim=6,
    value_dim=16,
    hidden_dim=5,
    decoder_channels=8,
)


@pytest.fixture(autouse=True)
def the_same_random_weights():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def official():
    return parity.answers("xmem_modules")


@pytest.fixture(scope="module")
def xmem():
    return load_xmem(parity.xmem_weights())


@pytest.fixture(scope="module")
def frame():
    return parity.normal("xmem.frame", 1, 3, 96, 128)


@pytest.fixture(scope="module")
def keys(xmem, frame):
    with torch.inference_mode():
        return xmem.encode_key(frame)


def close(ours, official, tolerance=1e-4):
    torch.testing.assert_close(ours, official, rtol=1e-5, atol=tolerance)


def test_keys_are_those_of_xmem(keys, official):
    close(keys.key, official["key"])
    close(keys.shrinkage, official["shrinkage"])
    close(keys.selection, official["selection"])
    close(keys.f16[:, ::16], official["f16_sub"])
    close(keys.f8[:, ::16], official["f8_sub"])
    close(keys.f4[:, ::16], official["f4_sub"])


@pytest.mark.parametrize(("update", "suffix"), [(True, ""), (False, "_nodeep")])
@torch.inference_mode()
def test_values_are_those_of_xmem(xmem, frame, keys, official, update, suffix):
    mask = parity.rectangle(30, 60, 40, 80)
    sensory = torch.zeros(1, 64, 6, 8)
    value, sensory = xmem.encode_value(
        frame, xmem.precompute(keys), sensory, mask, torch.zeros_like(mask), update_sensory=update
    )
    close(value, official[f"value{suffix}"][0])
    close(sensory, official[f"hidden{suffix}"][0])


@torch.inference_mode()
def test_two_objects_are_a_batch(xmem, frame, keys, official):
    masks = parity.uniform("xmem.soft", 1, 2, 96, 128)[0][:, None]
    sensory = 0.3 * parity.normal("xmem.h2", 1, 2, 64, 6, 8)[0]
    value, sensory = xmem.encode_value(
        frame.expand(2, -1, -1, -1),
        SliceEncoding(*(part.expand(2, -1, -1, -1) for part in xmem.precompute(keys))),
        sensory,
        masks,
        masks.flip(0),
        update_sensory=True,
    )
    close(value, official["value_2obj"][0])
    close(sensory, official["hidden_2obj"][0])


@pytest.mark.parametrize(("objects", "case", "suffix"), [(1, "seg", ""), (2, "seg2", "2")])
@torch.inference_mode()
def test_decoded_masks_are_those_of_xmem(xmem, keys, official, objects, case, suffix):
    readout = parity.normal(f"xmem.readout{suffix}", 1, objects, 512, 6, 8)[0]
    sensory = 0.5 * parity.normal(f"xmem.hidden{suffix}", 1, objects, 64, 6, 8)[0]
    parts = SliceEncoding(*(part.expand(objects, -1, -1, -1) for part in xmem.precompute(keys)))
    logits, sensory = xmem.decode(parts, readout, sensory, update_sensory=True)
    together = aggregate(logits.sigmoid()[:, 0])
    close(sensory, official[f"{case}_hidden"][0])
    close(together, official[f"{case}_logits"][0], tolerance=1e-3)
    close(together.softmax(dim=0), official[f"{case}_prob"][0])


def test_aggregation_is_that_of_xmem():
    official = parity.answers("xmem_memory_units")
    together = aggregate(parity.uniform("mu.agg", 3, 20, 20))
    close(together, official["agg_logits"])
    close(together.softmax(dim=0), official["agg_prob"])


def test_aggregating_one_object_sharpens_it():
    p = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])[None, None]
    expected = p**2 / (p**2 + (1 - p) ** 2)
    close(aggregate(p).softmax(dim=0)[1:], expected, tolerance=1e-6)


def test_aggregation_takes_a_batch_of_slices(generator):
    p = torch.rand(3, 2, 4, 4, generator=generator)
    torch.testing.assert_close(aggregate(p)[1], aggregate(p[1]))


def test_the_gate_is_the_equation_written_out(generator):
    gate = Gate(2, 3)
    seen, sensory = torch.randn(1, 5, 4, 4, generator=generator).split([2, 3], dim=1)
    gates = gate.transform(torch.cat([seen, sensory], dim=1))
    forget, update, new = gates[:, :3].sigmoid(), gates[:, 3:6].sigmoid(), gates[:, 6:].tanh()
    expected = forget * sensory * (1 - update) + update * new
    torch.testing.assert_close(gate(seen, sensory), expected)


def test_sensory_memory_stays_when_it_is_not_to_change():
    net = PropagationNet(TINY).eval()
    keys = net.encode_key(torch.rand(1, 3, 32, 48))
    sensory, readout = torch.rand(1, 5, 2, 3), torch.rand(1, 16, 2, 3)
    parts = net.precompute(keys)
    logits, after = net.decode(parts, readout, sensory, update_sensory=False)
    changed_logits, changed = net.decode(parts, readout, sensory, update_sensory=True)
    assert logits.shape == (1, 1, 32, 48)
    assert torch.equal(after, sensory) and not torch.equal(changed, sensory)
    torch.testing.assert_close(logits, changed_logits)


@torch.inference_mode()
def test_a_slice_is_encoded_alike_alone_and_in_a_batch(generator):
    net = PropagationNet(TINY).eval()
    images = torch.rand(3, 3, 32, 32, generator=generator)
    for batch, alone in zip(net.encode_key(images), net.encode_key(images[1:2]), strict=True):
        torch.testing.assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-4)


def test_sizes_that_are_no_multiple_of_16_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 16, got 32 x 40; pad"):
        PropagationNet(TINY).encode_key(torch.rand(1, 3, 32, 40))


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="resnet10, resnet18, resnet50, got 'vgg'"):
        PropagationNet(PropagationNetConfig(key_backbone="vgg"))
