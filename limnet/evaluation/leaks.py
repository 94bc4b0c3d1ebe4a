"""What an evaluation must not leak: the truth to the method, training images to the test.

Only the simulated user and the scores look at the true masks. Other tools leak them: a crop around
the truth, or the next slice chosen by it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from limnet.data import Case
from limnet.evaluation.evaluate import Evaluation
from limnet.method.session import Session
from limnet.method.state import Recipe
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume


def audit(
    volume: Volume,
    result: Evaluation,
    networks: LimNet,
    *,
    fuse: bool = True,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """Play the clicks of an evaluation again where no truth is at hand, and compare the masks.

    Masks that depend on the truth by the clicks alone come out the same. A method that looked at
    the truth, such as `evaluate(oracle=True)`, differs.

    Returns:
        One row: clicks, voxels (of the object), voxels that differ (a leak, unless 0).
    """
    recipe = replace(Recipe.of(networks), fuse=fuse, threshold=threshold)
    session = Session(volume, networks, recipe)
    clicks = [click for click in result.clicks if click is not None]
    for click in clicks:
        session.add_click(click)
        session.propagate()
    differ = int((session.masks != result.masks).sum())
    row = {"clicks": len(clicks), "voxels": int(result.masks.sum()), "voxels that differ": differ}
    return pd.DataFrame([row])


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
