"""A synthetic run: a folder as docs/architecture.md describes it, with values that the tests know.

Loss falls as 2 + 6 exp(-step / 200); bits per byte are the loss / (3 ln 2); layer l's residual variance is (l + 1)
times what layer 0 has.
"""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from cloche.drawing import Finding, Provenance
from cloche.runs import Run

LAYERS, HEADS = 4, 8
PROMPTS = ("def read(", "The glass ", "import ")
SPIKE = 640
RECIPE = """[question]
ask = "How does a small model learn to read Python?"

[model]
width = 256
layers = 4
"""
FEATURES = 40


def loss(step: int) -> float:
    return 2 + 6 * math.exp(-step / 200)


def bpb(step: int) -> float:
    return loss(step) / (3 * math.log(2))


def metric(step: int, noise: float = 0.0) -> dict[str, Any]:
    tokens = step * 4096
    return {
        "step": step, "time": step * 0.25, "tokens": tokens, "flops": tokens * 2.4e7, "loss": loss(step) + noise,
        "lr": 3e-3 * min(1, step / 100), "grad_norm": 0.5 + 40 / (step + 20) + abs(noise), "tokens_per_second": 16_384.0,
        "mfu": 0.512, "eta": (1200 - step) * 0.25,
    }  # fmt: skip


def validation(step: int) -> dict[str, Any]:
    base = {key: metric(step)[key] for key in ("step", "time", "tokens", "flops")}
    return {**base, "val_loss": loss(step), "val_bpb": bpb(step), "val_bytes": 250_000}


def health(step: int) -> dict[str, Any]:
    variance = 0.02 + step / 4000
    return {
        "step": step,
        "resid_variance": [variance * (layer + 1) for layer in range(LAYERS + 1)],
        "attention_entropy": [
            [1 - 0.9 * (1 - math.exp(-step / (200 + 130 * head))) * (0.4 + 0.15 * layer) for head in range(HEADS)]
            for layer in range(LAYERS)
        ],
        "activation_density": [0.5 - 0.07 * layer - 0.15 * (1 - math.exp(-step / 300)) for layer in range(LAYERS)],
        "dead_units": [0.02 * layer * math.exp(-step / 500) for layer in range(LAYERS)],
        "logit_norm": 0.3 + 3 * (1 - math.exp(-step / 250)),
        "grad_norm": metric(step)["grad_norm"],
        "update_ratio": [1e-3 * (1 + layer / 4) * min(1, (step + 1) / 100) for layer in range(LAYERS + 1)],
        "gain": [1.0 + 0.1 * layer for layer in range(LAYERS)],
        "usual_update_ratio": 0.05,
        "limits": {"update_ratio": [0.0, 0.05], "attention_entropy": [0.03, 1.0], "gain": [0.5, 1.7]},
    }


def sample(step: int, prompt: str) -> dict[str, Any]:
    """At first it babbles; from step 500 it writes Python. The right token's probability grows as step / 1250."""
    words = ["self", "path", "x", " the", "os", "\n", " of", "data", "file", "0"]
    shift = PROMPTS.index(prompt)
    words = words[shift:] + words[:shift]
    right = max(0.05, step / 1250)
    rest = [(1 - right) * 0.5**k for k in range(1, 10)]
    likeliest = [[words[0], right], *[[word, p] for word, p in zip(words[1:], rest, strict=True)]]
    text = "self, path):\n    with open(path) as file:\n        return file.read()\n"
    babble = "".join(random.Random(step + shift).choices("etaoin shrdlu\n(){}:.,", k=80))
    return {
        "step": step,
        "prompt": prompt,
        "text": text + f"# sample of step {step}\n" if step >= 500 else babble,
        "next": sorted(likeliest, key=lambda pair: -pair[1]),
    }


def lens_data(prompt: str = "def read(self") -> dict[str, Any]:
    tokens = ["def", " read", "(", "self"]
    layers = ["embed", *[f"layer {i}" for i in range(LAYERS)]]
    positions = range(len(tokens))
    words = [" the", "(", "self", ",", "):", "x", "\n", "path", ".", "_", " in", "0"]

    def top(layer: int, position: int) -> list[list[Any]]:
        """Ten tokens, likeliest first: the one that follows leads from row 2 on, is second in row 1, absent in row 0."""
        follows = tokens[position + 1] if position + 1 < len(tokens) else ", path"
        others = [word for word in words if word != follows]
        if layer >= 1:
            others.insert(0 if layer >= 2 else 1, follows)
        sure = 0.1 + 0.18 * layer
        rest = [(1 - sure) / 2 ** (k + 1) for k in range(9)]
        return [list(pair) for pair in zip(others[:10], [sure, *[min(sure, p) for p in rest]], strict=True)]

    return {
        "prompt": prompt,
        "tokens": tokens,
        "layers": layers,
        "top": [[top(layer, position) for position in positions] for layer in range(LAYERS + 1)],
        "entropy": [[4.0 - 0.75 * layer + 0.1 * position for position in positions] for layer in range(LAYERS + 1)],
        "rank": [
            [
                None if position == len(tokens) - 1 else (1 if layer >= 2 else 2 + 100 * (1 - layer))
                for position in positions
            ]
            for layer in range(LAYERS + 1)
        ],
    }


def feature(ident: int) -> dict[str, Any]:
    """Feature 7 fires on the word `return`, the others on one word each; the lower the id the denser."""
    word = " return" if ident == 7 else f" word{ident}"
    peak = 10.0 - ident / 10
    text = [
        "def",
        " f",
        "(",
        "x",
        ")",
        ":",
        "\n",
        "   ",
        word,
        " x",
        " +",
        " 1",
        "\n",
        "\n",
        "print",
        "(",
        "f",
        "(",
        "2",
        "))",
    ]
    return {
        "id": ident,
        "density": 10 ** (-1 - ident / 15),
        "max": peak,
        "quantiles": [0.1 * peak, 0.5 * peak, 0.9 * peak],
        "examples": [
            {
                "tokens": text,
                "acts": [peak * q if t == word else (0.2 * peak * q if t == " x" else 0.0) for t in text],
                "quantile": q,
            }
            for q in (1.0, 1.0, 0.75, 0.5, 0.25)
        ],
        "top_logits": [[f"{word}{k}" if k else word, 3.0 - k / 4] for k in range(10)],
        "bottom_logits": [[f" never{k}", -2.0 + k / 5] for k in range(10)],
        "neighbours": [[(ident + k) % FEATURES, 0.9 - k / 10] for k in range(1, 6)],
    }


def features_data() -> dict[str, Any]:
    found = [feature(ident) for ident in range(FEATURES)]
    order = [7, *[i for i in range(FEATURES) if i != 7]]
    edges = [-4 + 0.25 * i for i in range(14)]
    counts = [sum(edges[i] <= math.log10(f["density"]) < edges[i + 1] for f in found) for i in range(13)]
    return {
        "dictionary": "resid_post-2", "site": "resid_post[2]", "tokens_seen": 1_000_000, "fvu": 0.183, "l0": 32.0,
        "dead_share": 0.041, "density_histogram": {"edges": edges, "counts": counts}, "features": [found[i] for i in order],
    }  # fmt: skip


@cache
def panels() -> dict[str, Any]:
    """The panels that our instruments draw of their data. It imports torch, so it is called only for a finding."""
    from cloche.interp import density
    from cloche.interp.dictionaries import features, report
    from cloche.interp.lenses import reading
    from cloche.interp.probing import sparse

    modules = {"logit-lens": reading, "features": features, "dictionary": report, "activation-density": density}
    return {name: module.panels for name, module in (modules | {"sparse-probing": sparse}).items()}


def write_finding(
    run: Run,
    instrument: str,
    ident: str,
    summary: str,
    data: dict[str, Any],
    checkpoint: str = "step-001200",
    hour: int = 12,
) -> None:
    about = Provenance(instrument, checkpoint, "0" * 16, created=f"2026-11-22T{hour:02d}:00:00+00:00", id=ident)
    figures = {"explained": 1 - data["fvu"]} if "fvu" in data else {}
    null = {"explained": -0.5} if figures else None
    draw = panels().get(instrument)
    drawn = draw(data) if draw else ()
    run.write_json(
        f"findings/{instrument}/{ident}.json", Finding(about, summary, figures, data, {}, null, drawn).record()
    )


def append(run: Run, log: str, *records: dict[str, Any]) -> None:
    with run.log(log) as writer:
        for record in records:
            writer.append(record)


def add_checkpoint(run: Run, step: int) -> None:
    with run.new_checkpoint(step) as folder:
        (folder / "model.safetensors").write_bytes(save({"weights": np.full(2, step, np.float32)}))
        (folder / "config.json").write_text(json.dumps({"cloche": {}}))


def write_run(path: Path, steps: int = 1200, finished: bool = True, findings: bool = True, lift: float = 0.0) -> Run:
    """Writes the synthetic run up to a step; `lift` raises its loss, to distinguish a second run from the first."""
    run = Run.create(path, recipe=RECIPE, seed=0, command=["cloche", "demo"])
    noise = random.Random(0)
    metrics: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        bump = 1.5 * math.exp(-(step - SPIKE) / 15) if step >= SPIKE else 0.0
        metrics.append(metric(step, 0.0 if step == steps else lift + bump + noise.gauss(0, 0.04)))
        if step % 100 == 0:
            metrics.append(validation(step))
    append(run, "metrics", *metrics)
    append(run, "health", *[health(step) for step in range(10, steps + 1, 10)])
    append(run, "samples", *[sample(step, prompt) for step in range(100, steps + 1, 100) for prompt in PROMPTS])
    events = [{"step": 0, "time": 0.0, "kind": "start", "message": "4.2M parameters, 10.1M tokens"}]
    if steps >= SPIKE:
        events.append(
            {"step": SPIKE, "time": SPIKE * 0.25, "kind": "spike", "message": "loss 3.74, 8 deviations above its mean"}
        )
    for step in range(300, steps + 1, 300):
        add_checkpoint(run, step)
        name = f"step-{step:06d}"
        event = {
            "step": step,
            "time": step * 0.25,
            "kind": "checkpoint",
            "message": f"saved {name}",
            "checkpoint": name,
        }
        events.append(event)
    if finished:
        events.append({"step": steps, "time": steps * 0.25, "kind": "finished", "message": f"{steps} steps in 5:00"})
    append(run, "events", *sorted(events, key=lambda event: event["step"]))
    run.anchor_logs()
    run.write_json("data/data.json", {
        "vocab": 4096, "dtype": "uint16", "end": 0, "sources": {"files": 1203, "invalid_utf8": 0},
        "splits": {"train": {"shards": [], "tokens": 9_800_000, "bytes": 31_000_000, "documents": 1142},
                   "validation": {"shards": [], "tokens": 310_000, "bytes": 990_000, "documents": 61}},
    })  # fmt: skip
    if findings:
        lens = "By layer 1 the model names the token that really follows at 3 of 3 positions."
        write_finding(run, "logit-lens", "planted", lens, lens_data())
        write_finding(run, "features", "resid_post-2", "40 features explain 82 % of resid_post[2].", features_data())
    return run
