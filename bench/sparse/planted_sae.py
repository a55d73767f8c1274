"""What autoencoders find of a planted dictionary: cloche's default recipe beside every trainer of SAELens.

The true dictionary is `Hierarchy()`: about 1,000 atoms in 256 dimensions, by Zipf's law, in groups, with children. cloche is
given the number of features, the L0 and the length of the run, and nothing else (its default kind is TopK); its other kinds
likewise. A peer gets what its authors leave open: learning rates and, where it has one, coefficients of its penalty are swept
on a development dictionary of other atoms. Of the settings within half of the wanted L0 that of the best one-to-one matching
is kept, once for each comparison: the same signals, and the same CPU seconds as cloche's default (one thread, the drawing of
signals left out). Peers get the batch of 512 too, for at 2,048 they find less, and what counts as dead is cut to the run as
cloche cuts it: at their own 1,000 steps nothing would be revived. JumpReLU's thresholds start at 0.1: from their own 0.01
they cannot rise in so short a run.

    python -m bench.setup planted_sae && bench/.venvs/planted_sae/bin/python -m bench.sparse.planted_sae [--quick]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.rounds import busy, machine, table, write
from bench.sparse.sae_peers import SAELens, Shape
from cloche.sparse import (
    SAE,
    BatchTopK,
    Code,
    Dictionary,
    Gated,
    Hierarchy,
    JumpReLU,
    ReLU,
    Training,
    train_sae,
)
from cloche.sparse.saes import Kind
from cloche.sparse.truth import Interval, SyntheticReport, grade, synthetic_report

FEATURES, L0, PIECE = 1_024, 13, 2_048  # the true dictionary has 12.6 features active
SEEDS, DEVELOPMENT = range(5), 1_000
WANTED = 0.05  # more than each peer, in one-to-one matching and in F1 of supports
NEAR = 1.5  # times the wanted L0, or one part of it, that a setting may have to be chosen
KINDS: dict[str, Kind] = {
    "batchtopk": BatchTopK(),
    "relu": ReLU(),
    "gated": Gated(),
    "jumprelu": JumpReLU(),
}


@dataclass(frozen=True)
class Setting:
    """What is chosen for a peer."""

    kind: str
    lr: float
    sparsity: float | None = None


@dataclass(frozen=True)
class Length:
    """Signals of a run, and the CPU seconds that may be spent on it (None: as long as they take)."""

    signals: int
    batch: int
    seconds: float | None = None


TRAINERS = ("standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk")
RATES = {"jumprelu": (3e-3, 1e-2, 3e-2)}
OTHER_RATES = (3e-3, 6e-3, 1.2e-2)
PENALTIES = {"standard": (2.0, 3.0, 4.5), "gated": (1.5, 2.5, 4.0), "jumprelu": (0.5, 1.0, 2.0)}
OPTIONS = {"jumprelu": {"jumprelu_init_threshold": 0.1}}


class Signals:
    """The signals of each seed, drawn once: no side waits for them."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn = count, dict[int, Tensor]()

    def of(self, stream: Iterator[Tensor], seed: int) -> Tensor:
        if seed not in self.drawn:
            self.drawn[seed] = torch.cat(list(islice(stream, self.count // PIECE)))
        return self.drawn[seed]


class Peer:
    """A trained peer, in the units of the activations and with atoms of norm one, as an encoder and its dictionary."""

    def __init__(self, trainer: SAELens, scale: float) -> None:
        self.trainer, self.scale = trainer, scale
        trained = trainer.dictionary
        self.norms = trained.norms
        bias = None if trained.bias is None else trained.bias / scale
        self.dictionary = Dictionary(trained.unit(), bias)

    def encode(self, x: Tensor) -> Code:
        code = self.trainer.encode(x * self.scale)
        return Code(code.indices, code.values * self.norms[code.indices] / self.scale, code.size)


def ours(kind: Kind | None, length: Length, x: Tensor, seed: int) -> tuple[SAE, float]:
    """Nothing but features, l0 and the length; `kind` None is the default one. And the CPU seconds of it."""
    training = Training(steps=length.signals // length.batch, batch=length.batch)
    named = {} if kind is None else {"kind": kind}
    start = time.process_time()
    sae, _ = train_sae(x.split(length.batch), FEATURES, L0, training, seed=seed, **named)
    return sae, time.process_time() - start


def peer(setting: Setting, length: Length, x: Tensor, seed: int) -> tuple[Peer, float]:
    scale = float(x[:8_192].square().mean().rsqrt())
    shape = Shape(x.shape[1], FEATURES, L0, length.signals // length.batch, length.batch)
    if length.seconds is not None:
        shape = replace(shape, steps=affordable(setting, x, shape, length.seconds))
    torch.manual_seed(seed)
    start = time.process_time()
    trainer = made(setting, shape)
    for i in range(shape.steps):
        first = i * shape.batch % (len(x) - shape.batch + 1)
        trainer.step(x[first : first + shape.batch] * scale)
    return Peer(trainer, scale), time.process_time() - start


def made(setting: Setting, shape: Shape) -> SAELens:
    return SAELens(setting.kind, shape, setting.lr, setting.sparsity, **OPTIONS.get(setting.kind, {}))


def affordable(setting: Setting, x: Tensor, shape: Shape, seconds: float, tried: int = 12) -> int:
    """Steps that fit into CPU seconds, by a few steps of a trainer that is thrown away."""
    trainer = made(setting, shape)
    costs = []
    for i in range(tried):
        start = time.process_time()
        trainer.step(x[i * shape.batch : (i + 1) * shape.batch])
        costs.append(time.process_time() - start)
    return max(20, round(seconds / median(costs[2:])))


def sweep(kind: str, length: Length, truth: Hierarchy, drawn: Signals) -> tuple[Setting, list[dict[str, Any]]]:
    """The setting with the best one-to-one matching on the development dictionary, and all that were tried: learning rates at
    the middle coefficient, then the other coefficients at the best rate."""
    x = drawn.of(truth.stream(PIECE, 1), DEVELOPMENT)
    seen, code = truth.sample(4_096, 0)
    tried: list[dict[str, Any]] = []

    def score(setting: Setting) -> float:
        learned, _ = peer(setting, length, x, DEVELOPMENT)
        found = grade(learned, learned.dictionary, seen, truth.dictionary, code)
        l0 = float(learned.encode(seen).active.float().mean())
        tried.append({**asdict(setting), "cosine": found.cosine, "f1": found.f1, "l0": l0})
        print("   ", tried[-1], flush=True)
        return found.cosine if 1 / NEAR <= l0 / L0 <= NEAR else -abs(math.log(max(l0, 1e-3) / L0))

    penalties = PENALTIES.get(kind, (None,))
    middle = penalties[len(penalties) // 2]
    scores = {
        setting: score(setting) for setting in (Setting(kind, rate, middle) for rate in RATES.get(kind, OTHER_RATES))
    }
    best = max(scores, key=scores.__getitem__)
    scores |= {other: score(other) for other in (replace(best, sparsity=p) for p in penalties if p != middle)}
    return max(scores, key=scores.__getitem__), tried


@dataclass(frozen=True)
class Outcome:
    """One side: its report, its CPU seconds a seed, and what was chosen for it."""

    report: SyntheticReport
    seconds: list[float]
    chosen: Setting | None = None
    tried: tuple[dict[str, Any], ...] = ()

    def record(self) -> dict[str, Any]:
        figures = {n: {"mean": i.mean, "half": i.half, "values": i.values} for n, i in self.report.figures.items()}
        chosen = None if self.chosen is None else asdict(self.chosen)
        return {"figures": figures, "cpu_seconds": self.seconds, "chosen": chosen, "tried": self.tried}


def measured(
    learn: Callable[[Tensor, int], tuple[SAE | Peer, float]], truth: Hierarchy, drawn: Signals, seeds: range
) -> Outcome:
    seconds: list[float] = []

    def train(stream: Iterator[Tensor], seed: int) -> SAE | Peer:
        learned, spent = learn(drawn.of(stream, seed), seed)
        seconds.append(spent)
        return learned

    return Outcome(synthetic_report(train, truth, seeds), seconds)


def beside_peers(length: Length, drawn: Signals, seeds: range, trainers: tuple[str, ...]) -> dict[str, Outcome]:
    """Every trainer at the setting that is best for it at this length."""
    outcomes = {}
    for kind in trainers:
        print(f"SAELens {kind}", flush=True)
        chosen, tried = sweep(kind, length, Hierarchy(seed=DEVELOPMENT), drawn)
        outcome = measured(partial(peer, chosen, length), Hierarchy(), drawn, seeds)
        outcomes[f"SAELens {kind}"] = replace(outcome, chosen=chosen, tried=tuple(tried))
        print(outcome.report, flush=True)
    return outcomes


def margins(mine: Outcome, others: dict[str, Outcome]) -> dict[str, dict[str, Interval]]:
    """By how much mine is ahead of each, seed by seed."""
    out = {}
    for name, other in others.items():
        pairs = {f: (mine.report.figures[f].values, other.report.figures[f].values) for f in ("cosine", "f1")}
        out[name] = {f: Interval(tuple(a - b for a, b in zip(*sides, strict=True))) for f, sides in pairs.items()}
    return out


def shown(outcomes: dict[str, Outcome]) -> str:
    names = list(next(iter(outcomes.values())).report.figures)
    rows = [
        [side, *(f"{o.report.figures[n].mean:.3f}" for n in names), f"{median(o.seconds):.1f}"]
        for side, o in outcomes.items()
    ]
    return table(["", *names, "CPU s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, few signals, two peers; nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    load, began = busy(), time.process_time()
    seeds, trainers = (range(2), TRAINERS[2:4]) if quick else (SEEDS, TRAINERS)
    length = Length(2**15 if quick else 196_608, Training().batch)
    drawn = Signals(length.signals)
    plain = measured(partial(ours, None, length), Hierarchy(), drawn, seeds)
    print(plain.report, flush=True)
    kinds = {f"cloche {n}": measured(partial(ours, k, length), Hierarchy(), drawn, seeds) for n, k in KINDS.items()}
    mine = {"cloche default": plain}
    by_signals = beside_peers(length, drawn, seeds, trainers)
    by_seconds = beside_peers(replace(length, seconds=median(plain.seconds)), drawn, seeds, trainers)
    ahead = {"signals": margins(plain, by_signals), "cpu_seconds": margins(plain, by_seconds)}
    print(f"\nat equal signals, {length.signals:,}\n{shown(mine | kinds | by_signals)}")
    print(f"\nat equal CPU seconds, {median(plain.seconds):.1f}\n{shown(mine | by_seconds)}\n")
    least = {how: min(i.mean for sides in each.values() for i in sides.values()) for how, each in ahead.items()}
    print(
        table(
            ["ahead of", "cosine", "F1"],
            [
                [f"{n}, equal {how}", str(i["cosine"]), str(i["f1"])]
                for how, each in ahead.items()
                for n, i in each.items()
            ],
        )
    )
    print(f"at least {WANTED} ahead of every trainer in both: {least}")
    if quick:
        return
    write(
        "planted_sae",
        {
            "what": "autoencoders on Hierarchy(), about 1,000 planted atoms: cloche's default beside SAELens' trainers",
            "features": FEATURES,
            "l0": L0,
            "signals": length.signals,
            "batch": length.batch,
            "threads": 1,
            "load_before": load,
            "cpu_seconds_in_all": time.process_time() - began,
            "machine": machine(("torch", "sae-lens")),
            "wanted": {"ahead": WANTED},
            "met": {how: figure >= WANTED for how, figure in least.items()},
            "ahead": {
                how: {n: {f: {"mean": i.mean, "half": i.half} for f, i in s.items()} for n, s in each.items()}
                for how, each in ahead.items()
            },
            "chance": {name: i.mean for name, i in plain.report.chance.items()},
            "equal_signals": {name: o.record() for name, o in (mine | kinds | by_signals).items()},
            "equal_cpu_seconds": {name: o.record() for name, o in by_seconds.items()},
        },
    )


if __name__ == "__main__":
    main()
