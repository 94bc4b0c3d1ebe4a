import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_click_net import TINY as TINY_CLICK_NET

from limnet.networks import checkpoints
from limnet.networks.checkpoints import (
    EARLIER_NAMES,
    LimNet,
    lite,
    load_network,
    load_networks,
    paper,
    read_metadata,
    save_network,
)
from limnet.networks.click_net import ClickNet
from limnet.networks.quality_net import QualityNet, QualityNetConfig

TINY = QualityNetConfig("resnet10", width=2)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "quality.safetensors"
    save_network(QualityNet(TINY), path, {"trained_on": "phantoms"})
    return path


def rewrite(path, *, drop=None, add=None, **metadata):
    """A copy of a file in which something is wrong."""
    tensors = {key: tensor for key, tensor in load_file(path).items() if key != drop}
    save_file({**tensors, **(add or {})}, path, {**read_metadata(path), **metadata})


def test_a_file_rebuilds_its_network(saved):
    network = QualityNet(TINY).train()
    save_network(network, saved)
    loaded = load_network(saved)
    assert loaded.config == TINY and not loaded.training
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=0)


def test_a_file_says_how_its_network_came_about(saved):
    assert read_metadata(saved)["trained_on"] == "phantoms"
    assert read_metadata(saved)["kind"] == "quality"


def test_halved_weights_are_loaded_in_full_precision(saved):
    network = QualityNet(TINY)
    whole = saved.stat().st_size
    save_network(network, saved, half=True)
    loaded = load_network(saved)
    assert saved.stat().st_size < whole
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-4)


def test_an_interrupted_save_leaves_the_old_file(saved, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_network(QualityNet(TINY), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 100])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign.safetensors must be a whole safetensors file"):
        load_network(path)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_files_are_refused(saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_network(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.safetensors"):
        load_network(tmp_path / "absent.safetensors")


def test_a_click_net_from_before_the_detail_head_is_one_without_it(tmp_path):
    path, network = tmp_path / "click.safetensors", ClickNet(TINY_CLICK_NET)
    save_network(network, path)
    config = json.loads(read_metadata(path)["config"])
    assert config.pop("detail_channels") == 0
    rewrite(path, config=json.dumps(config))
    assert load_network(path).config == network.config


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"kind of network \(click, propagation, quality\)"):
        load_network(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ("null", "config must be a QualityNetConfig .* None"),
        ({"backbone": "resnet10"}, "must have the fields"),
        ({"backbone": "resnet10", "width": 2, "hidden": 1}, "must have the fields"),
        (
            {"backbone": "resnet10", "width": 2, "detail_channels": 0},
            "must have the fields",
        ),
        ({"backbone": "resnet10", "width": 0}, "width must be"),
        ({"backbone": "vgg", "width": 2}, "backbone must be one of"),
        ({"backbone": 18, "width": 2}, "backbone must be"),
        ({"backbone": "resnet10", "width": 2.5}, "width must be"),
        ({"backbone": "resnet10", "width": True}, "width must be"),
        ({"backbone": "resnet10", "width": 10**12}, "width must be"),
        ({"backbone": "resnet10", "width": 10**400}, "width must be"),
        ({"backbone": "resnet10", "width": 4096}, "size mismatch for .*4096"),
        ({"backbone": "resnet18", "width": 2}, "missing encoder"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, config, complaint):
    rewrite(saved, config=config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=complaint):
        load_network(saved)


@pytest.mark.parametrize("kind", ["classify.bias", "encoder.bn1.num_batches_tracked", None])
def test_tensors_that_do_not_fit_are_named(saved, kind):
    rewrite(saved, drop=kind, add=None if kind else {"spy": torch.zeros(1)})
    with pytest.raises(ValueError, match=kind or "spy"):
        load_network(saved)


def test_nothing_is_drawn_at_random_where_weights_are_loaded(monkeypatch):
    for name in ("kaiming_normal_", "orthogonal_", "xavier_normal_"):
        monkeypatch.delattr(torch.nn.init, name)  # they would load PyTorch's compiler: seconds
    load_networks("lite")


def test_a_folder_of_networks_is_loaded_again(tmp_path):
    networks = lite()
    for kind in ("click", "propagation", "quality"):
        network = getattr(networks, f"{kind}_net")
        save_network(network, tmp_path / "mine" / f"{kind}_lite.safetensors", half=True)
    loaded = load_networks(tmp_path / "mine")
    assert isinstance(loaded, LimNet) and loaded.name == "mine"
    assert loaded.click_net.config == networks.click_net.config
    assert loaded.propagation_net.config == networks.propagation_net.config
    assert loaded.device.type == "cpu" and loaded.to("cpu") is loaded


def test_a_file_under_another_name_is_refused(tmp_path, saved):
    for kind in ("click", "propagation", "quality"):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / f"{kind}.safetensors").write_bytes(saved.read_bytes())
    with pytest.raises(ValueError, match="must hold a click net, got a QualityNet"):
        load_networks(tmp_path / "mixed")


def test_an_incomplete_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"exactly one file click\*.safetensors, got none"):
        load_networks(tmp_path)


def test_paper_weights_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("LIMNET_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"LIMNET_WEIGHTS .* quality\*.safetensors"):
        load_networks("paper")
    monkeypatch.setenv("LIMNET_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="exactly one file"):
        load_networks("paper")


def test_paper_networks_have_the_published_sizes():
    with torch.device("meta"):
        networks = paper()
    counts = {
        kind: sum(parameter.numel() for parameter in getattr(networks, kind).parameters())
        for kind in ("click_net", "propagation_net")
    }
    assert counts == {"click_net": 30_951_363, "propagation_net": 62_185_224}
    assert networks.propagation_net.config.working_size == 480
    assert networks.click_net.config.zoom_size == 400


def test_files_of_earlier_versions_name_their_fields_otherwise(tmp_path):
    path = tmp_path / "click.safetensors"
    chosen = replace(TINY_CLICK_NET, rgb=False, multi_scale=True, postprocess=True, refinements=2)
    save_network(ClickNet(chosen), path)
    config = json.loads(read_metadata(path)["config"])
    for earlier, name in EARLIER_NAMES.items():
        if name in config:
            config[earlier] = config.pop(name)
    rewrite(path, config=json.dumps(config))
    assert load_network(path).config == chosen


@pytest.mark.parametrize("dropout", ["0.1", float("nan"), float("inf"), 10**400, True])
def test_a_probability_is_a_number_in_range(tmp_path, dropout):
    path = tmp_path / "click.safetensors"
    save_network(ClickNet(TINY_CLICK_NET), path)
    config = json.loads(read_metadata(path)["config"])
    config["hrnet"]["dropout"] = dropout
    rewrite(path, config=json.dumps(config))
    with pytest.raises(ValueError, match="dropout"):
        load_network(path)


def test_the_digest_of_the_weights_that_come_with_the_package_is_that_of_saved_journals():
    digest = "6aabfc353dc8929db9688af119b76349718c905e91c0344a9edcd2ce945d27f5"
    assert load_networks().digest == digest
