"""One training step of a TopK autoencoder: glasshouse's, that touches only the chosen features, beside dense autograd.

Both sides take the same whole step on the same activations: forward, loss, backward, projection of the decoder's gradient,
clipping, fused Adam, renormalisation. They differ only in how the reconstruction is computed: the dense side writes the codes
out as [batch, features] and leaves the rest to automatic differentiation, as trainers commonly do. Their gradients are
compared before anything is timed. Planted activations; no dead features, so no auxiliary loss on either side.

    python bench/sae_step.py [--rounds 7] [--threads 1]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from glasshouse.sparse import SAE, Planted, TopK, Training
from glasshouse.sparse.saes import Fit, fit_input
from glasshouse.sparse.saes.gathered import Everything
from glasshouse.sparse.saes.kinds import Answer, Question
from rounds import Side, Spread, busy, interleave, machine, ratio, table, write

SHAPES = [(256, 2_048, 24), (256, 4_096, 32), (512, 8_192, 32), (512, 16_384, 32)]  # width, features, k
BATCH = 4_096
WANTED = 2.0  # times faster than dense autograd
EQUAL = 1e-5  # relative difference of each gradient


class DenseTopK(TopK):
    """The same kind with its codes written out."""

    def choose(self, question: Question, own: dict[str, Tensor]) -> Everything:  # type: ignore[override]
        self.__dict__["k"] = int(question.l0)
        return Everything(len(question.centred), len(question.weight))

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        best = pre.topk(self.__dict__["k"], dim=1, sorted=False)
        return Answer(torch.zeros_like(pre).scatter(1, best.indices, best.values.relu()))


def fit_of(kind: TopK, shape: tuple[int, int, int], x: Tensor) -> Fit:
    width, features, k = shape
    sae = SAE(width, features, k, kind, seed=0)
    return Fit(sae, Training(steps=10_000, batch=BATCH, lr=1e-4, dead_after=10**9), fit_input(sae, x))


def gradient_difference(shape: tuple[int, int, int], x: Tensor) -> float:
    """The largest relative difference between the two sides' gradients, over the parameters."""
    gradients = []
    for kind in (TopK(), DenseTopK()):
        sae = fit_of(kind, shape, x).sae
        scaled = x[:BATCH] * sae.scale
        chosen, answer = sae.answer(scaled)
        reconstruction = sae.base(scaled) + chosen.decode(answer.values, sae.decoder)
        (scaled - reconstruction).square().sum(1).mean().backward()
        gradients.append({name: p.grad for name, p in sae.named_parameters() if p.grad is not None})
    ours, dense = gradients
    return max(float((ours[name] - dense[name]).norm() / dense[name].norm()) for name in dense)


def compare(shape: tuple[int, int, int], rounds: int) -> dict[str, object]:
    width, features, k = shape
    x, _ = Planted(width=width, features=1_024, active=k).sample(2 * BATCH)
    difference = gradient_difference(shape, x)
    sides = [side(name, kind, shape, x) for name, kind in (("dense autograd", DenseTopK()), ("glasshouse", TopK()))]
    interleave(sides, rounds)
    dense, ours = sides
    return {
        "width": width,
        "features": features,
        "k": k,
        "gradient_difference": difference,
        "seconds": {s.name: {"wall": Spread.of(s.wall).record(), "cpu": Spread.of(s.cpu).record()} for s in sides},
        "faster": {clock: ratio(dense, ours, clock).record() for clock in ("wall", "cpu")},
    }


def side(name: str, kind: TopK, shape: tuple[int, int, int], x: Tensor) -> Side:
    fit, batch = fit_of(kind, shape, x), x[:BATCH]
    return Side(name, lambda: fit.step(batch), BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = busy()
    results = [compare(shape, options.rounds) for shape in SHAPES]
    header = ["width x features, k", "dense CPU ms", "glasshouse CPU ms", "times faster", "largest gradient difference"]
    rows = []
    for r in results:
        cpu = {name: 1e3 * clocks["cpu"]["median"] for name, clocks in r["seconds"].items()}  # type: ignore[attr-defined]
        faster = r["faster"]["cpu"]  # type: ignore[index]
        rows.append(
            [
                f"{r['width']} x {r['features']:,}, {r['k']}",
                f"{cpu['dense autograd']:.0f}",
                f"{cpu['glasshouse']:.0f}",
                f"{faster['median']:.2f} ({faster['least']:.2f}..{faster['greatest']:.2f})",
                f"{r['gradient_difference']:.1e}",
            ]
        )
    print(table(header, rows))
    kept = all(r["faster"]["cpu"]["median"] >= WANTED for r in results)  # type: ignore[index]
    equal = all(r["gradient_difference"] <= EQUAL for r in results)  # type: ignore[operator]
    print(f"at least {WANTED:g} times faster: {kept}; gradients equal to {EQUAL:g}: {equal}")
    write(
        "sae_step",
        {
            "what": "one training step of a TopK autoencoder on the CPU, fp32, against dense autograd of the same",
            "batch": BATCH,
            "threads": options.threads,
            "load_before": load,
            "machine": machine(),
            "wanted": {"faster": WANTED, "gradient_difference": EQUAL},
            "met": {"faster": kept, "gradient_difference": equal},
            "shapes": results,
        },
    )


if __name__ == "__main__":
    main()
