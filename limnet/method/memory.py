"""Working and long-term memory of one propagation pass (paper, section II-D).

A `Memory` lives for one pass in one direction and is then thrown away. It holds one object, so
it is a plain list of tokens: long-term ones first, then the slices kept whole for good,
then the recent slices. XMem's object groups are not needed.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limnet.method.affinity import affinity, read_dense, read_sparse, similarity


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes of the stores; the defaults are XMem's."""

    min_work_slices: int = 5  # T_min: slices that stay after consolidation, the first one included
    max_work_slices: int = 10  # T_max: reaching it consolidates the slices in between
    num_prototypes: int = 128  # tokens that one consolidation adds to long-term memory
    max_long_tokens: int = 10_000  # long-term capacity; the least used tokens leave first
    top_k: int = 30  # memory tokens that one query token attends to
    long_term: bool = True  # False: working memory grows without end
    dense_read: bool = False  # True: reads as the equations are written, slower and the same

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
        return Tokens(*(getattr(self, field.name)[index] for field in fields(self)))

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
        query = query_key.flatten(1).T, selection.flatten(1).T
        read = read_dense if self.config.dense_read else read_sparse
        memory = self.tokens
        readout, usage = read(memory.key, memory.shrinkage, memory.value, *query, self.config.top_k)
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
        new = new_tokens(
            *(each.flatten(1).T.float().contiguous() for each in (key, shrinkage, selection, value))
        )
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
        weights = affinity(similarity(*(each.T for each in columns))).T
        prototypes = new_tokens(
            prototypes.key,
            weights @ candidates.shrinkage,
            prototypes.selection,
            weights @ candidates.value,
        )
        long = self._remembered(self.tokens[: self.long_tokens]) + prototypes
        self.long_tokens = len(long)
        self.tokens = long + kept + recent

    def _remembered(self, long: Tokens) -> Tokens:
        """Long-term memory without its least used tokens, if the next prototypes need the room."""
        excess = len(long) - (self.config.max_long_tokens - self.config.num_prototypes)
        if excess <= 0:
            return long
        threshold = long.use_rate.kthvalue(excess).values
        return long[(long.use_rate > threshold).nonzero()[:, 0]]  # ties go too, as in XMem
