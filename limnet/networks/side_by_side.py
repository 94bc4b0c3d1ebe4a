"""Small pieces of work side by side, few threads of PyTorch for each (ours).

PyTorch lets all threads work on one convolution and wait for each other after it; on small images
they wait longer than they work, and longer still where something else keeps a core busy.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")

AHEAD = 2  # items that wait for each worker before whoever finds them works on them too


def parallel_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    device: torch.device,
    *,
    threads: int = 1,
) -> Iterator[Result]:
    """What `map` gives, from workers that share half of PyTorch's threads.

    The other half finds the items, and works on them where they pile up or none is left to find.
    An exception of `work` comes where its result would have come; what was not begun by then is
    not done.

    Args:
        device: of the work; on a GPU one item comes after another, as where there is one thread.
        threads: that work on an item, whoever does: what comes out depends on nothing else.
    """
    before = torch.get_num_threads()
    workers = before // 2 // threads if device.type == "cpu" else 0
    if not workers:
        yield from map(work, items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()  # in the order of the items
    pool = ThreadPoolExecutor(workers, "side_by_side", torch.set_num_threads, (threads,))
    left = before - workers * threads

    def help_out() -> None:
        """Work on the first item that nobody has begun; if there is none, wait for the first."""
        for place, (item, result) in enumerate(waiting):
            if result.cancel():
                waiting[place] = (item, _done(work, item, threads, left))
                return
        waiting[0][1].exception()

    try:
        torch.set_num_threads(left)
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            while sum(not result.done() for _, result in waiting) > AHEAD * workers:
                help_out()
            while waiting and waiting[0][1].done():
                yield waiting.popleft()[1].result()
        while waiting:
            help_out()
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _done(
    work: Callable[[Item], Result], item: Item, threads: int, afterwards: int
) -> "Future[Result]":
    done = Future()
    torch.set_num_threads(threads)
    try:
        done.set_result(work(item))
    except Exception as error:
        done.set_exception(error)
    torch.set_num_threads(afterwards)
    return done
