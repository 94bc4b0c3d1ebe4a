import json
import os
import random
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from distributed import Client, Future, SpecCluster
from distributed.core import Status
from measure.large_run import (
    OPTIONS,
    born,
    contents,
    disturbed,
    networks,
    undisturbed,
    write_cases,
)

from limnet.data import Case, Chosen
from limnet.evaluation.evaluate import ROUND_COLUMNS, evaluate_cases, round_rows
from limnet.evaluation.large_run import (
    Done,
    Options,
    all_rows,
    by_label,
    choose,
    choosing,
    failures,
    plan,
    playing,
    run,
    running,
    tasks_of,
    workers,
)
from limnet.evaluation.large_run.records import read_record, record_file
from limnet.evaluation.large_run.running import recipe_of
from limnet.evaluation.large_run.workers import check_workers, connect, local_workers

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def cases(tmp_path):
    """Two, each with the organs left and right."""
    folder = tmp_path / "cases"
    folder.mkdir()
    return write_cases(folder, 2)


@pytest.fixture
def here(monkeypatch):
    """One worker that is a thread of this process, and what was sent to it."""
    sent = []

    @contextmanager
    def connect_here(scheduler, *, workers, threads):
        quiet = {"dashboard_address": "127.0.0.1:0", "n_workers": 1, "threads_per_worker": 1}
        with Client(processes=False, **quiet) as client:
            submit = client.submit

            def watched(function, *arguments, **how):
                sent.append((arguments[0].name, arguments[1]))
                return submit(function, *arguments, **how)

            client.submit = watched
            yield client

    monkeypatch.setattr(running, "connect", connect_here)
    before = torch.get_num_threads()
    yield sent
    torch.set_num_threads(before)


def played(tasks, cache, **how):
    return list(run(tasks, networks, cache, options=OPTIONS, workers=1, **how))


def test_a_run_gives_the_results_of_one_case_after_the_other(here, cases, tmp_path):
    done = played(tasks_of(cases), tmp_path / "cache")
    assert contents(tmp_path / "cache") == undisturbed(cases, tmp_path / "expected")
    rows = {
        (each.case.name, each.organ): [*each.rows()]
        for each in evaluate_cases(cases, None, networks(), tmp_path / "cache", rounds=2)
    }
    assert {(each.case.name, each.organ): [*each.rows] for each in done} == rows
    assert not any(each.error for each in done)


def test_a_worker_takes_a_case_with_all_its_organs(here, cases, tmp_path):
    played([*tasks_of(cases), *tasks_of(cases)], tmp_path / "cache")
    assert sorted(here) == [("00", ("left", "right")), ("01", ("left", "right"))]


def test_what_is_done_is_neither_sent_nor_read_again(monkeypatch, here, cases, tmp_path):
    first = played(tasks_of(cases, ["left"]), tmp_path / "cache")
    assert sorted(here) == [("00", ("left",)), ("01", ("left",))]
    here.clear()
    monkeypatch.setattr(Case, "load", None)
    again = played(tasks_of(cases, ["left"]), tmp_path / "cache")
    assert here == []
    assert sorted(again, key=lambda each: each.case.name) == sorted(
        first, key=lambda each: each.case.name
    )


def test_only_the_organs_that_are_missing_are_sent(here, cases, tmp_path):
    played(tasks_of(cases[:1], ["left"]), tmp_path / "cache")
    here.clear()
    done = played(tasks_of(cases[:1]), tmp_path / "cache")
    assert here == [("00", ("right",))]
    assert sorted(each.organ for each in done) == ["left", "right"]


def test_results_of_another_notebook_are_taken_as_they_are(monkeypatch, here, cases, tmp_path):
    expected = undisturbed(cases, tmp_path / "cache")
    monkeypatch.setattr("limnet.evaluation.evaluate.evaluate", None)
    assert len(played(tasks_of(cases), tmp_path / "cache")) == 4
    assert contents(tmp_path / "cache") == expected


def test_an_organ_that_a_case_does_not_show_is_done_and_has_no_rows(here, cases, tmp_path):
    [case, _] = cases
    case = replace(case, labels={"left": 1, "spleen": 5, "right": 2})
    for _ in range(2):  # the second time it is on record
        done = played(tasks_of([case]), tmp_path / "cache")
        assert {each.organ: len(each.rows) for each in done} == {"left": 2, "spleen": 0, "right": 2}
    assert len(here) == 1


@pytest.mark.parametrize("change", ["image", "result", "record"])
def test_what_was_changed_or_damaged_is_done_again(here, cases, tmp_path, change):
    cache, tasks = tmp_path / "cache", tasks_of(cases[:1], ["left"])
    played(tasks, cache)
    here.clear()
    if change == "image":
        cases[0].image.write_bytes(cases[1].image.read_bytes())
    else:
        [file] = cache.glob("*.npz" if change == "result" else "*/*.json")
        file.write_bytes(file.read_bytes()[:100])
    [done] = played(tasks, cache)
    assert here == [("00", ("left",))] and len(done.rows) == 2
    assert len(contents(cache)) == (2 if change == "image" else 1)


def test_a_record_names_no_file_elsewhere(cases, tmp_path):
    recipe = recipe_of(networks, tmp_path, OPTIONS, 1)
    file = record_file(cases[0], recipe)
    file.parent.mkdir()
    for name in ("../../secret.npz", "/etc/passwd", "a" * 31 + ".npz"):
        file.write_text(json.dumps({"organs": {"left": {"file": name}}}))
        assert read_record(file) == {"organs": {}}


def test_other_options_are_other_results(here, cases, tmp_path):
    tasks = tasks_of(cases[:1], ["left"])
    for options, rounds in ((OPTIONS, 2), (Options(rounds=1), 1)):
        [done] = run(tasks, networks, tmp_path / "cache", options=options, workers=1)
        assert len(done.rows) == rounds
    assert len(here) == 2


def test_a_case_that_cannot_be_read_is_a_row_with_its_error(here, cases, tmp_path):
    cases[0].image.write_bytes(b"no image")
    missing = replace(cases[0], name="gone", image=tmp_path / "gone.nii.gz")
    done = played(tasks_of([*cases, missing]), tmp_path / "cache")
    failed = {each.case.name: each for each in done if each.error}
    assert failed.keys() == {"00", "gone"}
    assert failed["00"].organ is None and failed["00"].error.startswith("ValueError: ")
    assert [each.organ for each in done if each.rows] == ["left", "right"]
    here.clear()
    played(tasks_of([*cases, missing]), tmp_path / "cache")
    assert [name for name, _ in here] == ["00", "gone"]  # tried again


def test_an_organ_that_fails_leaves_the_others_of_its_case(monkeypatch, here, cases, tmp_path):
    real = playing.evaluate_cases

    def fails(cases, organs, *rest, **options):
        for each in real(cases, organs, *rest, **options):
            if each.organ == "left":
                raise MemoryError("too large")
            yield each

    monkeypatch.setattr(playing, "evaluate_cases", fails)
    [case, _] = cases
    case = replace(case, labels={"spleen": 5, "left": 1, "right": 2})
    done = played(tasks_of([case]), tmp_path / "cache")
    assert {each.organ: each.error for each in done} == {
        "spleen": None,
        "left": "MemoryError: too large",
        "right": None,
    }
    assert [each.organ for each in done if each.rows] == ["right"]


def test_a_case_that_ends_every_worker_is_a_row_after_what_it_left(cases, tmp_path):
    recipe = recipe_of(networks, tmp_path / "cache", OPTIONS, 1)
    playing.play(cases[0], ("left",), recipe)
    died = RuntimeError("4 workers died")
    killed = Mock(Future, status="error", exception=lambda: died)
    done = running._outcome(killed, (cases[0], ("left", "right")), recipe)
    assert [(each.organ, each.error) for each in done] == [
        ("left", None),
        ("right", "RuntimeError: 4 workers died"),
    ]


def test_a_lost_scheduler_ends_the_run_with_what_to_do(cases, tmp_path):
    recipe = recipe_of(networks, tmp_path / "cache", OPTIONS, 1)
    with pytest.raises(RuntimeError, match=r"a case is cancelled.*start the run again"):
        running._outcome(Mock(Future, status="cancelled"), (cases[0], ("left",)), recipe)


def test_other_weights_at_a_worker_are_refused(cases, tmp_path):
    recipe = replace(recipe_of(networks, tmp_path / "cache", OPTIONS, 1), networks="another digest")
    with pytest.raises(ValueError, match="another content here"):
        playing.play(cases[0], ("left",), recipe)


def test_networks_are_loaded_once_a_worker(monkeypatch, cases, tmp_path):
    loaded = []

    def counted():
        loaded.append(1)
        return networks()

    recipe = recipe_of(counted, tmp_path / "cache", OPTIONS, 1)
    for case in cases:
        playing.play(case, ("left",), recipe)
    assert len(loaded) == 2  # for the digest, and at the worker


def test_a_folder_of_weights_means_the_same_in_another_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(running, "load", lambda source: networks())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").mkdir()  # the name is of the weights that are shipped
    for given, source in (("lite", "lite"), ("mine", tmp_path / "mine"), (networks, networks)):
        assert recipe_of(given, tmp_path, OPTIONS, 1).source == source


def test_tasks_are_what_the_cases_have(cases):
    label_map = replace(cases[0], image=None)
    other = replace(cases[1], labels={"right": 2, "PTV56": 3})
    assert tasks_of([cases[0], other, label_map], ["right", "left"]) == [
        (cases[0], "left"),
        (cases[0], "right"),
        (other, "right"),
    ]
    assert [organ for _, organ in tasks_of([other])] == ["right"]  # all that are anatomy
    with pytest.raises(ValueError, match="must be one of left, right; got 'liver'"):
        tasks_of(cases, ["liver"])


def test_a_plan_says_unknown_until_something_like_it_was_measured(here, cases, tmp_path):
    cache, tasks = tmp_path / "cache", tasks_of(cases)
    before = plan(tasks, networks, cache, options=OPTIONS, workers=1)
    assert (before.cases, before.targets, before.done, before.cases_left) == (2, 4, 0, 2)
    size = sum(path.stat().st_size for case in cases for path in (case.image, case.label))
    assert before.gigabytes == pytest.approx(size / 1e9)
    assert before.seconds is None and before.memory_gb is None and before.unmeasured == 2
    assert before.table()["value"].str.startswith("unknown").sum() == 2

    played(tasks[:2], cache)
    after = plan(tasks, networks, cache, options=OPTIONS, workers=1)
    assert (after.done, after.cases_left, after.unmeasured) == (2, 1, 0)
    assert after.seconds > 0 and after.memory_gb > 0
    [record] = [read_record(file) for file in cache.glob("*/*.json")]
    seconds = [entry["seconds"] for entry in record["organs"].values()]
    assert after.seconds == pytest.approx(2 * sum(seconds) / 2)  # two targets of the same size

    of_other_rounds = plan(tasks, networks, cache, options=Options(rounds=1), workers=1)
    assert of_other_rounds.seconds is None and of_other_rounds.done == 0

    played(tasks, cache)
    end = plan(tasks, networks, cache, options=OPTIONS, workers=1)
    assert (end.cases_left, end.seconds, end.gigabytes) == (0, 0, 0)
    assert not end.table()["value"].str.startswith("unknown").any()


def test_a_plan_reads_no_image(monkeypatch, cases, tmp_path):
    monkeypatch.setattr(Case, "load", None)
    (tmp_path / "frames").mkdir()
    frames = replace(cases[0], image=tmp_path / "frames")
    planned = plan(tasks_of([*cases, frames]), networks, tmp_path, options=OPTIONS, workers=1)
    assert planned.unmeasured == 3


@pytest.mark.parametrize(
    ("workers_asked", "threads", "fit"), [(0, 1, 8), (0, 3, 2), (2, 4, 2), (8, 1, 8)]
)
def test_workers_fit_the_cores(monkeypatch, workers_asked, threads, fit):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    assert local_workers(workers_asked, threads) == fit


@pytest.mark.parametrize(("workers_asked", "threads"), [(9, 1), (2, 5), (0, 9), (1, 0), (-1, 1)])
def test_more_than_the_cores_is_refused(monkeypatch, cases, tmp_path, workers_asked, threads):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    how = {"workers": workers_asked, "threads": threads}
    with pytest.raises(ValueError, match="at most the 8 cores here"):
        run(tasks_of(cases), networks, tmp_path, **how)


def test_a_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(workers, "CPU_COUNT", 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.visible_gpus() == ["0", "1"] and local_workers(0, 1) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert workers.visible_gpus() == ["3", "5"]
    with pytest.raises(ValueError, match="workers at most the 2 GPUs"):
        local_workers(3, 1)


def test_workers_of_an_address_take_no_more_than_their_machines_cores(monkeypatch):
    names = ["tcp://10.0.0.1:1", "tcp://10.0.0.1:2", "tcp://10.0.0.2:1"]

    def client(count=1, cores=4):
        each = dict.fromkeys(names, count)
        return Mock(Client, nthreads=lambda: each, run=lambda *_, **__: dict.fromkeys(names, cores))

    check_workers(client(), 2)
    with pytest.raises(ValueError, match="one of 2 workers with 3 threads on 4 cores"):
        check_workers(client(), 3)
    with pytest.raises(ValueError, match="start them with --nthreads 1"):
        check_workers(client(count=4), 1)


def test_slurm_says_what_it_needs(monkeypatch, cases, tmp_path):
    asked = {"options": OPTIONS, "scheduler": "slurm"}
    with pytest.raises(ValueError, match="must say how many workers"):
        list(run(tasks_of(cases), networks, tmp_path, **asked))
    monkeypatch.setattr(workers, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install dask-jobqueue"):
        list(run(tasks_of(cases), networks, tmp_path, workers=2, **asked))


def missing(name):
    raise ImportError(f"No module named {name!r}")


def test_slurm_gets_a_job_a_worker(monkeypatch):
    cluster = Mock(SpecCluster, status=Status.running, loop=Mock())
    module = SimpleNamespace(SLURMCluster=Mock(return_value=cluster))
    monkeypatch.setattr(workers, "import_module", lambda name: module)
    workers._slurm(20, 4)
    cluster.scale.assert_called_once_with(20)
    asked = module.SLURMCluster.call_args.kwargs
    assert (asked["cores"], asked["processes"], asked["job_cpu"]) == (1, 1, 4)
    assert "export OMP_NUM_THREADS=4" in asked["job_script_prologue"]


def test_a_table_has_a_row_a_label_and_counts_what_failed():
    case = Case("a", Path("a.nii"), Path("b.nii"), {}, "ct", True)
    scores = dict.fromkeys(ROUND_COLUMNS, (0.5, 0.75))
    done = [
        Done(replace(case, name="b"), "liver", tuple(round_rows(case, "liver", scores)), None, "x"),
        Done(case, "spleen"),  # not shown
        Done(case, "aorta", error="ValueError: a|b"),
        Done(replace(case, name="c"), None, error="OSError: gone"),
    ]
    rows = all_rows(done)
    assert list(rows["organ"]) == ["aorta", "liver", "liver", "all that were left"]
    assert failures(rows)["error"].tolist() == [r"ValueError: a\|b", "OSError: gone"]
    table = by_label(rows).set_index("label")
    assert table["failed"].to_dict() == {"all that were left": 1, "aorta": 1, "liver": 0}
    assert table.loc["liver", ["cases", "round 1", "round 2", "seconds"]].tolist() == [
        1,
        0.5,
        0.75,
        1.25,
    ]
    assert table["cases"]["aorta"] == 0 and np.isnan(table["round 2"]["aorta"])
    assert len(by_label(all_rows([]))) == 0


def test_cases_are_of_a_twin_of_data_sets_or_of_collections(monkeypatch, tmp_path):
    seen = []

    class Fake:
        def choose(self, root, twin, **how):
            seen.append((root, twin, how))
            return Chosen((len(seen),), f"set {len(seen)}", root is None)

    monkeypatch.setattr(choosing, "DATA_SETS", {"btcv": Fake(), "amos": Fake()})
    assert choose("twin", "data", tmp_path, cases=1, seed=2) == ((1,), "set 1", True)
    assert choose("amos,btcv", "data", tmp_path) == ((2, 3), "set 2; set 3", False)
    assert seen[0] == (None, tmp_path / "btcv", {"cases": 1, "seed": 2})
    assert seen[1] == ("data", tmp_path / "amos", {"cases": 0, "seed": 0})
    with pytest.raises(ValueError, match="twin, collections or some of btcv, amos"):
        choose("liver", "data", tmp_path)
    with pytest.raises(ValueError, match="LIMNET_DATA names, but it is not set"):
        choose("collections", None, tmp_path)

    case = Case("a", tmp_path, tmp_path, {"liver": 1}, "ct", True)
    others = [replace(case, name="b"), replace(case, collection="mr"), replace(case, image=None)]
    monkeypatch.setattr(choosing, "collection_cases", lambda root: (case, *others))
    chosen = choose("collections", "data", tmp_path, cases=1)
    assert chosen.cases == (case, others[1]) and not chosen.synthetic
    assert chosen.ran_on == "2 of 3 real cases, of 2 collections"


def facts_of(node):
    """Where a worker or scheduler listens, and what its libraries were told."""
    listening = [each.getsockname()[0] for each in node.http_server._sockets.values()]
    return os.getpid(), [os.environ.get(name) for name in workers.THREADS_OF], listening


def facts_of_a_worker(dask_worker):
    return facts_of(dask_worker)


def facts_of_the_scheduler(dask_scheduler):
    return facts_of(dask_scheduler)


@linux
@pytest.mark.timeout(300)
def test_workers_listen_on_loopback_are_replaced_when_lost_and_leave_nothing_behind(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    # the killed one is given up at once
    monkeypatch.setitem(workers.SETTINGS, "distributed.deploy.lost-worker-timeout", "10ms")
    monkeypatch.setattr(workers, "REPLACE_SECONDS", 0.5)
    with connect("local", workers=1, threads=1) as client:
        [(address, (process, libraries, pages))] = client.run(facts_of_a_worker).items()
        _, _, scheduler_pages = client.run_on_scheduler(facts_of_the_scheduler)
        addresses = [address, client.scheduler.address]
        assert process != os.getpid() and born(process)
        assert client.nthreads() == {address: 1}
        os.kill(process, signal.SIGKILL)
        another = client.submit(os.getpid, pure=False).result(timeout=120)
        assert another != process and born(another)
    assert all(each.startswith("tcp://127.0.0.1:") for each in addresses)
    assert {*pages, *scheduler_pages} == {"127.0.0.1"}
    assert libraries == ["1", "1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ
    assert not born(process) and not born(another)


@linux
@pytest.mark.timeout(600)  # processes are started five times or so
def test_a_run_whose_worker_and_client_are_killed_ends_as_if_nobody_had(tmp_path):
    (tmp_path / "cases").mkdir()
    cases = write_cases(tmp_path / "cases", 64)
    expected = undisturbed(cases, tmp_path / "expected")
    assert len(expected) == 2 * len(cases)
    moments = sorted(random.sample(range(1, 120), 2))  # results that are there at each kill
    with disturbed(tmp_path, "local") as one:
        starts = one.play(moments, ["worker", "client"])
        assert starts == 2
        assert contents(one.cache) == expected
