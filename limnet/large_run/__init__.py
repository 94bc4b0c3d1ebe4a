"""Evaluation of many cases over processes or machines, which goes on where it was stopped."""

from limnet.large_run.choosing import choose
from limnet.large_run.planning import Plan, plan
from limnet.large_run.records import Done, Options
from limnet.large_run.running import run, tasks_of
from limnet.large_run.tables import all_rows, by_label, failures

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
