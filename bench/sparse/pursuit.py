"""Codes of many signals over one dictionary: orthogonal matching pursuit and the lasso, beside scikit-learn and SPAMS.

One thread each, one process, the dictionary used again from call to call: cloche keeps its Gram on the dictionary, and
scikit-learn and SPAMS are handed theirs ready-made wherever they take one (orthogonal_mp_gram, Lasso(precompute=G),
spams.lasso(Q=G, q=...)). spams.omp takes none and forms it in each call; so its cost a signal is taken from the difference
between a call with all the signals and one with half of them. scikit-learn's OMP runs as it is fastest while still choosing
all k atoms: over the Gram in float32 up to 1,024 atoms, beyond that without it (it copies it for each signal) and in float64
(without the Gram its float32 ends early on some signals and does less work). Its lasso runs in float64, since the gap is out
of reach in float32; all else in float32. Slow sides get fewer signals, and figures are per signal. Before anything is timed,
supports (OMP) and objectives (lasso) are compared with scikit-learn's in float64; sides that disagree are not timed.
scikit-learn's lasso and ours stop at a duality gap of 1e-6 of the signal's energy; SPAMS' lasso is a homotopy and exact.

    python -m bench.sparse.pursuit [--rounds 5]
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import Lasso as TheirLasso
from sklearn.linear_model import orthogonal_mp, orthogonal_mp_gram
from threadpoolctl import threadpool_limits

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.sparse import Dictionary
from cloche.sparse.pursuit import OMP, Lasso

try:
    import spams
except ImportError:
    spams = None

OMP_SHAPES = [
    (256, 1_024, 32, 512, 24),
    (256, 4_096, 16, 1_024, 4),
    (768, 16_384, 32, 768, 1),
]  # d, N, k, signals, theirs
LASSO_SHAPES = [(256, 512, 0.15, 512, 64), (256, 1_024, 0.15, 512, 64)]  # d, N, penalty, signals of norm one, theirs
WANTED = {"omp_scikit_learn": 50.0, "omp_spams": 1.3, "lasso_scikit_learn": 4.0}
EQUAL_SUPPORTS = 0.999
SMALL = 1_024  # atoms beyond which scikit-learn is faster without its Gram, which it copies for each signal
GAP = 1e-6
HALF = "SPAMS, half the signals"


def planted(width: int, atoms: int, active: int, n: int) -> tuple[Dictionary, torch.Tensor]:
    """A random unit dictionary, and signals of `active` Gaussian amounts with 1% noise, scaled to norm one."""
    rng = torch.Generator().manual_seed(0)
    dictionary = Dictionary(torch.nn.functional.normalize(torch.randn(atoms, width, generator=rng), dim=1))
    chosen = torch.rand(n, atoms, generator=rng).topk(active, dim=1).indices
    amounts = torch.randn(n, active, generator=rng)
    x = torch.einsum("nk,nkd->nd", amounts, dictionary.atoms[chosen]) + 0.01 * torch.randn(n, width, generator=rng)
    return dictionary, torch.nn.functional.normalize(x, dim=1)


def omp_sides(shape: tuple[int, int, int, int, int]) -> tuple[list[Side], float]:
    width, atoms, k, n, few = shape
    dictionary, x = planted(width, atoms, k // 2, n)
    columns = np.asfortranarray(dictionary.atoms.numpy().T)
    theirs = orthogonal_mp(columns.astype(np.float64), x[:few].double().numpy().T, n_nonzero_coefs=k).T.reshape(few, -1)
    ours = OMP(k=k).encode(x, dictionary).dense()[:few].numpy()
    equal = float(np.mean(((theirs != 0) == (ours != 0)).all(1)))
    if atoms <= SMALL:
        gram, scores = columns.T @ columns, columns.T @ x[:few].numpy().T
        peer = Side("scikit-learn", lambda: orthogonal_mp_gram(gram, scores, n_nonzero_coefs=k), few)
    else:
        double, signals = columns.astype(np.float64), np.asfortranarray(x[:few].double().numpy().T)
        peer = Side("scikit-learn", lambda: orthogonal_mp(double, signals, n_nonzero_coefs=k), few)
    sides = [
        peer,
        Side("cloche", lambda: OMP(k=k).encode(x, dictionary), n),
    ]
    if spams is not None:
        fortran_x, fortran_d = np.asfortranarray(x.numpy().T), np.asfortranarray(dictionary.atoms.numpy().T)

        def theirs_of(signals: np.ndarray) -> object:
            return spams.omp(signals, D=fortran_d, L=k, eps=0.0, numThreads=1)

        half = np.asfortranarray(fortran_x[:, : n // 2])
        sides.append(Side("SPAMS", lambda: theirs_of(fortran_x), n))
        sides.append(Side(HALF, lambda: theirs_of(half), n // 2))
    return sides, equal


def lasso_sides(shape: tuple[int, int, float, int, int]) -> tuple[list[Side], float]:
    width, atoms, penalty, n, few = shape
    dictionary, x = planted(width, atoms, 16, n)
    double = dictionary.atoms.double().numpy()
    gram, design, targets = double @ double.T, np.asfortranarray(double.T), x[:few].double().numpy().T
    peer = TheirLasso(penalty / width, fit_intercept=False, precompute=gram, tol=GAP, max_iter=100_000)
    theirs = peer.fit(design, targets).coef_
    ours = Lasso(penalty, gap=GAP).encode(x, dictionary).dense()[:few].double().numpy()

    def objective(a: np.ndarray) -> np.ndarray:
        return 0.5 * ((targets.T - a @ double) ** 2).sum(1) + penalty * np.abs(a).sum(1)

    worse = float((objective(ours) - objective(theirs)).max())
    sides = [
        Side("scikit-learn", lambda: peer.fit(design, targets), few),
        Side("cloche", lambda: Lasso(penalty, gap=GAP).encode(x, dictionary), n),
    ]
    if spams is not None:
        fortran_x = np.asfortranarray(x.numpy().T)
        fortran_d = np.asfortranarray(dictionary.atoms.numpy().T)
        fortran_gram = np.asfortranarray(gram.astype(np.float32))

        def homotopy() -> object:
            scores = np.asfortranarray(fortran_d.T @ fortran_x)
            return spams.lasso(fortran_x, Q=fortran_gram, q=scores, lambda1=penalty, mode=2, numThreads=1)

        sides.append(Side("SPAMS", homotopy, n))
    return sides, worse


def measured(sides: list[Side], rounds: int) -> dict[str, object]:
    interleave(sides, rounds, warm=1)
    named = {side.name: side for side in sides}
    if half := named.pop(HALF, None):
        named["SPAMS"] = without_gram(named["SPAMS"], half)
    sides = list(named.values())
    ours = next(side for side in sides if side.name == "cloche")
    peers = [side for side in sides if side is not ours]
    micro = {
        s.name: {c: Spread.of(1e6 * t / s.units for t in getattr(s, c)).record() for c in ("wall", "cpu")}
        for s in sides
    }
    faster = {s.name: {clock: ratio(s, ours, clock).record() for clock in ("wall", "cpu")} for s in peers}
    return {"microseconds_a_signal": micro, "faster": faster}


def without_gram(whole: Side, half: Side) -> Side:
    """What the second half of the signals cost, round by round: what a call does once is in both sides."""
    wall = [w - h for w, h in zip(whole.wall, half.wall, strict=True)]
    cpu = [w - h for w, h in zip(whole.cpu, half.cpu, strict=True)]
    return Side(whole.name, whole.work, whole.units - half.units, wall, cpu)


def main() -> None:
    options = asked(__doc__, rounds=5)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        run(options.rounds)


def run(rounds: int) -> None:
    results: list[dict[str, object]] = []
    for shape in OMP_SHAPES:
        sides, equal = omp_sides(shape)
        if equal < EQUAL_SUPPORTS:
            raise SystemExit(f"OMP {shape[:3]}: only {equal:.1%} of the supports are scikit-learn's; nothing was timed")
        named = {"pursuit": "OMP", "width": shape[0], "atoms": shape[1], "k": shape[2], "equal_supports": equal}
        results.append({**named, **measured(sides, rounds)})
    for shape in LASSO_SHAPES:
        sides, worse = lasso_sides(shape)
        if worse > GAP:
            raise SystemExit(f"lasso {shape[:3]}: an objective is {worse:.1e} above scikit-learn's; nothing was timed")
        named = {
            "pursuit": "lasso",
            "width": shape[0],
            "atoms": shape[1],
            "penalty": shape[2],
            "worse_objective": worse,
        }
        results.append({**named, **measured(sides, rounds)})
    print(table(["pursuit, d x N", "side", "CPU us a signal", "cloche times faster"], rows(results)))
    met = verdict(results)
    print(met)
    if spams is None:
        print("SPAMS is not installed: its side was skipped")
    write(
        "pursuit",
        {
            "what": "sparse codes over a reused dictionary on one thread of the CPU, beside scikit-learn and SPAMS",
            "wanted": WANTED,
            "met": met,
            "shapes": results,
        },
        "torch numpy numba scikit-learn spams-bin",
    )


def rows(results: list[dict[str, object]]) -> list[list[str]]:
    out = []
    for r in results:
        for name, clocks in r["microseconds_a_signal"].items():  # type: ignore[attr-defined]
            faster = r["faster"].get(name)  # type: ignore[attr-defined]
            spread = faster and Spread(**faster["cpu"])
            shape = f"{r['pursuit']}, {r['width']} x {r['atoms']:,}" + (f", k = {r['k']}" if "k" in r else "")
            out.append([shape, name, f"{clocks['cpu']['median']:.0f}", str(spread) if spread else ""])
    return out


def verdict(results: list[dict[str, object]]) -> dict[str, bool]:
    """Whether at every shape the median reaches what is wanted and no round says otherwise than faster."""
    met = {}
    for wanted, least in WANTED.items():
        pursuit, _, peer = wanted.partition("_")
        name = {"scikit_learn": "scikit-learn", "spams": "SPAMS"}[peer]
        found = [
            r["faster"][name]["cpu"] for r in results if str(r["pursuit"]).lower() == pursuit and name in r["faster"]
        ]  # type: ignore[index, operator]
        if found:
            met[wanted] = all(spread["median"] >= least and spread["least"] > 1 for spread in found)
    return met


if __name__ == "__main__":
    main()
