"""Functions of tensors as CUDA graphs: a GPU does all of one at a single word from Python (ours).

The parts of a propagation net that run for every slice are hundreds of small kernels, and to call
each from Python takes longer than to run it.
"""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Function = Callable[..., tuple[Tensor, ...]]

WARM_UPS = 3  # calls before a recording, in which libraries choose their kernels


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
def replay(
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
