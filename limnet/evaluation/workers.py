"""Worker processes of dask: of this machine, or those at a scheduler's address."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import get_address_host
from distributed.system import MEMORY_LIMIT

LOOPBACK = "127.0.0.1"
GPUS = "CUDA_VISIBLE_DEVICES"
THREADS_OF = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SETTINGS = {
    # dask gives a killed worker up after 15 s, but importing torch can take longer
    "distributed.deploy.lost-worker-timeout": "300s",
    # dask does not see the memory of our arrays: it cannot spill them
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # no pages over HTTP
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextmanager
def connect(scheduler: str, *, workers: int, threads: int) -> Iterator[Client]:
    """A client whose workers compute one case at a time.

    Whoever reaches a dask scheduler or worker can run any program through it. Workers started here
    listen on this machine alone and end with the client: start none where people have logins whom
    you do not trust. Give an address only of a scheduler that you started, in a network that you
    trust.

    Args:
        scheduler: "local", or the address of a dask scheduler (`dask scheduler --host 127.0.0.1`)
            whose workers are taken (`dask worker ADDRESS --nthreads 1`). On a SLURM cluster it is
            the `scheduler_address` of dask-jobqueue's `SLURMCluster(cores=1, processes=1,
            job_cpu=threads)`. Paths of weights and data must mean the same there.
        workers, threads: as of `LargeRun`.
    """
    if scheduler != "local":
        with Client(scheduler, timeout=10, set_as_default=False) as client:
            check_workers(client, threads)
            yield client
        return
    with (
        dask.config.set(SETTINGS),
        _local_cluster(workers, threads) as cluster,
        Client(cluster, timeout=10, set_as_default=False) as client,
    ):
        yield client


def local_workers(workers: int, threads: int) -> int:
    """How many workers there are on this machine, 0: as many as fit; a ValueError if too many."""
    fit, on_gpus = CPU_COUNT // max(threads, 1), ""
    if gpus := visible_gpus():
        fit = min(fit, len(gpus))
        on_gpus = f" and workers at most the {len(gpus)} GPUs that {GPUS} shows"
    if threads < 1 or not 0 <= workers <= fit or not fit:
        raise ValueError(
            f"workers times threads must be at most the {CPU_COUNT} cores here{on_gpus}, got "
            f"{workers} workers with {threads} threads; take fewer, or workers=0 for all that fit"
        )
    return workers or fit


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES picks each GPU of this machine."""
    count, named = torch.cuda.device_count(), os.environ.get(GPUS)
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def _local_cluster(workers: int, threads: int) -> SpecCluster:
    """Processes that die with this one and listen on loopback alone.

    dask's LocalCluster would show every worker all GPUs.
    """
    loopback = {"host": LOOPBACK, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
    options = {**loopback, "nthreads": 1, "silence_logs": logging.CRITICAL}
    options["memory_limit"] = MEMORY_LIMIT // workers  # above it a worker is ended
    variables, gpus = dict.fromkeys(THREADS_OF, str(threads)), visible_gpus()
    nannies = {}
    for index in range(workers):
        env = variables | ({GPUS: gpus[index]} if gpus else {})
        nannies[index] = {"cls": Nanny, "options": {**options, "env": env}}
    scheduler = {"cls": Scheduler, "options": {**loopback, "port": 0}}
    return SpecCluster(nannies, scheduler, silence_logs=logging.CRITICAL)


def check_workers(client: Client, threads: int) -> None:
    """Refuse workers that compute several cases at a time, or have too few cores together."""
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
