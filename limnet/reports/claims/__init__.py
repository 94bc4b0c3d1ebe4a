"""The paper's claims as a ledger: what is said, the rule that checks it, what it finds."""

from limnet.reports.claims.claim import Claim, Status, Verdict
from limnet.reports.claims.ledger import Ledger, changes, judge, read_ledger, summary
from limnet.reports.claims.runs import Runs

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
