"""The paper's claims as a ledger: what is said, the rule that checks it, what it finds."""

from limnet.claims.claim import Claim, Status, Verdict
from limnet.claims.ledger import Ledger, changes, judge, read_ledger, summary
from limnet.claims.runs import Runs

__all__ = [
    "Claim",
    "Ledger",
    "Runs",
    "Status",
    "Verdict",
    "changes",
    "judge",
    "read_ledger",
    "summary",
]
