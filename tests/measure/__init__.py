"""What clicks and rounds cost, and what each optimisation gains."""

from measure.agreement import Agreement, agreement
from measure.alone import measure_alone
from measure.ladder import LADDER, LOOKS, Step, run_ablation
from measure.setting import Setting

__all__ = [
    "LADDER",
    "LOOKS",
    "Agreement",
    "Setting",
    "Step",
    "agreement",
    "measure_alone",
    "run_ablation",
]
