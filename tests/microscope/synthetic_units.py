"""Synthetic findings about the units of a run: measured dictionaries, a crosscoder, density of neurons, sparse probing.

The dictionary costs 0.25 of the 5 nats that the mean costs (95% recovered); a crosscoder's feature i
has a share of i / 40 in its second site; layer l has 2% x (l + 1) of its neurons active; the best k of a basis' units score
0.5 + 0.03 k, lifted by 0.05 for neurons and by 0.1 for features.
"""

from __future__ import annotations

from typing import Any

from synthetic_run import FEATURES, LAYERS, features_data, write_finding

from cloche.runs import Run

CRITERIA = ["not zero", "above 0.01 RMS", "above 0.1 RMS"]
KS = [1, 2, 4, 8]
LABELS = {"digit": 0.06, "quoted": 0.031}
BASES = {"features": 1024, "resid_post[2]": 256, "mlp_act[2]": 688}
LIFT = {"features": 0.1, "resid_post[2]": 0.0, "mlp_act[2]": 0.05}


def dictionary_data(name: str = "resid_post-2", **changed: Any) -> dict[str, Any]:
    return {
        "dictionary": name, "site": "resid_post[2]", "kind": "TopK", "wiring": "autoencoder",
        "features": 1024, "trained_on": 200_000,
        "tokens_seen": 48_960, "fvu": 0.125, "l0": 32.0, "dead_share": 0.02,
        "density_histogram": {"edges": [-4.0, -3.0, -2.0, -1.0, 0.0], "counts": [24, 500, 480, 20]},
        "recovered": {"tokens": 48_960, "clean": 2.0, "spliced": 2.25, "ablated": 7.0, "kl": 0.1875, "share": 0.95},
        "gap": {
            "own": {"fvu": 0.125, "l0": 32.0, "dead_share": 0.02}, "same_atoms": {"fvu": 0.1, "l0": 32.0, "dead_share": 0.0},
            "of_encoder": 0.025,
        },
    } | changed  # fmt: skip


def crosscoder_data() -> dict[str, Any]:
    data = features_data()
    for feature in data["features"]:
        second = feature["id"] / FEATURES
        feature["shares"] = [1 - second, second]
    places = ["resid_post[1]", "step-000600/resid_post[2]"]
    return data | {"dictionary": "across", "site": " + ".join(places), "places": places}


def silent_data() -> dict[str, Any]:
    """Of a site that is no place of the residual stream: nothing is known of the logits."""
    data = features_data()
    for feature in data["features"]:
        feature |= {"top_logits": [], "bottom_logits": [], "shares": [1.0]}
    return data | {"dictionary": "neurons", "site": "mlp_act[1]", "places": ["mlp_act[1]"]}


def site_density(site: str, headline: str, density: list[float]) -> dict[str, Any]:
    return {
        "site": site, "units": 688, "rms": 1.0, "headline": headline, "density": density,
        "quantiles": [[share / 2, share, min(1.0, 2 * share)] for share in density], "dead": [0.0, 0.01, 0.25],
        "histogram": [[0] * 24] * 3, "hoyer": 0.75, "kurtosis": None if site == "mlp_act[0]" else 21.5,
    }  # fmt: skip


def density_data() -> dict[str, Any]:
    neurons = [
        site_density(f"mlp_act[{layer}]", CRITERIA[1], [1.0, 0.02 * (layer + 1), 0.002 * (layer + 1)])
        for layer in range(LAYERS)
    ]
    stream = [site_density(f"resid_post[{layer}]", CRITERIA[1], [1.0, 0.99, 0.92]) for layer in range(LAYERS)]
    return {
        "tokens": 16_320, "criteria": CRITERIA, "claims": {"transformer": [0.0, 0.005], "cortex": [0.01, 0.05]},
        "neurons": [1.0, 0.05, 0.005], "verdicts": ["over", "within", "under"], "edges": [-6 + i / 4 for i in range(25)],
        "sites": [*neurons, *stream], "skipped": {"3": "MoE"},
        "gaussian": {"density": [1.0, 0.992, 0.9203], "hoyer": 0.2021, "kurtosis": 3.0},
    }  # fmt: skip


def score(value: float) -> dict[str, float]:
    return {"accuracy": value, "balanced_accuracy": value, "f1": value / 2, "auroc": value}


def told(basis: str, shift: float) -> dict[str, Any]:
    right = [score(0.5 + 0.03 * k + LIFT[basis] + shift) for k in KS]
    return {
        "k": [{"k": k, "chosen": list(range(k)), **s} for k, s in zip(KS, right, strict=True)],
        "dense": score(0.875 + shift),
        "shuffled": [{"k": k, "chosen": list(range(k)), **score(0.5)} for k in KS],
    }


def probing_data() -> dict[str, Any]:
    """The second label is harder by 0.02 throughout."""
    return {
        "site": "resid_post[2]", "tokens": 10_000, "held_out": 3_060, "ks": KS,
        "bases": [{"name": name, "units": units} for name, units in BASES.items()],
        "labels": [
            {"name": name, "rate": rate, "bases": {basis: told(basis, -0.02 * i) for basis in BASES}}
            for i, (name, rate) in enumerate(LABELS.items())
        ],
        "skipped": {"keyword": "one class comes 3 times on one side"},
    }  # fmt: skip


def write_units(run: Run) -> None:
    """The newest features stay those of resid_post-2; `bare` was measured and its features were not read."""
    write_finding(run, "features", "across", "Across.", crosscoder_data(), hour=11)
    write_finding(run, "features", "silent", "Silent.", silent_data(), hour=10)
    write_finding(run, "dictionary", "old", "Old.", dictionary_data(fvu=0.5), hour=8)
    write_finding(run, "dictionary", "measured", "Measured.", dictionary_data(), hour=9)
    earlier = dictionary_data(fvu=0.625)
    write_finding(run, "dictionary", "earlier", "Of an earlier checkpoint.", earlier, checkpoint="step-000600", hour=14)
    unknown = dictionary_data()["recovered"] | {"ablated": 2.0, "share": None}
    bare = dictionary_data("bare", site="mlp_in[2] -> mlp_out[2]", gap=None, recovered=unknown)
    write_finding(run, "dictionary", "bare", "Bare.", bare, hour=13)
    write_finding(run, "activation-density", "density", "Of 688 neurons a layer 5.00% are active.", density_data())
    write_finding(run, "sparse-probing", "probing", "Mean F1 of 2 labels.", probing_data())
