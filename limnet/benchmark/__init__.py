"""What clicks and rounds cost, and what each optimisation gains."""

from limnet.benchmark.agreement import Agreement, agreement
from limnet.benchmark.alone import measure_alone
from limnet.benchmark.ladder import LADDER, LOOKS, Step, climb
from limnet.benchmark.setting import Setting

__all__ = ["LADDER", "LOOKS", "Agreement", "Setting", "Step", "agreement", "climb", "measure_alone"]
