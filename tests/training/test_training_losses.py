import math

import parity
import pytest
import torch

from limnet.training.losses import (
    bootstrapped_cross_entropy,
    dice_loss,
    hard_example_fraction,
    normalised_focal_loss,
)


@pytest.fixture(scope="module")
def official():
    return parity.answers("losses")


def test_the_focal_loss_and_its_gradient_are_those_of_ritm(official):
    logits = official["logit"].clone().requires_grad_()
    loss = normalised_focal_loss(logits, official["label"])
    torch.testing.assert_close(loss, official["nfl"], rtol=1e-5, atol=1e-6)
    loss.mean().backward()
    torch.testing.assert_close(logits.grad, official["nfl_grad"], rtol=1e-4, atol=1e-8)


def test_the_focal_loss_is_the_equation_written_out():
    logit, label = 1.0, 0.0  # one pixel: its weight is rescaled to 1, its loss is alpha * -log
    right = 1 - 1 / (1 + math.exp(-logit))
    loss = normalised_focal_loss(torch.full((1, 1, 1, 1), logit), torch.full((1, 1, 1, 1), label))
    assert loss.item() == pytest.approx(-0.5 * math.log(right))


@pytest.mark.parametrize("step", [0, 20_000, 45_000, 70_000, 70_001])
def test_bootstrapped_cross_entropy_is_that_of_xmem(official, step):
    fraction = hard_example_fraction(step)
    assert fraction == pytest.approx(official[f"bootce_p_{step}"].item())
    loss = bootstrapped_cross_entropy(
        official["ce_logits"], official["ce_target"], fraction=fraction
    )
    torch.testing.assert_close(loss[0], official[f"bootce_{step}"], rtol=1e-5, atol=1e-6)


def test_only_the_hardest_pixels_count():
    logits = torch.tensor([0.0, 0.0, 0.0, 5.0])  # of class 1; the label is 0 everywhere
    logits = torch.stack([torch.zeros(4), logits]).reshape(1, 2, 2, 2)
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    loss = bootstrapped_cross_entropy(logits, labels, fraction=0.25)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(5)))


def test_a_fraction_of_none_is_refused():
    with pytest.raises(ValueError, match="fraction must be above 0"):
        bootstrapped_cross_entropy(
            torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), fraction=0.0
        )


def test_dice_loss_is_that_of_xmem(official):
    labels = (official["dice_gt"][:, None] == 1).float()
    loss = dice_loss(official["dice_masks"], labels).mean()
    torch.testing.assert_close(loss, official["dice"])
