"""docs/stability.md from the results of bench/train/knobs.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from cloche.diagnose.responses import MONITORS, Response, beyond, respond, spread_of
from cloche.drawing import number, percent

SHORT = {  # column heads
    **{"diverged": "div.", "alarms": "alarms", "grad_norm": "grad", "grad_norm_max": "grad max", "update_norm": "upd"},
    **{"update_norm_max": "upd max", "update_ratio": "upd/w", "weight_norm": "w norm", "resid_variance": "var"},
    **{"resid_growth": "growth", "attention_entropy": "entropy", "attention_entropy_min": "ent. min"},
    **{"kurtosis": "kurt.", "density": "active", "dead_units": "dead", "logit_norm": "logits", "noise_scale": "noise"},
    **{"val_gap": "gap"},
}
MOST = 3  # monitors named in the short table
INTRO = """# Stability knobs

Each knob of training turned alone, and what every monitor says of it. `python -m bench.train.knobs` makes this page;
`cloche compare RECIPE --vary optimizer.clip=1,0.1 --monitors --out FOLDER` shows the same for your own recipe.

**The runs.** A transformer of three layers of width 48 (RMSNorm before each branch, rotary positions, gated SiLU, AdamW
with weight decay 0.1, gradients clipped at 1, 4% warm-up) learns tinyshakespeare in {steps} steps of 8 rows of 64 tokens,
at a good learning rate ({good:g}) and at four times that ({high:g}). Each setting has {seeds} seeds, the same as the
baseline, which has {many} in all. Knobs of size keep the number of tokens: with 2 rows there are four times the steps,
with rows of 16 tokens four times the rows.

**How to read a number.** It is the setting's mean difference from the baseline, paired by seed, in units of the baseline's
standard deviation over seeds (its *spread*): +10 means ten spreads higher. A dot is a difference below {limit:.2f} spreads,
which seeds alone exceed in about 5% of cases. A number with = is in the monitor's own unit, where all seeds of the
baseline agree. Of a monitor that hardly varies over seeds, such as the update norm, a small change is many spreads; the
baseline's value and its spread are in the first two rows.

**Controls.** {control} With three other seeds in place of the baseline's, {null} of its monitors moved beyond the limit.

**Limits.** {steps} steps of a tiny model: what needs thousands of steps or a hundred layers does not show. Bits per byte
of rows of another length are also with another context. About {each:.0f} cells of each large table are expected to be noise.
"""
CLAIMS_INTRO = """A statement is *supported* if the two settings differ in the figure as it says, beyond Student's 95% interval
of their differences, paired by seed, *contradicted* if they differ the other way round, and otherwise *within noise*. The
values are means over seeds, in the order of the settings.
"""


Moves = dict[str, dict[str, Response]]  # by setting and monitor


def page(record: Mapping[str, Any]) -> str:
    rates = record["rates"]
    moves = {name: responses(rate) for name, rate in rates.items()}
    parts = [
        INTRO.format(
            **{"steps": record["steps"], "seeds": record["seeds"], "many": record["baseline_seeds"]},
            **{name: rate["lr"] for name, rate in rates.items()},
            limit=beyond(record["baseline_seeds"], record["seeds"]),
            control=control_said(moves.values()),
            null=" and ".join(f"{percent(rate['moved_by_other_seeds'])} ({name} rate)" for name, rate in rates.items()),
            each=0.05 * len(MONITORS) * len(rates["good"]["settings"]),
        ),
        *("## In short\n", in_short(rates, moves), "\n## What the field says\n\n" + CLAIMS_INTRO),
        claims_table(record["claims"]),
    ]
    for name, rate in rates.items():
        parts += [f"\n## Every monitor at the {name} rate, {rate['lr']:g}\n", monitors_table(rate, moves[name])]
    meanings = [f"- `{name}`{_as(name)}: {meaning}" for name, meaning in MONITORS.items()]
    return "\n".join([*parts, "\n## The monitors\n", *meanings, ""])


def responses(rate: Mapping[str, Any]) -> Moves:
    """How each setting but the baseline moves each monitor."""
    first, *others = ({m: dict(enumerate(v)) for m, v in row["values"].items()} for row in rate["settings"])
    names = [row["name"] for row in rate["settings"][1:]]
    return {name: {m: respond(first[m], own[m]) for m in MONITORS} for name, own in zip(names, others, strict=True)}


def control_said(moves: Iterable[Moves]) -> str:
    """What the control, the first setting, moved at most."""
    control = [next(iter(each.items())) for each in moves]
    key = control[0][0].partition(": ")[2].split()[0]
    moved = max(abs(each.difference) for _, own in control for each in own.values() if each.difference is not None)
    if not moved:
        return f"Another `{key}`, which changes nothing, moved each of the {len(MONITORS)} monitors by exactly 0."
    return f"Another `{key}`, which should change nothing, moved a monitor by {number(moved)}."


def in_short(rates: Mapping[str, Any], moves: Mapping[str, Moves]) -> str:
    rows = []
    for pair in zip(*(rate["settings"][1:] for rate in rates.values()), strict=True):
        name = pair[0]["name"]
        moved = [{n: each for n, each in own[name].items() if each.moved} for own in moves.values()]
        most = sorted(moved[0], key=lambda n: -abs(moved[0][n].response or math.inf))
        counts = "/".join(str(len(each)) for each in moved)
        rows.append([name, *map(_bits, pair), counts, ", ".join(f"`{n}`" for n in most[:MOST]) or "none"])
    head = ["knob", "bits per byte, good rate", "high rate", f"moved of {len(MONITORS)}", "moved most, good rate"]
    first = [["baseline", *(number(rate["settings"][0]["mean"]) for rate in rates.values()), "", ""]]
    return markdown(head, [*first, *rows])


def _bits(row: Mapping[str, Any]) -> str:
    """The difference from the baseline with its interval; in bold if the interval leaves out zero."""
    diverged = f"{row['diverged']} ended in NaN" if row["diverged"] else ""
    if row["difference"] is None:
        return diverged
    told = f"{row['difference']:+.3f}" + ("" if row["difference_half"] is None else f" ± {row['difference_half']:.3f}")
    bold = f"**{told}**" if row["verdict"] in ("better", "worse") else told
    return f"{bold}; {diverged}" if diverged else bold


def claims_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for each in found:
        values = " and ".join(number(value) for value in each["values"])
        source = f" ({each['source']})" if each["source"] else ""
        sides = f"{each['of']} {'>' if each['more'] else '<'} {each['than']}"
        rows.append([each["says"] + source, f"{each['what']}: {sides}", each["rate"], values, f"**{each['verdict']}**"])
    for before, after in zip(reversed(rows[:-1]), reversed(rows[1:]), strict=True):  # a statement is written once
        if before[:2] == after[:2]:
            after[:2] = ["", ""]
    return markdown(["statement", "figure", "rate", "values", "found"], rows)


def monitors_table(rate: Mapping[str, Any], moves: Moves) -> str:
    first = rate["settings"][0]["values"]
    means = [number(fmean(known)) if (known := _known(first[name])) else "–" for name in MONITORS]
    spreads = [number(spread_of(first[name])) for name in MONITORS]
    rows = [[name, *(_cell(own[monitor]) for monitor in MONITORS)] for name, own in moves.items()]
    head = ["setting", *(SHORT.get(name, name) for name in MONITORS)]
    return markdown(head, [["*baseline*", *means], ["*spread*", *spreads], *rows])


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _cell(each: Response) -> str:
    if not each.moved:
        return "·" if each.difference is not None else "–"
    return f"={each.difference:+.2g}" if each.response is None else signed(each.response)


def signed(value: float) -> str:
    """Two or three digits: "+3.1", "-12", "+4k", "+2e+09".

    >>> from bench.train.knob_page import signed
    >>> [signed(x) for x in (3.14, -12.3, 4200, 2.2e9)]
    ['+3.1', '-12', '+4k', '+2e+09']
    """
    size = abs(value)
    if size >= 1e6:
        return f"{value:+.0e}"
    if size >= 1000:
        return f"{value / 1000:+.0f}k"
    return f"{value:+.0f}" if size >= 10 else f"{value:+.1f}"


def _as(name: str) -> str:
    return f" ({SHORT[name]})" if SHORT.get(name, name) != name else ""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
