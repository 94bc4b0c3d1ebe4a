"""Networks answer faster: fused batch norms, CUDA graphs, and small work in parallel (ours)."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)
Item, Result = TypeVar("Item"), TypeVar("Result")
Function = Callable[..., tuple[Tensor, ...]]

WARM_UPS = 3  # calls before a recording, in which libraries choose their kernels
AHEAD = 2  # items that wait for each worker before whoever finds them works on them too


def fuse_batchnorm(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """A copy whose batch norms are part of the convolutions before them, channels last.

    It cannot be trained or saved. In float32 it differs by rounding only.

    Args:
        dtype: of weights and features; bfloat16 halves both and is fast on some processors.
            Parts that the network names in `float32_parts` stay so.
    """
    copy = deepcopy(network).eval()
    for module in list(copy.modules()):
        for convolution, norm in _neighbours(module):
            fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
            setattr(module, convolution, fused)
            setattr(module, norm, nn.Identity())
    copy.requires_grad_(False).to(memory_format=torch.channels_last)
    exact = {
        name: deepcopy(copy.get_submodule(name)) for name in getattr(copy, "float32_parts", ())
    }
    copy.to(dtype=dtype)
    for name, part in exact.items():
        copy.set_submodule(name, part)
    return copy


def _neighbours(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of convolutions and of the batch norms that follow them at once.

    Residual blocks and stems register each norm after its convolution, as a chain does.
    """
    for (name, first), (next_name, second) in pairwise(module.named_children()):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            yield name, next_name


class CudaGraph:
    """One function on tensors of one size each."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self.inputs = [each.clone() for each in inputs]
        self.lock = Lock()  # between filling the inputs and copying what came out
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        # other threads may ask for memory meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = function(*self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the function gives for these inputs, in tensors of its own."""
        with self.lock:
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
            self.graph.replay()
            return tuple(each.clone() for each in self.outputs)


# of each network, for as long as it lives
_recordings: WeakKeyDictionary[nn.Module, dict[Hashable, CudaGraph]] = WeakKeyDictionary()
_recording = Lock()


@torch.inference_mode()
def replay_graph(
    network: nn.Module, name: Hashable, function: Function, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """`function(*inputs)`, recorded at the first call with inputs of these sizes; for inference.

    Args:
        network: whose weights the function uses; the recording lives as long as it does. Weights
            may change in place, but the network may not move.
        name: of the function among those of the network.
        function: tensors in, tensors out, none of which depends on a value that Python has to see.
        inputs: on a GPU.
    """
    key = (name, *((each.shape, each.dtype) for each in inputs))
    with _recording:
        known = _recordings.setdefault(network, {})
        if key not in known:
            known[key] = CudaGraph(function, inputs)
    return known[key](inputs)


def parallel_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    device: torch.device,
    *,
    threads: int = 1,
) -> Iterator[Result]:
    """What `map` gives, from workers that share half of PyTorch's threads.

    The other half finds the items, and works on them where they pile up or none is left to find.
    An exception of `work` comes where its result would have come; what was not begun by then is
    not done.

    Args:
        device: of the work; on a GPU one item comes after another, as where there is one thread.
        threads: that work on an item, whoever does: what comes out depends on nothing else.
    """
    before = torch.get_num_threads()
    workers = before // 2 // threads if device.type == "cpu" else 0
    if not workers:
        yield from map(work, items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()  # in the order of the items
    pool = ThreadPoolExecutor(workers, "parallel_map", torch.set_num_threads, (threads,))
    left = before - workers * threads

    def help_out() -> None:
        """Work on the first item that nobody has begun; if there is none, wait for the first."""
        for place, (item, result) in enumerate(waiting):
            if result.cancel():
                waiting[place] = (item, _done(work, item, threads, left))
                return
        waiting[0][1].exception()

    try:
        torch.set_num_threads(left)
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            while sum(not result.done() for _, result in waiting) > AHEAD * workers:
                help_out()
            while waiting and waiting[0][1].done():
                yield waiting.popleft()[1].result()
        while waiting:
            help_out()
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _done(
    work: Callable[[Item], Result], item: Item, threads: int, afterwards: int
) -> "Future[Result]":
    done = Future()
    torch.set_num_threads(threads)
    try:
        done.set_result(work(item))
    except Exception as error:
        done.set_exception(error)
    torch.set_num_threads(afterwards)
    return done
