"""Whether a probability means what it says: reliability, expected calibration error, temperature.

Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

Probabilities = Float[np.ndarray, " answers"]
Truths = Bool[np.ndarray, " answers"]

BINS = 10
TEMPERATURES = (0.05, 20.0)
NEARLY_CERTAIN = 1e-6  # distance from 0 or 1 at which probabilities are cut off for their logit


class Reliability(NamedTuple):
    """Answers in bins of equal width; bins without answers are left out."""

    predicted: Float[np.ndarray, " bins"]  # mean probability
    observed: Float[np.ndarray, " bins"]  # share in which it came true
    answers: Int[np.ndarray, " bins"]


def reliability(probabilities: Probabilities, truths: Truths, bins: int = BINS) -> Reliability:
    """Mean probability and share that came true, bin by bin.

    Raises:
        ValueError: there is no answer, or a probability is outside [0, 1].
    """
    if len(probabilities) == 0 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            "reliability needs one probability in [0, 1] or more, "
            f"got {len(probabilities)}: {probabilities[:5]}"
        )
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    answers = np.bincount(bin_of, minlength=bins)
    filled = answers > 0
    predicted, observed = (
        np.bincount(bin_of, values, minlength=bins)[filled] / answers[filled]
        for values in (probabilities.astype(float), truths.astype(float))
    )
    return Reliability(predicted, observed, answers[filled])


def expected_calibration_error(
    probabilities: Probabilities, truths: Truths, bins: int = BINS
) -> float:
    """Mean over all answers of how far their bin's probability is from the share that came true."""
    predicted, observed, answers = reliability(probabilities, truths, bins)
    return float((np.abs(predicted - observed) * answers).sum() / answers.sum())


def best_temperature(probabilities: Probabilities, truths: Truths) -> float:
    """The temperature that makes the answers likeliest; above 1 they were too sure of themselves.

    Raises:
        ValueError: there is no answer.
    """
    if len(probabilities) == 0:
        raise ValueError("a temperature needs answers to fit, got none")
    signs = np.where(truths, 1.0, -1.0)
    logits = logit(probabilities.astype(float).clip(NEARLY_CERTAIN, 1 - NEARLY_CERTAIN))

    def nll(log_temperature: float) -> float:
        return np.logaddexp(0, -signs * logits / np.exp(log_temperature)).mean()

    found = minimize_scalar(nll, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def at_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """The same answers with their logits divided by the temperature."""
    clipped = probabilities.clip(NEARLY_CERTAIN, 1 - NEARLY_CERTAIN)
    return expit(logit(clipped) / temperature)
