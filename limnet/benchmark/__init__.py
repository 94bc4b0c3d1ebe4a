"""What clicks and rounds cost, and what each optimisation gains."""

from limnet.benchmark.agreement import Agreement, agreement
from limnet.benchmark.alone import measure_alone
from limnet.benchmark.ladder import LADDER, LOOKS, Step, run_ablation
from limnet.benchmark.setting import Setting

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
