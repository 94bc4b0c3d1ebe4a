"""The loop that trains any of the networks: it survives being killed and spreads over processes.

torchrun starts the processes. Each draws its own part of a batch, and all keep the same weights.
"""

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from limnet.files import atomic_write, write_whole

Batch = TypeVar("Batch")
Step = Callable[[nn.Module, Batch, np.random.Generator], Float[Tensor, ""]]
Draw = Callable[[np.random.Generator], Batch]
PATIENCE = timedelta(hours=2)  # of the other processes while rank 0 validates or saves
HARMLESS = {"checkpoint_seconds", "validate_every", "workers"}  # options that change no weight
# options that checkpoints of earlier versions hold under another name
EARLIER_NAMES = {"frozen_share": "freeze_bn_fraction", "average_decay": "ema_decay"}


@dataclass(frozen=True)
class FitOptions:
    """The loop."""

    iterations: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100  # iterations
    freeze_bn_fraction: float = 0.3  # last part of the run: batch norm keeps its statistics
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

    Iteration i draws everything from the generator (seed, i). So a run that was killed goes on
    from `checkpoint.pt` in `folder` as if nothing had happened (to the bit on a CPU, with as many
    threads). `log.json` has its numbers. PyTorch's global random state is left as it was.

    Processes that torchrun started train together, rank r on batches from the generator
    (seed, i, r); the gradient is the mean of theirs. Only rank 0 uses the folder, validates and
    reports progress. A run may go on with another number of processes.

    Args:
        draw: gives a batch, tensors in a tuple, which then go to the network's device. In workers,
            which are forked, it must not touch a GPU.
        progress: gets the number of the iteration, from 0, and its loss.
        validate: a score of a network with the running average of the weights, in eval mode.

    Raises:
        RuntimeError: loss or gradient is not finite: the checkpoint is the state before. Or the
            checkpoint could not be written: the one before stays.
        ValueError: the checkpoint in the folder is damaged, or of a run with other options.
    """
    run = _begin(network, step, folder, options or FitOptions())
    saved = time.monotonic()
    began, every = saved - run.seconds, run.options.validate_every
    # torch.manual_seed would leave its traces on every GPU that is in use
    graphics = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(graphics)):
        draws = Draws(draw, run.options.seed, run.rank)
        left = range(len(run.losses), run.options.iterations)
        for drawn in drawn_batches(draws, left, run.options.workers):
            run.losses.append(_learn(run, *drawn))
            if run.rank == 0:
                progress(len(run.losses) - 1, run.losses[-1])
                if validate and every and len(run.losses) % every == 0:
                    with torch.no_grad():
                        score = float(validate(run.average.module))
                    run.scores.append((len(run.losses), score))
            run.seconds = time.monotonic() - began
            if time.monotonic() - saved >= run.options.checkpoint_seconds:
                _save_checkpoint(run)
                saved = time.monotonic()
        _save_checkpoint(run)
    network.eval().load_state_dict(run.average.module.state_dict())
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
    joined = distributed.is_available() and distributed.is_initialized()
    if not joined and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not joined:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    return distributed.get_rank(), distributed.get_world_size()


Drawn = tuple[int, Any, np.random.Generator]  # PyTorch's seed, the batch, what drew it


@dataclass
class Draws(Dataset):
    """What each iteration draws, from a generator of its own: it matters not who draws, or when."""

    draw: Draw
    seed: int
    rank: int

    def __getitem__(self, iteration: int) -> Drawn:
        rng = np.random.default_rng((self.seed, iteration, self.rank))
        seed = int(rng.integers(2**62))
        torch.manual_seed(seed)
        return seed, self.draw(rng), rng


def drawn_batches(draws: Draws, iterations: range, workers: int) -> Iterable[Drawn]:
    """The draws of these iterations, in order, made when needed or ahead by forked `workers`."""
    # forked, since what draws may be a closure; each worker keeps so many batches ready
    ahead = {"multiprocessing_context": "fork", "prefetch_factor": 4} if workers else {}
    how = {"batch_size": None, "sampler": iterations, "num_workers": workers, **ahead}
    return DataLoader(draws, collate_fn=lambda drawn: drawn, **how)


class _Loss(nn.Module):
    """A step as the forward pass of one module, which DistributedDataParallel can wrap."""

    def __init__(self, network: nn.Module, step: Step) -> None:
        super().__init__()
        self.network, self.step = network, step

    def forward(self, batch: Any, rng: np.random.Generator) -> Float[Tensor, ""]:
        return self.step(self.network, batch, rng)


@dataclass
class _Run:
    """A run under way: what its checkpoint holds, and where that is."""

    network: nn.Module
    loss: nn.Module  # the step; over several processes it averages their gradients
    optimizer: torch.optim.Optimizer
    average: AveragedModel  # of weights and buffers
    options: FitOptions
    path: Path  # of the checkpoint
    rank: int
    processes: int
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    on_disk: int = -1  # iterations that the checkpoint on disk has done, -1 if there is none


def _begin(network: nn.Module, step: Step, folder: Path, options: FitOptions) -> _Run:
    """The run as rank 0's checkpoint left it, or a new one from rank 0's weights."""
    device = next(network.parameters()).device
    rank, count = processes(device)
    path = folder / "checkpoint.pt"
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".*-{path.name}"):  # a kill while it was written left it
            left.unlink()
    found = [path, path.read_bytes() if rank == 0 and path.exists() else None]
    if count > 1:  # the other ranks may have another folder, or none of these disks
        distributed.broadcast_object_list(found, src=0, device=device)
    path, content = found
    state = None if content is None else _read_checkpoint(path, content, options)
    if state:
        network.load_state_dict(state["network"])
    loss = _Loss(network, step)
    if count > 1:  # begins with rank 0's weights; by chance a step leaves some of them out
        loss = DistributedDataParallel(loss, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    move = partial(_move, options.ema_decay)
    average = AveragedModel(network, multi_avg_fn=move, use_buffers=True)
    run = _Run(network, loss, optimizer, average.eval(), options, path, rank, count)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        average.module.load_state_dict(state["average"])
        run.losses, run.scores, run.seconds = state["losses"], state["scores"], state["seconds"]
        run.on_disk = len(run.losses)
    average.n_averaged += 1 + len(run.losses)  # the weights at the start count as one
    return run


def _read_checkpoint(path: Path, content: bytes, options: FitOptions) -> dict[str, Any]:
    """The state in a checkpoint, if the run has the options it began with."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        # what checkpoints of version 0.1.0 do not hold
        state = {"scores": [], "seconds": 0.0, **state}
        named = {EARLIER_NAMES.get(name, name): value for name, value in state["options"].items()}
        saved = {**asdict(FitOptions()), **named}
        _ = [state[name] for name in ("network", "optimizer", "average", "losses")]
    except Exception as error:  # damaged files end in errors of many kinds
        raise ValueError(
            f"{path} must be a whole checkpoint of this package, but cannot be read; remove it to "
            "begin again from nothing, or choose another folder"
        ) from error
    now = asdict(options)
    changed = [name for name in now if name not in HARMLESS and now[name] != saved[name]]
    if changed:
        raise ValueError(
            f"the run in {path} must go on with the options it began with, but differs in "
            + ", ".join(f"{name} ({saved[name]}, now {now[name]})" for name in changed)
            + "; choose another folder for a new run"
        )
    return state


def _learn(run: _Run, seed: int, batch: Any, rng: np.random.Generator) -> float:
    """Do one iteration; its loss, the mean over all processes."""
    network, options, iteration = run.network, run.options, len(run.losses)
    network.train(iteration < (1 - options.freeze_bn_fraction) * options.iterations)
    # warm-up, then half a cosine down to 1 % of the learning rate
    warm = min(1.0, (iteration + 1) / max(options.warm_up, 1))
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * iteration / options.iterations))
    for group in run.optimizer.param_groups:
        group["lr"] = options.learning_rate * (warm * cosine)
    torch.manual_seed(seed)  # dropout
    before = [buffer.clone() for buffer in network.buffers()]
    device = next(network.parameters()).device
    # no cache: a weight that was first cast under no_grad, as click_step does, would come from it
    # without its gradient in earlier versions of PyTorch (its issue 158232)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16, cache_enabled=False):
        loss = run.loss(_on(device, batch), rng)
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
    run.average.update_parameters(network)
    return loss.item()


def _on(device: torch.device, batch: Any) -> Any:
    """Tensors and tuples of them on a device; anything else as it is."""
    if isinstance(batch, tuple):
        parts = [_on(device, each) for each in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch.to(device) if isinstance(batch, Tensor) else batch


def _average_over_processes(network: nn.Module, loss: Tensor, count: int) -> None:
    """Loss and batch norm's statistics become their means over the processes, in place."""
    tensors = [loss]
    if network.training:  # else they are the same everywhere, but for the rounding of their mean
        tensors += [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message for all
    distributed.all_reduce(flat)
    means = (flat / count).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def _move(ema_decay: float, averages: list[Tensor], latest: list[Tensor], count: Tensor) -> None:
    """Moves averages towards the latest values, faster in the first iterations."""
    decay = min(ema_decay, int(count) / (9 + int(count)))
    for average, tensor in zip(averages, latest, strict=True):
        if average.is_floating_point():
            average.lerp_(tensor, 1 - decay)
        else:
            average.copy_(tensor)


def _save_checkpoint(run: _Run) -> None:
    """Write checkpoint and log, each whole or not at all, unless the state is on disk already."""
    done, options = len(run.losses), asdict(run.options)
    if run.rank != 0 or run.on_disk == done:
        return
    numbers = {"losses": run.losses, "scores": run.scores, "seconds": run.seconds}
    state = {"network": run.network.state_dict(), "optimizer": run.optimizer.state_dict()}
    state |= {"average": run.average.module.state_dict(), "options": options, **numbers}
    # JSON has no NaN
    scores = [(at, score if math.isfinite(score) else None) for at, score in run.scores]
    log = {**numbers, "scores": scores, "seconds": round(run.seconds, 3), "options": options}
    try:
        with atomic_write(run.path) as hidden, hidden.open("wb") as file:
            torch.save(state, file)
        run.on_disk = done
        write_whole(run.path.with_name("log.json"), json.dumps(log | {"processes": run.processes}))
    except (OSError, RuntimeError) as error:  # RuntimeError: PyTorch's writer of zip files
        good = f"{run.path}, which has done {run.on_disk}" if run.on_disk >= 0 else "none"
        raise RuntimeError(
            f"checkpoint and log of {done} iterations could not be written ({error}); the last "
            f"good checkpoint is {good}: make room on the disk and start again"
        ) from error
