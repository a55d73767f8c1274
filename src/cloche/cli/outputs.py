"""What each command prints with --json, as types; docs/schemas/ is made from them."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from cloche.drawing import FindingRecord
from cloche.interp import DensityData, DictionaryData, FeaturesData, ProbingData
from cloche.runs import ProblemRecord

VERSION = 1  # of these outputs: raised when a key goes or changes its meaning, not when one is added


class Refused(TypedDict):
    """Of any command that could not do what it was asked: the sentence, and the code of its situation (docs/errors.md)."""

    error: str
    code: str


class Grown(TypedDict):
    """`pretrain`, `resume` and `demo`: what the run has come to. Losses are in nats per token, seconds of training."""

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


class Taken(TypedDict):
    """How files came into the run: "reflink", "hard link" or "copy"."""

    how: str
    files: int
    bytes: int


class AdoptedModel(TypedDict):
    """`adopt`: the run that was made; `data` says whether it has text."""

    run: str
    source: str
    checkpoints: list[str]
    taken: list[Taken]
    data: bool


class Reported(TypedDict):
    """`report`: the page, and what the run holds."""

    run: str
    report: str
    bytes: int
    checkpoints: int
    findings: int


class Generated(TypedDict):
    """`generate`: the text that was written after the prompt, its token ids, and how it was drawn."""

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


class SavedFinding(FindingRecord):
    """`trace`, and each finding of `look`: what its file holds, and the file; null where it was printed alone."""

    path: str | None


class Looked(TypedDict):
    """`look`: a finding, or one for each prompt."""

    findings: list[SavedFinding]


class OptionRecord(TypedDict):
    """An option of an instrument: its name, what stands after its `=`, such as INT or TEXT, and its default as text, null
    where one is needed or comes from the run."""

    name: str
    type: str
    default: str | None


class InstrumentRecord(TypedDict):
    """An instrument: its name, the first sentence about it, its options."""

    name: str
    about: str
    options: list[OptionRecord]


class Listed(TypedDict):
    """`look` and `trace` without an instrument: all there are."""

    instruments: list[InstrumentRecord]


class Verified(TypedDict):
    """`verify`: what is not as it was written, and what is worth knowing; `ok` where there are no problems."""

    run: str
    ok: bool
    problems: list[ProblemRecord]
    notes: list[ProblemRecord]


class CheckRecord(TypedDict):
    """One line of `doctor`."""

    name: str
    value: str | int | float | bool | None
    ok: bool
    note: str


class Examined(TypedDict):
    """`doctor`: what this machine is."""

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


class Encoded(TypedDict):
    """`sparse encode`: the codes that were written."""

    out: str
    decoded: str | None
    method: str
    signals: int
    l0: float
    fvu: float


class Drawn(TypedDict):
    """`sparse atoms`: the picture that was written."""

    out: str
    atoms: int


class Denoised(TypedDict):
    """`sparse denoise`: the signal that was written; `noise` is its standard deviation for each channel."""

    out: str
    dictionary: str
    noise: list[float]
    estimated: bool
    shape: list[int]
    padded: list[int] | None


class FeaturesRead(FeaturesData):
    """`sae features`: where the finding went, and with these keys its data."""

    run: str
    finding: str
    summary: str


Equations = TypedDict(
    "Equations",
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
    """A task: what it asks, and its levels of difficulty, from easy to hard."""

    name: str
    about: str
    levels: list[int]
    settings: str


class TasksListed(TypedDict):
    """`tasks list`: every task there is."""

    tasks: list[TaskRecord]


class ItemRecord(TypedDict):
    """One question of a task, and its corrupted twin, which differs in one variable and in the answer."""

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


Measured = TypedDict(
    "Measured",
    {
        "dictionary": DictionaryData,
        "activation-density": NotRequired[DensityData],
        "sparse-probing": NotRequired[ProbingData],
    },
)  # `sae report`: the data of each finding, by instrument; what this model or so little text does not allow is left out

COMMANDS: dict[str, Any] = {
    "adopt": AdoptedModel,
    "demo": Grown,
    "doctor": Examined,
    "error": Refused,
    "eval": Looked,
    "generate": Generated,
    "look": Looked | Listed,
    "pretrain": Grown,
    "recipe": dict[str, Any],
    "report": Reported,
    "resume": Grown,
    "sae features": FeaturesRead,
    "sae report": Measured,
    "sae train": TrainedDictionary,
    "sindy": Equations,
    "sparse atoms": Drawn,
    "sparse denoise": Denoised,
    "sparse encode": Encoded,
    "sparse learn": LearnedDictionary,
    "tasks check": SavedFinding,
    "tasks list": TasksListed,
    "tasks show": TaskShown,
    "trace": SavedFinding | Listed,
    "verify": Verified,
}
