"""The examples of docs/extending.md run, and what they define is found, built and used as ours is."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import cloche
from cloche.drawing import Finding
from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, RoPE, Stack, load_network, save_network
from cloche.part import part_from_line
from cloche.sparse import Dictionary, Kind, Training, load_sae, train_sae
from cloche.sparse.pursuit import Pursuit
from cloche.tasks import Task
from cloche.text import train_bpe
from cloche.train import Objective, Optimizer, Schedule, Stepper

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = {
    match["title"]: match["code"]
    for match in re.finditer(r"^## (?P<title>.+?)\n.*?^```python\n(?P<code>.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}
SPEC = LM(64, 32, Stack(2, Block(Attention(4), GLU())))
BATCH = torch.arange(20).reshape(2, 10)


def defined(title: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The example's module, as if it had been imported."""
    module = types.ModuleType("extending_" + re.sub(r"\W+", "_", title.lower()))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(EXAMPLES[title], f"docs/extending.md: {title}", "exec"), module.__dict__)
    return module


def test_every_example_is_short() -> None:
    assert len(EXAMPLES) == 9
    for title, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line.strip()]) < 30, title


def test_no_test_defines_a_class_of_the_same_name() -> None:
    """Parts are known by their names, and a class lives as long as its process."""
    own = {name for code in EXAMPLES.values() for name in re.findall(r"^class (\w+)\(", code, re.MULTILINE)}
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("*.py"))
    assert own and not own & set(re.findall(r"^\s*class (\w+)\(", tests, re.MULTILINE))


def test_an_objective(monkeypatch) -> None:
    module = defined("An objective", monkeypatch)
    part = part_from_line(f"{module.__name__}:LowEntropy(penalty=0.5)", Objective)
    terms = part.terms(SPEC.build(0), BATCH)
    assert list(terms) == ["loss", "entropy"] and terms["entropy"].weight == 0.5


def test_an_optimiser(monkeypatch) -> None:
    module = defined("An optimiser", monkeypatch)
    net = SPEC.build(0)
    (built,) = part_from_line(f"{module.__name__}:Momentum(lr=0.05)", Optimizer).build(net)
    net(BATCH).sum().backward()
    before = net.embed.weight.clone()
    built.step()
    assert not torch.equal(before, net.embed.weight)
    line = re.search(r'optimizer="(Momentum\(.*groups=.*)"`', PAGE)[1].replace(
        "Momentum", f"{module.__name__}:Momentum", 1
    )
    assert Stepper(net, part_from_line(line, Optimizer)).set_rate(1.0)["embed"] == 0.5


def test_a_schedule(monkeypatch) -> None:
    module = defined("A schedule", monkeypatch)
    schedule = part_from_line(f"{module.__name__}:Stairs", Schedule)
    assert [schedule.after(step, 0, 10) for step in (1, 9)] == [1.0, 0.1]


def test_a_body(monkeypatch) -> None:
    module = defined("A body", monkeypatch)
    net = LM(64, 32, module.Repeat(3, Block(Attention(4), GLU()))).build(0)
    assert net.run([[1, 2]], save="resid_post.all")["resid_post.all"].shape == (3, 1, 2, 32)
    assert net.flops_per_token(8) == LM(64, 32, Stack(3, Block(Attention(4), GLU()))).build(0).flops_per_token(8)


def test_a_kind_of_autoencoder(monkeypatch, tmp_path) -> None:
    module = defined("A kind of sparse autoencoder", monkeypatch)
    kind = part_from_line(f"{module.__name__}:Bounded(top=4)", Kind)
    rows = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    sae, _ = train_sae(rows, 16, 4, Training(steps=20, batch=64), kind=kind)
    sae.save(tmp_path / "sae")
    assert load_sae(tmp_path / "sae").kind == kind


def test_a_pursuit(monkeypatch) -> None:
    module = defined("A pursuit", monkeypatch)
    pursuit = part_from_line(f"{module.__name__}:Largest(k=2)", Pursuit)
    code = pursuit.encode(torch.tensor([[3.0, 0.5, -2.0]]), Dictionary(torch.eye(3)))
    assert sorted(code.indices[0].tolist()) == [0, 2]


def test_an_instrument(monkeypatch) -> None:
    module = defined("An instrument", monkeypatch)
    tokenizer = train_bpe(["the cat sat on the mat"] * 9, vocab=270)
    glass = cloche.Glass(LM(tokenizer.vocab, 32, SPEC.body).build(0), tokenizer)
    finding = module.norm_by_layer(glass)
    assert isinstance(finding, Finding) and "Norm by layer" in str(finding) + finding._repr_html_()


def test_a_task(monkeypatch) -> None:
    module = defined("A task", monkeypatch)
    task = part_from_line(f"{module.__name__}:Reverse", Task)
    item = task.example(level=2)
    letters = item.prompt.removeprefix("word: ").removesuffix(". reversed:").split()
    assert item.answer == " ".join(letters[::-1]) and task.verify(item, f"Answer: {item.answer}").strict == 1
    assert item.corrupted.answer == task.graph(item.corrupted).values["answer"] != item.answer
    pairs = task.items(train_bpe(["a"], vocab=259), 5, level=3)
    assert pairs.refused_share == 0 and pairs[0].positions["letter_0"] == (6,)
    assert task.variant(1).example(2).prompt != item.prompt


def test_a_hugging_face_family(monkeypatch, tmp_path) -> None:
    net = LM(64, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=64)))).build(0)
    net.family = "alpaca"
    module = defined("A Hugging Face family", monkeypatch)
    save_network(net, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    assert config["model_type"] == "alpaca" and config["dim"] == 32 and "hidden_size" not in config
    del config["cloche"]
    path.write_text(json.dumps(config))
    again = load_network(tmp_path / "model")
    assert again.family == "alpaca" and again.spec.resolved() == net.spec.resolved()
    assert torch.equal(again.run([[1, 2, 3]]).logits, net.run([[1, 2, 3]]).logits)
    twin = type("Alpaca", (module.Alpaca,), {"__module__": "other"})
    with pytest.raises(ClocheError, match=f"'alpaca' is read by families of {module.__name__} and other"):
        load_network(tmp_path / "model")
    del twin
    path.write_text(json.dumps(config | {"model_type": "vicuna"}))
    with pytest.raises(ClocheError, match=r"'vicuna' is not one cloche reads; it reads .*gemma2.*--import MODULE"):
        load_network(tmp_path / "model")


@pytest.mark.slow
def test_each_is_two_places_of_the_package() -> None:
    from bench import places

    code = places.examples()
    assert set(places.KINDS) == set(code)
    for title in ("An objective", "A body", "A Hugging Face family"):
        assert len(places.changed_by(title, code[title])) == 2
