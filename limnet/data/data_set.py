"""Which cases a table runs on: a published data set's where it is at hand, else its twin's."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from limnet.data.cases import Case

VALIDATION = "imagesVa"  # a folder of AMOS
UNSAID = "the paper gives sizes (section III-A), not cases"


class Chosen(NamedTuple):
    """Cases, and the words that a report must say about them."""

    cases: tuple[Case, ...]
    ran_on: str
    synthetic: bool


class Split(NamedTuple):
    """Which cases test and which may train, and why these."""

    rule: str
    training: tuple[str, ...]  # names of cases
    test: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A published data set as its adapter knows it."""

    name: str
    find: Callable[[str | Path | None], Path | None]  # in the data folder
    read: Callable[[Path], tuple[Case, ...]]
    write_twin: Callable[..., tuple[Case, ...]]  # (root, *, cases, seed)
    tested: int | None = None  # cases of the paper's test set; None: all

    def choose(
        self, data_root: str | Path | None, twin: Path, *, cases: int = 0, seed: int = 0
    ) -> Chosen:
        """The paper's test cases, as far as that can be, or phantoms.

        Args:
            data_root: `LIMNET_DATA`; None where there is no data folder.
            twin: folder for the twin, written if needed.
            cases: the first so many; 0: all, of a twin 2.
            seed: of the twin's patients.

        Raises:
            ValueError: as the adapter says.
        """
        root = self.find(data_root)
        if root is None:
            chosen = self.write_twin(twin, cases=cases or 2, seed=seed)
            said = f"the synthetic twin of {self.name} ({_counted(chosen)}), NOT on {self.name}"
            return Chosen(chosen, said, True)
        found = self.read(root)
        by_name = {case.name: case for case in found}
        chosen = tuple(by_name[name] for name in self.split(found).test[: cases or None])
        return Chosen(chosen, f"{self.name}, {len(chosen)} of its {_counted(found)}", False)

    def split(self, cases: Sequence[Case]) -> Split:
        """The cases that `choose` tests on, and the others.

        Args:
            cases: all of the data set, as `read` gives them.
        """
        official = [case for case in cases if case.image and case.image.parent.name == VALIDATION]
        if self.tested:
            test = tuple(case.name for case in hash_split(cases, self.tested))
            rule = f"ours: the first {self.tested} by the SHA-256 of their names test; {UNSAID}"
        elif official:
            test = tuple(case.name for case in official)
            rule = f"the publishers': those in {VALIDATION} test; the paper does not say which do"
        else:
            test = tuple(case.name for case in cases)
            rule = "all test: the paper trains on none of them"
        held = set(test)
        return Split(rule, tuple(case.name for case in cases if case.name not in held), test)


def hash_split(cases: Sequence[Case], number: int) -> tuple[Case, ...]:
    """So many cases, chosen by the hash of their names and in the order of these hashes.

    The paper gives the sizes of its test sets and not their cases; this choice depends on nothing
    but the names, so that anybody gets the same one.
    """
    by_hash = sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())
    return tuple(by_hash[:number])


def _counted(cases: Sequence[Case]) -> str:
    return f"{len(cases)} case{'s' * (len(cases) != 1)}"
