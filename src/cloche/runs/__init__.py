"""The run folder: create, open, append-only logs, checkpoints, verify."""

from cloche.runs.checkpoints import Checkpoint
from cloche.runs.folder import Run
from cloche.runs.logs import LogWriter, read_from
from cloche.runs.verify import Problem, verify

__all__ = ["Checkpoint", "LogWriter", "Problem", "Run", "read_from", "verify"]
