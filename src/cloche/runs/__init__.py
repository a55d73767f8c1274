"""The run folder: create, open, append-only logs, checkpoints, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.runs.adopting import Adopted, Revision, adopt
    from cloche.runs.chain import FIELD as CHAIN_FIELD
    from cloche.runs.checkpoints import Checkpoint, checkpoint_name, step_of
    from cloche.runs.folder import Run
    from cloche.runs.frames import data_frame
    from cloche.runs.linking import take
    from cloche.runs.logs import LOGS, LogWriter, read_from
    from cloche.runs.making import refuse_taken
    from cloche.runs.models import adopt_command, revisions_in, step_in
    from cloche.runs.records import ProblemRecord
    from cloche.runs.verification import Problem, Verification, verify

__all__ = [
    "CHAIN_FIELD",
    "LOGS",
    "Adopted",
    "Checkpoint",
    "LogWriter",
    "Problem",
    "ProblemRecord",
    "Revision",
    "Run",
    "Verification",
    "adopt",
    "adopt_command",
    "checkpoint_name",
    "data_frame",
    "read_from",
    "refuse_taken",
    "revisions_in",
    "step_in",
    "step_of",
    "take",
    "verify",
]

__getattr__ = lazy(__name__)
