"""Workers: processes of this machine, jobs of a SLURM cluster, or those at a dask address."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import get_address_host
from distributed.core import Status
from distributed.system import MEMORY_LIMIT

THREADS_OF = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GPUS = "CUDA_VISIBLE_DEVICES"
LOOPBACK = "127.0.0.1"
REPLACE_SECONDS = 20  # between two looks whether workers are missing
SETTINGS = {
    # dask closes the keeper of a worker that is not back by then, and its own 15 s are few where
    # many start at once: importing torch alone takes as long on a busy machine
    "distributed.deploy.lost-worker-timeout": "300s",
    # memory here is arrays that dask does not see: it can spill none, and a paused worker stays so
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # no pages over HTTP: one port less that does anything
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextmanager
def connect(scheduler: str, *, workers: int, threads: int) -> Iterator[Client]:
    """A client whose workers compute one case at a time with so many threads each.

    All of it is gone at the end, except what an address names.

    Args:
        scheduler, workers, threads: as for `running.run`.
    """
    if scheduler == "local":
        with (
            _local(local_workers(workers, threads), threads) as cluster,
            _client(cluster) as client,
        ):
            yield client
    elif scheduler == "slurm":
        with (
            dask.config.set(SETTINGS),
            _slurm(workers, threads) as cluster,
            _client(cluster) as client,
        ):
            yield client
    else:
        with _client(scheduler) as client:
            check_workers(client, threads)
            yield client


def _client(scheduler: str | SpecCluster) -> Client:
    """One beside any that the user has."""
    return Client(scheduler, timeout=10, set_as_default=False)


def local_workers(workers: int, threads: int) -> int:
    """How many workers there are on this machine; 0 asks for as many as fit.

    Raises:
        ValueError: they do not fit.
    """
    gpus = visible_gpus()
    fit, on_gpus = CPU_COUNT // max(threads, 1), ""
    if gpus is not None:
        fit = min(fit, len(gpus))
        on_gpus = f" and workers at most the {len(gpus)} GPUs that {GPUS} shows"
    if threads < 1 or not 0 <= workers <= fit or not fit:
        raise ValueError(
            f"workers times threads must be at most the {CPU_COUNT} cores here{on_gpus}, got "
            f"{workers} workers with {threads} threads; take fewer, or workers=0 for all that fit"
        )
    return workers or fit


def visible_gpus() -> list[str] | None:
    """The names by which CUDA_VISIBLE_DEVICES picks each GPU here; None where there is none."""
    count = torch.cuda.device_count()
    if not count:
        return None
    named = os.environ.get(GPUS)
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


@contextmanager
def _local(workers: int, threads: int) -> Iterator[SpecCluster]:
    """Processes that are spawned and die with this one; they listen on loopback alone.

    A worker that is lost is replaced, and its case is done again.
    """
    gpus = visible_gpus()
    quiet = {"host": LOOPBACK, "dashboard": False}
    memory = MEMORY_LIMIT // workers  # above it a worker is ended, rather than the machine
    one_case = {**quiet, "nthreads": 1, "memory_limit": memory, "silence_logs": logging.CRITICAL}
    own = [{GPUS: gpus[index]} if gpus else {} for index in range(workers)]
    nannies = {
        index: {"cls": Nanny, "options": {**one_case, "env": each}}
        for index, each in enumerate(own)
    }
    listens = {"port": 0, "dashboard_address": f"{LOOPBACK}:0", **quiet}
    with dask.config.set(SETTINGS), _environment(dict.fromkeys(THREADS_OF, str(threads))):
        # libraries count their threads when they are loaded: before a worker runs anything of ours
        scheduler = {"cls": Scheduler, "options": listens}
        with SpecCluster(nannies, scheduler, silence_logs=logging.CRITICAL) as cluster:
            _replace_lost(cluster, workers)
            yield cluster


def _replace_lost(cluster: SpecCluster, workers: int) -> None:
    """From now on, open workers in place of those that were given up: dask leaves them out."""
    if cluster.status is Status.running:
        cluster.scale(workers)
        cluster.loop.add_callback(
            cluster.loop.call_later, REPLACE_SECONDS, _replace_lost, cluster, workers
        )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def _slurm(workers: int, threads: int) -> SpecCluster:
    """Jobs with a worker each; queue, memory, GPU and network are in dask's `jobqueue.yaml`.

    Raises:
        ValueError: it is not said how many.
        ModuleNotFoundError: dask-jobqueue is not installed.
    """
    if workers < 1 or threads < 1:
        raise ValueError(
            f"a SLURM run must say how many workers and threads, got {workers} and {threads}"
        )
    try:
        jobqueue = import_module("dask_jobqueue")
    except ImportError as error:
        raise ModuleNotFoundError(
            f"a run on SLURM needs the package dask-jobqueue, got: {error}; pip install "
            "dask-jobqueue and describe the cluster in ~/.config/dask/jobqueue.yaml"
        ) from error
    exports = [f"export {name}={threads}" for name in THREADS_OF]
    one_case = {"cores": 1, "processes": 1, "job_cpu": threads}  # cores: of dask, cases at a time
    cluster = jobqueue.SLURMCluster(**one_case, job_script_prologue=exports)
    _replace_lost(cluster, workers)  # the first ones too
    return cluster


def check_workers(client: Client, threads: int) -> None:
    """Refuse workers that would take more than the cores of their machine.

    Raises:
        ValueError: one computes several cases at a time, or those of a machine have too few cores.
    """
    several = {name: count for name, count in client.nthreads().items() if count != 1}
    if several:
        raise ValueError(
            f"a worker must do one case at a time, got {several}; start them with --nthreads 1"
        )
    machines = Counter(map(get_address_host, client.nthreads()))
    # one that is lost meanwhile is left out
    for name, cores in client.run(_cores, on_error="ignore").items():
        count = machines[get_address_host(name)]
        if count * threads > cores:
            raise ValueError(
                f"workers times threads must be at most the cores of a machine, but {name} is one "
                f"of {count} workers with {threads} threads on {cores} cores; take fewer"
            )


def _cores() -> int:
    return CPU_COUNT
