"""The batches of a training run, drawn when they are needed or ahead of that by other processes.

Iteration i draws from a generator of its own, so that nothing depends on who draws, or when.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

AHEAD = 4  # batches that each worker keeps ready


class Drawn(NamedTuple):
    """What an iteration begins with."""

    seed: int  # of PyTorch, for dropout
    batch: Any
    rng: np.random.Generator  # as drawing has left it


class Draws(Dataset):
    """What each iteration draws."""

    def __init__(self, draw: Callable[[np.random.Generator], Any], seed: int, rank: int) -> None:
        self.draw, self.seed, self.rank = draw, seed, rank

    def __getitem__(self, iteration: int) -> Drawn:
        rng = np.random.default_rng((self.seed, iteration, self.rank))
        seed = int(rng.integers(2**62))
        torch.manual_seed(seed)
        return Drawn(seed, self.draw(rng), rng)


def drawn_batches(draws: Draws, iterations: Sequence[int], workers: int) -> Iterator[Drawn]:
    """The draws of these iterations, in order.

    Args:
        workers: processes that draw ahead, forked from this one; 0: none.
    """
    if not workers:
        return (draws[iteration] for iteration in iterations)
    loader = DataLoader(
        draws,
        batch_size=None,
        sampler=iterations,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",  # what draws may be a closure
        prefetch_factor=AHEAD,
    )
    return iter(loader)


def _as_it_is(drawn: Drawn) -> Drawn:
    return drawn
