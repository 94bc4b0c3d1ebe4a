from contextlib import nullcontext

import pytest
import torch
from torch import nn

from limnet.networks import inference
from limnet.networks.inference import replay_graph


class Graph:
    """Stands in for a CUDA graph: what is called while it records runs again at each replay."""

    recording = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for again in self.calls:
            again()


class Record:
    """Stands in for `torch.cuda.graph`."""

    def __init__(self, graph, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.graph = graph

    def __enter__(self):
        Graph.recording = self.graph

    def __exit__(self, *error):
        Graph.recording = None


class Stream:
    def wait_stream(self, stream):
        pass


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Record)


class Doubling:
    """A function that a fake graph can record, and how often Python has called it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, given):
        self.calls += 1
        doubled = 2 * given
        if Graph.recording is not None:
            Graph.recording.calls.append(lambda: torch.mul(given, 2, out=doubled))
        return (doubled,)


def test_a_recording_answers_for_the_newest_inputs_without_python(gpu):
    function, network = Doubling(), nn.Identity()
    for value in (1.0, 5.0, 7.0):
        [doubled] = replay_graph(network, "double", function, [torch.full((3,), value)])
        assert doubled.tolist() == [2 * value] * 3
    assert function.calls == inference.WARM_UPS + 1


def test_what_came_out_stays_when_the_next_call_comes(gpu):
    function, network = Doubling(), nn.Identity()
    [first] = replay_graph(network, "double", function, [torch.ones(2)])
    replay_graph(network, "double", function, [torch.zeros(2)])
    assert first.tolist() == [2, 2]


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_inputs_of_another_size_or_type_are_recorded_anew(gpu, other):
    function, network = Doubling(), nn.Identity()
    replay_graph(network, "double", function, [torch.ones(2)])
    [doubled] = replay_graph(network, "double", function, [other])
    assert doubled.shape == other.shape and doubled.dtype == other.dtype
    assert function.calls == 2 * (inference.WARM_UPS + 1)


def test_recordings_go_with_their_network(gpu):
    network = nn.Identity()
    before = len(inference._recordings)
    replay_graph(network, "double", Doubling(), [torch.ones(2)])
    assert len(inference._recordings) == before + 1
    del network
    assert len(inference._recordings) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_it_gives_without_a_recording():
    network = nn.Conv2d(3, 3, 3).cuda().requires_grad_(False)
    for seed in range(3):
        torch.manual_seed(seed)
        image = torch.rand(1, 3, 8, 8, device="cuda")
        [found] = replay_graph(network, "all", lambda x: (network(x),), [image])
        assert torch.allclose(found, network(image), atol=1e-5)
