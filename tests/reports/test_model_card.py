import pandas as pd
import pytest
import torch
import yaml

from limnet.networks.checkpoints import LITE_FOLDER, save_network
from limnet.networks.quality_net import QualityNet, QualityNetConfig
from limnet.reports.model_card import PARTS, model_card

NETWORK = QualityNetConfig("resnet10", 4)
HISTORY = {
    **dict.fromkeys(PARTS, "One sentence."),
    "name": "tiny",
    "data": [{"data": "shapes", "cases": "no end", "licence": "MIT", "attribution": "us"}],
    "training": ["Briefly."],
    "limits": ["Everything."],
}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_network(QualityNet(NETWORK), tmp_path / "quality.safetensors")
    (tmp_path / "history.yaml").write_text(yaml.safe_dump(HISTORY, sort_keys=False))
    return tmp_path


def test_a_card_says_what_is_there_what_it_learnt_from_and_what_it_reaches(weights):
    table = pd.DataFrame({"organ": ["liver"], "DSC": [0.75]})
    card = model_card(weights, {"After six clicks": ("By `make x`.", table)})
    count = sum(each.numel() for each in QualityNet(NETWORK).parameters())
    assert f"| `quality.safetensors` | quality net | {count:,} | 0.1 |" in card
    assert "| shapes | no end | MIT | us |" in card
    assert "### After six clicks\n\nBy `make x`.\n\n| organ | DSC |" in card and "0.750" in card
    assert "- Briefly." in card and "- Everything." in card


def test_a_history_that_lacks_a_part_is_refused(weights):
    (weights / "history.yaml").write_text("name: tiny\n")
    with pytest.raises(ValueError, match="limits"):
        model_card(weights, {})


def test_the_shipped_card_is_short_and_says_what_its_history_says():
    card = (LITE_FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(card.encode()) <= 8192
    assert card.startswith(model_card(LITE_FOLDER, {}).split("## Limits")[0].strip())
