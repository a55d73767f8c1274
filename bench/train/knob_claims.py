"""What the field says of stability knobs, and whether the runs of bench/train/knobs.py agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from cloche import load
from cloche.diagnose import verdict
from cloche.interp import sharpness
from cloche.runs import Run

EARLY = 0.2  # share of the steps that are early
ROWS, LENGTH = 8, 64  # of the text that is run after training
Measure = str | Callable[[Run, "Text"], float]  # a monitor, or a figure of a run
Text = Callable[[Any], torch.Tensor]  # a loaded model -> token ids


@dataclass(frozen=True)
class Claim:
    """`of` has less of `measure`, which is called `what`, than `than` has; or more."""

    says: str
    source: str
    measure: Measure
    what: str
    of: str
    than: str
    more: bool = False


def early_update(run: Run, text: Text) -> float:
    return max(_early(run, "update_norm"))


def early_gradient(run: Run, text: Text) -> float:
    return max(_early(run, "grad_norm"))


def loss_noise(run: Run, text: Text) -> float:
    """Deviation of the loss of one batch from its neighbours', over the second half of the steps."""
    losses = _steps(run, "loss")
    late = losses[len(losses) // 2 :]
    return pstdev(b - a for a, b in pairwise(late)) / 2**0.5


def lowest_entropy(run: Run, text: Text) -> float:
    """Attention entropy of the head with the lowest, in any record of the run, as a share of the largest possible."""
    return min(h for r in run.read_log("health") for layer in r["attention_entropy"] for h in layer if h is not None)


def first_growth(run: Run, text: Text) -> float:
    """Variance of the stream after the last layer over that of the embeddings, in the first record of health."""
    variance = run.read_log("health")[0]["resid_variance"]
    return variance[-1] / variance[0]


def largest_score(run: Run, text: Text) -> float:
    glass = load(run.path)
    scores = glass.run(text(glass), save=[glass.sites.scores.all])[glass.sites.scores.all]
    return scores[scores.isfinite()].abs().max().item()


def normaliser(run: Run, text: Text) -> float:
    """Not the size of the logits, which grows: with log Z at zero they are logarithms of probabilities."""
    glass = load(run.path)
    return glass.run(text(glass)).logits.logsumexp(-1).abs().mean().item()


def curvature(run: Run, text: Text) -> float:
    glass = load(run.path)
    return sharpness(glass, [text(glass)], steps=8).figures["sharpness"]


def _steps(run: Run, name: str) -> list[float]:
    return [value for record in run.read_log("steps") for value in record[name] if value is not None]


def _early(run: Run, name: str) -> list[float]:
    values = _steps(run, name)
    return values[: max(1, round(EARLY * len(values)))]


UPDATE, GRADIENT = "largest update norm of the first fifth", "largest gradient norm of the first fifth"
LOWEST = "lowest attention entropy of the run"
CLAIMS = (
    Claim("Warm-up keeps the first updates small", "2406.09405", early_update, UPDATE, "warm-up: 20%", "warm-up: none"),
    Claim(
        *("Warm-up prevents the collapse of attention entropy", "2303.06296"),
        *(lowest_entropy, LOWEST, "warm-up: 20%", "warm-up: none", True),
    ),
    Claim(
        "Clipping keeps the first updates small, also Adam's",
        "",
        early_update,
        UPDATE,
        "clipping: at 0.1",
        "clipping: none",
    ),
    Claim(
        *("Weight decay keeps weights small", "1711.05101", "weight_norm"),
        *("weight norm", "weight decay: 1", "weight decay: none"),
    ),
    Claim(
        *("With weight decay the same rate turns the weights faster, since they are smaller", "2305.17212"),
        *("update_ratio", "update ratio", "weight decay: none", "weight decay: 1"),
    ),
    Claim(
        *("Residual branches divided by the root of the depth keep the residual variance", "GPT-2; 1908.11365"),
        *(
            first_growth,
            "growth of the variance at the first record",
            "baseline",
            "branch scale: not divided by the depth",
        ),
    ),
    Claim(
        *("That still holds at the end of training", "", "resid_growth"),
        *("growth of the variance at the end", "baseline", "branch scale: not divided by the depth"),
    ),
    Claim(
        *("Without normalisation the residual variance grows", "1901.09321", "resid_growth"),
        *("growth of the variance at the end", "baseline", "norm: none"),
    ),
    Claim(
        *("A norm after each branch bounds the residual variance", "2501.00656", "resid_growth"),
        *("growth of the variance at the end", "norm: post", "baseline"),
    ),
    Claim(
        *("qk_norm bounds the attention scores", "2302.05442; 2309.14322"),
        *(largest_score, "largest attention score after training", "softmax: qk_norm", "baseline"),
    ),
    Claim(
        *("qk_norm prevents the collapse of attention entropy", "2309.14322"),
        *(lowest_entropy, LOWEST, "softmax: qk_norm", "baseline", True),
    ),
    Claim(
        *("Larger scores lower the attention entropy", "2303.06296", "attention_entropy"),
        *("attention entropy", "softmax: scores x 4", "baseline"),
    ),
    Claim(
        *("The z-loss keeps log Z, the logarithm of the softmax's sum, near zero", "2204.02311", normaliser),
        *("mean of |log Z| after training", "regularisation: z-loss 1e-2", "baseline"),
    ),
    Claim(
        *("Label smoothing keeps logits small", "1906.02629", "logit_norm"),
        *("root mean square of the logits", "regularisation: smoothing 0.1", "baseline"),
    ),
    Claim(
        "Larger batches lower the noise",
        "1812.06162",
        loss_noise,
        "noise of the loss",
        "batch: 32 rows",
        "batch: 2 rows",
    ),
    Claim(
        *("Larger batches end where the loss curves more", "1609.04836"),
        *(curvature, "sharpness after training", "batch: 2 rows", "batch: 32 rows"),
    ),
    Claim(
        *("Shorter rows are more stable early in training", "2108.06084"),
        *(early_gradient, GRADIENT, "length: 16 tokens", "length: 256 tokens"),
    ),
    Claim(
        *("At equal parameters the deep, narrow model's residual stream grows more", "", "resid_growth"),
        *("growth of the variance at the end", "depth x width: 1 x 72", "depth x width: 8 x 32"),
    ),
    Claim(
        *("Squared ReLU is sparser than SiLU", "2402.03804", "density"),
        *("share of active hidden units", "activation: relu2", "baseline"),
    ),
    Claim(
        *("A penalty on activations silences hidden units", "", "dead_units"),
        *("share of dead units", "baseline", "regularisation: activations 1e-3"),
    ),
    Claim("bf16 costs bits", "", "bits", "bits per byte", "baseline", "precision: bf16"),
)


def claims(rates: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path, text: Path) -> list[dict[str, Any]]:
    """Each claim at each rate: the mean of its measure on both sides, and whether the difference, paired by seed, agrees."""
    tail = text.read_text()[-8000:]
    found = []
    for claim in CLAIMS:
        for rate in rates:
            rows = {row["name"]: row for row in rates[rate]}
            if not {claim.of, claim.than} <= rows.keys():
                continue
            sides = [_values(rows[name], claim.measure, folder / rate, tail) for name in (claim.of, claim.than)]
            pairs = [
                pair for pair in zip(*sides, strict=True) if None not in pair
            ]  # of seeds that both have a figure for
            of, than = zip(*pairs, strict=True) if pairs else ((), ())
            found.append(
                {
                    **{key: getattr(claim, key) for key in ("says", "source", "what", "of", "than", "more")},
                    **{"rate": rate, "values": [fmean(side) if side else None for side in (of, than)]},
                    "verdict": judged(of, than, claim.more),
                }
            )
    return found


def judged(of: Sequence[float], than: Sequence[float], more: bool = False) -> str:
    """Whether `of` is below `than`, or above it where `more` is said, beyond Student's 95% interval of their differences over
    seeds: "supported", "contradicted" if it is so the other way round, else "within noise".

    >>> from bench.train.knob_claims import judged
    >>> judged([1.0, 1.1], [2.0, 2.1]), judged([2.0, 2.1], [1.0, 1.1]), judged([1.0, 2.0], [1.5, 1.4])
    ('supported', 'contradicted', 'within noise')
    """
    said = verdict([b - a if more else a - b for a, b in zip(of, than, strict=True)])
    return {"better": "supported", "worse": "contradicted"}.get(said, said.partition(":")[0])


def _values(row: Mapping[str, Any], measure: Measure, folder: Path, tail: str) -> list[float | None]:
    """The measure for each seed."""

    def ids(glass: Any) -> torch.Tensor:
        return torch.tensor(glass.tokenizer.encode(tail)[: ROWS * LENGTH]).view(ROWS, LENGTH)

    if measure == "bits":
        return row["bits"]
    if isinstance(measure, str):
        return row["values"][measure][: len(row["runs"])]
    return [measure(Run.open(folder / name), ids) for name in row["runs"]]
