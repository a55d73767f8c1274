"""The run folder: create, open, append-only logs, checkpoints, verify."""

from glasshouse.runs.checkpoints import Checkpoint
from glasshouse.runs.folder import Run
from glasshouse.runs.logs import LogWriter, read_from
from glasshouse.runs.verify import Problem, verify

__all__ = ["Checkpoint", "LogWriter", "Problem", "Run", "read_from", "verify"]
