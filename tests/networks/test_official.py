import json
import zlib
from collections import OrderedDict
from dataclasses import replace
from hashlib import sha256
from math import prod

import parity
import pytest
import torch
from test_click_net import TINY as TINY_CLICK_NET
from test_propagation_net import TINY as TINY_PROPAGATION_NET

from limnet.networks import official
from limnet.networks.checkpoints import (
    LITE_FOLDER,
    load_networks,
    read_metadata,
)
from limnet.networks.click_net import ClickNet
from limnet.networks.official import (
    OFFICIAL,
    convert_official,
    is_converted,
    load_ritm,
    load_xmem,
    ritm_key_map,
    xmem_key_map,
)
from limnet.networks.propagation_net import PropagationNet

# as RITM's isegm/utils/serialization.py writes it: text, numbers and truth values, classes by name
RITM_CONFIG = {
    "class": "isegm.model.is_hrnet_model.HRNetModel",
    "params": {
        "width": {"type": "builtin", "value": 32, "specified": True},
        "backbone_lr_mult": {"type": "builtin", "value": 0.1, "specified": True},
        "clicks_groups": {"type": "builtin", "value": None, "specified": False},
        "norm_layer": {"type": "class", "value": "torch.nn.BatchNorm2d", "specified": False},
    },
}


def published_state(name, network, key_map):
    """The tensors of a network of ours under the names that the published one gives them."""
    names = {}
    for key in parity.published_shapes(name):
        ours = key
        for theirs, our in key_map:
            ours = ours.replace(theirs, our)
        names[ours] = key
    return OrderedDict((names[key], tensor) for key, tensor in network.state_dict().items())


@pytest.fixture
def tiny(monkeypatch):
    """Published networks that are tiny: file -> content."""
    monkeypatch.setattr(official, "ClickNetConfig", lambda: TINY_CLICK_NET)
    monkeypatch.setattr(official, "PropagationNetConfig", lambda: TINY_PROPAGATION_NET)
    monkeypatch.setattr(official, "LARGEST", 1000)
    for name, weights in OFFICIAL.items():
        monkeypatch.setitem(OFFICIAL, name, replace(weights, tensor_bytes=1000))
    nets = [PropagationNet(TINY_PROPAGATION_NET) for _ in range(2)]
    ritm = published_state("ritm", ClickNet(TINY_CLICK_NET), ritm_key_map)
    return {
        "coco_lvis_h32_itermask.pth": {"state_dict": ritm, "config": RITM_CONFIG},
        "XMem.pth": published_state("xmem", nets[0], xmem_key_map),
        "XMem-s012.pth": published_state("xmem", nets[1], xmem_key_map),
    }


def write(folder, files):
    folder.mkdir(parents=True)
    for file, content in files.items():
        torch.save(content, folder / file)


def test_the_published_files_become_networks_that_load_as_any_other(tiny, tmp_path):
    write(tmp_path / "published", tiny)
    assert not is_converted(tmp_path)
    convert_official(tmp_path)
    assert is_converted(tmp_path)
    for name, file in (("official", "XMem.pth"), ("official-s012", "XMem-s012.pth")):
        networks = load_networks(tmp_path / name)
        assert networks.name == name
        click = tiny["coco_lvis_h32_itermask.pth"]["state_dict"]["maps_transform.3.scale"]
        assert torch.equal(networks.click_net.maps_scale, click)
        weight = networks.propagation_net.key_projection.weight
        assert torch.equal(weight, tiny[file]["key_proj.key_proj.weight"])
        quality = (tmp_path / name / "quality_lite.safetensors").read_bytes()
        assert quality == (LITE_FOLDER / "quality_lite.safetensors").read_bytes()


def test_the_readme_and_the_files_say_where_they_come_from(tiny, tmp_path):
    write(tmp_path / "published", tiny)
    convert_official(tmp_path)
    readme = (tmp_path / "official-s012" / "README.md").read_text()
    fetched = tmp_path / "published" / "XMem-s012.pth"
    digest = sha256(fetched.read_bytes()).hexdigest()
    for said in (OFFICIAL["propagation-s012"].url, digest, f"{fetched.stat().st_size:,}", "MIT"):
        assert said in readme
    assert "XMem.pth" not in readme and "somebody else keeps" not in readme
    metadata = read_metadata(tmp_path / "official-s012" / "propagation.safetensors")
    assert metadata["source_sha256"] == digest and metadata["licence"].startswith("MIT")


def test_somebody_elses_copy_is_called_so(tiny, tmp_path):
    file = "coco_lvis_h32_itermask.pth"
    write(tmp_path / "published" / "copies", {file: tiny.pop(file)})
    for name, content in tiny.items():
        torch.save(content, tmp_path / "published" / name)
    convert_official(tmp_path)
    readme = (tmp_path / "official" / "README.md").read_text()
    assert "`coco_lvis_h32_itermask.pth` is a copy that somebody else keeps" in readme
    assert OFFICIAL["click"].copy in readme and OFFICIAL["click"].url not in readme


@pytest.mark.parametrize("file", [weights.file for weights in OFFICIAL.values()])
def test_a_missing_file_is_named_with_what_fetches_it(tiny, tmp_path, file):
    del tiny[file]
    write(tmp_path / "published", tiny)
    with pytest.raises(FileNotFoundError, match=rf"{file} must lie in .*; make weights-official"):
        convert_official(tmp_path)
    assert not is_converted(tmp_path)


def test_a_file_of_another_size_is_not_the_published_one(tiny, tmp_path):
    write(tmp_path / "published", tiny)
    (tmp_path / "published" / "XMem.pth").write_text("<html>Not Found</html>")
    with pytest.raises(ValueError, match=r"a little more than 1,000 bytes, has 22; .* remove it"):
        convert_official(tmp_path)


def test_another_network_is_refused_and_what_was_converted_is_not_taken_for_whole(tiny, tmp_path):
    write(tmp_path / "published", tiny)
    convert_official(tmp_path)
    torch.save(tiny["coco_lvis_h32_itermask.pth"], tmp_path / "published" / "XMem.pth")
    with pytest.raises(ValueError, match=r"XMem.pth must"):
        convert_official(tmp_path)
    assert not is_converted(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_as_ritm_writes_it_needs_no_more_than_weights_only(tmp_path, zipped):
    state = OrderedDict(
        (key, torch.tensor(0.5).expand(shape))  # takes no room in the file
        for key, shape in parity.published_shapes("ritm").items()
    )
    state._metadata = OrderedDict({"": {"version": 1}})  # as of a module's state_dict
    content = {"state_dict": state, "config": RITM_CONFIG}
    torch.save(content, tmp_path / "ritm.pth", _use_new_zipfile_serialization=zipped)
    assert load_ritm(tmp_path / "ritm.pth").maps_scale.item() == 0.5


def test_a_checkpoint_that_holds_a_class_itself_is_refused(tmp_path):
    content = {"state_dict": {}, "config": {"norm_layer": parity.Path}}
    torch.save(content, tmp_path / "ritm.pth")
    with pytest.raises(ValueError, match="must be a PyTorch file of weights"):
        load_ritm(tmp_path / "ritm.pth")


def test_the_sizes_are_those_of_the_published_tensors():
    for name, kinds in (("ritm", ["click"]), ("xmem", ["propagation", "propagation-s012"])):
        size = sum(
            prod(shape) * (8 if key.endswith("num_batches_tracked") else 4)
            for key, shape in parity.published_shapes(name).items()
        )
        assert {OFFICIAL[kind].tensor_bytes for kind in kinds} == {size}


PUBLISHED = {"ritm": parity.ritm_weights, "xmem": parity.xmem_weights}


@pytest.fixture(scope="module")
def xmem():
    """A number per tensor, which takes no room in memory or in a file."""
    shapes = enumerate(parity.published_shapes("xmem").items())
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in shapes}


@pytest.mark.parametrize("name", ["ritm", "xmem"])
def test_weights_by_rule_are_the_official_ones(name):
    checks = json.loads((parity.FOLDER / "weights_check.json").read_text())[name]
    weights = PUBLISHED[name]()
    assert len(weights) == checks["total"]["n_keys"]
    assert sum(tensor.numel() for tensor in weights.values()) == checks["total"]["n_elements"]
    for key, check in checks["keys"].items():
        assert list(weights[key].shape) == check["shape"]
        if zlib.crc32(weights[key].numpy().tobytes()) != check["crc32"]:  # another libm
            assert weights[key].double().sum().item() == pytest.approx(check["sum64"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "network_class", "key_map"),
    [("ritm", ClickNet, ritm_key_map), ("xmem", PropagationNet, xmem_key_map)],
)
def test_our_networks_have_exactly_the_published_tensors(name, network_class, key_map):
    with torch.device("meta"):
        ours = network_class().state_dict()
    published = {}
    for key, shape in parity.published_shapes(name).items():
        for theirs, our in key_map:
            key = key.replace(theirs, our)
        published[key] = shape
    assert published == {key: tuple(tensor.shape) for key, tensor in ours.items()}


def wrapped(state):
    return {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}, "config": {}}


def test_published_files_come_bare_or_wrapped(xmem, tmp_path):
    torch.save(wrapped(xmem), tmp_path / "XMem.pth")
    from_file, bare = load_xmem(tmp_path / "XMem.pth"), load_xmem(xmem)
    for key, tensor in bare.state_dict().items():
        assert torch.equal(from_file.state_dict()[key], tensor)
    assert torch.equal(bare.key_projection.weight, xmem["key_proj.key_proj.weight"])
    assert not bare.training


def test_loading_leaves_the_given_tensors_alone(xmem):
    given = xmem["decoder.pred.bias"].clone()
    network = load_xmem(xmem)
    torch.nn.init.ones_(network.decoder.predict.bias)
    assert torch.equal(xmem["decoder.pred.bias"], given)


def test_xmem_of_one_object_gains_a_channel_of_zeros(xmem):
    first = xmem["value_encoder.conv1.weight"]
    network = load_xmem({**xmem, "value_encoder.conv1.weight": first[:, :4]})
    assert torch.equal(network.value_encoder.conv1.weight[:, :4], first[:, :4])
    assert not network.value_encoder.conv1.weight[:, 4].any()


def test_xmem_without_sensory_memory_is_refused(xmem):
    gates = ("decoder.hidden_update.", "value_encoder.hidden_reinforce.")
    state = {key: tensor for key, tensor in xmem.items() if not key.startswith(gates)}
    with pytest.raises(ValueError, match=r"sensory memory .* use XMem.pth"):
        load_xmem(state)


def test_other_weights_are_not_taken_for_ritm(xmem):
    with pytest.raises(ValueError, match=r"tensors of a ClickNet"):
        load_ritm(xmem)


@pytest.mark.parametrize("content", [{"state_dict": [1, 2]}, [torch.zeros(1)], {"a": "b"}])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "ritm.pth")
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_ritm(tmp_path / "ritm.pth")
