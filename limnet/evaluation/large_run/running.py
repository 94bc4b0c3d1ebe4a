"""A run over all cases: what is done is read, what is not goes to the workers."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from distributed import Future, as_completed

from limnet.data import Case
from limnet.evaluation.large_run.playing import load, play, said
from limnet.evaluation.large_run.records import (
    Done,
    Options,
    Recipe,
    Source,
    bytes_of,
    read_record,
    record_file,
    what_is_known,
)
from limnet.evaluation.large_run.workers import connect, local_workers

Task = tuple[Case, str]  # an organ of it
Job = tuple[Case, tuple[str, ...]]  # its organs that go together


def tasks_of(cases: Iterable[Case], organs: Iterable[str] | None = None) -> list[Task]:
    """Every organ of every case that has an image.

    Args:
        organs: names of labels; a case without one of them is asked for the others. None: all that
            are anatomy.

    Raises:
        ValueError: no case has a label of such a name.
    """
    cases, asked = [case for case in cases if case.image is not None], organs and set(organs)
    for name in sorted(asked or ()):
        if not any(name in case.labels for case in cases):
            known = ", ".join(dict.fromkeys(label for case in cases for label in case.labels))
            raise ValueError(f"a target must be one of {known or 'no labels'}; got {name!r}")
    return [
        (case, organ)
        for case in cases
        for organ in (case.anatomy if asked is None else [x for x in case.labels if x in asked])
    ]


def run(
    tasks: Iterable[Task],
    networks: Source,
    cache: Path,
    *,
    options: Options = Options(),  # noqa: B008 - it is frozen
    workers: int = 0,
    threads: int = 1,
    scheduler: str = "local",
) -> Iterator[Done]:
    """What became of every task, those that are done first and the others as they finish.

    A worker takes a case with all its organs that are not done, so that they share the features of
    its slices. Each result is kept in `cache` as soon as it is there, in a file that is whole or
    not there: a run that was killed goes on where it stopped, with the same results, bit for bit
    where machine and threads are the same. What fails is a `Done` with an error, which is not
    kept: the next run tries again.

    Whoever reaches a dask scheduler or worker can run any program through it: they unpickle what
    they are sent and ask for no password. Therefore those started here listen on loopback alone and
    end with the run; still, do not start them where other people whom you do not trust have logins.
    An address is trusted as you trust your own account, as is the network of a SLURM cluster:
    name none that you did not start, and see dask's TLS settings for networks that others share.
    Weights and data go to workers as paths, which must mean the same there.

    Args:
        networks: as `load_networks`; or a function that gives them and that workers can import.
        workers: processes, one a GPU where there are GPUs; 0: as many as fit.
        threads: of each worker; workers times threads are at most the cores.
        scheduler: "local", "slurm" (dask-jobqueue's SLURMCluster) or the address of a dask
            scheduler such as "tcp://127.0.0.1:8786" (`dask scheduler --host 127.0.0.1`), whose own
            workers are taken (`dask worker ADDRESS --nthreads 1`).

    Raises:
        ValueError: workers and threads do not fit.
        RuntimeError: the scheduler was lost; what was done is kept.
    """
    if scheduler == "local":
        local_workers(workers, threads)
    recipe = recipe_of(networks, cache, options, threads)
    return _run(by_case(tasks), recipe, workers, scheduler)


def recipe_of(networks: Source, cache: Path, options: Options, threads: int) -> Recipe:
    """What all cases of a run share, with paths that mean the same in another folder."""
    named = callable(networks) or networks in ("lite", "paper")
    source = networks if named else Path(networks).resolve()
    return Recipe(source, load(source).digest, Path(cache).resolve(), options, threads)


def by_case(tasks: Iterable[Task]) -> list[Job]:
    """Each case with its organs, none of them twice."""
    cases: dict[str, Case] = {}
    organs: dict[str, dict[str, None]] = {}
    for case, organ in tasks:
        image = case.image and case.image.resolve()  # workers may start in another folder
        case = replace(case, image=image, label=case.label.resolve())
        cases[repr(case)] = case  # its labels have no hash
        organs.setdefault(repr(case), {})[organ] = None
    return [(cases[name], tuple(each)) for name, each in organs.items()]


def done_and_left(job: Job, recipe: Recipe) -> tuple[list[Done], tuple[str, ...]]:
    """What is kept of a case, and which of its organs are to do."""
    case, organs = job
    record = read_record(record_file(case, recipe))
    known = {organ: what_is_known(case, organ, record, recipe.cache) for organ in organs}
    done = [each for each in known.values() if each is not None]
    return done, tuple(organ for organ in organs if known[organ] is None)


def _run(jobs: list[Job], recipe: Recipe, workers: int, scheduler: str) -> Iterator[Done]:
    to_do = []
    for job in jobs:
        done, left = done_and_left(job, recipe)
        yield from done
        to_do += [(job[0], left)] if left else []
    if not to_do:
        return
    # the largest first, so that no worker begins one when the others are done
    to_do.sort(key=lambda job: -bytes_of(job[0]))
    with connect(scheduler, workers=workers, threads=recipe.threads) as client:
        futures = {client.submit(play, *job, recipe, pure=False): job for job in to_do}
        for future in as_completed(futures, loop=client.loop):
            yield from _outcome(future, futures[future], recipe)


def _outcome(future: Future, job: Job, recipe: Recipe) -> list[Done]:
    if future.status == "finished":
        return future.result()
    if future.status != "error":  # "cancelled" or "lost"
        raise RuntimeError(
            f"a run needs its scheduler to the end, but a case is {future.status}: the connection "
            "is gone; start the run again, it goes on where it stopped"
        )
    done, left = done_and_left(job, recipe)  # organs before the one at which all workers died
    organ = left[0] if len(left) == 1 else None
    return [*done, Done(job[0], organ, error=said(future.exception()))]
