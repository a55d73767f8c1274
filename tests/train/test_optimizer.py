"""Optimisers: groups as declared, Muon against torch's and against the singular values, a state saved by name."""

import pytest
import torch
from regression import regression
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.runs import Run
from cloche.train import Muon, NextToken, Optimizer, Stepper, total_loss
from cloche.train.optimizers.muon import MatrixMuon, orthogonalise

KINDS = [
    "AdamW",
    "Muon",
    "SOAP(every=2)",
    "Shampoo(every=2)",
    "RMSprop(momentum=0.9, centered=True)",
    "SGD(nesterov=True, weight_decay=0.1)",
    "KFAC(every=2)",
]


def stepped(kind, steps=4, restore_at=None):
    """A tiny network after some steps, its optimiser optionally rebuilt from its saved state on the way."""
    recipe = tiny_recipe(optimizer=kind)
    net, generator = recipe.model.build(0), torch.Generator().manual_seed(0)
    optimizer = Stepper(net, recipe.optimizer)
    for step in range(steps):
        if step == restore_at:
            saved = {name: value.clone() for name, value in optimizer.state().items()}
            optimizer = Stepper(net, recipe.optimizer)
            optimizer.restore(saved)
        optimizer.zero_grad()
        total_loss(NextToken().terms(net, torch.randint(300, (2, 17), generator=generator))).backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(kind):
    net, optimizer = stepped(kind, steps=0)
    groups = [group for part in optimizer.parts for group in part.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    matrices = {id(p) for _, p in net.groups()["matrix"]}
    assert {id(p) for group in groups if group["weight_decay"] for p in group["params"]} == matrices
    assert isinstance(optimizer.parts[0], MatrixMuon) == (kind == "Muon")


def test_the_rate_scales_every_group():
    _, optimizer = stepped("Muon", steps=0)
    assert optimizer.set_rate(0.5) == pytest.approx({"matrix": 0.5 * Muon().lr, "rest": 0.5 * 0.3 * Muon().lr})
    assert optimizer.parts[0].param_groups[0]["lr"] == pytest.approx(0.5 * Muon().lr)


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_through_names_exactly(kind):
    straight, _ = stepped(kind)
    broken, optimizer = stepped(kind, restore_at=3)
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    held = {"SGD": "momentum_buffer", "RMSprop": "square_avg"}.get(kind.partition("(")[0], "exp_avg")
    assert f"embed.weight/{held}" in optimizer.state()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_state(tmp_path, kind):
    loop = regression(Run.create(tmp_path / "run", ""), 20, planted={6: float("nan")})
    loop.optimizer = Stepper(loop.net, part_from_line(kind, Optimizer))
    with pytest.raises(ClocheError, match="step 7"):
        list(loop)
    assert all(torch.isfinite(value).all() for value in [*loop.optimizer.state().values(), *loop.net.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_that_is_never_used_stays_finite_and_the_others_learn(kind):
    net = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "unused": torch.nn.Linear(3, 2)})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    stepper = Stepper(net, part_from_line(kind, Optimizer))
    for step in range(5):
        stepper.zero_grad()
        net["used"](torch.full((1, 3), 1.0 + step)).square().sum().backward()
        stepper.step()
    decayed = {name: p.norm() <= before[name].norm() for name, p in net.named_parameters() if "unused" in name}
    assert all(decayed.values()) and all(torch.isfinite(value).all() for value in stepper.state().values())
    assert not torch.equal(net["used"].weight, before["used.weight"])


def test_a_foreign_state_is_refused():
    _, adamw = stepped("AdamW", steps=1)
    with pytest.raises(ClocheError, match="disagree"):
        adamw.restore({f"x{name}": value for name, value in adamw.state().items()})


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_muon_steps_as_torch_does(shape):
    g = torch.Generator().manual_seed(0)
    start, grads = torch.randn(shape, generator=g), [torch.randn(shape, generator=g) for _ in range(3)]
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    mine, reference = MatrixMuon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for grad in grads:
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        mine.step(), reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() / moved < 0.02  # torch's products are in bf16


def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions():
    x = torch.randn(2, 20, 50, generator=torch.Generator().manual_seed(3))
    y = orthogonalise(x)
    values = torch.linalg.svdvals(y)
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    diagonal = (u.mT @ y @ vt.mT).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal, torch.linalg.vecdot(u.mT @ y, vt, dim=-1))
    assert (u.mT @ y @ vt.mT - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_blocks_are_orthogonalised_by_themselves():
    g = torch.Generator().manual_seed(0)
    grad = torch.cat([torch.randn(8, 16, generator=g), 100 * torch.randn(4, 16, generator=g)])
    whole, parts = torch.nn.Parameter(torch.zeros(12, 16)), [torch.nn.Parameter(torch.zeros(n, 16)) for n in (8, 4)]
    whole.grad, parts[0].grad, parts[1].grad = grad, grad[:8], grad[8:]
    MatrixMuon([whole], blocks={whole: [8, 4]}).step()
    MatrixMuon(parts).step()
    torch.testing.assert_close(whole, torch.cat(parts))


def test_wrong_blocks_are_refused():
    p = torch.nn.Parameter(torch.zeros(12, 16))
    with pytest.raises(ValueError, match="stack"):
        MatrixMuon([p], blocks={p: [8, 8]})


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    recipe = tiny_recipe(optimizer=kind)
    net, batch = recipe.model.build(0), torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(0))
    optimizer, losses = Stepper(net, recipe.optimizer), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = total_loss(NextToken().terms(net, batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
