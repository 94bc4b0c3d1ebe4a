"""The rules by which the official codes' answers in `tests/parity` were made.

Weights and inputs follow from the names of things, so that only answers are stored. The files
come from RITM (revision b9b4460) and XMem (revision f3b841d), run on a CPU in float32.
"""

import json
import zlib
from functools import cache
from math import prod, sqrt
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "parity"


def answers(name):
    """The official code's tensors, by name."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}


def published_shapes(name):
    """The keys of a published file and the shapes of their tensors."""
    shapes = json.loads((FOLDER / f"{name}_shapes.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def uniform(name, *shape):
    values = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    return torch.from_numpy(values.astype(np.float32))


def normal(name, *shape):
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def rectangle(top, bottom, left, right, height=96, width=128):
    mask = torch.zeros(1, 1, height, width)
    mask[..., top:bottom, left:right] = 1
    return mask


def weights(shapes, *, seed, norm_mean):
    """A published state dict with weights by rule."""
    return {
        key: torch.from_numpy(np.asarray(_weight(key, shape, shapes, seed, norm_mean)))
        for key, shape in shapes.items()
    }


@cache
def ritm_weights():
    return weights(published_shapes("ritm"), seed=7, norm_mean=0.55)


@cache
def xmem_weights():
    return weights(published_shapes("xmem"), seed=2, norm_mean=0.6)


def _weight(key, shape, shapes, seed, norm_mean):
    parent, leaf = key.rsplit(".", 1)
    if leaf == "num_batches_tracked":
        return np.int64(0)
    noise = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    if leaf == "running_mean":
        noise = 0.1 * noise
    elif leaf == "running_var":
        noise = 1 + 0.1 * np.abs(noise)
    elif leaf == "scale":
        noise = 5 + 0.1 * noise
    elif f"{parent}.running_mean" in shapes:
        noise = (norm_mean if leaf == "weight" else 0) + 0.1 * noise
    elif len(shape) >= 2:
        noise = noise * sqrt(2 / prod(shape[1:]))
    else:
        noise = 0.1 * noise
    return noise.astype(np.float32)
