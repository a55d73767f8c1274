"""Dictionaries of real trained models: what each kind explains, what the model keeps of its loss, and by how much end-to-end
training and a transcoder's features in place of a layer change that.

Two small models trained by others, read on stories of the kind they were trained on: relu2M (naturally sparse) and stories260K.
Stories that the dictionaries learn from, those their thresholds are set on and those they are measured on are apart. One seed,
one recipe for all.

    python -m bench.interp.real_sae [--steps 1000]
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

import cloche
from bench.rounds import asked, table, write
from cloche.interp import dictionary_report, end_to_end, harvest
from cloche.interp.route import Route
from cloche.sparse import SAE, BatchTopK, Gated, JumpReLU, Provenance, ReLU, TopK, Training, train_sae
from cloche.sparse.saes import Kind, continue_training

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = DATA / "text" / "tinystories_sample_ascii.jsonl"
LENGTH, BATCH = 256, 8  # tokens a window, windows a batch
TUNING, HELD = 4, 12  # batches that thresholds are set on; the next, up to this one, are measured on
TIMES, L0 = 8, 16  # features over width, features active
KINDS = (TopK(), BatchTopK(), BatchTopK(nested=(64, 256)), ReLU(), Gated(), JumpReLU())
MODELS = {"relu2M": 3, "stories260K": 2}  # and a middle layer of each


def windows_of(glass: cloche.Glass) -> torch.Tensor:
    """[window, position] of all stories, one after the other."""
    ids = [i for line in STORIES.read_text().splitlines() for i in glass.tokenizer.encode(json.loads(line)["text"])]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)


class Subject:
    """A model, the windows to learn from and those held out."""

    def __init__(self, name: str, steps: int) -> None:
        self.glass, self.steps = cloche.load(DATA / "weights" / name / "hf"), steps
        windows = windows_of(self.glass)
        batches = windows.split(BATCH)
        self.tuning, self.held, self.lessons = batches[:TUNING], batches[TUNING:HELD], batches[HELD:]

    def learned(self, where: str, kind: Kind, skip: bool = False) -> SAE:
        reader = Route.parse(where).through(self.glass.net, {})
        rows = torch.cat([*harvest(self.glass.net, self.lessons, where)])
        wiring = reader.wiring(skip)
        features = TIMES * sum(wiring.writes or wiring.reads)
        training = Training(steps=self.steps)
        sae, _ = train_sae(rows, features, L0, training, kind=kind, wiring=wiring, trained_on=Provenance(where))
        unseen = torch.cat([*harvest(self.glass.net, self.tuning, where)])
        sae.calibrate(sae.split(unseen)[0])
        return sae

    def finished(self, sae: SAE) -> SAE:
        """Trained on end to end, over all the lessons twice."""
        where, lessons = str(sae.trained_on.site), self.lessons * 2
        training = Training(steps=len(lessons), lr=2e-4)
        for _ in continue_training(sae, end_to_end(self.glass.net, lessons, where, local=1.0), training):
            pass
        return sae

    def measured(self, sae: SAE) -> dict[str, object]:
        data = dictionary_report(self.glass, sae, self.held).data
        return {key: data[key] for key in ("site", "kind", "features", "fvu", "l0", "dead_share", "recovered", "gap")}


def contestants(subject: Subject, layer: int) -> dict[str, object]:
    """Every kind on the residual stream, one of them finished end to end, and transcoders of the layer's MLP."""
    site, mlp = f"resid_post[{layer}]", f"mlp_in[{layer}] -> mlp_out[{layer}]"
    made = {str(kind): (site, kind, False) for kind in KINDS}
    made |= {"transcoder": (mlp, BatchTopK(), False), "skip transcoder": (mlp, BatchTopK(), True)}
    made |= {"autoencoder of what the MLP writes": (f"mlp_out[{layer}]", BatchTopK(), False)}
    found: dict[str, object] = {}
    for name, (where, kind, skip) in made.items():
        start = time.process_time()
        sae = subject.learned(where, kind, skip)
        found[name] = subject.measured(sae) | {"cpu_seconds": time.process_time() - start}
        print(f"  {name}: {time.process_time() - start:.0f} CPU s", flush=True)
        if name == "TopK":
            found["TopK, finished end to end"] = subject.measured(subject.finished(sae))
    return found


def main() -> None:
    options = asked(__doc__, steps=1_000)
    torch.set_num_threads(1)
    models = {}
    for name, layer in MODELS.items():
        models[name] = contestants(Subject(name, options.steps), layer)
        rows = []
        for what, row in models[name].items():
            recovered, gap = row["recovered"], row["gap"]
            figures = [row["fvu"], gap["of_encoder"] if gap else float("nan"), recovered["share"], recovered["kl"]]
            rows.append([what, f"{row['l0']:.2f}", f"{row['dead_share']:.1%}", *(f"{x:.4f}" for x in figures)])
        print(table([name, "L0", "dead", "FVU", "encoder's", "loss recovered", "KL"], rows), flush=True)
    write(
        "real_sae",
        {
            "what": "dictionaries of two trained models: variance unexplained, loss recovered when put back, KL in nats",
            "asked": {
                "l0": L0,
                "times_width": TIMES,
                "steps": options.steps,
                "held_out_windows": HELD,
                "length": LENGTH,
            },
            "models": models,
        },
        "torch",
    )


if __name__ == "__main__":
    main()
