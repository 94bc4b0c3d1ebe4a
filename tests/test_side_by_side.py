import threading
import time

import pytest
import torch

from limnet.networks.inference import AHEAD, parallel_map

CPU = torch.device("cpu")
PATIENCE = 10  # seconds that a test waits for another thread before it fails


@pytest.fixture
def threads():
    """Sets how many threads PyTorch has, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def on_main_thread():
    return threading.current_thread() is threading.main_thread()


def test_results_come_in_the_order_of_the_items(threads):
    threads(4)

    def slow_at_first(item):
        time.sleep(0.02 / (item + 1))
        return 10 * item

    assert list(parallel_map(slow_at_first, range(12), CPU)) == [10 * n for n in range(12)]


def test_half_of_the_threads_work_on_an_item_each_and_the_others_stay_with_the_finder(threads):
    threads(6)
    all_three = threading.Event()
    at_once, seen = threading.Barrier(3, all_three.set, PATIENCE), []

    def work(item):
        at_once.wait()
        seen.append((on_main_thread(), torch.get_num_threads()))

    def found():
        yield from range(3)
        assert all_three.wait(PATIENCE)
        seen.append((on_main_thread(), torch.get_num_threads()))

    list(parallel_map(work, found(), CPU))
    assert sorted(seen) == [(False, 1)] * 3 + [(True, 3)]
    assert torch.get_num_threads() == 6


@pytest.mark.parametrize(
    ("count", "each", "workers"), [(8, 2, 2), (8, 4, 1), (7, 3, 1), (8, 5, 0), (2, 1, 1)]
)
def test_each_item_has_as_many_threads_as_were_asked_for_whoever_works_on_it(
    threads, count, each, workers
):
    threads(count)
    both, seen = threading.Event(), []

    def work(item):
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        if not on_main_thread():
            assert both.wait(PATIENCE)
        both.set()

    list(parallel_map(work, range(20), CPU, threads=each))
    if not workers:
        assert set(seen) == {("MainThread", count)}
    else:
        assert {number for _, number in seen} == {each}
        assert "MainThread" in {name for name, _ in seen}
        assert 1 < len({name for name, _ in seen}) <= workers + 1


def test_items_are_found_while_others_are_worked_on(threads):
    threads(2)
    second_found = threading.Event()

    def found():
        yield "first"
        second_found.set()
        yield "second"

    def work(item):
        assert second_found.wait(PATIENCE), "the second item was not looked for"
        return item

    assert list(parallel_map(work, found(), CPU)) == ["first", "second"]


def test_who_finds_the_items_works_too_where_they_pile_up(threads):
    threads(2)
    helped = threading.Event()
    found = []

    def work(item):
        if item == 0:
            assert helped.wait(PATIENCE), "nobody else worked on the others"
        elif on_main_thread():
            helped.set()
        return len(found)

    def items():
        for item in range(8):
            found.append(item)
            yield item

    known = list(parallel_map(work, items(), CPU))
    assert known[1] == AHEAD + 1  # one under way, and as many as may wait
    assert len(known) == 8


@pytest.mark.parametrize(("count", "device"), [(1, "cpu"), (4, "cuda")])
def test_on_a_single_thread_and_on_a_gpu_one_comes_after_another(threads, count, device):
    threads(count)
    events = []

    def found():
        for item in range(3):
            events.append(f"found {item}")
            yield item

    def work(item):
        assert on_main_thread() and torch.get_num_threads() == count
        events.append(f"worked on {item}")

    list(parallel_map(work, found(), torch.device(device)))
    assert events == [f"{done} {item}" for item in range(3) for done in ("found", "worked on")]


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_an_error_comes_where_the_result_would_have_come(threads, bad):
    threads(2)

    def work(item):
        if item == bad:
            raise ValueError("no result")
        return item

    results = []
    with pytest.raises(ValueError, match="no result"):
        for result in parallel_map(work, range(8), CPU):
            results.append(result)
    assert results == list(range(bad)) and torch.get_num_threads() == 2


def test_an_error_of_the_finder_and_a_reader_that_stops_leave_the_threads_as_they_were(threads):
    threads(2)

    def broken():
        yield from range(2)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(parallel_map(lambda item: item, broken(), CPU))
    assert torch.get_num_threads() == 2
    results = parallel_map(lambda item: item, range(100), CPU)
    assert next(results) == 0
    results.close()
    assert torch.get_num_threads() == 2
    assert not [each for each in threading.enumerate() if each.name.startswith("side_by_side")]


def test_without_items_there_are_no_results(threads):
    threads(2)
    assert list(parallel_map(str, [], CPU)) == []
