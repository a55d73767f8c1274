"""Types of the records that training writes; docs/schemas/ is generated from them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, NotRequired, Required

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cloche.errors import FileDamaged
from cloche.runs import Run


class MetricsRecord(TypedDict, total=False):
    """A line of log/metrics.jsonl, of training (`loss`) or validation (`val_loss`); `lr_*` are the learning rates of
    the optimiser's groups, `shrink_*` what decoupled weight decay multiplies their weights by in this step (1 - lr x
    decay), `update_norm` is the mean norm of the updates since the last record, and `update_norm_max` the largest;
    `val_gap` is what validation lost more than the last 16 updates did, on text that they had not seen either if it is
    the first epoch; `val_*_average` are of the average of the weights, `epochs_*` the epochs of the sources of a
    mixture. Losses are in nats per token, `time` and `eta` in seconds; `weights` is the start of the sha256 of the
    weights (`weights_hash`)."""

    step: int
    time: float
    tokens: int
    flops: float
    loss: float | None
    lr: float
    grad_norm: float | None
    update_norm: float | None
    update_norm_max: float | None
    tokens_per_second: float
    mfu: float | None
    eta: float | None
    weights: str
    val_loss: float
    val_gap: float
    val_bpb: float
    val_bytes: int
    val_loss_average: float
    val_bpb_average: float
    chain: str


class HealthRecord(TypedDict):
    """A line of log/health.jsonl: per layer, or per layer and head. `weight_norm`, `rank` (participation ratio of the stream)
    and `kurtosis` (of the stream; 3 is Gaussian) begin with the embedding, `gain` is a multiple of the nominal one;
    `noise_scale` is in rows of a batch, from running averages of `gradient_square` and `gradient_variance`; `limits`
    are the optimiser's lowest and highest usual values by key (null: none), and `alarms` names what is outside of them."""

    step: int
    resid_variance: list[float | None]
    attention_entropy: list[list[float | None]]
    activation_density: list[float | None]
    dead_units: list[float | None]
    logit_norm: float | None
    grad_norm: float | None
    update_ratio: list[float]
    weight_norm: NotRequired[list[float]]
    rank: NotRequired[list[float | None]]
    kurtosis: NotRequired[list[float | None]]
    gain: NotRequired[list[float | None]]
    noise_scale: NotRequired[float | None]
    gradient_square: NotRequired[float | None]
    gradient_variance: NotRequired[float | None]
    limits: NotRequired[dict[str, list[float | None]]]
    alarms: NotRequired[list[str]]
    usual_update_ratio: NotRequired[float]
    chain: NotRequired[str]


class StepsRecord(TypedDict, total=False):
    """A line of log/steps.jsonl: the steps since the record before, the last of which is `step`, in order. Norms of gradients
    are those before clipping; `grad_norms` and `update_norms` have one for each of the `parts`, which are named in the first
    record and where they change. An update that was not applied has norm 0; norms are null if the optimiser does not say
    them."""

    step: Required[int]
    parts: list[str]
    loss: Required[list[float | None]]
    grad_norm: Required[list[float | None]]
    update_norm: Required[list[float | None]]
    grad_norms: Required[list[list[float | None] | None]]
    update_norms: Required[list[list[float | None] | None]]
    chain: str


class SampleRecord(TypedDict):
    """A line of log/samples.jsonl: the continuation of a prompt, and the likeliest next tokens [text, probability]."""

    step: int
    prompt: str
    text: str
    next: list[tuple[str, float]]
    chain: NotRequired[str]


class EventRecord(TypedDict):
    """A line of log/events.jsonl. `checkpoint` is the name of a checkpoint that was saved or removed, `steps` the number of
    steps from a re-plan on; `replans` are re-plans [step, steps] of an earlier session that a resumed one will repeat. The
    first event of a session has what its bits depend on: torch, threads, processor and recipe. A warning names the `quantity`
    that left its usual course, its `value` and what is `usual`, and the `place` where gradients grew most."""

    step: int
    time: float | None
    kind: str
    message: str
    checkpoint: NotRequired[str]
    steps: NotRequired[int]
    replans: NotRequired[list[tuple[int, int]]]
    torch: NotRequired[str]
    threads: NotRequired[int]
    processor: NotRequired[str]
    recipe: NotRequired[str]
    quantity: NotRequired[str]
    place: NotRequired[str | None]
    value: NotRequired[float]
    usual: NotRequired[float]
    chain: NotRequired[str]


class TrainingState(TypedDict, total=False):
    """checkpoints/*/state.json: what training needs, beside weights and optimiser state, to resume as if it had never
    stopped."""

    step: Required[int]
    time: Required[float]
    tokens: int
    flops: float
    plan: list[list[int]]
    batches: int
    losses: list[float]
    updates: list[float]  # losses and updates: of checkpoints before there was a steps.jsonl
    steps: dict[str, Any]
    source: dict[str, Any]
    optimizer: Required[str]
    guard: dict[str, Any]
    warning: dict[str, Any]
    callbacks: dict[str, Any]
    rng: str


# ---- reading them again

MOST_STEPS = 10_000_000  # of a run: a record of a later one is not as it was written
_Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
_Numbers = list[float | list[float | None] | None]


class _Metrics(TypedDict, total=False):
    """What readers rely on; a number that was not finite is null."""

    step: Required[_Step]
    time: float | None
    loss: float | None
    grad_norm: float | None
    update_norm: float | None
    val_loss: float | None
    val_gap: float | None
    weights: str


class _Health(TypedDict, total=False):
    step: Required[_Step]
    resid_variance: _Numbers
    attention_entropy: _Numbers
    activation_density: _Numbers
    dead_units: _Numbers
    logit_norm: float | None
    update_ratio: _Numbers
    weight_norm: _Numbers
    rank: _Numbers
    kurtosis: _Numbers
    gain: _Numbers
    noise_scale: float | None
    alarms: list[str]


class _Steps(TypedDict, total=False):
    step: Required[_Step]
    loss: Required[list[float | None]]
    parts: list[str]
    grad_norm: list[float | None]
    update_norm: list[float | None]
    grad_norms: list[list[float | None] | None]
    update_norms: list[list[float | None] | None]


class _Event(TypedDict, total=False):
    step: Required[_Step]
    kind: Required[str]
    message: str
    steps: int
    replans: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    torch: str
    threads: int
    processor: str
    recipe: str


_READ: dict[str, Any] = {
    "metrics": list[_Metrics],
    "health": list[_Health],
    "steps": list[_Steps],
    "events": list[_Event],
}


@cache
def _adapter(log: str) -> TypeAdapter[Any]:
    return TypeAdapter(_READ[log])


def read_records(run: Run, log: str) -> list[dict[str, Any]]:
    """The complete records of log "metrics", "health", "steps" or "events"; [] where it is missing. Raises ClocheError for one
    that training did not write: a record without its step, words in place of a number, steps that do not follow each other.

    >>> from cloche.train import read_records
    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> with run.log("metrics") as log:
    ...     log.append({"step": 1, "loss": "low"})
    >>> try:
    ...     read_records(run, "metrics")
    ... except cloche.errors.ClocheError as error:
    ...     "record 1, loss" in str(error)
    True
    """
    records = run.read_log(log)
    try:
        _adapter(log).validate_python(records, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        number, *keys = first["loc"]
        where = ", ".join(str(key) for key in keys[:1])
        raise _not_as_written(run, log, int(number) + 1, f"{where}: {first['msg']}") from None
    for number, record in enumerate(records if log == "steps" else [], 1):
        _require_following(run, number, record, None if number == 1 else records[number - 2])
    return records


def _require_following(run: Run, number: int, record: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Raises ClocheError unless a record of steps.jsonl has the steps after the one before."""
    count, norms = len(record["loss"]), ("grad_norm", "update_norm", "grad_norms", "update_norms")
    if any(name in record and len(record[name]) != count for name in norms):
        raise _not_as_written(run, "steps", number, "it has not as many norms as losses")
    begin = record["step"] - count
    if begin < 0 or not count or (before is not None and begin != before["step"]):
        raise _not_as_written(run, "steps", number, "its steps do not follow those of the record before")


def _not_as_written(run: Run, log: str, number: int, what: str) -> FileDamaged:
    return FileDamaged(
        f"{run.log_path(log)} is not as it was written: record {number}, {what}; `cloche verify` says which records are "
        "affected; restore it from a copy, or move it away to go on without it."
    )
