"""Working and long-term memory of one propagation pass (paper, section II-D, Eqs. 9-12).

A `Memory` lives for one pass in one direction and is then thrown away. It holds one object, so
it is a plain list of tokens: long-term ones first, then the slices kept whole for good,
then the recent slices. XMem's object groups are not needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

# what each query reads, and how much each token was read
Readout = tuple[Float[Tensor, "query value_dim"], Float[Tensor, " memory"]]


def similarity(
    memory_key: Float[Tensor, "*batch key_dim memory"],
    shrinkage: Float[Tensor, "*batch 1 memory"],
    query_key: Float[Tensor, "*batch key_dim query"],
    selection: Float[Tensor, "*batch key_dim query"],
) -> Float[Tensor, "*batch memory query"]:
    """Anisotropic L2 similarity (Eq. 10): -s_m * sum_c e_cq * (k_cm - k_cq)^2 / sqrt(key_dim).

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
    """Softmax over the memory (Eq. 11); with `top_k`, over the most similar tokens alone."""
    if top_k is None or top_k >= similarity.shape[-2]:
        return similarity.softmax(dim=-2)
    best, indices = similarity.topk(top_k, dim=-2)
    return torch.zeros_like(similarity).scatter(-2, indices, best.softmax(dim=-2))


def read_tokens(
    memory_key: Float[Tensor, "memory key_dim"],
    shrinkage: Float[Tensor, "memory 1"],
    value: Float[Tensor, "memory value_dim"],
    query_key: Float[Tensor, "query key_dim"],
    selection: Float[Tensor, "query key_dim"],
    top_k: int,
) -> Readout:
    """What each query reads, and how much each token was read.

    The affinity with top-k times the value, but faster: one product whose rows are the queries,
    and a sum over the tokens that are read alone.
    """
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


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes of the stores; the defaults are XMem's (Eq. 9: T_min <= T < T_max)."""

    min_work_slices: int = 5  # T_min: slices that stay after consolidation, the first one included
    max_work_slices: int = 10  # T_max: reaching it consolidates the slices in between
    num_prototypes: int = 128  # tokens that one consolidation adds to long-term memory
    max_long_tokens: int = 10_000  # long-term capacity; the least used tokens leave first
    top_k: int = 30  # memory tokens that one query token attends to
    long_term: bool = True  # False: working memory grows without end
    # reads tokens: `read_tokens` or a slower form to compare with
    reader: Callable[..., Readout] = field(default=read_tokens, repr=False)

    def __post_init__(self) -> None:
        if not 2 <= self.min_work_slices < self.max_work_slices:
            raise ValueError(
                "memory needs 2 <= min_work_slices < max_work_slices, "
                f"got {self.min_work_slices} and {self.max_work_slices}"
            )


@dataclass
class Tokens:
    """Memorized tokens, one row each, and how much each has been used."""

    key: Float[Tensor, "tokens key_dim"]
    shrinkage: Float[Tensor, "tokens 1"]
    selection: Float[Tensor, "tokens key_dim"]
    value: Float[Tensor, "tokens value_dim"]
    usage: Float[Tensor, " tokens"]  # affinity received, summed over reads
    age: Float[Tensor, " tokens"]  # reads lived through

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, index: slice | Int[Tensor, " chosen"]) -> "Tokens":
        return Tokens(*(getattr(self, each.name)[index] for each in fields(self)))

    def __add__(self, other: "Tokens") -> "Tokens":
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Tokens(*(torch.cat(pair) for pair in pairs))

    @property
    def use_rate(self) -> Float[Tensor, " tokens"]:
        return self.usage / self.age


def new_tokens(
    key: Float[Tensor, "tokens key_dim"],
    shrinkage: Float[Tensor, "tokens 1"],
    selection: Float[Tensor, "tokens key_dim"],
    value: Float[Tensor, "tokens value_dim"],
) -> Tokens:
    """Tokens that nobody has read yet."""
    unused = torch.zeros_like(shrinkage[:, 0])
    return Tokens(key, shrinkage, selection, value, usage=unused, age=unused + 1e-7)


class Memory:
    """What earlier slices of a pass left behind for the later ones."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        self.config = config or MemoryConfig()
        self.tokens: Tokens | None = None
        self.long_tokens = 0  # the first of `tokens`
        self.kept_tokens = 0  # those after them: slices that never leave working memory

    @property
    def work_tokens(self) -> int:
        """Tokens in working memory, kept slices included."""
        return 0 if self.tokens is None else len(self.tokens) - self.long_tokens

    def read(
        self,
        query_key: Float[Tensor, "key_dim height width"],
        selection: Float[Tensor, "key_dim height width"],
    ) -> Float[Tensor, "value_dim height width"]:
        """Read the value at every position of the query slice, and count the use.

        Raises:
            RuntimeError: nothing has been memorized yet.
        """
        if self.tokens is None:
            raise RuntimeError("memory is empty; memorize the prompt slice before reading")
        memory, query = self.tokens, (query_key.flatten(1).T, selection.flatten(1).T)
        tokens = memory.key, memory.shrinkage, memory.value
        readout, usage = self.config.reader(*tokens, *query, self.config.top_k)
        memory.usage = memory.usage + usage
        memory.age = memory.age + 1
        return readout.T.unflatten(1, query_key.shape[1:])

    def memorize(
        self,
        key: Float[Tensor, "key_dim height width"],
        shrinkage: Float[Tensor, "1 height width"],
        selection: Float[Tensor, "key_dim height width"],
        value: Float[Tensor, "value_dim height width"],
        *,
        keep: bool = False,
    ) -> None:
        """Add one slice to working memory; consolidate when that is full.

        Args:
            keep: the slice stays whole to the end of the pass, as the first one always does; the
                paper keeps every slice that a user has clicked on.
        """
        maps = (key, shrinkage, selection, value)
        new = new_tokens(*(each.flatten(1).T.float().contiguous() for each in maps))
        per_slice = len(new)
        if self.tokens is None:
            self.tokens, self.kept_tokens = new, per_slice
        elif keep:
            recent = self.long_tokens + self.kept_tokens
            self.tokens = self.tokens[:recent] + new + self.tokens[recent:]
            self.kept_tokens += per_slice
        else:
            self.tokens = self.tokens + new
        # XMem keeps one slice and counts it; further kept slices come on top of T_max
        counted = self.work_tokens - self.kept_tokens + per_slice
        if self.config.long_term and counted >= self.config.max_work_slices * per_slice:
            self._consolidate(per_slice)

    def _consolidate(self, per_slice: int) -> None:
        """Compress the middle of working memory into prototypes (paper, Eqs. 10-12).

        The kept slices and the latest T_min - 1 slices stay as they are.
        """
        kept_until = self.long_tokens + self.kept_tokens
        recent_from = len(self.tokens) - (self.config.min_work_slices - 1) * per_slice
        kept = self.tokens[self.long_tokens : kept_until]
        candidates = self.tokens[kept_until:recent_from]
        recent = self.tokens[recent_from:]

        chosen = candidates.use_rate.topk(min(self.config.num_prototypes, len(candidates))).indices
        prototypes = candidates[chosen]
        columns = (candidates.key, candidates.shrinkage, prototypes.key, prototypes.selection)
        weights = affinity(similarity(*(each.T for each in columns))).T  # Eqs. 10 and 11
        prototypes = new_tokens(
            prototypes.key,
            weights @ candidates.shrinkage,
            prototypes.selection,
            weights @ candidates.value,  # Eq. 12
        )
        long = self.tokens[: self.long_tokens]
        excess = len(long) - (self.config.max_long_tokens - self.config.num_prototypes)
        if excess > 0:  # the least used tokens make room; ties go too, as in XMem
            threshold = long.use_rate.kthvalue(excess).values
            long = long[(long.use_rate > threshold).nonzero()[:, 0]]
        long = long + prototypes
        self.long_tokens = len(long)
        self.tokens = long + kept + recent
