"""A claim of the paper, and what can be found of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What a rule may find; the words that the ledger shows."""

    HOLDS = "holds in the paper's own numbers"
    CONTRADICTS = "contradicts the paper's own numbers"
    REPRODUCED = "reproduced within tolerance"
    OUTSIDE = "outside tolerance"
    WAITING = "waiting for a run"  # public data or hardware that were not at hand
    BLOCKED = "blocked"  # data, masks or weights that are not public
    UNDEFINED = "undefined"  # the paper does not say


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that a rule can check."""

    name: str  # unique, letters, digits and underscores
    where: str  # table, figure or section
    says: str  # in our words
    rule: str  # a key of `rules.RULES`
    about: Mapping[str, Any]  # what the rule is given
    recorded: Status  # the status that the ledger holds; a change needs a reason beside it
    reason: str = ""  # why the recorded status is another than it once was


@dataclass(frozen=True)
class Verdict:
    """What a rule found, and by what."""

    status: Status
    evidence: str
