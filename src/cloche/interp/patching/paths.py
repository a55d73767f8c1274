"""Path patching: which edges between components carry the answer from one prompt to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Panel, Provenance, Table
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric, preference_notes
from cloche.interp.patching.cells import Contrast, contrasts, last_logits
from cloche.interp.patching.edges import EdgePasses, Mode, Receiver, Sender, receivers, senders
from cloche.interp.patching.grids import TOP
from cloche.interp.patching.patch import Direction, check_apart, ends_of
from cloche.interp.significance import Answers
from cloche.interp.subject import Subject
from cloche.model import Network
from cloche.tasks import Task

MODES = {"free": "everything after the receiver computed again", "frozen": "everything off the path kept"}


@torch.no_grad()
def path_patching(
    subject: Subject,
    task: Task,
    receiver: str = "logits",
    mode: Mode = "free",
    metric: Metric = LOGIT_DIFFERENCE,
    direction: Direction = "denoise",
    pairs: int = 8,
    seed: int = 0,
) -> Finding:
    """The exact effect of each edge into a receiver: only the receiver's input has what one sender wrote on the other prompt of
    a pair, at all positions, and its norm is computed again (path patching, Wang et al. 2022, 2211.00593; Goldowsky-Dill et
    al. 2023, 2304.05969).

    Senders are the embedding, each head (z times its W_O) and each MLP, their norms after them included. `receiver`: "logits",
    "mlp_in[3]", q, k or v of a head ("q[2].head(1)"; heads of k and v are those of keys and values), or of a layer's heads
    together ("q[2]"), or "all" for every edge of a model. There is no edge within a layer but from its heads to its MLP, and
    in a parallel block none.

    mode "free": everything after the receiver is computed again, as in ACDC (2304.14997) and in EAP-IG's exact scores.
    "frozen": the path is sender, receiver, logits, and all other components keep the values they have on the base prompt,
    for which no pass is needed. Neither is the first step of Wang et al., in which MLPs between sender and receiver are
    computed again. Scale and `direction` are those of `activation_patching`; pairs are of the task's first level.

    The null patches every edge of the first pair with its own value: 0 but for rounding. `p` as in `activation_patching`.
    `arrays`: effects [pair, sender, receiver], and edges [sender, receiver], where there is one. Raises what
    `activation_patching` raises, InstrumentOption for another receiver, and ModelUnsupported for a body or a mixer whose
    edges are unknown.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import path_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(2), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = path_patching(glass, Add(), receiver="q[1].head(0)", pairs=2)
    >>> finding.data["senders"]
    ['embed', 'z[0].head(0)', 'z[0].head(1)', 'mlp_out[0]']
    >>> finding.arrays["effects"].shape, finding.null["largest"] < 1e-5
    ((2, 4, 1), True)
    """
    net = subject.net
    wanted = receivers(net, receiver)
    writing = [each for each in senders(net) if each.order < max(other.order for other in wanted)]
    found = contrasts(subject, task, pairs, None, seed)
    others = Answers.of(subject, found, seed)
    measured, ends = [], []
    for contrast, answers in zip(found, others.pairs, strict=True):
        change, right, wrong = _changes(net, contrast, writing, wanted, (mode, metric, direction), answers)
        measured.append(change)
        ends.append((right, wrong))
    changes = torch.stack(measured)  # [pair, answer, sender, receiver]
    apart = torch.tensor([right - wrong for right, wrong in ends], dtype=torch.float64)
    graph = _Edges(writing, wanted, changes[:, 0] / apart[:, None, None])
    null = _identical(net, found[0], graph, mode, metric, direction)
    clean, corrupted = (fmean(values) for values in zip(*ends, strict=True))
    largest, mean = graph.mean.flatten()[graph.exists.flatten()].aminmax().max, graph.mean[graph.exists].mean()
    figures = {"largest": float(largest), "mean": float(mean), "clean": clean, "corrupted": corrupted}
    figures |= others.p(changes[:, :, graph.exists])
    over = f"{len(found)} {'pair' if len(found) == 1 else 'pairs'} of {task}"
    verb = "restores" if direction == "denoise" else "destroys"
    summary = (
        f"The edge from {' to '.join(graph.best)} {verb} {figures['largest']:.0%} of the {metric} between clean ({clean:.3g}) "
        f"and corrupted ({corrupted:.3g}) prompts, the most of {int(graph.exists.sum()):,} edges, over {over} ({mode}: "
        f"{MODES[mode]})."
    )
    data: dict[str, Any] = {
        "task": str(task),
        "receiver": receiver,
        "mode": mode,
        "metric": str(metric),
        "direction": direction,
    }
    data |= {"pairs": len(found), "senders": graph.senders, "receivers": graph.receivers, "effects": graph.rows}
    data["notes"] = preference_notes(metric, clean)
    about = Provenance("path-patching", subject.checkpoint, seed=seed)
    arrays = {"effects": graph.effects, "edges": graph.exists}
    return Finding(about, summary, figures, data, arrays, {"largest": null}, graph.panels(net, mode))


def _changes(
    net: Network,
    contrast: Contrast,
    writing: Sequence[Sender],
    wanted: Sequence[Receiver],
    how: tuple[Mode, Metric, Direction],
    answers: Tensor,
) -> tuple[Tensor, float, float]:
    """What each edge restores or destroys of the metric of each (answer, against), [answer, sender, receiver], in its units;
    and the metric of the pair's own answer on its clean and corrupted prompt."""
    mode, metric, direction = how
    clean, corrupted = last_logits(net, contrast.clean), last_logits(net, contrast.corrupted)
    right, wrong = (float(metric.read(end, contrast.answer, contrast.against, clean)) for end in (clean, corrupted))
    check_apart(metric, right, wrong)
    start = metric.read_many((corrupted if direction == "denoise" else clean)[None], answers, clean)
    values = EdgePasses(net, *ends_of(contrast, direction), mode).values(
        writing, wanted, lambda rows: metric.read_many(rows, answers, clean)
    )
    change = values - start[0] if direction == "denoise" else start[0] - values
    return change.permute(2, 0, 1).double().cpu(), right, wrong


def _identical(
    net: Network, contrast: Contrast, graph: _Edges, mode: Mode, metric: Metric, direction: Direction
) -> float:
    """The most that any edge changes of the metric where source and base are the same prompt."""
    base, _ = ends_of(contrast, direction)
    clean, own = last_logits(net, contrast.clean), contrast.asked
    start = metric.read_many(last_logits(net, base)[None], own, clean)
    values = EdgePasses(net, base, base, mode).values(
        graph.writing, graph.wanted, lambda rows: metric.read_many(rows, own, clean), dead=True
    )
    return float((values - start[0]).abs().max())


@dataclass(frozen=True, eq=False)
class _Edges:
    """Effects [pair, sender, receiver] of the edges, as a finding shows them."""

    writing: Sequence[Sender]
    wanted: Sequence[Receiver]
    effects: Tensor

    @property
    def senders(self) -> list[str]:
        return [each.name for each in self.writing]

    @property
    def receivers(self) -> list[str]:
        return [each.name for each in self.wanted]

    @property
    def mean(self) -> Tensor:
        """Mean over pairs, [sender, receiver]."""
        return self.effects.mean(0)

    @property
    def exists(self) -> Tensor:
        """Where there is an edge, [sender, receiver]."""
        return torch.tensor([[u.order < v.order for v in self.wanted] for u in self.writing])

    @property
    def rows(self) -> list[list[float | None]]:
        """Mean effects, None where there is no edge."""
        values, exists = self.mean.tolist(), self.exists.tolist()
        return [[x if here else None for x, here in zip(*row, strict=True)] for row in zip(values, exists, strict=True)]

    @property
    def ranked(self) -> list[tuple[int, int]]:
        """Sender and receiver of each edge, the largest effect first."""
        order = self.mean.masked_fill(~self.exists, -torch.inf).flatten().argsort(descending=True)
        return [divmod(i, len(self.wanted)) for i in order[: int(self.exists.sum())].tolist()]

    @property
    def best(self) -> tuple[str, str]:
        u, v = self.ranked[0]
        return self.senders[u], self.receivers[v]

    def panels(self, net: Network, mode: Mode) -> tuple[Panel, ...]:
        spread = self.effects.std(0, correction=0)
        rows = tuple(
            (self.senders[u], self.receivers[v], float(self.mean[u, v]), float(spread[u, v]))
            for u, v in self.ranked[:TOP]
        )
        columns = ("sender", "receiver", "effect", "spread over pairs")
        table = Table("The largest effects", columns, rows, ("number", "number", "percent", "percent"))
        if len(self.wanted) > 1:
            title = f"Effect of patching each edge ({mode}), from sender (row) to receiver"
            return Heatmap.by_layer(title, self.senders, self.receivers, self.rows, form="percent"), table
        return self._by_layer(net, mode), table

    def _by_layer(self, net: Network, mode: Mode) -> Heatmap:
        """Effects of the edges into one receiver, by layer and sender; the embedding is a row of its own."""
        heads = max(net.layers[each.layer].mix.heads for each in self.writing)
        columns = ["embed", *(f"h{head}" for head in range(heads)), "mlp"]
        layers = range(-1, max(each.layer for each in self.writing) + 1)
        cells: dict[int, list[float | None]] = {layer: [None] * len(columns) for layer in layers}
        for each, (value,) in zip(self.writing, self.rows, strict=True):
            cells[each.layer][columns.index(each.column)] = value
        names = ["before the layers" if layer < 0 else net.body.named(layer) for layer in cells]
        title = f"Effect of each sender's edge into {self.receivers[0]} ({mode})"
        return Heatmap.by_layer(title, names, columns, cells.values(), form="percent")
