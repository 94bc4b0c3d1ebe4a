import numpy as np
import pytest

from limnet.evaluation.calibration import (
    at_temperature,
    best_temperature,
    expected_calibration_error,
    reliability,
)


def test_answers_are_sorted_into_bins_and_empty_bins_left_out():
    probabilities = np.array([0.05, 0.15, 0.95, 1.0])
    found = reliability(probabilities, np.array([False, True, True, False]))
    np.testing.assert_allclose(found.predicted, [0.05, 0.15, 0.975])
    np.testing.assert_allclose(found.observed, [0, 1, 0.5])
    assert found.answers.tolist() == [1, 1, 2]


def test_the_error_is_the_mean_distance_of_the_bins_written_out():
    rng = np.random.default_rng(0)
    probabilities = rng.random(200)
    truths = rng.random(200) < probabilities**2
    error = 0.0
    for low in np.arange(10) / 10:
        inside = (probabilities >= low) & (probabilities < low + 0.1)
        error += abs(probabilities[inside].mean() - truths[inside].mean()) * inside.mean()
    assert expected_calibration_error(probabilities, truths) == pytest.approx(error)


def test_who_is_right_as_often_as_they_say_has_next_to_no_error():
    rng = np.random.default_rng(0)
    probabilities = rng.random(100_000)
    truths = rng.random(100_000) < probabilities
    assert expected_calibration_error(probabilities, truths) < 0.01
    assert best_temperature(probabilities, truths) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_that_was_lost_is_found_again(temperature):
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.02, 0.98, 100_000)
    truths = rng.random(100_000) < honest
    distorted = at_temperature(honest, 1 / temperature)
    assert best_temperature(distorted, truths) == pytest.approx(temperature, rel=0.03)
    np.testing.assert_allclose(at_temperature(distorted, temperature), honest, atol=1e-4)


def test_certainty_stays_finite():
    assert np.isfinite(at_temperature(np.array([0.0, 1.0]), 0.1)).all()
    assert np.isfinite(best_temperature(np.array([0.0, 1.0]), np.array([True, False])))


def test_without_answers_or_with_other_numbers_than_probabilities_it_is_refused():
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="got 0"):
        reliability(nothing, nothing.astype(bool))
    with pytest.raises(ValueError, match=r"in \[0, 1\] or more, got 1"):
        reliability(np.array([1.5]), np.array([True]))
    with pytest.raises(ValueError, match="got none"):
        best_temperature(nothing, nothing.astype(bool))
