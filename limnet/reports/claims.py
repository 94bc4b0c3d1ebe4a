"""The paper's claims as a ledger: what is said, the rule that checks it, what it finds."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from limnet.reports.claim_rules import RULES, Runs, Status, Verdict
from limnet.reports.results import published, published_counts, reports_file


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that a rule can check."""

    name: str  # unique, letters, digits and underscores
    where: str  # table, figure or section
    says: str  # in our words
    rule: str  # a key of `RULES`
    about: Mapping[str, Any]  # what the rule is given
    recorded: Status  # the status that the ledger holds; a change needs a reason beside it
    reason: str = ""  # why the recorded status is another than it once was


class Judged(NamedTuple):
    """A claim and what was found of it."""

    claim: Claim
    verdict: Verdict


def read_ledger(path: str | Path | None = None) -> tuple[Claim, ...]:
    """All claims: those of the file, and the cells of the tables that it names.

    Args:
        path: of the YAML file; None: that of the checkout.

    Raises:
        ValueError: a claim lacks something, has an unknown rule or status, or a name occurs twice.
    """
    path = Path(path) if path else reports_file("claims.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    claims = [_written_claim(name, entry) for name, entry in content["claims"].items()]
    claims += [claim for table, about in content["cells"].items() for claim in _cells(table, about)]
    claims += list(_counts(content.get("counts", {})))
    names = [claim.name for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each claim needs a name of its own, but {', '.join(twice)} occur twice")
    return tuple(claims)


def judge(ledger: Sequence[Claim], runs: Runs) -> list[Judged]:
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
    """Claims whose decided status is another than the decided one that the ledger records.

    A claim that waited, or that waits again because a run is not at hand, has not changed.
    """
    return [
        Judged(claim, found)
        for claim, found in judged
        if found.status != claim.recorded and Status.WAITING not in (found.status, claim.recorded)
    ]


def summary(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row a claim: name, where, says, status, evidence, recorded, reason."""
    rows = [{**vars(claim), **vars(found)} for claim, found in judged]
    names = ["name", "where", "says", "status", "evidence", "recorded", "reason"]
    return pd.DataFrame(rows)[names].astype({"status": str, "recorded": str})


def _written_claim(name: str, entry: Mapping[str, Any]) -> Claim:
    needed = {"where", "says", "rule", "status"}
    rule, status = entry.get("rule"), entry.get("status")
    if not needed <= entry.keys() <= needed | {"reason"}:
        raise ValueError(f"the claim {name} must have {sorted(needed)}, got {sorted(entry)}")
    if not isinstance(rule, dict) or len(rule) != 1 or not rule.keys() <= RULES.keys():
        raise ValueError(f"the claim {name} must have one rule of {', '.join(RULES)}, got {rule}")
    if status not in Status.__members__:
        known = ", ".join(Status.__members__)
        raise ValueError(f"the status of {name} must be one of {known}, got {status!r}")
    [(key, about)] = rule.items()
    reason = entry.get("reason", "")
    return Claim(name, entry["where"], entry["says"], key, about, Status[status], reason)


def _printed_claim(
    name: str, where: str, text: str, says: Mapping[str, str], rule: str, about: Mapping[str, Any]
) -> Claim:
    """A claim about a printed number: blocked where `says` has a reason, else by this rule."""
    name = re.sub(r"\W+", "_", name.lower()).strip("_")
    if "because" in says:
        return Claim(name, where, text, "blocked", {"because": says["because"]}, Status.BLOCKED)
    return Claim(name, where, text, rule, {**about, "needs": says["needs"]}, Status.WAITING)


def _cells(table: str, about: Mapping[str, Any]) -> Iterator[Claim]:
    """A claim for every cell; our runs check those of our rows.

    Args:
        about: `where`, and for every row of the table what its cells need: `ours` (the end of our
            rows' names), `needs`, or `because` where nothing public would do.
    """
    cells = published(table).rows
    for row, says in about["rows"].items():
        for column, value in cells.loc[row].items():
            rule, given = "waiting", {}
            if "ours" in says:
                rule, given = "run_cell", {"notebook": about["notebook"], "table": table}
                given |= {"column": column, "method": says["ours"], "paper": value}
            text = f"{row}, {column}: DSC {value:g} %"
            yield _printed_claim(f"{table}_{row}_{column}", about["where"], text, says, rule, given)


def _counts(about: Mapping[str, Mapping[str, str]]) -> Iterator[Claim]:
    """A claim for every number of Table III; by its row what it needs, or why that is blocked."""
    counts = published_counts()
    for row, says in about.items():
        for split, column in (("training", "Training Set"), ("test", "Test Set")):
            value = counts.loc[row, column]
            if not math.isnan(value):
                text = f"{row}: {value:,.0f} 2D images or slices for {split}"
                given = {"data_set": row, "split": split, "paper": value}
                name = f"table_3_{row}_{split}"
                yield _printed_claim(name, "Table III", text, says, "run_count", given)
