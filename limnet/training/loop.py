"""The loop that trains any of the networks: it survives being killed and spreads over processes.

torchrun starts the processes; each draws its own part of a batch, and all keep the same weights.
"""

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from limnet.files import write_whole
from limnet.training.drawn_batches import Drawn, Draws, drawn_batches

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")
Step = Callable[[nn.Module, Batch, np.random.Generator], Float[Tensor, ""]]
Draw = Callable[[np.random.Generator], Batch]
PATIENCE = timedelta(hours=2)  # of the other processes while rank 0 validates or saves
HARMLESS = {"checkpoint_seconds", "validate_every", "workers"}  # options that change no weight


@dataclass(frozen=True)
class FitOptions:
    """The loop."""

    iterations: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100  # iterations
    freeze_bn_fraction: float = (
        0.3  # last part of the run, in which batch norm keeps its statistics
    )
    ema_decay: float = 0.998  # of the running average of the weights, which is what is kept
    gradient_norm: float = 5.0  # larger gradients are scaled down to this norm
    bfloat16: bool = False  # compute the step in it where autocast does; weights stay float32
    validate_every: int = 0  # iterations; 0: never
    checkpoint_seconds: float = 120.0
    workers: int = 0  # processes that draw batches ahead; 0: none, each is drawn when it is needed
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a run has come to since its first start."""

    losses: list[float]  # of every iteration, the mean over all processes
    scores: list[tuple[int, float]]  # (iterations done, score); on rank 0 only
    seconds: float  # of wall time, without what was done again after a kill


@dataclass
class _Run:
    """A run under way: what its checkpoint holds, and where that is."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]  # of weights and buffers
    options: FitOptions
    path: Path  # of the checkpoint
    rank: int
    processes: int
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    on_disk: int = -1  # iterations that the checkpoint on disk has done, -1 if there is none


def fit(
    network: nn.Module,
    step: Step,
    draw: Draw,
    folder: Path,
    options: FitOptions | None = None,
    progress: Callable[[int, float], None] = lambda iteration, loss: None,
    validate: Callable[[nn.Module], float] | None = None,
) -> Fitted:
    """Train in place, and leave the running average of the weights in `network`, in eval mode.

    Iteration i draws everything from the generator (seed, i), so a run that was killed goes on
    from `checkpoint.pt` in `folder` as if nothing had happened (to the bit on a CPU, with as many
    threads); `log.json` has its numbers.
    PyTorch's global random state is at the end what it was before.

    Processes that torchrun started train together, rank r on batches from the generator
    (seed, i, r); the gradient is the mean of theirs. Only rank 0 uses the folder, validates and
    reports progress. A run may go on with another number of processes.

    Args:
        draw: gives a batch, tensors in a tuple, which then go to the network's device. In workers,
            which are forked, it must not touch a GPU.
        progress: gets the number of the iteration, from 0, and its loss.
        validate: a score of the running average, which it gets in the network, in eval mode.

    Raises:
        RuntimeError: loss or gradient is not finite: the checkpoint is the state before. Or the
            checkpoint could not be written: the one before stays.
        ValueError: the checkpoint in the folder is damaged, or of a run with other options.
    """
    run = _begin(network, folder, options or FitOptions())
    began = time.monotonic() - run.seconds
    saved = time.monotonic()
    # torch.manual_seed would leave its traces on every GPU that is in use
    graphics = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(graphics)):
        draws = Draws(draw, run.options.seed, run.rank)
        left = range(len(run.losses), run.options.iterations)
        for drawn in drawn_batches(draws, left, run.options.workers):
            loss = _learn(run, step, drawn)
            run.losses.append(loss)
            if run.rank == 0:
                progress(len(run.losses) - 1, loss)
                _validate(run, validate)
            run.seconds = time.monotonic() - began
            if time.monotonic() - saved >= run.options.checkpoint_seconds:
                _save_checkpoint(run)
                saved = time.monotonic()
        _save_checkpoint(run)
    network.load_state_dict(run.average)
    network.eval()
    return Fitted(run.losses, run.scores, run.seconds)


def local_device() -> torch.device:
    """The device of this process: the GPU of number LOCAL_RANK (torchrun), else 0, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def processes(device: torch.device) -> tuple[int, int]:
    """Rank of this process and number of processes that train together: (0, 1) if it is alone.

    A process that torchrun started, which RANK and WORLD_SIZE in its environment tell, joins the
    others on its first call, by NCCL for a GPU and Gloo for a CPU, and stays with them to its end.
    """
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    return distributed.get_rank(), distributed.get_world_size()


def _begin(network: nn.Module, folder: Path, options: FitOptions) -> _Run:
    """The run as rank 0's checkpoint left it, or a new one from rank 0's weights."""
    device = next(network.parameters()).device
    rank, count = processes(device)
    path = folder / "checkpoint.pt"
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    found = [path, path.read_bytes() if rank == 0 and path.exists() else None]
    if count > 1:  # the other ranks may have another folder, or none of these disks
        distributed.broadcast_object_list(found, src=0, device=device)
    path, content = found
    state = None if content is None else _read_checkpoint(path, content, options)
    if state:
        network.load_state_dict(state["network"])
    elif count > 1:
        for tensor in network.state_dict().values():
            sent = tensor.contiguous()  # channels_last is not
            distributed.broadcast(sent, src=0)
            tensor.copy_(sent)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run = _Run(network, optimizer, average, options, path, rank, count)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        for name, tensor in state["average"].items():
            average[name].copy_(tensor)
        run.losses, run.scores, run.seconds = state["losses"], state["scores"], state["seconds"]
        run.on_disk = len(run.losses)
        log.info("going on from iteration %d of %s", run.on_disk, path)
    return run


def _read_checkpoint(path: Path, content: bytes, options: FitOptions) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        # what checkpoints of version 0.1.0 do not hold
        state = {"scores": [], "seconds": 0.0, **state}
        saved = {**asdict(FitOptions()), **state["options"]}
        _ = [state[name] for name in ("network", "optimizer", "average", "losses")]
    except Exception as error:  # damaged files end in errors of many kinds
        raise ValueError(
            f"{path} must be a whole checkpoint of this package, but cannot be read; remove it to "
            "begin again from nothing, or choose another folder"
        ) from error
    _check_options(path, saved, options)
    return state


def _check_options(path: Path, saved: dict[str, float | int], options: FitOptions) -> None:
    """A run goes on only as what it was: another schedule or seed is another run."""
    now = asdict(options)
    changed = [name for name in now if name not in HARMLESS and now[name] != saved[name]]
    if changed:
        raise ValueError(
            f"the run in {path} must go on with the options it began with, but differs in "
            + ", ".join(f"{name} ({saved[name]}, now {now[name]})" for name in changed)
            + "; choose another folder for a new run"
        )


def _on(device: torch.device, batch: Any) -> Any:
    """Tensors and tuples of them on a device; anything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        parts = [_on(device, each) for each in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def _learn(run: _Run, step: Step, drawn: Drawn) -> float:
    """Do one iteration; its loss, the mean over all processes."""
    network, options, iteration = run.network, run.options, len(run.losses)
    network.train(iteration < (1 - options.freeze_bn_fraction) * options.iterations)
    for group in run.optimizer.param_groups:
        group["lr"] = options.learning_rate * _schedule(iteration, options)
    torch.manual_seed(drawn.seed)  # dropout
    before = [buffer.clone() for buffer in network.buffers()]
    device = next(network.parameters()).device
    batch = _on(device, drawn.batch)
    # no cache: a weight that was first cast under no_grad, as click_step does, would come from it
    # without its gradient in earlier versions of PyTorch (its issue 158232)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16, cache_enabled=False):
        loss = step(network, batch, drawn.rng)
    run.optimizer.zero_grad()
    loss.backward()
    loss = loss.detach().float()
    if run.processes > 1:
        _average_over_processes(network, loss, run.processes)
    norm = nn.utils.clip_grad_norm_(network.parameters(), options.gradient_norm)
    if not math.isfinite(loss.item() + norm.item()):
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)  # batch norm has counted the bad batch already
        _save_checkpoint(run)
        raise RuntimeError(
            f"loss and gradient of iteration {iteration} must be finite, got {loss.item()} and "
            f"{norm.item()}; the state before it is in {run.path}, from which the same options "
            "lead here again: lower the learning rate and train in another folder"
        )
    run.optimizer.step()
    decay = min(options.ema_decay, (1 + iteration) / (10 + iteration))
    _update_average(run.average, network, decay)
    return loss.item()


def _schedule(iteration: int, options: FitOptions) -> float:
    """Warm-up, then half a cosine down to 1 % of the learning rate."""
    warm = min(1.0, (iteration + 1) / max(options.warm_up, 1))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * iteration / options.iterations)))


def _average_over_processes(network: nn.Module, loss: Tensor, count: int) -> None:
    """Loss, gradients and batch norm's statistics become their means, in place.

    DistributedDataParallel would do so during the backward pass, but it wraps the network, and
    the steps call methods of it (`encode_key`, `logits`) that a wrapper does not have. One rank's
    NaN is everyone's: all stop at the same iteration without a word about it.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    used = torch.tensor([float(weight.grad is not None) for weight in weights], device=loss.device)
    distributed.all_reduce(used)
    for weight, times in zip(weights, used.tolist(), strict=True):
        if times and weight.grad is None:  # a step left it out here, by chance, and not elsewhere
            weight.grad = torch.zeros_like(weight)
    tensors = [loss, *(weight.grad for weight in weights if weight.grad is not None)]
    if network.training:  # else they are the same everywhere, but for the rounding of their mean
        tensors += [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message for all
    distributed.all_reduce(flat)
    means = (flat / count).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def _update_average(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _validate(run: _Run, validate: Callable[[nn.Module], float] | None) -> None:
    """Every so many iterations, score the running average, and put everything back in place."""
    every, done = run.options.validate_every, len(run.losses)
    if validate is None or every == 0 or done % every:
        return
    _exchange(run.network, run.average)
    run.network.eval()
    try:
        with torch.no_grad():
            run.scores.append((done, float(validate(run.network))))
    finally:
        _exchange(run.network, run.average)


def _exchange(network: nn.Module, average: dict[str, Tensor]) -> None:
    for name, tensor in network.state_dict().items():
        own = tensor.clone()
        tensor.copy_(average[name])
        average[name].copy_(own)


def _save_checkpoint(run: _Run) -> None:
    """Write checkpoint and log, each whole or not at all, unless the state is on disk already."""
    done = len(run.losses)
    if run.rank != 0 or run.on_disk == done:
        return
    partial = run.path.with_suffix(".partial")  # one name: kills leave no pile of large files
    try:
        with partial.open("wb") as file:
            torch.save(_state(run), file)
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine could leave the new name empty
        partial.replace(run.path)
        run.on_disk = done
        write_whole(run.path.with_name("log.json"), _log(run))
    except (OSError, RuntimeError) as error:  # RuntimeError: PyTorch's writer of zip files
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        good = f"{run.path}, which has done {run.on_disk}" if run.on_disk >= 0 else "none"
        raise RuntimeError(
            f"checkpoint and log of {done} iterations could not be written ({error}); the last "
            f"good checkpoint is {good}: make room on the disk and start again"
        ) from error


def _state(run: _Run) -> dict[str, Any]:
    return {
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "average": run.average,
        "losses": run.losses,
        "scores": run.scores,
        "seconds": run.seconds,
        "options": asdict(run.options),
    }


def _log(run: _Run) -> str:
    numbers = {
        "losses": run.losses,
        # JSON has no NaN
        "scores": [(done, score if math.isfinite(score) else None) for done, score in run.scores],
        "seconds": round(run.seconds, 3),
        "processes": run.processes,
        "options": asdict(run.options),
    }
    return json.dumps(numbers)
