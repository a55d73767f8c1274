"""Autoencoders, learned atoms, a fixed family and the truth in one table: how much of an error is the encoder's.

Three sets of signals: planted ones (64 dimensions, 256 atoms, 6 active), planted ones with groups and hierarchies at the
default size of about a thousand features, and 8 x 8 patches of photographs, where nobody knows the truth. Every dictionary is
learned from the same signals and measured on others, by its own encoder and by a pursuit over the same atoms at the same number
of active ones. Seconds are the CPU's, of learning alone, and say nothing of what more of them would buy.

    python -m bench.sparse.gap_table [--images FOLDER] [--steps 1000]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bench.rounds import asked, write
from bench.sparse.learners import IMAGES, patches
from cloche.sparse import BatchTopK, Hierarchy, SyntheticFeatures, TopK, Training, gap_table, train_sae
from cloche.sparse.learners import KSVD, OnlineDictionaryLearning
from cloche.sparse.pursuit import OMP
from cloche.sparse.transforms import Wavelets
from cloche.sparse.truth.gap_tables import GapTable, Learned

HELD = 4_000


def contestants(x: Tensor, features: int, k: int, wavelets: Wavelets, steps: int) -> dict[str, Callable[[], Learned]]:
    """Ways to learn a dictionary of `features` atoms from `x`, each with its own encoder."""
    training = Training(steps=steps, batch=1_024)
    code = OMP(k=k)
    return {
        "TopK autoencoder": lambda: train_sae(x, features, k, training, kind=TopK())[0],
        "BatchTopK autoencoder": lambda: train_sae(x, features, k, training, kind=BatchTopK())[0],
        "K-SVD, OMP": lambda: KSVD(features, code).fit(x[:10_000])[1],
        "online learning, OMP": lambda: OnlineDictionaryLearning(features, code, passes=2).fit(x)[1],
        f"{wavelets.name} wavelets, OMP": lambda: code.over(wavelets.dictionary()),
    }


def measured(learners: dict[str, Callable[[], Learned]], held: Tensor, **truth: object) -> tuple[GapTable, dict]:
    learned, seconds = {}, {}
    for name, learn in learners.items():
        start = time.process_time()
        learned[name] = learn()
        seconds[name] = time.process_time() - start
    return gap_table(learned, held, **truth), seconds  # type: ignore[arg-type]


def record(table: GapTable, seconds: dict[str, float]) -> dict[str, object]:
    rows = {}
    for row in table.rows:
        gap = row.gap
        rows[row.name] = {
            "cpu_seconds": seconds[row.name],
            "fvu": {"own": gap.own.fvu, "pursuit": gap.same.fvu, "truth": gap.best and gap.best.fvu},
            "gap": {"of_encoder": gap.of_encoder, "of_dictionary": gap.of_dictionary, "of_noise": gap.of_noise},
            "l0": gap.own.l0,
            "dead_share": gap.own.dead_share,
            "f1": row.own and row.same and {"own": row.own.f1, "pursuit": row.same.f1},
            "cosine": row.own and row.own.cosine,
        }
    if table.truth:
        seen, found = table.truth
        rows["the true atoms, OMP"] = {"fvu": seen.fvu, "l0": seen.l0, "f1": found.f1, "cosine": found.cosine}
    return rows


def main() -> None:
    options = asked(__doc__, images=IMAGES, steps=1_000)
    torch.set_num_threads(1)
    results = {}
    small, default = SyntheticFeatures(width=64, features=256, active=6), Hierarchy()
    for name, truth, k in (("planted", small, 6), ("planted hierarchy", default, 13)):
        x, (held, code) = truth.sample(64_000)[0], truth.sample(HELD, seed=2)
        learners = contestants(x, truth.features, k, Wavelets((truth.width,), "db2", 4), options.steps)
        table, seconds = measured(learners, held, truth=truth.dictionary, code=code)
        print(f"{name}: {truth}\n{table}\n", flush=True)
        results[name] = record(table, seconds)
    x, held = patches(options.images, 8)
    table, seconds = measured(contestants(x, 256, 6, Wavelets((8, 8), "db2", 2), options.steps), held[:HELD])
    print(f"patches of photographs\n{table}", flush=True)
    results["patches"] = record(table, seconds)
    write(
        "gap_table",
        {
            "what": "variance unexplained by each dictionary's own encoder, by a pursuit over its atoms, and by the truth",
            "held_out": HELD,
            "sae_steps": options.steps,
            "signals": results,
        },
        "torch numpy numba PyWavelets",
    )


if __name__ == "__main__":
    main()
