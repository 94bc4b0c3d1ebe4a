import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from limnet.networks import inference
from limnet.networks.checkpoints import lite
from limnet.networks.inference import AHEAD, fuse_batchnorm, parallel_map, replay_graph
from limnet.networks.propagation_net import PropagationNet


@pytest.fixture(scope="module")
def networks():
    """With statistics that are not those of a new batch norm."""
    torch.manual_seed(1)  # with 0 what the quality net adds up to a logit cancels
    networks = lite()
    for network in (networks.click_net, networks.propagation_net, networks.quality_net):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return networks


def slices(generator):
    """Images, and two masks."""
    return torch.rand(2, 3, 64, 48, generator=generator), *torch.rand(
        2, 2, 1, 64, 48, generator=generator
    )


def answers(networks, generator, fold):
    """Of all three networks to the same slices."""
    images, first, second = slices(generator.manual_seed(0))
    clicks, moving, quality = map(
        fold, (networks.click_net, networks.propagation_net, networks.quality_net)
    )
    with torch.inference_mode():
        parts = moving.precompute(moving.encode_key(images))
        sensory = images.new_zeros(2, moving.config.hidden_dim, 4, 3)
        value, sensory = moving.encode_value(
            images, parts, sensory, first, second, update_sensory=True
        )
        logits, sensory = moving.decode(parts, value, sensory, update_sensory=True)
        clicked = clicks(images, torch.cat([first, second], dim=1), first).mask
        return clicked, logits.float(), parts.key, quality.logits(images, first, second)


def test_a_folded_network_answers_the_same(networks, generator):
    plain = answers(networks, generator, lambda network: network)
    for one, other in zip(plain, answers(networks, generator, fuse_batchnorm), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_in_sixteen_bits_it_answers_nearly_the_same(networks, generator):
    plain = answers(networks, generator, lambda network: network)
    half = answers(networks, generator, lambda network: fuse_batchnorm(network, torch.bfloat16))
    for one, other in zip(plain, half, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).abs().max()) < 0.1 * float(one.abs().max())


def test_what_was_trained_stays_as_it_is(networks):
    network = networks.propagation_net
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy = fuse_batchnorm(network, torch.bfloat16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())


@pytest.mark.parametrize("exact", [True, False])
def test_what_goes_into_memory_is_as_exact_as_the_network_asks(networks, generator, exact):
    network = networks.propagation_net
    asked = PropagationNet(replace(network.config, fp32_memory=exact)).eval()
    asked.load_state_dict(network.state_dict())
    images, mask, others = slices(generator.manual_seed(0))
    memorized = []
    for net in (asked, fuse_batchnorm(asked, torch.bfloat16)):
        parts = net.precompute(net.encode_key(images))
        sensory = torch.zeros(2, net.config.hidden_dim, 4, 3)
        value, _ = net.encode_value(images, parts, sensory, mask, others, update_sensory=True)
        logits, sensory = net.decode(parts, value, sensory, update_sensory=True)
        memorized.append((parts.key, value.float(), logits))
    exact_type, fast = torch.float32 if exact else torch.bfloat16, torch.bfloat16
    assert (value.dtype, sensory.dtype, logits.dtype) == 3 * (exact_type,)
    assert parts.decoder8.dtype == net.dtype == fast
    rounding = 2**-16 if exact else 2**-8
    for plain, half in zip(*(each[:2] for each in memorized), strict=True):
        assert (plain - half).abs().max() < 20 * rounding * plain.abs().max()
        assert exact or not torch.allclose(plain, half, rtol=1e-4)


def test_a_norm_that_follows_no_convolution_stays():
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU())
    assert isinstance(fuse_batchnorm(network)[1], nn.BatchNorm2d)


class Graph:
    """Stands in for a CUDA graph and its recording: what is recorded runs again at each replay."""

    recording = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for again in self.calls:
            again()

    @staticmethod
    @contextmanager
    def record(graph, capture_error_mode):
        assert capture_error_mode == "thread_local"
        Graph.recording = graph
        yield
        Graph.recording = None


@pytest.fixture
def gpu(monkeypatch):
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Mock)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Graph.record)


def double(given):
    doubled = 2 * given
    if Graph.recording is not None:
        Graph.recording.calls.append(lambda: torch.mul(given, 2, out=doubled))
    return (doubled,)


def test_a_graph_answers_for_the_newest_inputs_in_tensors_of_their_own(gpu):
    function, network = Mock(side_effect=double), nn.Identity()
    inputs = [torch.full((3,), value) for value in (1.0, 5.0, 7.0)]
    answers = [replay_graph(network, "double", function, [each])[0] for each in inputs]
    assert [each.tolist() for each in answers] == [(2 * each).tolist() for each in inputs]
    assert function.call_count == inference.WARM_UPS + 1


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_each_size_and_type_has_a_graph_which_goes_with_the_network(gpu, other):
    function, network = Mock(side_effect=double), nn.Identity()
    before = len(inference._recordings)
    replay_graph(network, "double", function, [torch.ones(2)])
    [doubled] = replay_graph(network, "double", function, [other])
    assert doubled.shape == other.shape and doubled.dtype == other.dtype
    assert function.call_count == 2 * (inference.WARM_UPS + 1)
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


CPU = torch.device("cpu")
PATIENCE = 10  # seconds that a test waits for another thread before it fails


@pytest.fixture
def threads():
    """Sets how many threads PyTorch has, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def on_main_thread():
    return threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    ("count", "each", "workers"), [(8, 2, 2), (8, 4, 1), (7, 3, 1), (8, 5, 0), (2, 1, 1)]
)
def test_each_item_has_as_many_threads_as_were_asked_for_whoever_works_on_it(
    threads, count, each, workers
):
    threads(count)
    both, seen = threading.Event(), []

    def work(item):
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        if not on_main_thread():
            assert both.wait(PATIENCE)
        both.set()

    list(parallel_map(work, range(20), CPU, threads=each))
    if not workers:
        assert set(seen) == {("MainThread", count)}
    else:
        assert {number for _, number in seen} == {each}
        assert "MainThread" in {name for name, _ in seen}
        assert 1 < len({name for name, _ in seen}) <= workers + 1


def test_who_finds_the_items_works_too_where_they_pile_up(threads):
    threads(2)
    helped = threading.Event()
    found = []

    def work(item):
        if item == 0:
            assert helped.wait(PATIENCE), "nobody else worked on the others"
        elif on_main_thread():
            helped.set()
        return len(found)

    def items():
        for item in range(8):
            found.append(item)
            yield item

    known = list(parallel_map(work, items(), CPU))
    assert known[1] == AHEAD + 1  # one under way, and as many as may wait
    assert len(known) == 8


@pytest.mark.parametrize(("count", "device"), [(1, "cpu"), (4, "cuda")])
def test_on_a_single_thread_and_on_a_gpu_one_comes_after_another(threads, count, device):
    threads(count)
    events = []

    def found():
        for item in range(3):
            events.append(f"found {item}")
            yield item

    def work(item):
        assert on_main_thread() and torch.get_num_threads() == count
        events.append(f"worked on {item}")

    list(parallel_map(work, found(), torch.device(device)))
    assert events == [f"{done} {item}" for item in range(3) for done in ("found", "worked on")]


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_an_error_comes_where_the_result_would_have_come(threads, bad):
    threads(2)

    def work(item):
        if item == bad:
            raise ValueError("no result")
        return item

    results = []
    with pytest.raises(ValueError, match="no result"):
        for result in parallel_map(work, range(8), CPU):
            results.append(result)
    assert results == list(range(bad)) and torch.get_num_threads() == 2


def test_an_error_of_the_finder_and_a_reader_that_stops_leave_the_threads_as_they_were(threads):
    threads(2)

    def broken():
        yield from range(2)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(parallel_map(lambda item: item, broken(), CPU))
    assert torch.get_num_threads() == 2
    results = parallel_map(lambda item: item, range(100), CPU)
    assert next(results) == 0
    results.close()
    assert torch.get_num_threads() == 2
    assert not [each for each in threading.enumerate() if each.name.startswith("parallel_map")]
