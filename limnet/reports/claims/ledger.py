"""The ledger `reports/claims.yaml`: claims written by hand, and one for every cell of a table."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from limnet.reports.claims.claim import Claim, Status, Verdict
from limnet.reports.claims.rules import RULES
from limnet.reports.claims.runs import Runs
from limnet.reports.results import published, published_counts, reports_file

# statuses that depend on nothing but the paper's text, so that nobody's runs change them
OF_THE_PAPER = {Status.HOLDS, Status.CONTRADICTS, Status.UNDEFINED, Status.BLOCKED}


class Judged(NamedTuple):
    """A claim and what was found of it."""

    claim: Claim
    verdict: Verdict


Ledger = tuple[Claim, ...]


def read_ledger(path: str | Path | None = None) -> Ledger:
    """All claims: those of the file, and the cells of the tables that it names.

    Args:
        path: of the YAML file; None: that of the checkout.

    Raises:
        ValueError: a claim lacks something, has an unknown rule or status, or a name occurs twice.
    """
    path = Path(path) if path else reports_file("claims.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    claims = [_claim(name, entry) for name, entry in content["claims"].items()]
    claims += [claim for table, about in content["cells"].items() for claim in _cells(table, about)]
    claims += list(_counts(content.get("counts", {})))
    names = [claim.name for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each claim needs a name of its own, but {', '.join(twice)} occur twice")
    return tuple(claims)


def judge(ledger: Ledger, runs: Runs) -> list[Judged]:
    """What the rules find of every claim.

    Raises:
        ValueError: a rule cannot use what its claim gives it.
    """
    judged = []
    for claim in ledger:
        try:
            judged.append(Judged(claim, RULES[claim.rule](runs, **claim.about)))
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"the claim {claim.name} must give the rule {claim.rule} what it needs: {error!r};"
                " correct reports/claims.yaml"
            ) from error
    return judged


def changes(judged: Sequence[Judged]) -> list[Judged]:
    """Claims whose status is another than the ledger records.

    What waited and is now decided is no change but news, and a run that is not at hand changes
    nothing: only one decided status in place of another is a change. Who means it records the new
    status in the ledger, with the reason.
    """
    undecided = {Status.WAITING}
    return [
        each
        for each in judged
        if each.verdict.status != each.claim.recorded
        and not {each.verdict.status, each.claim.recorded} & undecided
    ]


def summary(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row a claim: name, where, says, status, evidence, recorded, reason."""
    return pd.DataFrame(
        [
            {
                "name": claim.name,
                "where": claim.where,
                "says": claim.says,
                "status": str(found.status),
                "evidence": found.evidence,
                "recorded": str(claim.recorded),
                "reason": claim.reason,
            }
            for claim, found in judged
        ]
    )


def _claim(name: str, entry: Mapping[str, Any]) -> Claim:
    known = {"where", "says", "rule", "status", "reason"}
    missing, more = known - {"reason"} - entry.keys(), entry.keys() - known
    rule = entry.get("rule")
    if missing or more or not isinstance(rule, dict) or len(rule) != 1 or not set(rule) <= {*RULES}:
        raise ValueError(
            f"the claim {name} must have where, says, status and one rule of {', '.join(RULES)};"
            f" it lacks {', '.join(sorted(missing)) or 'none'}, has besides"
            f" {', '.join(sorted(more)) or 'none'}, and its rule is {rule}"
        )
    [(key, about)] = rule.items()
    status = _status(name, entry["status"])
    return Claim(name, entry["where"], entry["says"], key, about, status, entry.get("reason", ""))


def _status(name: str, word: str) -> Status:
    if word not in Status.__members__:
        known = ", ".join(Status.__members__)
        raise ValueError(f"the status of {name} must be one of {known}, got {word!r}")
    return Status[word]


def _cells(table: str, about: Mapping[str, Any]) -> Iterator[Claim]:
    """A claim for every cell; those of our rows are checked by our runs.

    Args:
        about: `where`, and for every row of the table what its cells need: `ours` (the end of our
            rows' names), `needs`, or `because` where nothing public would do.
    """
    cells = published(table).rows
    for row, says in about["rows"].items():
        for column, value in cells.loc[row].items():
            name = re.sub(r"\W+", "_", f"{table}_{row}_{column}".lower()).strip("_")
            if "ours" in says:
                run = {"notebook": about["notebook"], "table": table, "column": column}
                given = {**run, "method": says["ours"], "paper": value, "needs": says["needs"]}
                rule, status = "run_cell", Status.WAITING
            elif "because" in says:
                given, rule, status = {"because": says["because"]}, "blocked", Status.BLOCKED
            else:
                given, rule, status = {"needs": says["needs"]}, "waiting", Status.WAITING
            text = f"{row}, {column}: DSC {value:g} %"
            yield Claim(name, about["where"], text, rule, given, status)


def _counts(about: Mapping[str, Mapping[str, str]]) -> Iterator[Claim]:
    """A claim for every number of Table III; by its row what it needs, or why that is blocked."""
    counts = published_counts()
    for row, says in about.items():
        for split, column in (("training", "Training Set"), ("test", "Test Set")):
            value = counts.loc[row, column]
            if math.isnan(value):
                continue
            name = re.sub(r"\W+", "_", f"table_3_{row}_{split}".lower())
            text = f"{row}: {value:,.0f} 2D images or slices for {split}"
            if "because" in says:
                yield Claim(name, "Table III", text, "blocked", says, Status.BLOCKED)
            else:
                given = {"data_set": row, "split": split, "paper": value, **says}
                yield Claim(name, "Table III", text, "run_count", given, Status.WAITING)
