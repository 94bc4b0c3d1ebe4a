import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from limnet.networks.checkpoints import save_network
from limnet.networks.quality_net import QualityNet, QualityNetConfig
from limnet.reports.model_card import model_card

HISTORY = {
    "name": "tiny",
    "summary": "Weights for a test.",
    "files": "Stored as float32.",
    "licence": "MIT.",
    "own_data": [{"data": "shapes", "cases": "no end", "licence": "MIT", "attribution": "us"}],
    "not_seen": "Never seen: the rest.",
    "training": "Briefly.",
    "legs": [["quality", "all of it", 3, 1, "make train-quality"]],
    "tried": ["Nothing\n  at all."],
    "results": "By the simulated user.",
    "failures": ["Everything."],
}


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    save_network(QualityNet(QualityNetConfig("resnet10", 4)), folder / "quality.safetensors")
    (folder / "history.yaml").write_text(yaml.safe_dump(HISTORY))
    return folder


def write_case(folder, use):
    (folder / "a").mkdir(parents=True)
    for name in ("image", "label"):
        image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4))
        nibabel.save(image, folder / "a" / f"{name}.nii.gz")
    about = {"title": "Scans", "labels": {"1": "liver"}, "use": use, "licence": "CC BY 4.0"}
    (folder / "collection.json").write_text(json.dumps(about))


def test_a_card_says_what_is_there_what_it_learnt_from_and_what_it_reaches(weights, tmp_path):
    write_case(tmp_path / "data/mine_ct", "also weights")
    write_case(tmp_path / "data/abdomen_ct", "also weights")  # held out
    write_case(tmp_path / "data/others_ct", "evaluation only")
    table = pd.DataFrame({"organ": ["liver"], "DSC": [0.75]})
    tables = {"After six clicks": ("By `make x`.", table)}
    card = model_card(weights, tmp_path / "data", tables)
    network = QualityNet(QualityNetConfig("resnet10", 4))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"| `quality.safetensors` | quality net | {count:,} | 0.1 |" in card
    assert "| shapes | no end | MIT | us |" in card
    assert "| mine_ct: Scans | 1 | CC BY 4.0 | not stated |" in card
    assert "abdomen_ct" not in card and "others_ct" not in card
    assert "### After six clicks\n\nBy `make x`.\n\n| organ | DSC |" in card and "0.750" in card
    assert "| quality | all of it | 3 | 1 | make train-quality |" in card
    assert "- Nothing at all." in card and "- Everything." in card


def test_without_data_the_card_still_says_the_rest(weights):
    assert "| shapes |" not in model_card(weights, None, {})


def test_a_history_that_lacks_a_part_is_refused(weights):
    (weights / "history.yaml").write_text("name: tiny\n")
    with pytest.raises(ValueError, match=r"lacks .*failures.*training"):
        model_card(weights, None, {})
