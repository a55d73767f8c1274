"""The data source of pretraining: batches of packed tokens as a recipe draws them."""

from __future__ import annotations

import json
from typing import Any

import torch

from cloche.data import Batches, BestFitLayout, Draw, PackedTokens, Rows, mix
from cloche.runs import Run
from cloche.train.objectives.batch import TokenBatch
from cloche.train.recipe.recipe import Recipe

CHOICES = 3  # what the seeds of batches are for, apart from those of their order


class TokenSource:
    """Batches of packed tokens on a device, with an exact cursor and the hashes of the shards. `seed` is that of the random
    choices which an objective makes on them; `masks`: attention does not cross documents."""

    def __init__(
        self, batches: Batches, device: str, shards: dict[str, str], seed: int = 0, masks: bool = False
    ) -> None:
        self.batches, self.device, self.shards, self.seed, self.masks = batches, device, shards, seed, masks

    def next(self) -> TokenBatch:
        """The next batch; its seed is a function of the source's and of how many there were."""
        step = self.batches.step
        return self._batch(self.batches.next_rows(), step)

    def at(self, step: int) -> TokenBatch:
        """The batch of any step; the cursor does not move."""
        return self._batch(self.batches.rows(step), step)

    def _batch(self, rows: Rows, step: int) -> TokenBatch:
        ids, documents, weights = (None if array is None else torch.from_numpy(array).to(self.device) for array in rows)
        assert ids is not None
        return TokenBatch(ids, documents if self.masks else None, weights, mix(self.seed, step, CHOICES))

    def figures(self) -> dict[str, float]:
        """The epochs of each source of a mixture so far, for metrics.jsonl."""
        epochs = self.batches.epochs
        return {f"epochs_{name}": epoch for name, epoch in epochs.items()} if len(epochs) > 1 else {}

    def state(self) -> dict[str, Any]:
        return {"batches": self.batches.state(), "shards": self.shards}

    def restore(self, state: dict[str, Any]) -> None:
        self.batches.restore(state["batches"])


def batches_of(recipe: Recipe, tokens: PackedTokens) -> Batches:
    """The batches that a resolved recipe trains on.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> from cloche.train import Recipe, batches_of
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> recipe = Recipe().with_set({"run.length": 8, "run.batch": 2, "run.steps": 10})
    >>> batches_of(recipe, PackedTokens.open("corpus", "train")).at(3).shape
    (2, 9)
    """
    r, mixture = recipe.run, recipe.data.mixture
    parts = tokens.parts
    weights = mixture.shares([len(part) for part in parts]) if mixture and len(mixture.sources) > 1 else None
    draw = Draw(recipe.rows.packing, weights, recipe.rows.curriculum, _batches(recipe))
    return Batches(tokens, r.length, r.batch, r.seed, draw)


def _batches(recipe: Recipe) -> int:
    """About how many batches a run takes."""
    steps, schedule = recipe.run.steps or 0, recipe.schedule
    rising = schedule.ramp * steps
    return round((steps - rising) * schedule.accumulate + rising * (schedule.accumulate + 1) / 2)


def described(batches: Batches, recipe: Recipe, run: Run) -> str:
    """What the event of a session says of its text and rows, where they are not drawn by default."""
    said = []
    if recipe.data.duplicates is not None:
        found = json.loads((run.path / "data" / "data.json").read_bytes()).get("sources", {}).get("duplicates")
        if found:
            said.append(
                f"{found['documents']:,} duplicates of {found['bytes']:,} bytes were left out by {found['rule']}"
            )
    if len(batches.shares) > 1:
        said.append("rows from " + ", ".join(f"{name} {share:.1%}" for name, share in batches.shares.items()))
    for name, source in zip(batches.names, batches.sources, strict=True):
        if isinstance(layout := source.layout, BestFitLayout):
            of = f" of {name}" if len(batches.names) > 1 else ""
            said.append(
                f"{layout.used:.1%} of the slots{of} hold tokens, {layout.whole:.1%} of the documents fit in one row, the "
                "others are cut"
            )
    if recipe.rows.document_masks:
        said.append("attention stays within documents")
    if recipe.rows.curriculum is not None:
        said.append(f"curriculum {recipe.rows.curriculum}")
    return "".join(f"; {each}" for each in said)
