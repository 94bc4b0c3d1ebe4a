import pytest
import torch

from limnet.training.drawn_batches import Draws, drawn_batches


def both_kinds(rng):
    """From the generator that is given, and from PyTorch's own."""
    return float(rng.random()), float(torch.rand(1))


def all_of(draws, workers, iterations=range(2, 7)):
    return [
        (drawn.seed, drawn.batch, drawn.rng.random())
        for drawn in drawn_batches(draws, iterations, workers)
    ]


def test_who_draws_changes_nothing():
    draws = Draws(both_kinds, seed=3, rank=0)
    alone = all_of(draws, workers=0)
    assert len(alone) == len(set(alone)) == 5
    assert all_of(draws, workers=2) == alone


def test_a_run_that_goes_on_draws_what_it_would_have_drawn():
    draws = Draws(both_kinds, seed=3, rank=0)
    assert all_of(draws, 0, range(4, 7)) == all_of(draws, 0)[2:]


def test_ranks_and_seeds_draw_something_of_their_own():
    found = [all_of(Draws(both_kinds, seed, rank), 0) for seed in (3, 4) for rank in (0, 1, 2)]
    assert len({draw[1] for draws in found for draw in draws}) == 6 * 5


def no_batch(rng):
    raise RuntimeError("nothing to draw")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_drawing_raises_is_heard(workers):
    with pytest.raises(RuntimeError, match="nothing to draw"):
        all_of(Draws(no_batch, 0, 0), workers)
