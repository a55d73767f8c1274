"""The recipe: everything that decides what a run will do, in the order in which one models.

What do we ask, of which data, through which tokens, with which architecture, loss and optimiser, and how is it run. A recipe
is plain TOML; unknown keys and impossible values are refused with one sentence that names the key, its section and the mend.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic_core import ErrorDetails

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Causal, RMSNorm, RoPE, Stack, part_from_dict

DEFAULT_MINUTES = 5.0


class Section(BaseModel):
    """A table of the recipe: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Question(Section):
    """[question] What are we modelling, and how shall we know?"""

    ask: str = "What can a small transformer learn of this text in a few minutes?"
    measure: str = "validation bits per byte"


class DataSection(Section):
    """[data] Which text. No paths: the running Python's own standard library."""

    paths: list[str] = []
    glob: str | None = None
    field: str = "text"
    validation: list[
        str
    ] = []  # patterns of file names held out; none: a share of the files, chosen by hash of the name
    validation_share: float = Field(default=0.05, gt=0, lt=1)


class TokenizerSection(Section):
    """[tokenizer] Through which tokens: a folder with a tokenizer.json, or a vocabulary size to train one."""

    vocab: int = Field(default=4096, ge=257)
    path: str | None = None


class ObjectiveSection(Section):
    """[objective] Which loss. `chunk` is the number of tokens whose logits exist at one time; `balance` weighs the loss that
    keeps a mixture's experts evenly used, where there are experts."""

    kind: Literal["next-token"] = "next-token"
    chunk: int = Field(default=1024, ge=1)
    balance: float = Field(default=0.01, ge=0)


class OptimizerSection(Section):
    """[optimizer] Which optimisation. Muon takes the matrices at `matrix_lr`, AdamW all else (or everything) at `lr`."""

    kind: Literal["adamw", "muon"] = "muon"
    lr: float = Field(default=6e-3, gt=0)
    matrix_lr: float = Field(default=0.02, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup: float = Field(default=0.04, ge=0, le=1)  # share of all steps
    decay: float = Field(default=0.6, ge=0, le=1)  # share of all steps in which "wsd" falls
    final: float = Field(default=0.05, ge=0, le=1)  # share of the peak rate left at the end


class RunSection(Section):
    """[run] How it is run: for so many `steps`, or for `minutes`, which are turned into steps before training starts.

    With both, `steps` counts and `minutes` only bounds the time (see `Trainer`).
    """

    seed: int = Field(default=0, ge=0)
    length: int = Field(default=256, ge=2)
    batch: int = Field(default=8, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every: int = Field(default=10, ge=1)
    health_every: int = Field(default=20, ge=1)
    validations: int = Field(default=8, ge=1)
    validation_tokens: int = Field(default=32_768, ge=1)
    checkpoints: int = Field(default=10, ge=1)
    samples: int = Field(default=8, ge=0)
    sample_tokens: int = Field(default=64, ge=1)
    prompts: list[str] = ["def ", "import ", "The "]
    look: bool = False  # look inside once it is grown: a dictionary of features, a logit lens and report.html

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("minutes") is None and values.get("steps") is None:
            return {**values, "minutes": DEFAULT_MINUTES}
        return values


def first_model() -> LM:
    """The model of `Recipe()`: five Llama-shaped blocks of width 192, about four million parameters."""
    block = Block(
        mix=Attention(heads=6, kv_heads=6, position=RoPE(theta=10_000), mask=Causal()),
        map=GLU("silu", hidden=512),
        norm=RMSNorm(),
    )
    return LM(vocab=4096, width=192, body=Stack(5, block))


class Recipe(BaseModel):
    """All seven sections. `Recipe()` grows the first model; `parse`, `load` and `with_set` make others."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    question: Question = Question()
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    model: LM = Field(default_factory=first_model)
    objective: ObjectiveSection = ObjectiveSection()
    optimizer: OptimizerSection = OptimizerSection()
    run: RunSection = RunSection()

    @field_validator("model", mode="before")
    @classmethod
    def _grow(cls, value: Any) -> Any:
        return part_from_dict(value) if isinstance(value, dict) else value

    @field_serializer("model")
    def _plain(self, value: LM) -> dict[str, Any]:
        return value.to_dict()

    @model_validator(mode="before")
    @classmethod
    def _one_vocabulary(cls, values: Any) -> Any:
        """[tokenizer] vocab alone is enough: a recipe that leaves [model] out gets the first model at that size."""
        if isinstance(values, dict) and "model" not in values:
            vocab = dict(values.get("tokenizer") or {}).get("vocab")
            if isinstance(vocab, int):
                return {**values, "model": {**first_model().to_dict(), "vocab": vocab}}
        return values

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Reads a .toml file. Raises ClocheError where it cannot be read or is no recipe."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ClocheError(f"there is no recipe at {path}; name a .toml file") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ClocheError(f"{path} cannot be read as a recipe ({error}); name a .toml file in UTF-8") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "the recipe") -> Recipe:
        """Reads TOML text; `where` names it in errors."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ClocheError(f"{where} is not TOML: {error}") from error
        return cls._checked(values, where)

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Recipe:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ClocheError(f"{where}: {sentence(error.errors()[0], cls)}") from error

    def with_set(self, changes: dict[str, Any]) -> Recipe:
        """A copy with dotted keys changed: {"run.steps": 200}. Text is read as TOML where it is TOML ("200", "[1, 2]").

        Setting one of run.steps and run.minutes alone unsets the other.
        """
        values = self.to_dict()
        for one, other in (("steps", "minutes"), ("minutes", "steps")):
            if f"run.{one}" in changes and f"run.{other}" not in changes:
                values["run"].pop(other, None)
        for key, value in changes.items():
            *path, last = key.split(".")
            if not path:
                raise ClocheError(f"--set {key}: write it as section.key=value, such as run.steps=200")
            table: Any = values
            for name in path:
                table = table.setdefault(name, {}) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                raise ClocheError(f"--set {key}: {'.'.join(path)} is a value, not a section; write section.key=value")
            table[last] = _value(value) if isinstance(value, str) else value
        return type(self)._checked(values, "--set " + " ".join(f"{k}={v}" for k, v in changes.items()))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values; what is not set is left out."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The text that `parse` turns back into an equal recipe."""
        return tomli_w.dumps(self.to_dict())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def sentence(error: ErrorDetails, recipe: type[Recipe]) -> str:
    """One pydantic error in a sentence: the section, the key, what is wrong and what is allowed."""
    section, *rest = (str(part) for part in error["loc"])
    if not rest:
        if error["type"] == "extra_forbidden":
            return f"there is no section [{section}]; the sections are {', '.join(recipe.model_fields)}"
        return f"[{section}] {_lower(error['msg'])}"
    key = rest[0]
    if error["type"] == "extra_forbidden":
        known = list(recipe.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it knows {', '.join(known)}"
        return f"[{section}] has no key {key!r}; {hint}"
    return f"[{section}] {key} = {error['input']!r}: {_lower(error['msg'])}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
