"""How a query slice attends to memorized slices (paper, Eqs. 10-12).

Tokens are positions of a stride-16 feature map, flattened into columns.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def similarity(
    memory_key: Float[Tensor, "*batch key_dim memory"],
    shrinkage: Float[Tensor, "*batch 1 memory"],
    query_key: Float[Tensor, "*batch key_dim query"],
    selection: Float[Tensor, "*batch key_dim query"],
) -> Float[Tensor, "*batch memory query"]:
    """Anisotropic L2 similarity: -s_m * sum_c e_cq * (k_cm - k_cq)^2 / sqrt(key_dim).

    The square is expanded, so that no (key_dim, memory, query) tensor is ever built.
    """
    distance = (
        memory_key.square().mT @ selection
        - 2 * memory_key.mT @ (selection * query_key)
        + (selection * query_key.square()).sum(dim=-2, keepdim=True)
    )
    return -shrinkage.mT * distance / math.sqrt(query_key.shape[-2])


def affinity(
    similarity: Float[Tensor, "*batch memory query"], top_k: int | None = None
) -> Float[Tensor, "*batch memory query"]:
    """Softmax over the memory; with `top_k`, each query attends to that many tokens only."""
    if top_k is None or top_k >= similarity.shape[-2]:
        return similarity.softmax(dim=-2)
    best, indices = similarity.topk(top_k, dim=-2)
    return torch.zeros_like(similarity).scatter(-2, indices, best.softmax(dim=-2))
