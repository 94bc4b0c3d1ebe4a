"""How a query slice attends to memorized slices (paper, Eqs. 10-12).

Tokens are positions of a stride-16 feature map, flattened into columns.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag


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


Readout = tuple[Float[Tensor, "query value_dim"], Float[Tensor, " memory"]]


def read_dense(
    memory_key: Float[Tensor, "memory key_dim"],
    shrinkage: Float[Tensor, "memory 1"],
    value: Float[Tensor, "memory value_dim"],
    query_key: Float[Tensor, "query key_dim"],
    selection: Float[Tensor, "query key_dim"],
    top_k: int,
) -> Readout:
    """What each query reads, and how much each token was read: as the equations are written."""
    columns = (memory_key, shrinkage, query_key, selection)
    weights = affinity(similarity(*(each.mT for each in columns)), top_k)
    return weights.mT @ value, weights.sum(dim=1)


def read_sparse(
    memory_key: Float[Tensor, "memory key_dim"],
    shrinkage: Float[Tensor, "memory 1"],
    value: Float[Tensor, "memory value_dim"],
    query_key: Float[Tensor, "query key_dim"],
    selection: Float[Tensor, "query key_dim"],
    top_k: int,
) -> Readout:
    """The same faster: one product whose rows are the queries, and only what is read is summed."""
    scale = shrinkage / math.sqrt(query_key.shape[1])
    memory = torch.cat([-memory_key.square(), 2 * memory_key, -torch.ones_like(scale)], dim=1)
    chosen = selection * query_key
    offset = (chosen * query_key).sum(dim=1, keepdim=True)
    query = torch.cat([selection, chosen, offset], dim=1)
    best, indices = (query @ (memory * scale).mT).topk(min(top_k, len(value)), dim=1, sorted=False)
    weights = best.softmax(dim=1)
    readout = embedding_bag(indices, value, per_sample_weights=weights, mode="sum")
    usage = value.new_zeros(len(value)).index_add_(0, indices.flatten(), weights.flatten())
    return readout, usage
