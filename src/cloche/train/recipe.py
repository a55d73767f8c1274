"""The recipe: everything that decides what a run will do, in the order in which one models.

What do we ask, of which data, through which tokens, with which architecture, loss and optimiser, and how is it run. A recipe
is plain TOML; unknown keys and impossible values are refused with one sentence that names the key and how to fix it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from cloche.errors import (
    ClocheError,
    FileMissing,
    FileTooLarge,
    FileUnreadable,
    RecipeInvalid,
    SettingInvalid,
    SettingMoved,
    shown,
)
from cloche.model import GLU, LM, Attention, Block, Causal, RMSNorm, RoPE, Stack, part_from_dict
from cloche.text import Tokenizer
from cloche.text.bpe import SMALLEST_VOCAB
from cloche.train.plain import LARGEST_FILE, check_plain, read_toml, value_of

DEFAULT_MINUTES = 5.0
DEFAULT_VOCAB = 4096
CLOSE = 0.75  # how alike two names must be (difflib's ratio) for one to be proposed in place of the other
TEN_YEARS = 5_260_000.0  # in minutes
ELSEWHERE = {  # what other trainers call our settings
    "batch_size": "run.batch",
    "block_size": "run.length",
    "context": "run.length",
    "d_model": "model.width",
    "hidden_size": "model.width",
    "layers": "model.body.depth",
    "learning_rate": "optimizer.lr",
    "max_iters": "run.steps",
    "max_steps": "run.steps",
    "n_embd": "model.width",
    "n_head": "model.body.block.mix.heads",
    "n_layer": "model.body.depth",
    "num_attention_heads": "model.body.block.mix.heads",
    "num_hidden_layers": "model.body.depth",
    "seq_len": "run.length",
    "vocab_size": "tokenizer.vocab",
    "warmup_steps": "optimizer.warmup, a share of all steps",
}


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Real = Annotated[float, BeforeValidator(_no_boolean)]


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
    encoding: str | None = None  # of files that are not UTF-8 and do not show their encoding, such as "latin-1"
    validation: list[
        str
    ] = []  # patterns of file names held out; none: about a share of the bytes, in whole files or their ends
    validation_share: Real = Field(default=0.05, gt=0, lt=1)


class TokenizerSection(Section):
    """[tokenizer] Through which tokens: a folder with a tokenizer.json, or a vocabulary size to train one.

    `vocab` and [model] vocab are the same number: each follows the other where only one is given.
    """

    vocab: Whole = Field(default=DEFAULT_VOCAB, ge=1, le=1_000_000)
    path: str | None = None

    @model_validator(mode="after")
    def _room_for_bytes(self) -> TokenizerSection:
        if self.path is None and self.vocab < SMALLEST_VOCAB:
            message = "vocab = {vocab} must be at least {least}: <|endoftext|>, 256 bytes and two characters"
            raise PydanticCustomError("vocab", message, {"vocab": self.vocab, "least": SMALLEST_VOCAB})
        return self


class ObjectiveSection(Section):
    """[objective] Which loss. `chunk` is the number of tokens whose logits exist at one time; `balance` weighs the loss that
    keeps a mixture's experts evenly used, where there are experts."""

    kind: Literal["next-token"] = "next-token"
    chunk: Whole = Field(default=1024, ge=1, le=10**9)
    balance: Real = Field(default=0.01, ge=0, le=1e6)


class OptimizerSection(Section):
    """[optimizer] Which optimisation. Muon takes the matrices at `matrix_lr`, AdamW all else (or everything) at `lr`."""

    kind: Literal["adamw", "muon"] = "muon"
    lr: Real = Field(default=6e-3, gt=0, le=1000)
    matrix_lr: Real = Field(default=0.02, gt=0, le=1000)
    beta1: Real = Field(default=0.9, ge=0, lt=1)
    beta2: Real = Field(default=0.95, ge=0, lt=1)
    eps: Real = Field(default=1e-8, gt=0, le=1)
    momentum: Real = Field(default=0.95, ge=0, lt=1)
    weight_decay: Real = Field(default=0.1, ge=0, le=1000)
    clip: Real = Field(default=1.0, gt=0, le=1e30)
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup: Real = Field(default=0.04, ge=0, le=1)  # share of all steps
    decay: Real = Field(default=0.6, ge=0, le=1)  # share of all steps in which "wsd" falls
    final: Real = Field(default=0.05, ge=0, le=1)  # share of the peak rate left at the end


class RunSection(Section):
    """[run] How it is run: for so many `steps`, or for `minutes`, which are turned into steps before training starts.

    With both, `steps` counts and `minutes` only bounds the time (see `Trainer`).
    """

    seed: Whole = Field(default=0, ge=0, le=2**53)
    length: Whole = Field(default=256, ge=2, le=2**24)
    batch: Whole = Field(default=8, ge=1, le=2**24)
    minutes: Real | None = Field(default=None, gt=0, le=TEN_YEARS)
    steps: Whole | None = Field(default=None, ge=1, le=10**10)
    threads: Whole | None = Field(default=None, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every: Whole = Field(default=10, ge=1, le=10**10)
    health_every: Whole = Field(default=20, ge=1, le=10**10)
    validations: Whole = Field(default=8, ge=1, le=100_000)
    validation_tokens: Whole = Field(default=32_768, ge=1, le=10**12)
    checkpoints: Whole = Field(default=10, ge=1, le=100_000)
    samples: Whole = Field(default=8, ge=0, le=100_000)
    sample_tokens: Whole = Field(default=64, ge=1, le=100_000)
    prompts: list[str] = []  # none: taken from the held-out text, and written here once that is packed
    # Look inside once it is grown: a dictionary of features, a logit lens and report.html. Unset: where training is short.
    look: bool | None = None

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
        """[model] vocab and [tokenizer] vocab are one number: where one is left out it is the other's, or that of the
        tokenizer at [tokenizer] path."""
        tokenizer = values.get("tokenizer", {}) if isinstance(values, dict) else None
        if isinstance(tokenizer, TokenizerSection):
            tokenizer = tokenizer.model_dump(exclude_unset=True)
        model = values.get("model", first_model().to_dict() | {"vocab": None}) if isinstance(values, dict) else None
        if not isinstance(tokenizer, dict) or not isinstance(model, dict | LM):
            return values  # the sections say what is wrong with them
        if isinstance(model, dict) and model.get("part") != "LM":
            return values
        given = model.vocab if isinstance(model, LM) else model.get("vocab")
        size, path = tokenizer.get("vocab"), tokenizer.get("path")
        if given is None:
            given = Tokenizer.load(path).vocab if isinstance(path, str) else size or DEFAULT_VOCAB
            model = {**model, "vocab": given}  # type: ignore[dict-item]
        if isinstance(size, int) and isinstance(given, int) and given != size:
            raise SettingInvalid(
                f"[model] vocab = {shown(given)} and [tokenizer] vocab = {shown(size)} differ, and they are the same number: "
                "leave one of them out"
            )
        return {**values, "tokenizer": {"vocab": given} | tokenizer, "model": model}

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Reads a .toml file. Raises ClocheError where it cannot be read or is no recipe."""
        try:
            if not Path(path).is_file():
                raise FileMissing(f"there is no recipe at {path}; name a .toml file")
            if Path(path).stat().st_size > 4 * LARGEST_FILE:
                raise FileTooLarge(f"{path} is too large for a recipe; name a .toml file")
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise FileUnreadable(f"{path} cannot be read as a recipe ({error}); name a .toml file in UTF-8") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "the recipe") -> Recipe:
        """Reads TOML text; `where` names it in errors."""
        return cls._checked(read_toml(text, where), where)

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Recipe:
        check_plain(values, where)
        _refuse_other_names(values, where)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingInvalid(f"{where}: {sentence(error.errors()[0], cls)}") from error
        except ClocheError as error:  # of the model's parts
            raise SettingInvalid(f"{where}: {error}") from error

    def with_set(self, changes: dict[str, Any]) -> Recipe:
        """A copy with dotted keys changed: {"run.steps": 200}. Text is read as TOML where it is TOML ("200", "[1, 2]").

        Setting one of run.steps and run.minutes alone unsets the other.
        """
        values = self.to_dict()
        for one, other in (("steps", "minutes"), ("minutes", "steps")):
            if f"run.{one}" in changes and f"run.{other}" not in changes:
                values["run"].pop(other, None)
        if "tokenizer.path" in changes:
            changes = {"model.vocab": None, "tokenizer.vocab": None} | changes
        for one, other in (("model", "tokenizer"), ("tokenizer", "model")):
            if f"{one}.vocab" in changes and f"{other}.vocab" not in changes:
                values[other].pop("vocab", None)
        for key, value in changes.items():
            *path, last = key.split(".")
            if not path:
                raise RecipeInvalid(f"--set {key}: write it as section.key=value, such as run.steps=200")
            table: Any = values
            for name in path:
                table = table.setdefault(name, {}) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                raise RecipeInvalid(f"--set {key}: {'.'.join(path)} is a value, not a section; write section.key=value")
            table[last] = value_of(value, f"--set {key}") if isinstance(value, str) else value
            if table[last] is None:
                del table[last]
        return type(self)._checked(values, _where(changes))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values; what is not set is left out."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The text that `parse` turns back into an equal recipe."""
        return tomli_w.dumps(self.to_dict())


def _where(changes: dict[str, Any]) -> str:
    """The change as it would be typed; of several none, since the sentence names the setting."""
    if len(changes) != 1:
        return "--set"
    ((key, value),) = changes.items()
    return f"--set {key[:120]}={value if isinstance(value, int | float) else shown(value, 60)}"


def _refuse_other_names(values: dict[str, Any], where: str) -> None:
    """Raise ClocheError for a key of another trainer's, naming ours."""
    for section, keys in values.items():
        fields = LM.__dataclass_fields__ if section == "model" else SECTIONS.get(section, {})
        for key in keys if isinstance(keys, dict) and section in Recipe.model_fields else ():
            if key not in fields and key in ELSEWHERE:
                raise SettingMoved(f"{where}: [{section}] has no key {key!r}; here it is called {ELSEWHERE[key]}")


def sentence(error: ErrorDetails, recipe: type[Recipe]) -> str:
    """One pydantic error in a sentence: the section, the key, what is wrong and what is allowed."""
    section, *rest = [str(part) for part in error["loc"]] or ["the recipe"]
    if not rest:
        if error["type"] == "extra_forbidden":
            return f"there is no section [{shown(section)[1:-1]}]; the sections are {', '.join(recipe.model_fields)}"
        if error["type"] in ("model_type", "dict_type", "is_instance_of"):
            return f"[{section}] = {shown(error['input'])} must be a table of settings, such as [run] steps = 200"
        return f"[{section}] {_lower(error['msg'])}"
    key = rest[0]
    if error["type"] == "extra_forbidden":
        known = SECTIONS[section]
        homes = [f"{other}.{key}" for other, keys in SECTIONS.items() if key in keys]
        close = difflib.get_close_matches(key[:100], known, n=1, cutoff=CLOSE)
        hint = f"did you mean {' or '.join(homes or close)}?" if homes or close else f"it knows {', '.join(known)}"
        return f"[{section}] has no key {shown(key)}; {hint}"
    return f"[{section}] {key} = {shown(error['input'])}: {_lower(error['msg'])}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


SECTIONS = {
    name: dict(field.annotation.model_fields)
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
