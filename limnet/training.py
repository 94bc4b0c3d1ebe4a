"""Training: one step for each network, and one loop for all three (paper, section III-B)."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from limnet.clicks import Click, click_maps
from limnet.defects import corrupt
from limnet.losses import bootstrapped_cross_entropy, dice_loss, normalised_focal_loss
from limnet.mask_pairs import MaskPairs
from limnet.networks.affinity import affinity, similarity
from limnet.networks.click_net import ClickNet
from limnet.networks.normalisation import normalise
from limnet.networks.propagation_net import PropagationNet, aggregate
from limnet.networks.quality_net import QualityNet
from limnet.results import write_whole
from limnet.sequences import SliceSequence
from limnet.simulated_user import error_click, first_clicks

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")


class ClickBatch(NamedTuple):
    """Slices for the click network."""

    images: Float32[Tensor, "batch height width"]
    targets: Bool[Tensor, "batch height width"]


class SequenceBatch(NamedTuple):
    """Sequences for the propagation network."""

    images: Float32[Tensor, "batch slices height width"]
    targets: Bool[Tensor, "batch slices height width"]


@dataclass(frozen=True)
class ClickTraining:
    """How clicks are simulated, after RITM (facts: initial clicks, then rounds on errors)."""

    decay: float = 0.25  # k further clicks of a polarity have a probability ~ decay^k (RITM: 0.8)
    max_clicks: int = 24  # of one polarity at the start
    max_rounds: int = 2  # of correcting clicks before the step that learns (RITM: 3)
    defective_share: float = 0.3  # samples that start from a defective mask (section III-B)
    absent_share: float = 0.05  # samples whose previous mask must be clicked away altogether
    auxiliary_weight: float = 0.4  # of the OCR's auxiliary cross entropy
    dice_weight: float = 1.0  # of a Dice loss, ours: networks that start from nothing learn sooner


@dataclass(frozen=True)
class PropagationTraining:
    """How a sequence is followed, after XMem."""

    reference_slices: int = 3  # memory slices that one slice reads
    deep_update_share: float = 0.2  # memory slices that update the sensory state from their value


def click_batch(sequences: Iterable[SliceSequence], size: int, per_sequence: int) -> ClickBatch:
    """`size` slices that show their target, up to `per_sequence` from one sequence."""
    images, targets = [], []
    for sequence in sequences:
        shown = (sequence.target.sum(dim=(1, 2)) >= 16).nonzero()[:, 0]
        for index in shown[:: max(1, math.ceil(len(shown) / per_sequence))]:
            images.append(sequence.images[index])
            targets.append(sequence.target[index])
        if len(images) >= size:
            break
    return ClickBatch(torch.stack(images[:size]), torch.stack(targets[:size]))


def sequence_batch(sequences: Iterable[SliceSequence], size: int) -> SequenceBatch:
    """The next `size` sequences as one batch."""
    chosen = list(islice(sequences, size))
    return SequenceBatch(*(torch.stack(parts) for parts in zip(*chosen, strict=True)))


def click_step(
    network: ClickNet,
    batch: ClickBatch,
    rng: np.random.Generator,
    options: ClickTraining | None = None,
) -> Float[Tensor, ""]:
    """Loss of one batch after simulated clicks: focal and auxiliary as in RITM, and Dice."""
    options = options or ClickTraining()
    images = batch.images[:, None].expand(-1, 3, -1, -1)
    targets, previous, clicks = _first_clicks(batch.targets.cpu().numpy(), rng, options)
    targets, previous = (torch.from_numpy(x).to(images)[:, None] for x in (targets, previous))
    learning = network.training
    network.eval()
    with torch.no_grad():
        for _ in range(rng.integers(options.max_rounds + 1)):
            previous = network(images, _maps(clicks, images), previous).mask.sigmoid()
            _add_correcting_clicks(clicks, targets, previous, rng)
    network.train(learning)
    logits = network(images, _maps(clicks, images), previous)
    auxiliary = functional.binary_cross_entropy_with_logits(logits.auxiliary, targets)
    main = normalised_focal_loss(logits.mask, targets).mean()
    overlap = dice_loss(logits.mask.sigmoid(), targets).mean()
    return main + options.auxiliary_weight * auxiliary + options.dice_weight * overlap


def _maps(clicks: list[list[Click]], images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return torch.stack([click_maps(c, height, width, device=images.device) for c in clicks])


def _first_clicks(
    targets: Bool[np.ndarray, "batch height width"],
    rng: np.random.Generator,
    options: ClickTraining,
) -> tuple[np.ndarray, np.ndarray, list[list[Click]]]:
    """Targets, previous masks and first clicks of every sample."""
    targets = targets.copy()
    previous = np.zeros_like(targets)
    clicks = []
    for target, mask in zip(targets, previous, strict=True):
        chance = rng.random()
        if chance < options.defective_share:
            mask[:] = corrupt(target, rng)[0]
        elif chance < options.defective_share + options.absent_share:
            mask[:] = target
            target[:] = False
        click = error_click(target, mask, rng) if mask.any() else None
        clicks.append(
            [click]
            if click
            else first_clicks(target, rng, decay=options.decay, most=options.max_clicks)
        )
    return targets.astype(np.float32), previous.astype(np.float32), clicks


def _add_correcting_clicks(
    clicks: list[list[Click]], targets: Tensor, previous: Tensor, rng: np.random.Generator
) -> None:
    pairs = zip(targets[:, 0].cpu().numpy() > 0.5, previous[:, 0].cpu().numpy() > 0.49, strict=True)
    for sample, (target, mask) in zip(clicks, pairs, strict=True):
        click = error_click(target, mask, rng)
        if click:
            sample.append(click)


def propagation_step(
    network: PropagationNet,
    batch: SequenceBatch,
    rng: np.random.Generator,
    options: PropagationTraining | None = None,
) -> Float[Tensor, ""]:
    """Mean loss over the slices after the first, whose true mask is the prompt (XMem)."""
    options = options or PropagationTraining()
    size, length = batch.images.shape[:2]
    frames = normalise(batch.images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1))
    features = [x.unflatten(0, (size, length)) for x in network.encode_key(frames)]
    key, shrinkage, selection, f16, f8, f4 = features
    frames = frames.unflatten(0, (size, length))
    targets = batch.targets.to(frames)[:, :, None]
    hidden = network.config.hidden_dim
    sensory = frames.new_zeros(size, hidden, *f16.shape[-2:])
    others = torch.zeros_like(targets[:, 0])
    value, sensory = network.encode_value(
        frames[:, 0], f16[:, 0], sensory, targets[:, 0], others, update_sensory=True
    )
    values, losses = [value], []
    for index in range(1, length):
        chosen = _references(index, rng, options)
        weights = affinity(
            similarity(
                key[:, chosen].movedim(1, 2).flatten(2),
                shrinkage[:, chosen].movedim(1, 2).flatten(2),
                key[:, index].flatten(2),
                selection[:, index].flatten(2),
            )
        )
        memory = torch.stack([values[i] for i in chosen], dim=2).flatten(2)
        readout = (memory @ weights).unflatten(2, f16.shape[-2:])
        last = index == length - 1
        deep = not last and rng.random() < options.deep_update_share
        logits, sensory = network.decode(
            f16[:, index],
            f8[:, index],
            f4[:, index],
            readout,
            sensory,
            update_sensory=not deep and not last,
        )
        aggregated = aggregate(logits.sigmoid())
        losses.append(_mask_loss(aggregated, targets[:, index]))
        if not last:
            mask = aggregated.softmax(dim=1)[:, 1:]
            value, sensory = network.encode_value(
                frames[:, index], f16[:, index], sensory, mask, others, update_sensory=deep
            )
            values.append(value)
    return torch.stack(losses).mean()


def _references(index: int, rng: np.random.Generator, options: PropagationTraining) -> list[int]:
    """Memory slices that slice `index` reads: the prompt slice and some of those before."""
    if index <= options.reference_slices:
        return list(range(index))
    others = rng.choice(np.arange(1, index), options.reference_slices - 1, replace=False)
    return [0, *sorted(others.tolist())]


def _mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    cross_entropy = bootstrapped_cross_entropy(logits, target[:, 0].long())
    return (cross_entropy + dice_loss(logits.softmax(dim=1)[:, 1:], target)).mean()


def quality_step(
    network: QualityNet, batch: MaskPairs, rng: np.random.Generator
) -> Float[Tensor, ""]:
    """Binary cross entropy of "the previous mask is better" (Eq. 2)."""
    logits = network.logits(batch.images, batch.previous, batch.current)
    return functional.binary_cross_entropy_with_logits(logits, batch.previous_better)


@dataclass(frozen=True)
class FitOptions:
    """The loop."""

    iterations: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100  # iterations
    frozen_share: float = 0.3  # last part of the run, in which batch norm keeps its statistics
    average_decay: float = 0.998  # of the running average of the weights, which is what is kept
    gradient_norm: float = 5.0  # larger gradients are scaled down to this norm
    checkpoint_seconds: float = 120.0
    seed: int = 0


def fit(
    network: nn.Module,
    step: Callable[[nn.Module, Batch, np.random.Generator], Float[Tensor, ""]],
    draw: Callable[[np.random.Generator], Batch],
    folder: Path,
    options: FitOptions | None = None,
    progress: Callable[[int, float], None] = lambda iteration, loss: None,
) -> list[float]:
    """Train in place, and leave the running average of the weights in `network`.

    Iteration i draws everything from the generator (seed, i), so a run that was killed goes on
    from its checkpoint in `folder` as if nothing had happened.

    Returns:
        The loss of every iteration, also of those before a restart.

    Raises:
        RuntimeError: loss or gradient is not finite; the last good checkpoint stays on disk.
        ValueError: the checkpoint in the folder is of a run with other options.
    """
    options = options or FitOptions()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    losses: list[float] = []
    if path.exists():
        state = torch.load(path, weights_only=True, map_location="cpu")
        _check_options(path, state["options"], options)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average = {name: tensor.to(average[name]) for name, tensor in state["average"].items()}
        losses = state["losses"]
        log.info("going on from iteration %d of %s", len(losses), path)
    saved = time.monotonic()
    for iteration in range(len(losses), options.iterations):
        frozen = iteration >= (1 - options.frozen_share) * options.iterations
        network.train(not frozen)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(iteration, options)
        rng = np.random.default_rng((options.seed, iteration))
        torch.manual_seed(rng.integers(2**62))  # dropout
        loss = step(network, draw(rng), rng)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), options.gradient_norm)
        if not math.isfinite(loss.item() + norm.item()):
            raise RuntimeError(
                f"loss and gradient of iteration {iteration} must be finite, got {loss.item()} and "
                f"{norm.item()}; a state before it, if one was saved, is in {path}: lower the "
                "learning rate and start again"
            )
        optimizer.step()
        _update_average(
            average, network, min(options.average_decay, (1 + iteration) / (10 + iteration))
        )
        losses.append(loss.item())
        progress(iteration, losses[-1])
        if time.monotonic() - saved > options.checkpoint_seconds:
            _save_checkpoint(path, options, network, optimizer, average, losses)
            saved = time.monotonic()
    _save_checkpoint(path, options, network, optimizer, average, losses)
    network.load_state_dict(average)
    network.eval()
    return losses


def _schedule(iteration: int, options: FitOptions) -> float:
    """Warm-up, then half a cosine down to 1 % of the learning rate."""
    warm = min(1.0, (iteration + 1) / max(options.warm_up, 1))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * iteration / options.iterations)))


def _update_average(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _save_checkpoint(
    path: Path,
    options: FitOptions,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    losses: list[float],
) -> None:
    temporary = path.with_suffix(".partial")
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "losses": losses,
        "options": asdict(options),
    }
    torch.save(state, temporary)
    temporary.replace(path)
    write_whole(path.parent / "log.json", json.dumps({"losses": losses}))


def _check_options(path: Path, saved: dict[str, float | int], options: FitOptions) -> None:
    """A run goes on only as what it was: another schedule or seed is another run."""
    now = asdict(options)
    changed = [name for name in now if name != "checkpoint_seconds" and now[name] != saved[name]]
    if changed:
        raise ValueError(
            f"the run in {path} must go on with the options it began with, but differs in "
            + ", ".join(f"{name} ({saved[name]}, now {now[name]})" for name in changed)
            + "; choose another folder for a new run"
        )
