"""What clicks and rounds cost, and what each optimisation gains (paper, section III-C)."""

from measure.agreement import numerical_agreement
from measure.flops import flops, parameters
from measure.ladder import LADDER, LOOKS, PLAIN, Optimisations, run_ablation
from measure.rows import Setting, in_subprocess

__all__ = [
    "LADDER",
    "LOOKS",
    "PLAIN",
    "Optimisations",
    "Setting",
    "flops",
    "in_subprocess",
    "numerical_agreement",
    "parameters",
    "run_ablation",
]
