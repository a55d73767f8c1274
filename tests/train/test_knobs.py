"""What the stability of training depends on is one `--set` each."""

from __future__ import annotations

import pytest

from cloche.model import MLP, MuP, RMSNorm, ScoredAttention, Unembed
from cloche.train import Recipe, check_model

KNOBS = {
    "model.body.block.mix.qk_norm": ("RMSNorm", lambda r: r.model.body.block.mix.qk_norm == RMSNorm()),
    "model.body.block.mix": (
        "ScoredAttention(Attention(heads=6), cap=50.0)",
        lambda r: isinstance(r.model.body.block.mix, ScoredAttention) and r.model.body.block.mix.cap == 50,
    ),
    "model.head.cap": ("30.0", lambda r: r.model.head == Unembed(cap=30.0)),
    "model.body.block.map": ("MLP(gelu)", lambda r: isinstance(r.model.body.block.map, MLP)),
    "model.body.depth": ("12", lambda r: r.model.body.depth == 12),
    "model.width": ("96", lambda r: r.model.width == 96),
    "initialisation": ("MuP(base_width=64)", lambda r: r.initialisation == MuP(base_width=64)),
    "run.precision": ("bf16", lambda r: r.run.precision == "bf16"),
    "run.length": ("512", lambda r: r.run.length == 512),
    "run.batch": ("4", lambda r: r.run.batch == 4),
    "schedule.warmup": ("0.1", lambda r: r.schedule.warmup == 0.1),
    "optimizer.weight_decay": ("0.2", lambda r: r.optimizer.weight_decay == 0.2),
    "optimizer.clip": ("0.5", lambda r: r.optimizer.clip == 0.5),
}


@pytest.mark.parametrize("key", KNOBS)
def test_one_setting_turns_it(key: str) -> None:
    value, turned = KNOBS[key]
    recipe = Recipe().with_set({key: value})
    assert turned(recipe)
    assert not turned(Recipe())
    assert Recipe.parse(recipe.to_toml()) == recipe
    check_model(recipe)
