"""docs/extending.md: its module is imported and each of its parts is used, found by its name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from cloche.glass import Glass
from cloche.interp import instruments
from cloche.model import GLU, LM, Attention, Block, Stack
from cloche.part import import_parts, part_from_line
from cloche.sparse import Kind, Training, train_sae
from cloche.train import Objective, Optimizer, total_loss

PAGE = Path(__file__).parents[1] / "docs/extending.md"


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    (tmp_path / "my_parts.py").write_text(code[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    import_parts(["my_parts"])


@pytest.mark.usefixtures("imported")
def test_the_page_is_a_module_that_works() -> None:
    net = LM(vocab=31, width=16, body=Stack(2, Block(Attention(heads=2), GLU("silu")))).build(seed=0)
    ids = torch.randint(31, (4, 9), generator=torch.Generator().manual_seed(0))
    objective = part_from_line("WithZLoss(z=1e-3)", Objective, where="objective")
    (steps,) = part_from_line("Momentum(lr=0.02)", Optimizer, where="optimizer").build(net)
    terms = objective.terms(net, ids)
    before = total_loss(terms)
    before.backward()
    steps.step()
    assert set(terms) >= {"loss", "z"} and total_loss(objective.terms(net, ids)) < before
    kind = part_from_line("Squared()", Kind, where="--kind")
    sae, _ = train_sae(torch.randn(64, 8), 16, 2.0, Training(steps=2, batch=32), kind=kind)
    assert sae.kind == kind
    found = instruments()["norm-growth"](Glass(net), ids[:1])
    assert found.figures["growth"] > 0 and found.null == {"growth": 1.0}
