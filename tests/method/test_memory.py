import math

import pytest
import torch
from measure.ladder import read_dense
from parity import answers, normal, uniform

from limnet.method.memory import (
    Memory,
    MemoryConfig,
    affinity,
    new_tokens,
    read_tokens,
    similarity,
)

SLICE = (2, 3)  # tokens of a slice: two rows, three columns


def columns(generator, count=1):
    """Key, shrinkage, selection and value of slices of six tokens."""
    return [
        torch.rand(channels, *SLICE, generator=generator) + (channels == 1)
        for channels in (4, 1, 4, 5)
    ]


def filled(generator, slices, config=None, kept=()):
    memory = Memory(config)
    for index in range(slices):
        if index:
            memory.read(*(torch.rand(4, *SLICE, generator=generator) for _ in range(2)))
        memory.memorize(*columns(generator), keep=index in kept)
    return memory


def test_reading_is_a_weighted_sum_of_what_was_memorized(generator):
    memory = filled(generator, 2)
    key, selection = (torch.rand(4, *SLICE, generator=generator) for _ in range(2))
    readout = memory.read(key, selection)
    tokens = memory.tokens
    for row, column in [(0, 0), (1, 2)]:
        squares = (tokens.key - key[:, row, column]).square()
        scores = -tokens.shrinkage[:, 0] * (selection[:, row, column] * squares).sum(1) / 2
        expected = scores.softmax(0) @ tokens.value
        torch.testing.assert_close(readout[:, row, column], expected)


def test_the_middle_of_working_memory_becomes_prototypes(generator):
    config = MemoryConfig(min_work_slices=2, max_work_slices=4, num_prototypes=5)
    sizes = [
        (memory.work_tokens // 6, memory.long_tokens)
        for memory in (filled(generator, slices, config) for slices in range(1, 8))
    ]
    assert sizes == [(1, 0), (2, 0), (3, 0), (2, 5), (3, 5), (2, 10), (3, 10)]


def test_the_first_slice_and_kept_slices_survive_every_consolidation(generator):
    config = MemoryConfig(min_work_slices=2, max_work_slices=4, num_prototypes=5)
    memory = Memory(config)
    seen = []
    for index in range(20):
        slice_columns = columns(generator)
        seen.append(slice_columns[3].flatten(1).T)
        memory.memorize(*slice_columns, keep=index == 2)
    start = memory.long_tokens
    torch.testing.assert_close(memory.tokens.value[start : start + 6], seen[0])
    torch.testing.assert_close(memory.tokens.value[start + 6 : start + 12], seen[2])


def test_long_term_memory_never_exceeds_its_capacity(generator):
    config = MemoryConfig(
        min_work_slices=2, max_work_slices=3, num_prototypes=4, max_long_tokens=10
    )
    for slices in range(2, 20):
        assert filled(generator, slices, config).long_tokens <= 10


def test_consolidation_agrees_with_xmem():
    expected = answers("xmem_memory_units")
    memory = Memory(MemoryConfig(min_work_slices=2, max_work_slices=3, num_prototypes=8))
    candidates = new_tokens(
        normal("mu.mk", 1, 64, 150)[0].T,
        1 + normal("mu.ms", 1, 1, 150)[0].T.square(),
        normal("mu.ce", 1, 64, 150)[0].T.sigmoid(),
        normal("mu.cv", 1, 512, 150)[0].T,
    )
    candidates.usage, candidates.age = uniform("mu.usage", 1, 1, 150)[0, 0], torch.ones(150)
    around = new_tokens(*(torch.zeros(150, channels) for channels in (64, 1, 64, 512)))
    memory.tokens, memory.kept_tokens = around + candidates + around, 150
    memory._consolidate(150)
    prototypes = memory.tokens[: memory.long_tokens]
    torch.testing.assert_close(prototypes.key, expected["proto_key"][0].T)
    torch.testing.assert_close(prototypes.value, expected["proto_value"][0].T, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        prototypes.shrinkage, expected["proto_shrinkage"][0].T, atol=1e-4, rtol=0
    )


def test_reading_an_empty_memory_is_refused():
    with pytest.raises(RuntimeError, match="memorize the prompt slice"):
        Memory().read(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3))


def test_limits_that_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="min_work_slices < max_work_slices"):
        MemoryConfig(min_work_slices=5, max_work_slices=5)


@pytest.mark.parametrize("top_k", [3, 30])
def test_a_sparse_read_is_the_dense_one(generator, top_k):
    both = []
    for reader in (read_tokens, read_dense):
        config = MemoryConfig(top_k=top_k, reader=reader)
        memory = filled(generator.manual_seed(0), 4, config)
        query = [torch.rand(4, *SLICE, generator=generator) for _ in range(2)]
        both.append((memory.read(*query), memory.tokens.usage))
    torch.testing.assert_close(*both)


def test_similarity_is_the_equation_written_out(generator):
    memory_key, query_key = torch.randn(2, 8, 5, generator=generator)
    shrinkage = torch.rand(1, 5, generator=generator)
    selection = torch.rand(8, 5, generator=generator)
    squares = (memory_key[:, :, None] - query_key[:, None, :]).square()
    expected = -shrinkage.T * (selection[:, None, :] * squares).sum(0) / math.sqrt(8)
    torch.testing.assert_close(similarity(memory_key, shrinkage, query_key, selection), expected)


def memory_units():
    key = normal("mu.mk", 1, 64, 150)[0]
    shrinkage = 1 + normal("mu.ms", 1, 1, 150)[0].square()
    query_key = normal("mu.qk", 1, 64, 40)[0]
    selection = normal("mu.qe", 1, 64, 40)[0].sigmoid()
    return key, shrinkage, query_key, selection


def test_reading_memory_is_that_of_xmem():
    official = answers("xmem_memory_units")
    key, shrinkage, query_key, selection = memory_units()
    ours = similarity(key, shrinkage, query_key, selection)
    torch.testing.assert_close(ours, official["similarity"][0], rtol=1e-5, atol=1e-4)
    weights = affinity(ours, top_k=30)
    torch.testing.assert_close(weights, official["affinity_top30"][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), official["usage"][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(affinity(ours), official["affinity_full"][0], rtol=1e-4, atol=1e-5)
