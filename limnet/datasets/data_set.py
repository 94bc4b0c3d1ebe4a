"""Which cases a table runs on: a published data set's where it is at hand, else its twin's."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from limnet.datasets.case import Case


class Chosen(NamedTuple):
    """Cases, and the words that a report must say about them."""

    cases: tuple[Case, ...]
    ran_on: str
    synthetic: bool


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
        tested = held_for_tests(found, self.tested) if self.tested else found
        chosen = tested[: cases or None]
        return Chosen(chosen, f"{self.name}, {len(chosen)} of its {_counted(found)}", False)


def held_for_tests(cases: Sequence[Case], number: int) -> tuple[Case, ...]:
    """So many cases, chosen by the hash of their names and in the order of these hashes.

    The paper gives the sizes of its test sets and not their cases; this choice depends on nothing
    but the names, so that anybody gets the same one.
    """
    by_hash = sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())
    return tuple(by_hash[:number])


def _counted(cases: Sequence[Case]) -> str:
    return f"{len(cases)} case{'s' * (len(cases) != 1)}"
