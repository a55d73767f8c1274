"""Types of the records that training writes; docs/schemas/ is generated from them."""

from __future__ import annotations

from typing import Any, NotRequired, Required

from typing_extensions import TypedDict


class MetricsRecord(TypedDict, total=False):
    """A line of log/metrics.jsonl, of training (`loss`) or validation (`val_loss`); `lr_*` are the learning rates of
    the optimiser's groups, `shrink_*` what decoupled weight decay multiplies their weights by in this step (1 - lr x decay),
    `val_*_average` are of the average of the weights, `epochs_*` the epochs of the sources of a mixture. Losses
    are in nats per token, `time` and `eta` in seconds; `weights` is the start of the sha256 of the
    weights (`weights_hash`)."""

    step: int
    time: float
    tokens: int
    flops: float
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens_per_second: float
    mfu: float | None
    eta: float | None
    weights: str
    val_loss: float
    val_bpb: float
    val_bytes: int
    val_loss_average: float
    val_bpb_average: float
    chain: str


class HealthRecord(TypedDict):
    """A line of log/health.jsonl: per layer, or per layer and head."""

    step: int
    resid_variance: list[float | None]
    attention_entropy: list[list[float | None]]
    activation_density: list[float | None]
    dead_units: list[float | None]
    logit_norm: float | None
    grad_norm: float | None
    update_ratio: list[float]
    usual_update_ratio: NotRequired[float]
    chain: NotRequired[str]


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
    first event of a session has what its bits depend on: torch, threads, processor and recipe."""

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
    source: dict[str, Any]
    optimizer: Required[str]
    guard: dict[str, Any]
    callbacks: dict[str, Any]
    rng: str
