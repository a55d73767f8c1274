"""The run folder: create, open, append-only logs, checkpoints, verify."""

from cloche.runs.chain import FIELD as CHAIN_FIELD
from cloche.runs.checkpoints import Checkpoint
from cloche.runs.folder import Run
from cloche.runs.logs import LogWriter, read_from
from cloche.runs.verification import Problem, Verification, verify

__all__ = ["CHAIN_FIELD", "Checkpoint", "LogWriter", "Problem", "Run", "Verification", "read_from", "verify"]
