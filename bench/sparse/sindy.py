"""Equations of motion from noisy series: the support found, over ten systems, beside pysindy; and the cost of the weak form.

Each run has 5,000 samples (see sindy_systems.py) with Gaussian noise of 5, 10 or 20% of each state's standard deviation, and
counts as found when every equation has exactly its true terms. cloche runs `SINDy(library)`, its one default, without
being told the noise. pysindy is offered the same terms and samples, and its settings are swept: weak form (half-widths of 1/2,
1 and 2 times the radius ours takes; as many windows) and smoothed finite differences (windows of 11 and 41), each with STLSQ
at many thresholds, columns normalised or not. Its best setting is looked up knowing the truth: for each system and noise on
its own, and one setting for all systems of a noise. The sweep is slow, so it may be held to the first seeds. Then the weak
form is timed on one system, and whole fits. Last come the situations of sindy_situations.py, in which equations are easily
wrong. With --peer-seeds 0 or --rounds 0 what results/sindy.json holds of pysindy's sweep, on the same seeds, or of the timing
is kept.

    python -m bench.sparse.sindy [--seeds 20] [--first-seed 100] [--peer-seeds 20] [--systems NAME ...]
        [--workers 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from bench.rounds import RESULTS, Side, Spread, busy, interleave, machine, ratio, table, write
from bench.sparse.sindy_situations import judge
from bench.sparse.sindy_systems import SYSTEMS, System
from cloche.sparse.sindy import SINDy, Weak
from cloche.sparse.sindy.series import Series, noise_of, read, timescale

try:
    import pysindy
except ImportError:
    pysindy = None

NOISES = (0.05, 0.1, 0.2)
GOALS = {0.05: 0.9, 0.1: 0.9, 0.2: 0.5}
WANTED_FASTER = 20.0
THRESHOLDS = (0.01, 0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)
RIDGE = 1e-3  # of pysindy's STLSQ; its default of 0.05 biases coefficients on windows of small mass
WIDTHS = (0.5, 1.0, 2.0)
SMOOTHINGS = (11, 41)
WINDOWS = 400  # in all the trajectories of a run together


@dataclass
class Tally:
    """What was found over the seeds of one system at one noise."""

    ours: int = 0
    runs: int = 0
    cpu: float = 0.0  # seconds of our fits
    theirs: Counter[str] = field(default_factory=Counter)
    peer_runs: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


def supports(names: list[str] | tuple[str, ...], coefficients: np.ndarray) -> tuple[frozenset[str], ...]:
    """The terms of each equation; coefficients [terms, states]."""
    return tuple(frozenset(names[j] for j in np.flatnonzero(column)) for column in coefficients.T)


def one_system(name: str, seeds: range, peer_seeds: int) -> dict[float, Tally]:
    """All the runs of a system; the peer's on the first so many of the seeds."""
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        system, tallies = SYSTEMS[name], {noise: Tally() for noise in NOISES}
        for seed in seeds:
            rng, t, clean, u = system.clean(seed)
            spread = np.concatenate(clean).std(0)
            drawn = [rng.standard_normal(x.shape) for x in clean]
            for noise, tally in tallies.items():
                xs = [x + noise * spread * e for x, e in zip(clean, drawn, strict=True)]
                ours(system, xs, t, u, tally)
                if seed - seeds.start < peer_seeds:
                    tally.peer_runs += 1
                    tally.theirs.update(theirs(system, xs, t, u))
    return tallies


def ours(system: System, xs: list[np.ndarray], t: np.ndarray, u: list[np.ndarray] | None, tally: Tally) -> None:
    before = time.process_time()
    model = SINDy(system.library, resamples=0).fit(xs, [t] * len(xs), u, system.states, system.inputs)
    tally.cpu += time.process_time() - before
    tally.runs += 1
    found, truth = supports(model.terms, model.coefficients), tuple(map(frozenset, system.truth))
    tally.ours += found == truth
    for state, got, true in zip(system.states, found, truth, strict=True):
        tally.wrong.update(
            [f"{state}' + {term}" for term in got - true] + [f"{state}' - {term}" for term in true - got]
        )


def theirs(system: System, xs: list[np.ndarray], t: np.ndarray, u: list[np.ndarray] | None) -> list[str]:
    """Which of pysindy's settings find the support."""
    names = system.library.names(system.variables)
    truth, found = tuple(map(frozenset, system.truth)), []
    for form, (terms, slopes) in their_rows(system, xs, t, u).items():
        for threshold, normal in product(THRESHOLDS, (False, True)):
            optimizer = pysindy.STLSQ(threshold=threshold, alpha=RIDGE, normalize_columns=normal)
            try:
                coefficients = np.asarray(optimizer.fit(terms, slopes).coef_).T
            except (ValueError, np.linalg.LinAlgError):
                continue  # it refuses thresholds that leave no term
            if supports(names, coefficients) == truth:
                found.append(f"{form}, threshold {threshold:g}{' of normalised columns' if normal else ''}")
    return found


def their_rows(
    system: System, xs: list[np.ndarray], t: np.ndarray, u: list[np.ndarray] | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matrices pysindy hands its optimiser, for each form: made once, since thresholds do not change them."""
    rows, radius = {}, our_radius(xs, t, u)
    for width in WIDTHS:
        np.random.seed(0)  # where its windows stand is drawn from here
        weak = their_weak(system, t, len(xs), width * radius)
        rows[f"weak, {width:g} radii"] = _recorded(weak, None, xs, t, u)
    for window in SMOOTHINGS:
        smooth = pysindy.SmoothedFiniteDifference(smoother_kws={"window_length": window, "polyorder": 3})
        rows[f"smoothed over {window}"] = _recorded(their_library(system), smooth, xs, t, u)
    return rows


def their_weak(system: System, t: np.ndarray, runs: int, half_width: float) -> object:
    return pysindy.WeakPDELibrary(
        function_library=their_library(system),
        spatiotemporal_grid=t,
        K=WINDOWS // runs,
        H_xt=float(min(half_width, (t[-1] - t[0]) / 2.1)),
        is_uniform=True,
    )


def their_library(system: System) -> object:
    """Our terms as a pysindy library: the same columns in the same order, so supports are compared by place."""
    from pysindy.feature_library.base import BaseFeatureLibrary, x_sequence_or_item
    from pysindy.utils import AxesArray

    class Terms(BaseFeatureLibrary):
        @x_sequence_or_item
        def fit(self, x_full, y=None):
            self.n_features_in_ = x_full[0].shape[x_full[0].ax_coord]
            self.n_output_features_ = len(system.library.names(system.variables))
            return self

        @x_sequence_or_item
        def transform(self, x_full):
            found = []
            for x in x_full:
                flat = np.asarray(x).reshape(-1, x.shape[-1])
                values = system.library.values(flat).reshape(*x.shape[:-1], -1)
                found.append(AxesArray(values, x.axes))
            return found

        def get_feature_names(self, input_features=None):
            return system.library.names(system.variables)

    return Terms()


def _recorded(library, derivative, xs, t, u) -> tuple[np.ndarray, np.ndarray]:
    class Recorder(pysindy.STLSQ):
        def fit(self, x_, y, *rest, **more):
            self.seen = np.array(x_), np.array(y)
            return super().fit(x_, y, *rest, **more)

    recorder = Recorder(threshold=0.0, alpha=RIDGE)
    model = pysindy.SINDy(optimizer=recorder, feature_library=library, differentiation_method=derivative)
    model.fit(xs, t=[t] * len(xs), u=u)
    return recorder.seen


def our_radius(xs: list[np.ndarray], t: np.ndarray, u: list[np.ndarray] | None) -> float:
    series = read(xs, [t] * len(xs), u)
    noise = noise_of(series)
    return Weak().radius_for(series, timescale(series, noise))


def speed(rounds: int) -> dict[str, object]:
    """The weak form of one Lorenz run: the integrals of all terms and derivatives from the samples, as many windows each."""
    system = SYSTEMS["Lorenz"]
    rng, t, clean, _ = system.clean(0)
    xs = [x + 0.05 * x.std(0) * rng.standard_normal(x.shape) for x in clean]
    radius, series = our_radius(xs, t, None), read(xs, [t])

    def our_form() -> object:
        return [our_rows(one, radius, system) for one in series]

    def our_fit() -> object:
        return SINDy(system.library, resamples=0).fit(xs, [t])

    sides = [Side("cloche, weak form", our_form), Side("cloche, whole default fit", our_fit)]
    if pysindy is not None:
        form = [
            Side("pysindy, weak form", lambda: _recorded(their_weak(system, t, 1, radius), None, xs, t, None)),
            Side("pysindy, weak form, grid kept", _kept(their_weak(system, t, 1, radius), xs, t)),
        ]
        sides = [*form, *sides]
    interleave(sides, rounds)
    named = {side.name: side for side in sides}
    mine = named["cloche, weak form"]
    seconds = {s.name: {c: Spread.of(getattr(s, c)).record() for c in ("wall", "cpu")} for s in sides}
    faster = {s.name: ratio(s, mine).record() for s in sides if s.name.startswith("pysindy")}
    return {
        "seconds": seconds,
        "weak_form_faster": faster,
        "wanted": WANTED_FASTER,
        "windows": WINDOWS,
        "samples": len(t),
    }


def our_rows(one: Series, radius: float, system: System) -> tuple[np.ndarray, np.ndarray]:
    V, D = Weak().matrices(one, radius)
    return V @ system.library.values(one.variables), D @ one.x


def _kept(library, xs, t):
    return lambda: _recorded(library, None, xs, t, None)


def summary(found: dict[str, dict[float, Tally]], peer: bool) -> dict[str, object]:
    names, record = list(found), {}
    for noise in NOISES:
        tallies = [found[name][noise] for name in names]
        runs = sum(tally.runs for tally in tallies)
        entry: dict[str, object] = {
            "ours": sum(tally.ours for tally in tallies) / runs,
            "goal": GOALS[noise],
            "runs": runs,
            "systems": {name: found[name][noise].ours / found[name][noise].runs for name in names},
            "cpu_seconds_a_fit": {name: found[name][noise].cpu / found[name][noise].runs for name in names},
            "wrong": {name: dict(found[name][noise].wrong.most_common(6)) for name in names},
        }
        if peer:
            peer_runs = sum(tally.peer_runs for tally in tallies)
            best = {name: found[name][noise].theirs.most_common(1) for name in names}
            whole = sum((tally.theirs for tally in tallies), Counter()).most_common(1)
            entry["pysindy"] = {
                "runs": peer_runs,
                "best_setting_of_each_system": sum(top[0][1] if top else 0 for top in best.values()) / peer_runs,
                "best_setting_for_all": {"setting": whole[0][0], "share": whole[0][1] / peer_runs} if whole else None,
                "systems": {
                    name: {"setting": top[0][0], "share": top[0][1] / found[name][noise].peer_runs} if top else None
                    for name, top in best.items()
                },
            }
        record[f"{noise:g}"] = entry
    return record


def _with_stored_peer(record: dict[str, object], stored: dict[str, dict[str, object]]) -> bool:
    """Puts pysindy's stored figures beside ours where they are of the same systems; whether it did."""
    same = all(
        "pysindy" in stored.get(noise, {}) and stored[noise]["systems"].keys() == entry["systems"].keys()
        for noise, entry in record.items()
    )
    for noise, entry in record.items() if same else ():
        entry["pysindy"] = stored[noise]["pysindy"]
    return same


def _situation_rows(told: dict[str, dict[str, dict[str, int]]]) -> list[list[str]]:
    return [
        [name, noise, *(str(counts[key]) for key in ("runs", "exact", "warned", "confident"))]
        for name, noises in told.items()
        for noise, counts in noises.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=100, help="seeds below 20 were those it was developed on")
    parser.add_argument("--peer-seeds", type=int, default=20)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    peer, load = pysindy is not None and options.peer_seeds > 0, busy()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    stored = json.loads((RESULTS / "sindy.json").read_text()) if (RESULTS / "sindy.json").exists() else {}
    timed = stored.get("speed", {})
    if not options.rounds:
        load = stored.get("load", load)  # that of the timing
    else:
        with threadpool_limits(1):
            timed = speed(options.rounds)
    for name, clock in timed.get("seconds", {}).items():
        print(f"{name}: {1e3 * clock['wall']['median']:.1f} ms", flush=True)
    with ProcessPoolExecutor(options.workers) as pool:
        judged = pool.submit(judge, seeds)
        futures = {
            name: pool.submit(one_system, name, seeds, options.peer_seeds if peer else 0) for name in options.systems
        }
        found = {}
        for name, future in futures.items():
            found[name] = future.result()
            print(
                name,
                {noise: (tally.ours, tally.theirs.most_common(1)) for noise, tally in found[name].items()},
                flush=True,
            )
        told = judged.result()
    record = summary(found, peer)
    if not peer and stored.get("first_seed") == seeds.start:
        peer = _with_stored_peer(record, stored["found"])
    rows = []
    for name in options.systems:
        cells = [f"{record[f'{noise:g}']['systems'][name]:.0%}" for noise in NOISES]
        if peer:
            tops = [record[f"{noise:g}"]["pysindy"]["systems"][name] for noise in NOISES]
            cells += [f"{top['share']:.0%}" if top else "0%" for top in tops]
        rows.append([name, *cells])
    header = ["exact support", *(f"{noise:.0%}" for noise in NOISES)]
    print(table(header + [f"pysindy {noise:.0%}" for noise in NOISES] if peer else header, rows))
    print(table(["situation", "noise", "runs", "exact", "warned", "confident"], _situation_rows(told)))
    packages = ("numpy", "scipy", "pysindy", "scikit-learn")
    write(
        "sindy",
        {
            "machine": machine(packages),
            "load": load,
            "first_seed": seeds.start,
            "found": record,
            "speed": timed,
            "situations": told,
        },
    )


if __name__ == "__main__":
    main()
