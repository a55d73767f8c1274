"""Makes the JSON Schemas in this folder from the types that the code writes with: `python docs/schemas/make.py`.

commands/ has what each command prints with --json, files/ what each JSON file of a run folder holds. The number in a schema's
$id is raised when a key goes or changes its meaning; keys that are added raise nothing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from cloche.cli.outputs import COMMANDS, VERSION
from cloche.data import DataIndex
from cloche.drawing import FindingRecord, Panel
from cloche.interp.lenses.keeping import LensCard
from cloche.part import Part
from cloche.part_text import known_names, subclasses
from cloche.runs.folder import FORMAT
from cloche.runs.records import CheckpointManifest, RunInfo, RunManifest
from cloche.sparse.saes.files import DictionaryCard
from cloche.train import Recipe
from cloche.train.monitors.records import (
    EventRecord,
    HealthRecord,
    MetricsRecord,
    SampleRecord,
    StepsRecord,
    TrainingState,
)

FILES: dict[str, Any] = {
    "run.json": RunInfo,
    "manifest.json": RunManifest,
    "checkpoints/manifest.json": CheckpointManifest,
    "checkpoints/state.json": TrainingState,
    "data/data.json": DataIndex,
    "dictionaries/dictionary.json": DictionaryCard,
    "findings/finding.json": FindingRecord,
    "lenses/lens.json": LensCard,
    "log/metrics.jsonl": MetricsRecord,
    "log/health.jsonl": HealthRecord,
    "log/samples.jsonl": SampleRecord,
    "log/events.jsonl": EventRecord,
    "log/steps.jsonl": StepsRecord,
}
HERE = Path(__file__).parent
OPEN = {"MetricsRecord", "EventRecord", "OwnPart"}  # objectives, callbacks and your own parts have keys of their own
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schemas() -> dict[str, str]:
    """The text of every schema by its path within this folder."""
    made = {
        f"commands/{name.replace(' ', '-')}.json": ("command", name, VERSION, kind) for name, kind in COMMANDS.items()
    }
    made |= {f"files/{name.replace('/', '-')}": ("file", name, FORMAT, kind) for name, kind in FILES.items()}
    made = {path.removesuffix(".json").removesuffix(".jsonl") + ".json": each for path, each in made.items()}
    return {path: json.dumps(schema(*each), indent=1) + "\n" for path, each in made.items()}


def schema(what: str, name: str, version: int, kind: Any) -> dict[str, Any]:
    found = recipe_schema() if name == "recipe" else TypeAdapter(kind).json_schema()
    if '"panels"' in json.dumps(found):
        panels = TypeAdapter(Panel).json_schema(ref_template="#/$defs/{model}")
        found.setdefault("$defs", {}).update(panels.pop("$defs"))
        found["$defs"]["Panel"] = panels
        mark_panels(found)
    close(found)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:cloche:{what}:{name.replace(' ', '-')}:{version}",
    }
    return {**head, **found}


# ---- recipes


def recipe_schema() -> dict[str, Any]:
    """Of a whole recipe: its sections, and the parts that each may hold, those of this package by their fields."""
    definitions: dict[str, Any] = {
        "OwnPart": {
            "title": "OwnPart",
            "description": "A part of your own, named with its module, such as my_parts:Muon.",
            "type": "object",
            "properties": {"part": {"type": "string", "pattern": "^.+:.+$"}},
            "required": ["part"],
        }
    }
    sections = {}
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Part):
            sections[name] = part_of(kind, definitions)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            sections[name] = TypeAdapter(kind).json_schema()
            optional = {key for key, each in kind.model_fields.items() if _is_optional(each.annotation)}
            sections[name]["required"] = [key for key in kind.model_fields if key not in optional]
        else:
            sections[name] = typed(kind, definitions)
    about = "`recipe`: every setting of a run, by section; those that are unset are left out."
    whole = {"title": "Recipe", "description": about, "type": "object", "properties": sections}
    return {"$defs": definitions, **whole, "required": list(sections)}


def part_of(base: type[Part], definitions: dict[str, Any]) -> dict[str, Any]:
    """Any part of a base: one of its package's, or one of your own. Their definitions are added."""
    name = f"Any{base.__name__}"
    if name not in definitions:
        definitions[name] = {}  # a part may hold another of its base
        known_names(base)  # loads what the package hands out
        home = ".".join(base.__module__.split(".")[:2])
        ours = sorted({cls.__name__: cls for cls in subclasses(base) if cls.__module__.startswith(f"{home}.")}.items())
        definitions[name]["anyOf"] = [fields_of(cls, definitions) for _, cls in ours if cls.__name__[0] != "_"]
        definitions[name]["anyOf"].append({"$ref": "#/$defs/OwnPart"})
    return {"$ref": f"#/$defs/{name}"}


def fields_of(cls: type[Part], definitions: dict[str, Any]) -> dict[str, Any]:
    """A part with its fields, all of them written; those that may be None are left out where they are."""
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = made = {"title": cls.__name__, "type": "object", "properties": {}}
        known = typing.get_type_hints(cls)
        hints = {field.name: known[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        fields = {field: typed(hint, definitions) for field, hint in hints.items()}
        made["properties"] = {"part": {"const": cls.__name__}, **fields}
        made["required"] = ["part", *(field for field, hint in hints.items() if not _is_optional(hint))]
    return {"$ref": f"#/$defs/{cls.__name__}"}


def typed(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [typed(option, definitions) for option in inner if option is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin is typing.Annotated:
        return typed(inner[0], definitions)
    if origin in (tuple, list) and (origin is list or Ellipsis in inner):
        return {"type": "array", "items": typed(inner[0], definitions)}
    if origin is tuple:
        items = [typed(item, definitions) for item in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return {"type": PLAIN[hint]} if hint in PLAIN else part_of(hint, definitions)


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


# ---- panels, and what is the same for all


def mark_panels(found: Any) -> None:
    """Panels are written with their kind, which tells them apart."""
    definitions = found["$defs"]
    for name in (option["$ref"].rpartition("/")[2] for option in definitions["Panel"]["anyOf"]):
        definitions[name]["properties"] = {"kind": {"const": name}, **definitions[name]["properties"]}
        definitions[name]["required"] = ["kind", *definitions[name].get("required", [])]
    for each in (found, *definitions.values()):
        if "panels" in each.get("properties", {}):
            each["properties"]["panels"]["items"] = {"$ref": "#/$defs/Panel"}


def close(found: Any) -> None:
    """No other keys than those stated, in objects that are not open; no Python examples in descriptions."""
    if isinstance(found, dict):
        if isinstance(found.get("description"), str):
            found["description"] = found["description"].split(">>>")[0].rstrip()
        if "properties" in found and found.get("title") not in OPEN:
            found["additionalProperties"] = False
        for each in found.values():
            close(each)
    elif isinstance(found, list):
        for each in found:
            close(each)


def main() -> int:
    """Writes the schemas; with --check only says whether they are current."""
    wanted = schemas()
    there = {str(path.relative_to(HERE)): path.read_text() for path in HERE.glob("*/*.json")}
    if "--check" in sys.argv:
        return int(there != wanted)
    for path in there.keys() - wanted.keys():
        (HERE / path).unlink()
    for path, text in wanted.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
