"""Real outputs and files against docs/schemas."""

import json
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
FILES = {  # schema: the files of a run folder that it describes
    "run": "run.json",
    "manifest": "manifest.json",
    "checkpoints-manifest": "checkpoints/*/manifest.json",
    "checkpoints-state": "checkpoints/*/state.json",
    "data-data": "data/data.json",
    "dictionaries-dictionary": "dictionaries/*/dictionary.json",
    "findings-finding": "findings/*/*.json",
    "lenses-lens": "lenses/*/lens.json",
    "log-metrics": "log/metrics.jsonl",
    "log-health": "log/health.jsonl",
    "log-samples": "log/samples.jsonl",
    "log-events": "log/events.jsonl",
    "log-steps": "log/steps.jsonl",
}


@cache
def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check_output(words: list[str], out: str) -> None:
    """What a command printed with --json is what its schema says; an error what the schema of errors says."""
    value = json.loads(out)
    if set(value) == {"error", "code"}:
        validator("commands/error").validate(value)
        return
    while not list((SCHEMAS / "commands").glob(f"{words[0]}*.json")):  # what stands before the verb
        words = words[1:]
    both = SCHEMAS / "commands" / f"{'-'.join(words[:2])}.json"
    validator(f"commands/{'-'.join(words[:2]) if both.is_file() else words[0]}").validate(value)


def check_run(run: Path) -> set[str]:
    """Validates every JSON file and every log record of a run folder; returns the schemas that there was something for."""
    seen = set()
    for name, pattern in FILES.items():
        for path in run.glob(pattern):
            seen.add(name)
            lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            for line in lines:
                validator(f"files/{name}").validate(json.loads(line))
    return seen
