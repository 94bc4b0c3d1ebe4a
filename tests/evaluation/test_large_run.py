import json
import os
import random
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from distributed import Client, Future
from measure.large_run import (
    OPTIONS,
    born,
    contents,
    networks,
    run_with_kills,
    undisturbed,
    write_cases,
)

from limnet.data import Case, Chosen
from limnet.evaluation import large_run, run_tables, workers
from limnet.evaluation.evaluate import EvaluationOptions, LoadedCase, evaluate_cases
from limnet.evaluation.large_run import LargeRun, choose, tasks_of
from limnet.evaluation.run_tables import TaskResult
from limnet.evaluation.workers import check_workers, connect, local_workers

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def cases(tmp_path):
    """Two, each with the organs left and right."""
    (tmp_path / "cases").mkdir()
    return write_cases(tmp_path / "cases", 2)


@pytest.fixture
def run(tmp_path):
    return LargeRun(networks, tmp_path / "cache", OPTIONS, workers=1)


@pytest.fixture
def sent(monkeypatch):
    """One worker that is a thread of this process, and what was sent to it."""
    jobs = []

    @contextmanager
    def connect_here(scheduler, *, workers, threads):
        quiet = {"dashboard_address": "127.0.0.1:0", "n_workers": 1, "threads_per_worker": 1}
        with Client(processes=False, **quiet) as client:
            submit = client.submit

            def watched(play, run, digest, job, **how):
                jobs.append((job[0].name, job[1]))
                return submit(play, run, digest, job, **how)

            client.submit = watched
            yield client

    monkeypatch.setattr(large_run, "connect", connect_here)
    before = torch.get_num_threads()
    yield jobs
    torch.set_num_threads(before)


def test_a_run_gives_the_results_of_one_case_after_the_other(sent, run, cases, tmp_path):
    done = list(run.results([*tasks_of(cases), *tasks_of(cases)]))
    assert sorted(sent) == [("00", ("left", "right")), ("01", ("left", "right"))]
    assert contents(run.cache) == undisturbed(cases, tmp_path / "expected")
    rows = {
        (each.case.name, each.organ): [*each.rows()]
        for each in evaluate_cases(cases, None, networks(), run.cache, rounds=2)
    }
    assert {(each.case.name, each.organ): [*each.rows] for each in done} == rows
    assert not any(each.error for each in done)


def test_what_is_done_is_neither_sent_nor_read_again(monkeypatch, sent, run, cases):
    first = list(run.results(tasks_of(cases[:1], ["left"])))
    again = list(run.results(tasks_of(cases[:1])))
    assert sent == [("00", ("left",)), ("00", ("right",))]
    assert again[0] == first[0] and again[1].organ == "right"
    monkeypatch.setattr(Case, "load", None)
    assert list(run.results(tasks_of(cases[:1]))) == again


def test_results_of_another_notebook_are_taken_as_they_are(monkeypatch, sent, run, cases):
    expected = undisturbed(cases, run.cache)
    monkeypatch.setattr("limnet.evaluation.evaluate.evaluate", None)
    assert len(list(run.results(tasks_of(cases)))) == 4
    assert contents(run.cache) == expected


def test_an_organ_that_a_case_does_not_show_is_done_and_has_no_rows(sent, run, cases):
    case = replace(cases[0], labels={"left": 1, "spleen": 5, "right": 2})
    for _ in range(2):  # the second time it is on record
        done = list(run.results(tasks_of([case])))
        assert {each.organ: len(each.rows) for each in done} == {"left": 2, "spleen": 0, "right": 2}
    assert len(sent) == 1


@pytest.mark.parametrize("change", ["image", "result", "record", "options"])
def test_what_was_changed_or_lost_is_done_again(sent, run, cases, change):
    tasks = tasks_of(cases[:1], ["left"])
    list(run.results(tasks))
    if change == "image":
        cases[0].image.write_bytes(cases[1].image.read_bytes())
    elif change == "options":
        run = replace(run, options=EvaluationOptions(rounds=1))
    elif change == "result":
        next(run.cache.glob("*.npz")).unlink()
    else:
        next(run.cache.glob("*/*.json")).write_text("{")
    [done] = run.results(tasks)
    assert len(sent) == 2 and len(done.rows) == run.options.rounds
    assert len(contents(run.cache)) == (2 if change in ("image", "options") else 1)


def test_a_case_that_cannot_be_read_is_a_row_with_its_error(sent, run, cases, tmp_path):
    cases[0].image.write_bytes(b"no image")
    missing = replace(cases[0], name="gone", image=tmp_path / "gone.nii.gz")
    for _ in range(2):  # the second time they are tried again
        done = list(run.results(tasks_of([*cases, missing])))
        failed = {each.case.name: each for each in done if each.error}
        assert failed.keys() == {"00", "gone"}
        assert failed["00"].organ is None and failed["00"].error.startswith("ValueError: ")
        assert [each.organ for each in done if each.rows] == ["left", "right"]
    assert sorted(name for name, _ in sent) == ["00", "00", "01", "gone", "gone"]


def test_an_organ_that_fails_leaves_the_others_of_its_case(monkeypatch, sent, run, cases):
    real = LoadedCase.evaluate

    def fails(self, organ, *rest):
        if organ == "left":
            raise MemoryError("too\nlarge")
        return real(self, organ, *rest)

    monkeypatch.setattr(LoadedCase, "evaluate", fails)
    done = list(run.results(tasks_of(cases[:1])))
    assert [(each.organ, each.error) for each in done] == [
        ("left", "MemoryError: too large"),
        ("right", None),
    ]


def test_a_case_that_ends_every_worker_is_a_row_after_what_it_left(run, cases):
    large_run._play(run, run.digest, (cases[0], ("left",)))
    killed = Mock(Future, status="error", exception=lambda: RuntimeError("4 workers died"))
    done = run._outcome(killed, (cases[0], ("left", "right")))
    expected = [("left", None), ("right", "RuntimeError: 4 workers died")]
    assert [(each.organ, each.error) for each in done] == expected


def test_a_lost_scheduler_ends_the_run(run, cases):
    with pytest.raises(RuntimeError, match="cancelled"):
        run._outcome(Mock(Future, status="cancelled"), (cases[0], ("left",)))


def test_networks_are_loaded_once_a_worker_and_others_are_refused(tmp_path, cases):
    loaded = []

    def counted():
        loaded.append(1)
        return networks()

    run = LargeRun(counted, tmp_path, OPTIONS, workers=1)
    for case in cases:
        large_run._play(run, run.digest, (case, ("left",)))
    assert len(loaded) == 2  # for the digest, and at the worker
    with pytest.raises(ValueError, match="another content here"):
        large_run._play(run, "another digest", (cases[0], ("left",)))


def test_a_folder_of_weights_means_the_same_in_another_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").mkdir()  # the name is of the weights that are shipped
    for given, source in (("lite", "lite"), ("mine", tmp_path / "mine"), (networks, networks)):
        run = LargeRun(given, Path("cache"))
        assert run.networks == source and run.cache == tmp_path / "cache"


def test_tasks_are_what_the_cases_have(cases):
    label_map = replace(cases[0], image=None)
    other = replace(cases[1], labels={"right": 2, "PTV56": 3})
    assert tasks_of([cases[0], other, label_map], ["right", "left"]) == [
        (cases[0], "left"),
        (cases[0], "right"),
        (other, "right"),
    ]
    assert [organ for _, organ in tasks_of([other])] == ["right"]  # all that are anatomy
    with pytest.raises(ValueError, match="'liver'"):
        tasks_of(cases, ["liver"])


def test_a_plan_says_unknown_until_a_case_of_the_collection_was_measured(sent, run, cases):
    tasks = tasks_of(cases)
    before = run.plan(tasks)
    assert (before.cases, before.targets, before.done, before.cases_left) == (2, 4, 0, 2)
    size = sum(path.stat().st_size for case in cases for path in (case.image, case.label))
    assert before.gigabytes == pytest.approx(size / 1e9)
    assert before.seconds is None and before.memory_gb is None and before.unmeasured == 2
    assert before.table()["value"].str.startswith("unknown").sum() == 2

    list(run.results(tasks[:2]))
    after = run.plan(tasks)
    assert (after.done, after.cases_left, after.unmeasured) == (2, 1, 0)
    records = [json.loads(file.read_text()) for file in run.cache.glob("*/*.json")]
    assert after.seconds == pytest.approx(sum(each["seconds"] for each in records))
    assert after.memory_gb == max(each["memory_gb"] for each in records) > 0

    of_other_rounds = replace(run, options=EvaluationOptions(rounds=1)).plan(tasks)
    assert of_other_rounds.seconds is None and of_other_rounds.done == 0

    list(run.results(tasks))
    end = run.plan(tasks)
    assert (end.cases_left, end.seconds, end.gigabytes) == (0, 0, 0)
    assert not end.table()["value"].str.startswith("unknown").any()


def test_a_plan_reads_no_image(monkeypatch, run, cases, tmp_path):
    monkeypatch.setattr(Case, "load", None)
    (tmp_path / "frames").mkdir()
    frames = replace(cases[0], image=tmp_path / "frames")
    assert run.plan(tasks_of([*cases, frames])).unmeasured == 3


@pytest.mark.parametrize(("asked", "threads", "fit"), [(0, 1, 8), (0, 3, 2), (2, 4, 2), (8, 1, 8)])
def test_workers_fit_the_cores(monkeypatch, asked, threads, fit):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    assert local_workers(asked, threads) == fit


@pytest.mark.parametrize(("asked", "threads"), [(9, 1), (2, 5), (0, 9), (1, 0), (-1, 1)])
def test_more_than_the_cores_is_refused(monkeypatch, tmp_path, asked, threads):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    with pytest.raises(ValueError, match="at most the 8 cores"):
        LargeRun(networks, tmp_path, workers=asked, threads=threads)


def test_a_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.visible_gpus() == ["0", "1"] and local_workers(0, 1) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert workers.visible_gpus() == ["3", "5"]
    with pytest.raises(ValueError, match="the 2 GPUs"):
        local_workers(3, 1)


def test_workers_of_an_address_take_no_more_than_their_machines_cores():
    names = ["tcp://10.0.0.1:1", "tcp://10.0.0.1:2", "tcp://10.0.0.2:1"]

    def client(count=1, cores=4):
        each = dict.fromkeys(names, count)
        return Mock(Client, nthreads=lambda: each, run=lambda *_, **__: dict.fromkeys(names, cores))

    check_workers(client(), 2)
    with pytest.raises(ValueError, match="2 workers with 3 threads on 4 cores"):
        check_workers(client(), 3)
    with pytest.raises(ValueError, match="--nthreads 1"):
        check_workers(client(count=4), 1)


def test_a_table_has_a_row_a_label_and_counts_what_failed():
    case = Case("a", Path("a.nii"), Path("b.nii"), {}, "ct", True)
    named = {"collection": "ct", "case": "b", "organ": "liver"}
    scores = {"surface_dice": 0.5, "seconds": 0.6, "slices_made_worse": 0}
    rows = [{**named, "round": n, "dice": dice, **scores} for n, dice in ((1, 0.5), (2, 0.75))]
    done = [
        TaskResult(replace(case, name="b"), "liver", tuple(rows), None, "x"),
        TaskResult(case, "spleen"),  # not shown
        TaskResult(case, "aorta", error="ValueError: a|b"),
        TaskResult(replace(case, name="c"), None, error="OSError: gone"),
    ]
    rows = run_tables.all_rows(done)
    assert list(rows["organ"]) == ["aorta", "liver", "liver", "all that were left"]
    assert run_tables.failures(rows)["error"].tolist() == [r"ValueError: a\|b", "OSError: gone"]
    table = run_tables.by_label(rows).set_index("label")
    assert table["failed"].to_dict() == {"all that were left": 1, "aorta": 1, "liver": 0}
    columns = ["cases", "round 1", "round 2", "seconds"]
    assert table.loc["liver", columns].tolist() == [1, 0.5, 0.75, 1.2]
    assert table["cases"]["aorta"] == 0 and np.isnan(table["round 2"]["aorta"])
    assert len(run_tables.by_label(run_tables.all_rows([]))) == 0


def test_cases_are_of_a_twin_of_data_sets_or_of_collections(monkeypatch, tmp_path):
    seen = []

    class Fake:
        def choose(self, root, twin, **how):
            seen.append((root, twin, how))
            return Chosen((len(seen),), f"set {len(seen)}", root is None)

    monkeypatch.setattr(large_run, "DATA_SETS", {"btcv": Fake(), "amos": Fake()})
    assert choose("twin", "data", tmp_path, cases=1, seed=2) == ((1,), "set 1", True)
    assert choose("amos,btcv", "data", tmp_path) == ((2, 3), "set 2; set 3", False)
    assert seen[0] == (None, tmp_path / "btcv", {"cases": 1, "seed": 2})
    with pytest.raises(ValueError, match="'liver'"):
        choose("liver", "data", tmp_path)
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        choose("collections", None, tmp_path)

    case = Case("a", tmp_path, tmp_path, {"liver": 1}, "ct", True)
    others = [replace(case, name="b"), replace(case, collection="mr"), replace(case, image=None)]
    monkeypatch.setattr(large_run, "collection_cases", lambda root: (case, *others))
    chosen = choose("collections", "data", tmp_path, cases=1)
    assert chosen.cases == (case, others[1]) and not chosen.synthetic


def facts_of_a_worker(dask_worker):
    """Its process, what its libraries were told, and where it listens."""
    listening = [each.getsockname()[0] for each in dask_worker.http_server._sockets.values()]
    return os.getpid(), [os.environ.get(name) for name in workers.THREADS_OF], listening


def listening_of_the_scheduler(dask_scheduler):
    return [each.getsockname()[0] for each in dask_scheduler.http_server._sockets.values()]


@linux
@pytest.mark.timeout(300)
def test_workers_listen_on_loopback_are_replaced_when_lost_and_leave_nothing_behind(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with connect("local", workers=1, threads=1) as client:
        [(address, (process, libraries, pages))] = client.run(facts_of_a_worker).items()
        scheduler_pages = client.run_on_scheduler(listening_of_the_scheduler)
        addresses = [address, client.scheduler.address]
        assert process != os.getpid() and born(process)
        assert client.nthreads() == {address: 1}
        os.kill(process, signal.SIGKILL)
        another = client.submit(os.getpid, pure=False).result(timeout=120)
        assert another != process and born(another)
    assert all(each.startswith("tcp://127.0.0.1:") for each in addresses)
    assert {*pages, *scheduler_pages} == {"127.0.0.1"}
    assert libraries == ["1", "1", "1"] and os.environ["OMP_NUM_THREADS"] == "7"
    assert not born(process) and not born(another)


@linux
@pytest.mark.timeout(600)  # processes are started five times or so
def test_a_run_whose_worker_and_client_are_killed_ends_as_if_nobody_had(tmp_path):
    (tmp_path / "cases").mkdir()
    cases = write_cases(tmp_path / "cases", 64)
    expected = undisturbed(cases, tmp_path / "expected")
    assert len(expected) == 2 * len(cases)
    moments = sorted(random.sample(range(1, 120), 2))  # results that are there at each kill
    assert run_with_kills(tmp_path, moments, ["worker", "client"]) == 2
    assert contents(tmp_path / "cache") == expected
