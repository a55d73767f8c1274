"""Types of what each command prints with --json; docs/schemas/ is generated from them."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from cloche.drawing import FindingRecord
from cloche.interp import DensityData, DictionaryData, FeaturesData, ProbingData
from cloche.runs import ProblemRecord

VERSION = 1  # of these outputs; raised when a key is removed or changes its meaning, not when one is added


class ErrorRecord(TypedDict):
    """Any command that failed: the sentence, and its error code (docs/errors.md)."""

    error: str
    code: str


class RunOutcome(TypedDict):
    """`pretrain`, `resume` and `demo`: the state of the run. Losses are in nats per token; `seconds` is training time."""

    run: str
    checkpoint: str
    step: int
    finished: bool
    seconds: float | None
    loss: float | None
    val_loss: float | None
    val_bpb: float | None
    tokens: int | None
    flops: float | None
    tokens_per_second: float | None
    mfu: float | None
    report: str | None


class FilesTaken(TypedDict):
    """How files were put into the run: "reflink", "hard link" or "copy"."""

    how: str
    files: int
    bytes: int


class AdoptedModel(TypedDict):
    """`adopt`: the run that was made; `data` is whether it has text."""

    run: str
    source: str
    checkpoints: list[str]
    taken: list[FilesTaken]
    data: bool


class ReportWritten(TypedDict):
    """`report`: the page, and the contents of the run."""

    run: str
    report: str
    bytes: int
    checkpoints: int
    findings: int


class TextGenerated(TypedDict):
    """`generate`: the text after the prompt, its token ids, and the sampling settings."""

    checkpoint: str
    prompt: str
    text: str
    ids: list[int]
    edits: list[str]
    notes: list[str]
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


class VectorSaved(TypedDict):
    """`cloche steer`: the file of a steering vector, its site, the length of one unit of strength, and how it was made."""

    path: str
    site: str
    unit: float
    width: int
    card: dict[str, Any]


class SavedFinding(FindingRecord):
    """`compare`, `diff`, `trace`, `why`, `doctor` of a recipe, and each finding of `look`: the finding, and its file; null if
    only printed."""

    path: str | None


class FindingsRecord(TypedDict):
    """`look`: one finding, or one per prompt."""

    findings: list[SavedFinding]


class OptionRecord(TypedDict):
    """An option of an instrument: its name, the form of its value, such as INT or TEXT, and its default as text; null if it
    is required or taken from the run."""

    name: str
    type: str
    default: str | None


class InstrumentRecord(TypedDict):
    """An instrument: its name, the first sentence of its description, its options."""

    name: str
    about: str
    options: list[OptionRecord]


class InstrumentsListed(TypedDict):
    """`look` and `trace` without an instrument: all instruments."""

    instruments: list[InstrumentRecord]


class RunVerified(TypedDict):
    """`verify`: problems (files that are not as they were written) and notes; `ok` is whether there are no problems.
    `replayed` are the checkpoints that --replay trained again."""

    run: str
    ok: bool
    problems: list[ProblemRecord]
    notes: list[ProblemRecord]
    replayed: NotRequired[list[str]]


class StepRewound(TypedDict):
    """`rewind`: the checkpoint of the step, the step that it was replayed from, the sha256 of its weights, and the last step on
    the way whose hash in the log is the same; null if the log has none."""

    run: str
    step: int
    path: str
    begun: int
    weights: str
    logged: int | None


class CheckRecord(TypedDict):
    """One line of `doctor`."""

    name: str
    value: str | int | float | bool | None
    ok: bool
    note: str


class MachineChecked(TypedDict):
    """`doctor` without a recipe: the checks of this machine."""

    ok: bool
    checks: list[CheckRecord]


class TrainedDictionary(TypedDict):
    """`sae train`: the dictionary that was made."""

    run: str
    dictionary: str
    path: str
    site: str | None
    checkpoint: str | None
    kind: str
    wiring: str
    features: int
    l0: float
    message: str


class LearnedDictionary(TypedDict):
    """`sparse learn`: the dictionary that was learned from signals."""

    out: str
    method: str
    atoms: int
    width: int
    signals: int
    sides: list[int]
    level: bool
    picture: str | None
    l0: float
    fvu: float
    dead_share: float
    seconds: float


class CodesWritten(TypedDict):
    """`sparse encode`: the codes that were written."""

    out: str
    decoded: str | None
    method: str
    signals: int
    l0: float
    fvu: float


class AtomsDrawn(TypedDict):
    """`sparse atoms`: the picture that was written."""

    out: str
    atoms: int


class SignalDenoised(TypedDict):
    """`sparse denoise`: the signal that was written; `noise` is the standard deviation per channel."""

    out: str
    dictionary: str
    noise: list[float]
    estimated: bool
    shape: list[int]
    padded: list[int] | None


class FeaturesRead(FeaturesData):
    """`sae features`: the finding that was saved, and its data."""

    run: str
    finding: str
    summary: str


EquationsFound = TypedDict(
    "EquationsFound",
    {
        "source": str,
        "samples": int,
        "time": str,
        "from": float,
        "to": float,
        "equations": list[str],
        "states": dict[str, dict[str, Any]],
        "inputs": list[str],
        "terms": list[str],
        "notes": list[str],
        "simulated": str | None,
    },
)  # `sindy`: the equations that were found, and the file of their simulation


class TaskRecord(TypedDict):
    """A task: its description, and its levels of difficulty, from easy to hard."""

    name: str
    about: str
    levels: list[int]
    settings: str


class TasksListed(TypedDict):
    """`tasks list`: all tasks."""

    tasks: list[TaskRecord]


class ItemRecord(TypedDict):
    """One item of a task, and its corrupted twin, which differs in one variable and in the answer."""

    prompt: str
    answer: str
    level: int
    problem_id: str
    split: str
    chance: float
    choices: list[str]
    steps: list[str]
    variables: dict[str, str]
    corrupted_prompt: str | None
    corrupted_answer: str | None
    corrupted_variable: str | None


class TaskShown(TypedDict):
    """`tasks show`: items of one task; `parents` is its causal graph: the variables that each is computed from."""

    task: str
    level: int
    items: list[ItemRecord]
    parents: dict[str, list[str]]


DictionaryMeasured = TypedDict(
    "DictionaryMeasured",
    {
        "dictionary": DictionaryData,
        "activation-density": NotRequired[DensityData],
        "sparse-probing": NotRequired[ProbingData],
    },
)  # `sae report`: data of each finding, by instrument; those that the model or the amount of text does not allow are left out

COMMANDS: dict[str, Any] = {
    "adopt": AdoptedModel,
    "compare": SavedFinding,
    "demo": RunOutcome,
    "doctor": MachineChecked | SavedFinding,
    "error": ErrorRecord,
    "diff": SavedFinding,
    "steer": VectorSaved,
    "eval": FindingsRecord,
    "generate": TextGenerated,
    "look": FindingsRecord | InstrumentsListed,
    "pretrain": RunOutcome,
    "recipe": dict[str, Any],
    "report": ReportWritten,
    "resume": RunOutcome,
    "rewind": StepRewound,
    "sae features": FeaturesRead,
    "sae report": DictionaryMeasured,
    "sae train": TrainedDictionary,
    "sindy": EquationsFound,
    "sparse atoms": AtomsDrawn,
    "sparse denoise": SignalDenoised,
    "sparse encode": CodesWritten,
    "sparse learn": LearnedDictionary,
    "tasks check": SavedFinding,
    "tasks list": TasksListed,
    "tasks show": TaskShown,
    "trace": SavedFinding | InstrumentsListed,
    "verify": RunVerified,
    "why": SavedFinding,
}
