"""The sections of a recipe that are not parts: plain settings with bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cloche.data import Curriculum, Duplicates, Mixture, Packing, Source, Stream
from cloche.decode import Sampling
from cloche.part import Part, part_from_dict, part_from_line
from cloche.text import SMALLEST_VOCAB

DEFAULT_MINUTES = 5.0
DEFAULT_VOCAB = 4096
TEN_YEARS = 5_260_000.0  # in minutes


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


def _listed(value: Any) -> Any:
    """Turns a single text into a list."""
    return [value] if isinstance(value, str) and value else value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Real = Annotated[float, BeforeValidator(_no_boolean)]
Texts = Annotated[list[str], BeforeValidator(_listed)]


def _line(base: type[Part], where: str) -> tuple[BeforeValidator, PlainSerializer, WithJsonSchema]:
    """A part that is written as one line of text, or given as a value or a table."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return part_from_line(value, base, where)
        return part_from_dict(value, where, base) if isinstance(value, dict) else value

    schema = WithJsonSchema({"type": "string", "title": base.__name__})
    return BeforeValidator(read), PlainSerializer(lambda value: value if value is None else value.to_line()), schema


def _sources(value: Any) -> Any:
    """Turns a list of sources into a mixture of them."""
    if not isinstance(value, list | tuple):
        return value
    sources = [part_from_line(item, Source, "data.mixture") if isinstance(item, str) else item for item in value]
    if not all(isinstance(source, Source) for source in sources):
        raise PydanticCustomError(
            "mixture", "a mixture is a list of sources, such as Source(paths=['books'], weight=2)"
        )
    return Mixture(tuple(sources))


class Section(BaseModel):
    """A section of the recipe: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Question(Section):
    """[question] What is modelled, and how it is measured."""

    ask: str = "What can a small transformer learn of this text in a few minutes?"
    measure: str = "validation bits per byte"


class DataSection(Section):
    """[data] The text to train on; without paths, the running Python's standard library.

    mixture: several sources in place of paths, as `Mixture(sources=[Source(paths=["books"], weight=2), ...])` or a list of
    them. duplicates: documents to leave out, by `ExactDuplicates` or `NearDuplicates(threshold=0.8)`.
    """

    paths: Texts = []
    glob: str | None = None
    field: str = "text"
    encoding: str | None = None  # for files that are not UTF-8 and do not declare an encoding, such as "latin-1"
    # File name patterns to hold out; if empty, a share of the bytes is held out, in whole files or their ends.
    validation: Texts = []
    validation_share: Real = Field(default=0.05, gt=0, lt=1)
    mixture: Annotated[InstanceOf[Mixture] | None, *_line(Mixture, "data.mixture"), BeforeValidator(_sources)] = None
    duplicates: Annotated[InstanceOf[Duplicates] | None, *_line(Duplicates, "data.duplicates")] = None

    @model_validator(mode="after")
    def _one_text(self) -> DataSection:
        if self.mixture and self.paths:
            raise PydanticCustomError("mixture", "paths and mixture both name text: leave one of them out")
        of_paths = {"glob": self.glob, "encoding": self.encoding, "field": self.field if self.field != "text" else None}
        if self.mixture and (given := [name for name, value in of_paths.items() if value is not None]):
            message = "{name} is read with paths, and there is a mixture: give {name} to its sources instead"
            raise PydanticCustomError("mixture", message, {"name": given[0]})
        return self


class RowsSection(Section):
    """[rows] How documents become the rows of batches, and which come first.

    packing: `Stream`, or `BestFit(fill=0.995)`. document_masks: attention and positions start again at each document of a
    row. curriculum: such as `Easiest(by=UnigramLoss, start=0.2, until=0.5)`.
    """

    packing: Annotated[InstanceOf[Packing], *_line(Packing, "rows.packing")] = Stream()
    document_masks: bool = False
    curriculum: Annotated[InstanceOf[Curriculum] | None, *_line(Curriculum, "rows.curriculum")] = None


class TokenizerSection(Section):
    """[tokenizer] A folder with a tokenizer.json, or the vocabulary size of one to train.

    `vocab` and [model] vocab are the same number: if only one is given, the other follows it.
    """

    vocab: Whole = Field(default=DEFAULT_VOCAB, ge=1, le=1_000_000)
    path: str | None = None

    @model_validator(mode="after")
    def _room_for_bytes(self) -> TokenizerSection:
        if self.path is None and self.vocab < SMALLEST_VOCAB:
            message = "vocab = {vocab} must be at least {least}: <|endoftext|>, 256 bytes and two characters"
            raise PydanticCustomError("vocab", message, {"vocab": self.vocab, "least": SMALLEST_VOCAB})
        return self


class RunSection(Section):
    """[run] How training is run: for `steps`, or for `minutes`, which are converted to steps before training starts.

    A run of `minutes` is re-planned if the machine gets slower or faster, so that its learning rate reaches its
    final value near that time; a run of `steps` takes exactly those.
    """

    seed: Whole = Field(default=0, ge=0, le=2**53)
    steps: Whole | None = Field(default=None, ge=1, le=10**10)
    minutes: Real | None = Field(default=None, gt=0, le=TEN_YEARS)
    length: Whole = Field(default=256, ge=2, le=2**24)
    batch: Whole = Field(default=8, ge=1, le=2**24)
    threads: Whole | None = Field(default=None, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("minutes") is None and values.get("steps") is None:
            return {**values, "minutes": DEFAULT_MINUTES}
        return values


class LogSection(Section):
    """[log] Steps between records in metrics.jsonl and in health.jsonl."""

    every: Whole = Field(default=10, ge=1, le=10**10)
    health_every: Whole = Field(default=20, ge=1, le=10**10)


class EvaluateSection(Section):
    """[evaluate] How many validations and samples there are, half of them early, and their size in tokens.

    prompts: if empty, taken from the held-out text, and written here once it is packed. sampling: how tokens of a
    sample are drawn. look: after training, make a dictionary of features, a logit lens and report.html; unset: only
    if training is short.
    """

    validations: Whole = Field(default=8, ge=1, le=100_000)
    tokens: Whole = Field(default=32_768, ge=1, le=10**12)
    samples: Whole = Field(default=8, ge=0, le=100_000)
    sample_tokens: Whole = Field(default=64, ge=1, le=100_000)
    prompts: Texts = []
    sampling: str = "Sampling(temperature=0.8, top_p=0.95)"
    look: bool | None = None

    @field_validator("sampling")
    @classmethod
    def _is_sampling(cls, value: str) -> str:
        part_from_line(value, Sampling, "evaluate.sampling")
        return value

    @property
    def sampler(self) -> Sampling:
        """`sampling` as a value."""
        return part_from_line(self.sampling, Sampling, "evaluate.sampling")


class CheckpointSection(Section):
    """[checkpoint] Number of checkpoints, half of them early; the last step always has one."""

    count: Whole = Field(default=10, ge=1, le=100_000)
