"""One training step of a sparse autoencoder: cloche's gathered one beside dense autograd, SAELens and dictionary_learning.

Every side takes a whole step on the same activations, in one run: forward, loss, backward, clipping, Adam. "Dense autograd" is
cloche's own step with the codes written out as [batch, features]; its gradients are compared with the gathered ones before
anything is timed. The peers go through their own trainers as they ship. (SAELens' sparse activations are left out: their
backward pass does not run on a CPU in torch 2.13.) Planted activations; no dead features, so no auxiliary loss on any side.

    python -m bench.setup sae_step && bench/.venvs/sae_step/bin/python -m bench.sparse.sae_step [--rounds 5] [--threads 1]
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from bench.sparse.sae_peers import DictionaryLearning, SAELens, Shape
from cloche.sparse import SAE, BatchTopK, SyntheticFeatures, TopK, Training
from cloche.sparse.saes import AuxLoss, Fit, Kind, fit_input
from cloche.sparse.saes.gathered import AllFeatures
from cloche.sparse.saes.kinds import FeatureActs, SelectionInput

SHAPES = [(256, 4_096, 32), (512, 8_192, 32), (512, 16_384, 32)]  # width, features, k
BATCH = 4_096
WANTED = 4.0  # times faster than each peer, from 8,192 features on
EQUAL = 1e-5  # relative difference of each gradient


class DenseTopK(TopK):
    """The same kind with its codes written out."""

    def choose(self, batch: SelectionInput, extra: dict[str, Tensor]) -> AllFeatures:  # type: ignore[override]
        self.__dict__["k"] = int(batch.l0)
        return AllFeatures(len(batch.centred), len(batch.weight))

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        best = pre.topk(self.__dict__["k"], dim=1, sorted=False)
        return FeatureActs(torch.zeros_like(pre).scatter(1, best.indices, best.values.relu()))


def fit_of(kind: Kind, shape: tuple[int, int, int], x: Tensor) -> Fit:
    width, features, k = shape
    sae = SAE(width, features, k, kind, seed=0)
    return Fit(sae, Training(steps=10_000, batch=BATCH, lr=1e-4, aux=AuxLoss(dead_after=10**9)), fit_input(sae, x))


def gradient_difference(shape: tuple[int, int, int], x: Tensor) -> float:
    """The largest relative difference between the two sides' gradients, over the parameters."""
    gradients = []
    for kind in (TopK(), DenseTopK()):
        sae = fit_of(kind, shape, x).sae
        scaled = x[:BATCH] * sae.scale
        chosen, acts = sae.feature_acts(scaled)
        reconstruction = sae.base(scaled) + chosen.decode(acts.values, sae.decoder)
        (scaled - reconstruction).square().sum(1).mean().backward()
        gradients.append({name: p.grad for name, p in sae.named_parameters() if p.grad is not None})
    ours, dense = gradients
    return max(float((ours[name] - dense[name]).norm() / dense[name].norm()) for name in dense)


def compare(shape: tuple[int, int, int], rounds: int) -> dict[str, object]:
    width, features, k = shape
    x, _ = SyntheticFeatures(width=width, features=1_024, active=k).sample(2 * BATCH)
    x = x / x.square().mean().sqrt()
    difference = gradient_difference(shape, x)
    batch, peer = x[:BATCH], Shape(width, features, k, 10_000, BATCH)
    ours = {f"cloche {kind}": fit_of(kind, shape, x) for kind in (TopK(), BatchTopK())}
    contestants = {
        **ours,
        "dense autograd": fit_of(DenseTopK(), shape, x),
        "SAELens topk": SAELens("topk", peer, 1e-4),
        "SAELens batchtopk": SAELens("batchtopk", peer, 1e-4),
        "dictionary_learning topk": DictionaryLearning("topk", peer, 1e-4),
    }
    sides = [Side(name, partial(each.step, batch), BATCH) for name, each in contestants.items()]
    interleave(sides, rounds)
    topk, batchtopk, *others = sides
    return {
        "width": width,
        "features": features,
        "k": k,
        "gradient_difference": difference,
        "seconds": {s.name: {"wall": Spread.of(s.wall).record(), "cpu": Spread.of(s.cpu).record()} for s in sides},
        "faster": {
            other.name: {
                clock: ratio(other, _alike(other, topk, batchtopk), clock).record() for clock in ("wall", "cpu")
            }
            for other in others
        },
    }


def _alike(other: Side, topk: Side, batchtopk: Side) -> Side:
    """Ours of the same kind."""
    return batchtopk if "batchtopk" in other.name else topk


def main() -> None:
    options = asked(__doc__, rounds=5, threads=1)
    results: list[dict[str, Any]] = [compare(shape, options.rounds) for shape in SHAPES]
    rows = []
    for r in results:
        for name, clocks in r["seconds"].items():
            faster = r["faster"].get(name)
            times = "" if faster is None else "{median:.2f} ({least:.2f}..{greatest:.2f})".format(**faster["cpu"])
            what = f"{r['width']} x {r['features']:,}, {r['k']}: {name}"
            rows.append([what, f"{1e3 * clocks['wall']['median']:.0f}", f"{1e3 * clocks['cpu']['median']:.0f}", times])
    print(table(["width x features, k", "wall ms", "CPU ms", "cloche faster (CPU)"], rows))
    peers = [f["cpu"]["median"] for r in results[1:] for name, f in r["faster"].items() if name != "dense autograd"]
    kept, equal = min(peers) >= WANTED, all(r["gradient_difference"] <= EQUAL for r in results)
    print(f"at least {WANTED:g} times faster than each peer: {kept}; gradients equal to {EQUAL:g}: {equal}")
    write(
        "sae_step",
        {
            "what": "one training step of a sparse autoencoder on the CPU, fp32, against dense autograd and the peers",
            "batch": BATCH,
            "threads": options.threads,
            "wanted": {"faster": WANTED, "gradient_difference": EQUAL},
            "met": {"faster": kept, "gradient_difference": equal},
            "shapes": results,
        },
        "torch sae-lens dictionary-learning",
    )


if __name__ == "__main__":
    main()
