"""Evaluation of many cases over processes or machines, which goes on where it was stopped."""

from limnet.evaluation.large_run.choosing import choose
from limnet.evaluation.large_run.planning import Plan, plan
from limnet.evaluation.large_run.records import Done, Options
from limnet.evaluation.large_run.running import run, tasks_of
from limnet.evaluation.large_run.tables import all_rows, by_label, failures

__all__ = [
    "Done",
    "Options",
    "Plan",
    "all_rows",
    "by_label",
    "choose",
    "failures",
    "plan",
    "run",
    "tasks_of",
]
