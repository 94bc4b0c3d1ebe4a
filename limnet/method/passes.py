"""From the mask of one slice to the masks of all (paper, section II-D, Eqs. 5-6)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from limnet.method.features import SliceFeature
from limnet.method.memory import Memory, MemoryConfig
from limnet.networks.inference import replay_graph
from limnet.networks.propagation_net import PropagationNet, SliceEncoding, aggregate

Probability = Float[Tensor, "height width"]  # of one slice, padded as its features are


@runtime_checkable
class Features(Protocol):
    """Anything that knows the features of each slice."""

    def __getitem__(self, slice_index: int) -> SliceFeature: ...


@dataclass(frozen=True)
class PropagationOptions:
    """How a pass remembers; the defaults are XMem's, but for the prompts' memory."""

    memorize_every: int | None = None  # slices between memorized ones; None: the network's own
    # slices between updates of sensory memory from the value; None: whenever a slice is memorized
    update_sensory_every: int | None = None
    permanent_prompt_memory: bool = True  # clicked slices stay in memory for the whole pass
    # slices in a row without the object after which a pass ends, unless the user gave one beyond
    # that shows it; None: never, as in the paper
    end_after: int | None = None
    # whether propagation sees a close-up of the object; None: as the network was trained
    close_up: bool | None = None
    # whether a GPU runs decoder and value encoder as CUDA graphs (`recorded`); a CPU never does
    recorded: bool = True
    # whether a CPU looks at propagated masks on threads of their own (`parallel_map`)
    parallel_map: bool = True
    memory: MemoryConfig = field(default_factory=MemoryConfig)


def propagate(
    network: PropagationNet,
    features: Features,
    slices: int,
    prompt_slice: int,
    given: Mapping[int, Probability],
    options: PropagationOptions | None = None,
) -> Iterator[tuple[int, Probability]]:
    """Carry the prompt mask to both ends of a volume: Eq. 5, then Eq. 6.

    Args:
        slices: number of slices in the volume.
        given: masks that the user vouches for, by slice index, that of the prompt slice among
            them; they are passed on as they are.

    Yields:
        Slice index and probability of every slice but the prompt's, as they are computed; of none
        beyond the end of the object, where `PropagationOptions.end_after` says so.

    Raises:
        ValueError: the prompt slice is not in the volume or has no mask.
    """
    if not 0 <= prompt_slice < slices or prompt_slice not in given:
        raise ValueError(
            f"the prompt slice must be one of the {slices} slices and have a mask, "
            f"got slice {prompt_slice} and masks of slices {sorted(given)}"
        )
    options = options or PropagationOptions()
    for order in (range(prompt_slice, slices), range(prompt_slice, -1, -1)):
        yield from propagate_pass(network, features, order, given, Memory(options.memory), options)


def propagate_pass(
    network: PropagationNet,
    features: Features,
    order: Sequence[int],
    given: Mapping[int, Probability],
    memory: Memory,
    options: PropagationOptions | None = None,
) -> Iterator[tuple[int, Probability]]:
    """One direction: slices in `order`, of which the first is the prompt slice and not yielded."""
    options = options or PropagationOptions()
    memorize_every = options.memorize_every or network.config.memorize_every
    every = options.update_sensory_every
    sensory = _no_sensory(network, features[order[0]])
    if options.permanent_prompt_memory:
        _keep_given(network, features, order[0], given, memory, options)
    last_memory = last_update = 0
    shown = max(at for at, index in enumerate(order) if at == 0 or _shows(given.get(index)))
    for position, index in enumerate(order):
        feature, last = features[index], position == len(order) - 1
        first, known = position == 0, index in given
        memorable = not last and (first or known or position - last_memory >= memorize_every)
        from_value = memorable and (first or every is None or position - last_update >= every)
        # XMem lets the decoder update too where the two are not synchronised
        from_mask = not last and (every is not None or not from_value)
        with torch.inference_mode():
            if known:
                probability = _settle(given[index])
            else:
                probability, sensory = _decode(
                    network, feature, memory, sensory, from_mask, options
                )
            if memorable:
                value, sensory = _encode(
                    network, feature, sensory, probability, from_value, options
                )
                last_memory = position
                last_update = position if from_value else last_update
                if first or not (known and options.permanent_prompt_memory):
                    _memorize(memory, feature, value, keep=first)
        if not first:
            yield index, probability
        if options.end_after is not None:
            shown = max(shown, position) if _shows(probability) else shown
            if position - shown >= options.end_after:
                return


@torch.inference_mode()
def _keep_given(
    network: PropagationNet,
    features: Features,
    prompt_slice: int,
    given: Mapping[int, Probability],
    memory: Memory,
    options: PropagationOptions,
) -> None:
    """Memorize the given slices but the prompt's, which the pass itself comes to first."""
    for index in sorted(set(given) - {prompt_slice}):
        # a slice out of turn has no sensory memory: nothing has led up to it
        sensory = _no_sensory(network, features[index])
        value, _ = _encode(network, features[index], sensory, given[index], False, options)
        _memorize(memory, features[index], value, keep=True)


def _decode(
    network: PropagationNet,
    feature: SliceFeature,
    memory: Memory,
    sensory: Tensor,
    update_sensory: bool,
    options: PropagationOptions,
) -> tuple[Probability, Tensor]:
    readout = memory.read(feature.parts.key[0], feature.parts.selection[0])[None]

    def decode(readout: Tensor, sensory: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        seen = SliceEncoding(*parts)
        logits, after = network.decode(seen, readout, sensory, update_sensory=update_sensory)
        return _settle(logits[0, 0].float().sigmoid()), after

    inputs = (readout, sensory, *feature.parts)
    return _run(network, ("decode", update_sensory), decode, inputs, options)


def _run(
    network: PropagationNet,
    name: tuple[str, bool],
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    options: PropagationOptions,
) -> tuple[Tensor, ...]:
    """What the function makes of the inputs, on a GPU as it was recorded."""
    if options.recorded and inputs[0].device.type == "cuda":
        return replay_graph(network, name, function, inputs)
    return function(*inputs)


def _shows(probability: Probability | None) -> bool:
    """Whether there is anything of the object."""
    return probability is not None and bool((probability > 0.5).any())


def _settle(probability: Probability) -> Probability:
    """Soft aggregation with the background: p^2 / (p^2 + (1 - p)^2) (XMem)."""
    return aggregate(probability[None]).softmax(dim=0)[1]


def _no_sensory(network: PropagationNet, feature: SliceFeature) -> Tensor:
    height, width = feature.parts.key.shape[-2:]
    size = (1, network.config.hidden_dim, height, width)
    return feature.frame.new_zeros(size, dtype=network.sensory_dtype)


def _encode(
    network: PropagationNet,
    feature: SliceFeature,
    sensory: Tensor,
    probability: Probability,
    update_sensory: bool,
    options: PropagationOptions,
) -> tuple[Tensor, Tensor]:
    def encode(
        frame: Tensor, sensory: Tensor, probability: Tensor, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        mask, seen = probability[None, None], SliceEncoding(*parts)
        nothing = torch.zeros_like(mask)
        return network.encode_value(
            frame, seen, sensory, mask, nothing, update_sensory=update_sensory
        )

    inputs = (feature.frame, sensory, probability, *feature.parts)
    return _run(network, ("encode", update_sensory), encode, inputs, options)


def _memorize(memory: Memory, feature: SliceFeature, value: Tensor, *, keep: bool) -> None:
    key, shrinkage, selection = feature.parts[:3]
    memory.memorize(key[0], shrinkage[0], selection[0], value[0], keep=keep)
