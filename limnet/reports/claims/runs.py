"""What our own runs gave, as far as they lie in the reports folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Run:
    """A result that a notebook wrote."""

    rows: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def ran_on(self) -> str:
        """The words about the data; empty where the run says nothing."""
        return str(self.provenance.get("ran_on", ""))

    @property
    def real(self) -> bool:
        """Whether all it ran on are the published data, no phantoms."""
        return bool(self.ran_on) and "synthetic" not in self.ran_on


@dataclass(frozen=True)
class Runs:
    """The reports folder; a result that is not there, or unreadable, is None."""

    folder: Path

    def result(self, notebook: str, name: str) -> Run | None:
        """`<folder>/<notebook>/<name>.json`."""
        path = self.folder / notebook / f"{name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Run(pd.DataFrame(content["rows"]), dict(content["provenance"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
