"""What a worker does: one case with all its organs that are not done."""

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from limnet.data import Case
from limnet.evaluation.evaluate import CaseEvaluation, evaluate_cases
from limnet.evaluation.large_run.records import Done, Recipe, Source, add_to_record, record_file
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.peak_memory import peak_memory

GIGABYTE = 2**30  # as benchmark counts


def load(source: Source) -> LimNet:
    """The networks of a source, on the CPU."""
    return source() if callable(source) else load_networks(source)


def play(case: Case, organs: tuple[str, ...], recipe: Recipe) -> list[Done]:
    """Evaluate organs of a case, keep each result, and say what became of each."""
    torch.set_num_threads(recipe.threads)
    networks = _networks(recipe.source, recipe.networks)
    _forget_peak_memory()
    rest, done = list(organs), []
    while rest:
        try:
            done += _in_turn(case, rest, networks, recipe)
        except Exception as error:  # a case that fails is a row, whatever it is that failed
            organ = _at_fault(case, rest)
            done.append(Done(case, organ, error=said(error)))
            rest = [each for each in rest if each != organ] if organ else []
    return done


def said(error: BaseException) -> str:
    """Type and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def _networks(source: Source, digest: str) -> LimNet:
    """Loaded once a worker.

    Raises:
        ValueError: they are not those of the run.
    """
    networks = load(source)
    if networks.digest != digest:
        raise ValueError(
            f"a worker's networks must be those that the run began with, but {source} has another "
            "content here; give workers the same weights"
        )
    return networks.to("cuda" if torch.cuda.is_available() else "cpu")


def _in_turn(case: Case, rest: list[str], networks: LimNet, recipe: Recipe) -> Iterator[Done]:
    """Evaluate the organs in `rest` and take each out of it that is done."""
    file, start = record_file(case, recipe), time.perf_counter()
    for each in evaluate_cases([case], tuple(rest), networks, recipe.cache, **vars(recipe.options)):
        seconds = time.perf_counter() - start
        while rest[0] != each.organ:
            yield _not_shown(case, rest.pop(0), file)
        add_to_record(file, each.organ, *_costs(each, seconds, recipe))
        rest.pop(0)
        yield Done(case, each.organ, tuple(each.rows()), result=each.file.name)
        start = time.perf_counter()
    while rest:
        yield _not_shown(case, rest.pop(0), file)


def _not_shown(case: Case, organ: str, file: Path) -> Done:
    add_to_record(file, organ, {"file": None})
    return Done(case, organ)


def _costs(
    each: CaseEvaluation, seconds: float, recipe: Recipe
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of an organ and what stands beside the organs."""
    entry = {"file": each.file.name}
    if each.computed:
        entry |= {"seconds": seconds, "memory_gb": peak_memory() / GIGABYTE}
    slices, height, width = each.evaluation.masks.shape
    costs = {"slices": slices, "pixels": height * width, "threads": recipe.threads}
    costs |= {"device": device_here(), "rounds": recipe.options.rounds}
    return entry, costs | {"networks": recipe.networks}


def device_here() -> str:
    """What networks run on: "cpu" or the name of the GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _at_fault(case: Case, rest: list[str]) -> str | None:
    """The organ at which an evaluation of `rest` failed: the first that the case shows or lacks."""
    try:
        labels = case.load()[1]
    except Exception:  # none of them can be evaluated
        return None
    for organ in rest:
        if organ not in case.labels or case.target(labels, organ).any():
            return organ
    return None


def _forget_peak_memory() -> None:
    """Let the peak of this case count from here, where the system can (Linux: proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
