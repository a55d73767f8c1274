"""Makes the JSON Schemas in this folder from the types that the code writes with: `python docs/schemas/make.py`.

commands/ has what each command prints with --json, files/ what each JSON file of a run folder holds. The number in a schema's
$id is raised when a key goes or changes its meaning; keys that are added raise nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cloche.cli.outputs import COMMANDS, VERSION
from cloche.data import DataIndex
from cloche.drawing import FindingRecord, Panel
from cloche.runs.folder import FORMAT
from cloche.runs.records import CheckpointManifest, RunInfo, RunManifest
from cloche.sparse.saes.files import DictionaryCard
from cloche.train.monitors.records import EventRecord, HealthRecord, MetricsRecord, SampleRecord, TrainingState

FILES: dict[str, Any] = {
    "run.json": RunInfo,
    "manifest.json": RunManifest,
    "checkpoints/manifest.json": CheckpointManifest,
    "checkpoints/state.json": TrainingState,
    "data/data.json": DataIndex,
    "dictionaries/dictionary.json": DictionaryCard,
    "findings/finding.json": FindingRecord,
    "log/metrics.jsonl": MetricsRecord,
    "log/health.jsonl": HealthRecord,
    "log/samples.jsonl": SampleRecord,
    "log/events.jsonl": EventRecord,
}
HERE = Path(__file__).parent
OPEN = {"MetricsRecord", "EventRecord", "FeaturesRead"}  # objectives, callbacks and instruments add keys of their own


def schemas() -> dict[str, str]:
    """The text of every schema by its path within this folder."""
    made = {
        f"commands/{name.replace(' ', '-')}.json": ("command", name, VERSION, kind) for name, kind in COMMANDS.items()
    }
    made |= {f"files/{name.replace('/', '-')}": ("file", name, FORMAT, kind) for name, kind in FILES.items()}
    made = {path.removesuffix(".json").removesuffix(".jsonl") + ".json": each for path, each in made.items()}
    return {path: json.dumps(schema(*each), indent=1) + "\n" for path, each in made.items()}


def schema(what: str, name: str, version: int, kind: Any) -> dict[str, Any]:
    found = TypeAdapter(kind).json_schema()
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
