"""How sparse two small models are in their own units, and which basis says most with few: the density of the neurons by layer,
and k-sparse probes on the axes of the residual stream, the neurons and the features of a TopK autoencoder, on labels that come
from the text itself. Autoencoders and the division of the text are drawn anew for each seed.

    python -m bench.interp.own_units            # three minutes of a quiet core
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import torch

import cloche
from bench.rounds import machine, table, write
from cloche.interp import activation_density, harvest, sparse_probing
from cloche.interp.probing.sparse import mean_scores
from cloche.sparse import Provenance, Training, train_sae

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = DATA / "text" / "tinystories_sample_ascii.jsonl"
MODELS = {"relu2M": "resid_post[3]", "stories260K": "resid_post[2]"}
LENGTH, BATCH, PROBED = 256, 8, 160  # tokens a window, windows a batch, windows kept from the autoencoder
SEEDS, KS = range(3), (1, 2, 4, 8, 16)
TIMES, ACTIVE = 8, 16  # features over width, features active


def windows_of(glass: cloche.Glass) -> torch.Tensor:
    """[window, position] of all stories, one after the other."""
    ids = [i for line in STORIES.read_text().splitlines() for i in glass.tokenizer.encode(json.loads(line)["text"])]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)


def probed(glass: cloche.Glass, windows: torch.Tensor, site: str, seed: int) -> dict:
    training = [*windows[PROBED:].split(BATCH)]
    x = torch.cat([*harvest(glass.net, training, site, seed=seed)])
    course = Training(steps=1_500, batch=1_024)
    sae, _ = train_sae(x, TIMES * x.shape[1], ACTIVE, course, seed=seed, trained_on=Provenance(site, glass.checkpoint))
    return sparse_probing(glass, windows[: PROBED // 2].split(BATCH), sae=sae, ks=KS, seed=seed).data


def main() -> None:
    record: dict[str, object] = {"machine": machine(), "seeds": len(SEEDS), "models": {}}
    for name, site in MODELS.items():
        glass = cloche.load(DATA / "weights" / name / "hf")
        windows = windows_of(glass)
        density = activation_density(glass, windows[:PROBED].split(BATCH), also=("mlp_in",))
        print(f"{name}: {density.summary}\n\n{density.table()}\n")
        runs = [probed(glass, windows, site, seed) for seed in SEEDS]
        rows, told = [], {}
        for basis in runs[0]["bases"]:
            for figure in ("f1", "auroc"):
                means = [mean_scores(data, basis["name"], figure) for data in runs]
                columns = [*zip(*(by_k for by_k, _, _ in means), strict=True), [d for _, d, _ in means]]
                columns.append([in_disorder[-1] for _, _, in_disorder in means])
                told[f"{basis['name']} {figure}"] = [[median(c), min(c), max(c)] for c in columns]
                cells = [f"{median(c):.3f} ({min(c):.3f}..{max(c):.3f})" for c in columns]
                rows.append([f"{basis['name']} ({basis['units']}) {figure}", *cells])
        print(table([site, *(f"k = {k}" for k in KS), "all units", "shuffled labels"], rows) + "\n")
        labels = [row["name"] for row in runs[0]["labels"]]
        record["models"][name] = {"density": density.data, "site": site, "labels": labels, "probes": told}  # type: ignore[index]
    write("own_units", record)


if __name__ == "__main__":
    main()
