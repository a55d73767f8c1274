"""A run with a file of every kind, written by the writers that all runs are written by, without training anything."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cloche.runs import Run


def finite(values: int, fill: float) -> bytes:
    return save({"w": np.full(values, fill, np.float32), "b": np.full(3, fill, np.float16)})


def make(path: Path) -> Run:
    """Two steps, three checkpoints, closed logs: as a run that has finished."""
    run = Run.create(path, "[run]\nsteps = 2\n", seed=0)
    run.write_json("tokenizer.json", {"model": {"vocab": {"a": 0}}})
    run.write_json("tokenizer_config.json", {"size": 1})
    for split in ("train", "validation"):
        run.write_bytes(f"data/{split}-00000.bin", np.arange(100, dtype="<u2").tobytes() + split.encode())
    run.write_json("data/data.json", {"dtype": "uint16", "splits": {"train": {"shards": []}}})
    writers = {name: run.log(name) for name in ("metrics", "health", "samples", "events")}
    for step in (0, 1, 2):
        for name, log in writers.items():
            for part in range(3):
                log.append({"step": step, "kind": name, "loss": 5.25 - step - part / 8})
        with run.new_checkpoint(step) as folder:
            (folder / "model.safetensors").write_bytes(finite(64, step))
            (folder / "optimizer.safetensors").write_bytes(finite(8, step))
            (folder / "config.json").write_text('{"cloche": {"width": 8}}')
            (folder / "state.json").write_text(json.dumps({"step": step}))
            (folder / "tokenizer.json").write_bytes((run.path / "tokenizer.json").read_bytes())
        writers["events"].append({"step": step, "kind": "checkpoint", "checkpoint": f"step-{step:06d}"})
    writers["events"].append({"step": 2, "kind": "finished"})
    for log in writers.values():
        log.close()
    run.anchor_logs()
    with run.writing_folder("dictionaries/first") as folder:
        (folder / "dictionary.safetensors").write_bytes(finite(16, 1.0))
        (folder / "dictionary.json").write_text('{"kind": "TopK", "k": 4}')
    run.write_bytes("findings/lens/a.safetensors", finite(5, float("nan")))
    run.write_json("findings/lens/a.json", {"instrument": "lens", "id": "a", "created": "2026-01-01"})
    run.write_bytes("report.html", b"<!doctype html>\n<p>2 steps</p>\n")
    return run
