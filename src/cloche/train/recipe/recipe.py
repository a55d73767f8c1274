"""The recipe: every setting of a run, in the order in which one models.

The question, the data, the tokenizer, the rows of its batches, the model, the objective, the optimiser, the schedule, and how
the run is executed, logged, evaluated and saved. A recipe is plain TOML; missing settings take their defaults, and an unknown
key or an invalid value raises one sentence that names the key and how to fix it.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from cloche.errors import (
    ClocheError,
    FileMissing,
    FileTooLarge,
    FileUnreadable,
    RecipeInvalid,
    SettingInvalid,
    shown,
)
from cloche.model import GLU, LM, Attention, Block, Causal, FanIn, Initialisation, Network, RMSNorm, RoPE, Stack
from cloche.part import Part, import_parts, part_from_dict, part_from_line
from cloche.text import Tokenizer
from cloche.train.objectives.next_token import NextToken
from cloche.train.objectives.objective import Objective
from cloche.train.optimizers.muon import Muon
from cloche.train.optimizers.optimizer import Optimizer
from cloche.train.optimizers.schedule import WSD, Schedule
from cloche.train.recipe.plain import LARGEST_FILE, check_plain, read_toml, value_of
from cloche.train.recipe.renamed import ELSEWHERE, refuse_other_names
from cloche.train.recipe.sections import (
    DEFAULT_VOCAB,
    CheckpointSection,
    DataSection,
    EvaluateSection,
    LogSection,
    Question,
    RowsSection,
    RunSection,
    Section,
    Texts,
    TokenizerSection,
)

CLOSE = 0.75  # similarity of two names (difflib's ratio) above which one is suggested for the other


BASES: dict[str, type[Part]] = {
    "model": LM,
    "initialisation": Initialisation,
    "objective": Objective,
    "optimizer": Optimizer,
    "schedule": Schedule,
}
PARTS = tuple(BASES)  # sections that hold one part


def first_model() -> LM:
    """The model of `Recipe()`: five Llama-style blocks of width 192, about four million parameters."""
    block = Block(
        mix=Attention(heads=6, position=RoPE(theta=10_000), mask=Causal()),
        map=GLU("silu"),
        norm=RMSNorm(),
    )
    return LM(vocab=4096, width=192, body=Stack(5, block))


class Recipe(BaseModel):
    """The settings of a run, by section. `Recipe()` is the default; `parse`, `load` and `with_set` make others.

    `imports` names the modules that define your own parts. They are imported for a recipe file given on the command
    line, never for the recipe of a run.

    >>> from cloche.train import Recipe
    >>> recipe = Recipe().with_set({"run.steps": 200, "optimizer": "AdamW(lr=0.001)", "model.body.depth": 2})
    >>> recipe.run.steps, recipe.optimizer.lr, recipe.model.body.depth
    (200, 0.001, 2)
    >>> Recipe.parse(recipe.to_toml()) == recipe
    True
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    imports: Texts = []
    question: Question = Question()
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    rows: RowsSection = RowsSection()
    model: LM = Field(default_factory=first_model)
    initialisation: Initialisation = FanIn()
    objective: Objective = NextToken()
    optimizer: Optimizer = Muon()
    schedule: Schedule = WSD()
    run: RunSection = RunSection()
    log: LogSection = LogSection()
    evaluate: EvaluateSection = EvaluateSection()
    checkpoint: CheckpointSection = CheckpointSection()

    def rates(self, net: Network) -> dict[str, float]:
        """Factors of the peak learning rates of single parameters, as the initialisation needs them (see `MuP`)."""
        return self.initialisation.rates(net, self.optimizer.width_powers, type(self.optimizer).__name__)

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _built(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if isinstance(value, str):
            return part_from_line(value, BASES[name], name)
        if not isinstance(value, dict):
            return value
        return part_from_dict(_merged(_default(name), value), name, BASES[name])

    @field_serializer(*PARTS)
    def _plain(self, value: Part) -> dict[str, Any]:
        return value.to_dict()

    @model_validator(mode="before")
    @classmethod
    def _one_vocabulary(cls, values: Any) -> Any:
        """[model] vocab and [tokenizer] vocab are one number: if one is missing, it is taken from the other or from
        the tokenizer at [tokenizer] path."""
        tokenizer = values.get("tokenizer", {}) if isinstance(values, dict) else None
        if isinstance(tokenizer, TokenizerSection):
            tokenizer = tokenizer.model_dump(exclude_unset=True)
        model = values.get("model", {}) if isinstance(values, dict) else None
        if isinstance(model, str):
            model = part_from_line(model, LM, "model")
        if not isinstance(tokenizer, dict) or not isinstance(model, dict | LM):
            return values  # validation of the sections reports what is wrong
        if isinstance(model, dict) and model.get("part", "LM") != "LM":
            return values
        given = model.vocab if isinstance(model, LM) else model.get("vocab")
        size, path = tokenizer.get("vocab"), tokenizer.get("path")
        if given is None:
            given = Tokenizer.load(path).vocab if isinstance(path, str) else size or DEFAULT_VOCAB
            model = {**model, "vocab": given}  # type: ignore[dict-item]
        if isinstance(size, int) and isinstance(given, int) and given != size:
            raise SettingInvalid(
                f"[model] vocab = {shown(given)} and [tokenizer] vocab = {shown(size)} differ, but they must be equal: "
                "leave one of them out"
            )
        return {**values, "tokenizer": {"vocab": given} | tokenizer, "model": model}

    @classmethod
    def load(cls, path: Path | str, *, with_imports: bool = False) -> Recipe:
        """Reads a .toml file. Raises ClocheError if it cannot be read or is not a recipe.

        with_imports: first import the modules that it names, which runs their code. Only for a file that the user
        named, never for the recipe of a run.
        """
        try:
            if not Path(path).is_file():
                raise FileMissing(f"there is no recipe at {path}; name a .toml file")
            if Path(path).stat().st_size > 4 * LARGEST_FILE:
                raise FileTooLarge(f"{path} is too large for a recipe; name a .toml file")
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise FileUnreadable(f"{path} cannot be read as a recipe ({error}); name a .toml file in UTF-8") from error
        values = read_toml(text, str(path))
        if with_imports and not Path(path).with_name("run.json").exists():  # that of a run runs nothing, named or not
            named = values.get("imports", [])
            import_parts(named if isinstance(named, list) else [named], f"{path}: imports")
        return cls._checked(values, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "the recipe") -> Recipe:
        """Reads TOML text; `where` names it in errors."""
        return cls._checked(read_toml(text, where), where)

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Recipe:
        check_plain(values, where)
        refuse_other_names(values, _known(), where)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingInvalid(f"{where}: {sentence(error.errors()[0], cls)}") from error
        except ClocheError as error:  # from a part, whose code it keeps
            raise type(error)(f"{where}: {error}") from error

    def with_set(self, changes: dict[str, Any]) -> Recipe:
        """Returns a copy with dotted keys changed: {"run.steps": 200}. Text that is valid TOML ("200", "[1, 2]") is
        parsed, and None unsets a setting.

        Setting only one of run.steps and run.minutes unsets the other.
        """
        values = self.to_dict()
        for one, other in (("steps", "minutes"), ("minutes", "steps")):
            if f"run.{one}" in changes and f"run.{other}" not in changes:
                values["run"].pop(other, None)
        if "tokenizer.path" in changes:
            changes = {"model.vocab": None, "tokenizer.vocab": None} | changes
        for one, other in (("model", "tokenizer"), ("tokenizer", "model")):
            if {f"{one}.vocab", one} & changes.keys() and f"{other}.vocab" not in changes:
                values[other].pop("vocab", None)
        # Whole parts and their classes go first: settings of another class would be meaningless.
        for key, value in sorted(changes.items(), key=lambda c: (c[0] not in PARTS, not c[0].endswith(".part"))):
            *path, last = key.split(".")
            if not path and key not in PARTS:
                raise RecipeInvalid(f"--set {key}: write it as section.key=value, such as run.steps=200")
            table: Any = values
            for name in path:
                table = table.setdefault(name, {}) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                raise RecipeInvalid(f"--set {key}: {'.'.join(path)} is a value, not a section; write section.key=value")
            value = None if value == "None" else value
            value = value_of(value, f"--set {key}") if isinstance(value, str) else value
            if not path and isinstance(value, str):
                value = part_from_line(value, BASES[key], key).to_dict()
            if last == "part" and table.get("part") != value:
                table.clear()
            table[last] = value
            if value is None:
                table.pop(last, None)
        return type(self)._checked(values, _where(changes))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, without those that are unset."""
        return self.model_dump(exclude_none=True)

    def changes_from(self, before: Recipe) -> list[str]:
        """The settings that differ from another recipe's, such as "optimizer.lr 0.02 -> 0.01"."""
        old, new = _flat(before.to_dict()), _flat(self.to_dict())
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        return [f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}" for key in keys]

    def to_toml(self) -> str:
        """TOML text that `parse` turns back into an equal recipe."""
        return tomli_w.dumps(self.to_dict())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def settings_called(name: str) -> list[str]:
    """The settings that an option of this name may mean, here or in another trainer: "lr" is ["optimizer.lr"].

    >>> from cloche.train.recipe.recipe import settings_called
    >>> settings_called("lr"), settings_called("n_layer"), settings_called("colour")
    (['optimizer.lr'], ['model.body.depth'], [])
    """
    name = name.strip("-").replace("-", "_").lower()
    found = [f"{section}.{name}" for section, keys in _known().items() if name in keys and name != "part"]
    return found or ([ELSEWHERE[name].partition(",")[0]] if name in ELSEWHERE else [])


def _where(changes: dict[str, Any]) -> str:
    """A single change as it would be typed; several are only "--set", since the error names the setting."""
    if len(changes) != 1:
        return "--set"
    ((key, value),) = changes.items()
    return f"--set {key[:120]}={value if isinstance(value, int | float) else shown(value, 60)}"


def _default(section: str) -> dict[str, Any]:
    """The default of a part section as plain values, without [model] vocab, which follows the tokenizer's."""
    default: Part = first_model() if section == "model" else Recipe.model_fields[section].default
    return {key: value for key, value in default.to_dict().items() if (section, key) != ("model", "vocab")}


def _merged(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, completed from the default; a part of another class takes nothing from it."""
    if given.get("part", default.get("part")) != default.get("part"):
        return given
    both = {
        key: _merged(default[key], value) if isinstance(value, dict) and isinstance(default.get(key), dict) else value
        for key, value in given.items()
    }
    return default | both


def _known() -> dict[str, set[str]]:
    """The keys of each section; for a part, those of the default part."""
    known = {name: set(keys) for name, keys in SECTIONS.items()}
    for name in PARTS:
        known[name] = {"part", *_default(name), *(field.name for field in dataclasses.fields(LM) if name == "model")}
    return known


def sentence(error: ErrorDetails, recipe: type[Recipe]) -> str:
    """One pydantic error as a sentence: section, key, what is wrong and what is allowed."""
    section, *rest = [str(part) for part in error["loc"]] or ["the recipe"]
    if not rest:
        if error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(section.lower()[:100], recipe.model_fields, n=1, cutoff=CLOSE)
            sections = f"the sections are {', '.join(recipe.model_fields)}"
            hint = f"did you mean [{close[0]}]?" if close else sections
            return f"there is no section [{shown(section)[1:-1]}]; {hint}"
        if error["type"] in ("model_type", "dict_type", "is_instance_of"):
            return f"[{section}] = {shown(error['input'])} must be a table of settings, such as [run] steps = 200"
        return f"[{section}] {_lower(error['msg'])}"
    key = rest[0]
    if error["type"] == "extra_forbidden":
        known = SECTIONS[section]
        homes = [f"{other}.{key}" for other, keys in _known().items() if key in keys]
        close = difflib.get_close_matches(key[:100], known, n=1, cutoff=CLOSE)
        hint = f"did you mean {' or '.join(homes or close)}?" if homes or close else f"its keys are {', '.join(known)}"
        return f"[{section}] has no key {shown(key)}; {hint}"
    return f"[{section}] {key} = {shown(error['input'])}: {_lower(error['msg'])}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


SECTIONS = {
    name: dict(field.annotation.model_fields)
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
