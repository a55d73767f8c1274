"""The smallest run that is a real one."""

import json
from pathlib import Path

TINY = (
    *(
        "model.width=48",
        "model.body.depth=2",
        "model.body.block.map.hidden=64",
        "tokenizer.vocab=300",
        "data.validation_share=0.2",
        "run.length=32",
        "run.batch=4",
    ),
    *("run.steps=12", "evaluate.tokens=512", "evaluate.sample_tokens=8", "run.threads=1", "run.precision=fp32"),
    *("log.every=2", "log.health_every=4", "checkpoint.count=3", "evaluate.look=false"),
)


def weights(run: Path) -> str:
    """sha256 of the last checkpoint's weights, as its manifest has it."""
    last = max(run.glob("checkpoints/step-*"))
    return json.loads((last / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
