"""Who reads the truth, and which test images are training images: what an evaluation must not leak.

Only the simulated user and the scores may look at the target mask; a method that does segments
what it is asked for. Other tools leak so: a crop around the truth, the next slice chosen by it.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from limnet.data import Case

# who may read it: the user who clicks, and what is computed after the round; nothing else
ALLOWED = {
    "limnet.evaluation.users": "the simulated user",
    "limnet.evaluation.protocols": "the simulated user",
    "limnet.metrics": "the scores",
    "limnet.evaluation.evaluate": "the scores",
}
HERE = __name__


class WatchedMasks(np.ndarray):
    """Masks that note which of limnet's modules reads them; whatever is computed is plain.

    Every way to their values counts: operators, NumPy's functions, methods, indexing, conversion.
    A reader outside limnet counts for the limnet module that called it; one that no limnet module
    called, by its own name.
    """

    readers: Counter

    def __array_finalize__(self, source: Any) -> None:
        """NumPy calls it for every view, which stays watched by the same list."""
        self.readers = getattr(source, "readers", Counter())

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Operators and element-wise functions."""
        self.readers[_reader()] += 1
        plain = [_plain(each) for each in inputs]
        return getattr(ufunc, method)(*plain, **options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        """NumPy's other functions, and methods by way of them."""
        self.readers[_reader()] += 1
        plain = [_plain(each) for each in inputs]
        return function(*plain, **{name: _plain(each) for name, each in options.items()})

    def __getitem__(self, place: Any) -> Any:
        """A part of them, plain."""
        self.readers[_reader()] += 1
        return _plain(self)[place]

    def __iter__(self) -> Iterator[Any]:
        """Slice by slice, plain."""
        self.readers[_reader()] += 1
        return iter(_plain(self))

    def any(self, *inputs: Any, **options: Any) -> Any:
        """Whether one is true."""
        self.readers[_reader()] += 1
        return _plain(self).any(*inputs, **options)

    def sum(self, *inputs: Any, **options: Any) -> Any:
        """How many are true."""
        self.readers[_reader()] += 1
        return _plain(self).sum(*inputs, **options)


def watched(target: Bool[np.ndarray, "slices height width"]) -> WatchedMasks:
    """The same masks, which from now on note who reads them in `readers`."""
    masks = target.view(WatchedMasks)
    masks.readers = Counter()
    return masks


def audit(masks: WatchedMasks) -> pd.DataFrame:
    """A row a module that has read them: module, reads, role ("not allowed" is a leak)."""
    rows = [
        {"module": name, "reads": count, "role": ALLOWED.get(name, "not allowed")}
        for name, count in sorted(masks.readers.items())
    ]
    return pd.DataFrame(rows, columns=["module", "reads", "role"])


def overlap(training: Iterable[Case], test: Iterable[Case]) -> pd.DataFrame:
    """The slices of test cases that are slices of training cases too, by their pixels' hash.

    Slices of one grey value say nothing and are left out. A hash finds copies, not the same patient
    in another scan.

    Returns:
        A row a test case: collection, case, slices, shared, with (the training cases' names).
    """
    owners: dict[str, set[str]] = {}
    for case in training:
        for digest in slice_digests(case):
            owners.setdefault(digest, set()).add(f"{case.collection} {case.name}")
    rows = []
    for case in test:
        digests = slice_digests(case)
        found = [owners[digest] for digest in digests if digest in owners]
        named = {"collection": case.collection, "case": case.name, "slices": len(digests)}
        rows.append({**named, "shared": len(found), "with": ", ".join(sorted(set().union(*found)))})
    return pd.DataFrame(rows, columns=["collection", "case", "slices", "shared", "with"])


def slice_digests(case: Case) -> list[str]:
    """A hash of the pixels of every slice that has more than one grey value."""
    if case.image is None:
        return []
    images, _ = case.load()
    pixels = [np.ascontiguousarray(each) for each in images.images]
    return [
        hashlib.sha256(f"{each.shape} {each.dtype.str}".encode() + each.tobytes()).hexdigest()
        for each in pixels
        if each.min() != each.max()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, WatchedMasks):
        return value.view(np.ndarray)
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    return value


def _reader() -> str:
    """The innermost module of limnet on the stack that is not this one, else of anyone."""
    names, frame = [], sys._getframe(2)
    while frame is not None:
        names.append(frame.f_globals.get("__name__", "?"))
        frame = frame.f_back
    outside = [name for name in names if name != HERE and not name.startswith("numpy")]
    ours = [name for name in outside if name.split(".")[0] == Path(__file__).parents[1].name]
    return (ours or outside or ["?"])[0]
