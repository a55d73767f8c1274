"""Effects of every cell of a site (layer x head, layer x place) on pairs of prompts, as a finding shows them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from cloche.drawing import Form, Heatmap, Table
from cloche.interp.metrics import Metric
from cloche.tasks import Task

TOP = 10  # cells in the table


@dataclass(frozen=True)
class Grid:
    """Effects [pair, layer, cell] with the names of layers and cells. `unit`: "pair" or "prompt"; `form`: of its numbers."""

    effects: Tensor
    layers: list[str]
    columns: list[str]
    unit: str = "pair"
    form: Form = "percent"

    @cached_property
    def mean(self) -> Tensor:
        """Mean over pairs, [layer, cell]."""
        return self.effects.mean(0)

    @property
    def largest(self) -> float:
        return float(self.mean.max())

    @property
    def best(self) -> tuple[str, str]:
        """Layer and cell of the largest effect."""
        layer, column = divmod(int(self.mean.argmax()), len(self.columns))
        return self.layers[layer], self.columns[column]

    def over(self, task: Task) -> str:
        """Such as "8 pairs of Add"."""
        count = len(self.effects)
        return f"{count} {self.unit if count == 1 else f'{self.unit}s'} of {task}"

    def data(self, task: Task, site: str, metric: Metric, values: str = "effects", **more: Any) -> dict[str, Any]:
        """A finding's data: what was asked, the names of the cells, and their mean effects under the name `values`."""
        asked = {"task": str(task), "site": site, "metric": str(metric), "pairs": len(self.effects), **more}
        return asked | {"layers": self.layers, "columns": self.columns, values: self.mean.tolist()}

    def heatmap(self, title: str) -> Heatmap:
        """Mean effects, the last layer on top."""
        return Heatmap.by_layer(title, self.layers, self.columns, self.mean.tolist(), form=self.form)

    def table(self, title: str, value: str, **beside: Tensor) -> Table:
        """The cells of the largest mean effects, with their spread over pairs; further values are [layer, cell]."""
        further = [self.effects.std(0, correction=0), *beside.values()]
        names = [(layer, column) for layer in self.layers for column in self.columns]
        rows = tuple(
            (*names[i], *(float(each.flatten()[i]) for each in (self.mean, *further)))
            for i in self.mean.flatten().argsort(descending=True)[:TOP].tolist()
        )
        columns = ("layer", "cell", value, f"spread over {self.unit}s", *beside)
        return Table(title, columns, rows, ("number", "number", *[self.form] * (len(columns) - 2)))
