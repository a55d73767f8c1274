"""Nearest neighbours and intrinsic dimension beside scikit-learn, dadapy and scikit-dimension: CPU seconds and agreement.

    python -m bench.setup manifolds          # once: an environment with the peers
    bench/.venvs/manifolds/bin/python -m bench.interp.manifolds

Points are Gaussian, 10,000 of 256 dimensions in fp32 as activations are, and cubes of known dimension. Every side computes the
neighbours it needs. One thread each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from dadapy import Data
from skdim.id import TwoNN
from sklearn.neighbors import NearestNeighbors

from bench.rounds import Side, asked, interleave, ratio, table, write
from cloche.interp.manifolds.dimension import gride, two_nn
from cloche.interp.manifolds.neighbours import nearest_points

COUNT, DIM, NEIGHBOURS = 10_000, 256, 10
CUBES = (1, 2, 5, 10, 20)


def drawn(kind: str, n: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.random((n, dim)) if kind == "cube" else rng.standard_normal((n, dim))
    return made.astype(np.float32)


def theirs(points: np.ndarray) -> float:
    return float(Data(points, verbose=False, n_jobs=1).compute_id_2NN(algorithm="base")[0])


def scikit_dimension(points: np.ndarray) -> float:
    wide = points if points.shape[1] > 1 else np.hstack([points, np.zeros_like(points)])  # it refuses a single column
    return float(TwoNN(discard_fraction=0.1).fit(wide).dimension_)


def dada_gride(points: np.ndarray) -> np.ndarray:
    return Data(points, maxk=128, verbose=False, n_jobs=1).return_id_scaling_gride(range_max=128)[0]


def neighbours(rounds: int) -> dict[str, object]:
    points = drawn("normal", COUNT, DIM)
    tensor = torch.from_numpy(points)
    search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", n_jobs=1)
    ours = Side("cloche", lambda: nearest_points(tensor, NEIGHBOURS))
    peer = Side("scikit-learn, brute", lambda: search.fit(points).kneighbors())
    interleave([ours, peer], rounds, warm=1)
    same = (
        np.sort(nearest_points(tensor, NEIGHBOURS)[1].numpy()) == np.sort(search.fit(points).kneighbors()[1])
    ).mean()
    return told(f"{NEIGHBOURS} nearest of {COUNT:,} x {DIM}", ours, [peer]) | {"same_neighbours": float(same)}


def dimensions(rounds: int) -> dict[str, object]:
    points = drawn("cube", COUNT, 20)
    tensor = torch.from_numpy(points)
    ours = Side("cloche", lambda: two_nn(tensor))
    peers = [Side("dadapy", lambda: theirs(points)), Side("scikit-dimension", lambda: scikit_dimension(points))]
    interleave([ours, *peers], rounds, warm=1)
    record = told(f"TwoNN of {COUNT:,} x 20", ours, peers)
    rows = []
    for d in CUBES:
        cube = drawn("cube", 2_000, d)
        found = [two_nn(torch.from_numpy(cube)), theirs(cube), scikit_dimension(cube)]
        rows.append([str(d), *(f"{value:.3f}" for value in found)])
    print(table(["cube", "cloche", "dadapy", "scikit-dimension"], rows) + "\n")
    return record | {"cubes": rows}


def scales(rounds: int) -> dict[str, object]:
    points = drawn("cube", 2_000, 5)
    tensor = torch.from_numpy(points)
    ours = Side("cloche", lambda: gride(tensor))
    peer = Side("dadapy", lambda: dada_gride(points))
    interleave([ours, peer], rounds, warm=1)
    mine, other = [scale.dimension for scale in gride(tensor)], dada_gride(points).tolist()
    print("GRIDE by scale: cloche", [f"{d:.3f}" for d in mine], "dadapy", [f"{d:.3f}" for d in other], "\n")
    return told("GRIDE of 2,000 x 5, 7 scales", ours, [peer]) | {"cloche": mine, "dadapy": other}


def told(title: str, ours: Side, peers: list[Side]) -> dict[str, object]:
    rows = [[side.name, f"{np.median(side.cpu):.3f}", str(ratio(side, ours, "cpu"))] for side in (ours, *peers)]
    print(table([title, "CPU s", "times ours"], rows) + "\n")
    return {side.name: {"cpu": side.cpu, "times_ours": ratio(side, ours, "cpu").record()} for side in (ours, *peers)}


def main() -> None:
    options = asked(__doc__, rounds=5, threads=1)
    record = {
        "neighbours": neighbours(options.rounds),
        "two_nn": dimensions(options.rounds),
        "gride": scales(options.rounds),
    }
    write("manifolds", record, "torch numpy scikit-learn dadapy scikit-dimension")


if __name__ == "__main__":
    main()
