"""K-FAC against exact Fisher and Gauss-Newton matrices by autograd in float64, and what its measuring must not disturb."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle

import pytest
import torch
from tiny_training import tiny_recipe
from torch import nn
from torch.func import functional_call, jacrev, vmap

from cloche.errors import ModelUnsupported, NotSolved, SettingRange
from cloche.model import GLU, LM, Attention, Block, MoE, Stack
from cloche.train import KFAC, NextToken, Stepper, Trainer, total_loss
from cloche.train.optimizers.kfac import MatrixKFAC, inverses, mean_eigenvalue
from cloche.train.optimizers.moments import watched


def network(*sizes, nonlinear=True, bias=True, seed=0):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), *([nn.Tanh()] if nonlinear else [])]
    return nn.Sequential(*(layers[:-1] if nonlinear else layers)).double()


def jacobian(net, x):
    """Of the outputs in the parameters, by name: [example, output, *shape]."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    return vmap(lambda row: jacrev(lambda ps: functional_call(net, ps, (row,)))(parameters))(x)


def joined(parts, layer):
    """[..., rows, width + 1] of a layer's weight and bias."""
    weight, bias = parts[f"{layer}.weight"], parts.get(f"{layer}.bias")
    return weight if bias is None else torch.cat([weight, bias[..., None]], -1)


def root(y, loss):
    """S with S S^T the Hessian of an example's loss in its outputs, [example, output, output]."""
    if loss == "mse":
        return torch.eye(y.shape[1]).double().expand(len(y), -1, -1)
    p = y.softmax(1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    values, vectors = torch.linalg.eigh(hessian)
    return vectors * values.clamp(min=0).sqrt()[:, None]


def exact_blocks(net, x, loss):
    """The Gauss-Newton matrix of the mean loss, a block for each layer: [rows * (width + 1), the same]."""
    jacobians, s = jacobian(net, x), root(net(x).detach(), loss)
    found = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in jacobians):
        j = torch.einsum("nok,no...->nk...", s, joined(jacobians, layer)).flatten(2)
        found[layer] = torch.einsum("nki,nkj->ij", j, j) / len(x)
    return found


def measured(net, x, loss):
    """The same by K-FAC's factors: each column of S is sent back by itself."""
    layers = watched(net)
    y = net(x)
    s = root(y.detach(), loss)
    for k in range(s.shape[2]):
        (y * s[..., k]).sum(1).mean().backward(retain_graph=True)
    return {name.rpartition(".")[0]: torch.kron(m.outputs[0] * m.rows, m.inputs / m.rows) for name, m in layers.items()}


@pytest.mark.parametrize("loss", ["mse", "softmax"])
@pytest.mark.parametrize("bias", [True, False])
def test_of_one_example_each_block_is_exactly_gauss_newtons(loss, bias):
    net, x = network(5, 4, 3, bias=bias), torch.randn(1, 5, dtype=torch.float64)
    exact = exact_blocks(net, x, loss)
    for layer, block in measured(net, x, loss).items():
        torch.testing.assert_close(block, exact[layer], rtol=1e-10, atol=1e-14)


def test_of_a_deep_linear_network_each_block_is_exact_for_any_examples():
    net, x = network(5, 4, 4, 3, nonlinear=False), torch.randn(20, 5, dtype=torch.float64)
    exact = exact_blocks(net, x, "mse")
    for layer, block in measured(net, x, "mse").items():
        torch.testing.assert_close(block, exact[layer], rtol=1e-10, atol=1e-14)
    net = network(5, 4, 4, 3)  # control: with a nonlinearity between them, only nearly
    exact, ours = exact_blocks(net, x, "mse"), measured(net, x, "mse")
    assert all((ours[layer] - exact[layer]).norm() / exact[layer].norm() > 1e-3 for layer in ("0", "2"))


def stepped(net, x, y, loss, **settings):
    """The update of one step by the empirical Fisher matrix, by layer, and the gradient before it."""
    plain = {"lr": 1.0, "momentum": 0.0, "trust": 1e30, "weight_decay": 0.0, "clip": 1e30}
    optimizer = Stepper(net, KFAC(**{**plain, **settings}))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    mean_loss(net, x, y, loss).backward()
    gradient = {name: p.grad.clone() for name, p in net.named_parameters()}
    optimizer.step()
    return {name: before[name] - p.detach() for name, p in net.named_parameters()}, gradient


def mean_loss(net, x, y, loss):
    if loss == "mse":
        return (net(x) - y).square().sum(1).mean() / 2
    return nn.functional.cross_entropy(net(x), y)


@pytest.mark.parametrize("loss", ["mse", "softmax"])
def test_of_one_example_the_step_is_the_exact_natural_gradient(loss):
    """F = vec(g x^T) vec(g x^T)^T has rank one, so that F v = gradient and v is along it."""
    net, x = network(5, 3), torch.randn(1, 5, dtype=torch.float64)
    y = torch.tensor([1]) if loss == "softmax" else torch.randn(1, 3, dtype=torch.float64)
    update, gradient = stepped(net, x, y, loss, damping=1e-12)
    v, g = joined(update, "0").flatten(), joined(gradient, "0").flatten()
    fisher = torch.outer(g, g)
    torch.testing.assert_close(fisher @ v, g, rtol=1e-4, atol=0)
    assert torch.dot(v, g) / v.norm() / g.norm() > 1 - 1e-6


def test_the_step_is_that_of_the_damped_factors_solved_densely():
    net, x = network(6, 5, 3), torch.randn(40, 6, dtype=torch.float64)
    y = torch.randn(40, 3, dtype=torch.float64)
    jacobians, residual = jacobian(net, x), (net(x) - y).detach()
    factors, h = {}, torch.tanh(net[0](x)).detach()
    update, gradient = stepped(net, x, y, "mse", damping=0.05)
    for layer, inputs in (("0", x), ("2", h)):
        ones = torch.cat([inputs, torch.ones(40, 1).double()], 1)
        slopes = torch.einsum("no,nor->nr", residual, jacobians[f"{layer}.bias"])  # d loss / d y of each example
        factors[layer] = ones.T @ ones / 40, slopes.T @ slopes / 40
    trace = sum(a.trace() * g.trace() for a, g in factors.values())
    damping = 0.05 * trace / sum(len(a) * len(g) for a, g in factors.values())
    for layer, (a, g) in factors.items():
        pi = ((a.trace() / len(a)) / (g.trace() / len(g))).sqrt()
        a_damped = a + pi * damping.sqrt() * torch.eye(len(a)).double()
        g_damped = g + damping.sqrt() / pi * torch.eye(len(g)).double()
        wanted = torch.linalg.solve(torch.kron(g_damped, a_damped), joined(gradient, layer).flatten())
        torch.testing.assert_close(joined(update, layer).flatten(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["mse", "softmax"])
def test_of_many_examples_it_is_nearer_to_the_exact_natural_gradient_than_the_gradient(loss):
    net, generator = network(8, 10, 4), torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64) * torch.logspace(0, -1.5, 8).double()
    y = torch.randint(4, (200,), generator=generator) if loss == "softmax" else net(x).detach().flip(0)
    jacobians = jacobian(net, x)
    out = net(x).detach()
    slope = out - y if loss == "mse" else out.softmax(1) - nn.functional.one_hot(y, 4)
    update, gradient = stepped(net, x, y, loss, damping=0.03)
    exact, damping = {}, 0.0
    for layer in ("0", "2"):
        rows = torch.einsum("no,no...->n...", slope, joined(jacobians, layer)).flatten(1)
        exact[layer] = rows.T @ rows / 200
    damping = 0.03 * sum(float(f.trace()) for f in exact.values()) / sum(len(f) for f in exact.values())
    wanted, ours, plain = [], [], []
    for layer, fisher in exact.items():
        wanted.append(
            torch.linalg.solve(fisher + damping * torch.eye(len(fisher)).double(), joined(gradient, layer).flatten())
        )
        ours.append(joined(update, layer).flatten())
        plain.append(joined(gradient, layer).flatten())
    a, b, c = torch.cat(wanted), torch.cat(ours), torch.cat(plain)
    near, control = (float(torch.cosine_similarity(a, other, dim=0)) for other in (b, c))
    assert near > 0.7 and control < near - 0.45, (near, control)


def test_pi_and_the_damping_share_out_as_in_the_paper():
    a, g = torch.diag(torch.tensor([4.0, 12.0])), torch.diag(torch.tensor([0.5, 0.5, 0.5]))
    inverse_a, inverse_g = inverses(a, g, damping=0.04)
    torch.testing.assert_close(inverse_a, torch.diag(1 / torch.tensor([4.8, 12.8])))  # pi = 4, its share 4 * 0.2
    torch.testing.assert_close(inverse_g, torch.diag(1 / torch.tensor([0.55] * 3)))
    dead = inverses(a, torch.zeros(3, 3), damping=0.04)
    assert all(torch.isfinite(each).all() for each in dead) and mean_eigenvalue(a) == 8


# ---- in a transformer


def tiny(**attention):
    return LM(60, 32, Stack(2, Block(Attention(4, kv_heads=2, **attention), GLU()))).build(0)


def losses(net, ids):
    return nn.functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("bias", [False, True])
def test_q_k_v_gate_and_up_have_factors_of_their_own(bias):
    """Compared with what autograd says of the inputs and of y = x W^T with W in one piece."""
    net, ids = tiny(bias=bias), torch.randint(60, (3, 9), generator=torch.Generator().manual_seed(0))
    layers = watched(net)
    linear = net.layers[0].mix.qkv
    seen = {}

    def split(x, rows):
        seen["x"] = x.detach()
        seen["y"] = nn.functional.linear(x, linear.weight, linear.bias)
        seen["y"].retain_grad()
        return seen["y"].split(rows, -1)

    reference = copy.deepcopy(net)
    losses(net, ids).backward()
    name = next(name for name, m in layers.items() if m.weight is linear.weight)
    moments = layers[name]
    linear = reference.layers[0].mix.qkv
    linear.split = split
    losses(reference, ids).backward()
    x, g = seen["x"].flatten(0, 1), seen["y"].grad.flatten(0, 1)
    x = torch.cat([x, torch.ones(len(x), 1)], 1) if bias else x
    assert moments.rows == 24 and moments.blocks == [32, 16, 16]
    torch.testing.assert_close(moments.inputs, x.T @ x)
    for ours, part in zip(moments.outputs, g.split([32, 16, 16], 1), strict=True):
        torch.testing.assert_close(ours, part.T @ part, rtol=1e-4, atol=1e-10)
    assert all(m.rows == 24 for m in layers.values()), "every layer was measured"


def test_micro_batches_are_one_batch():
    ids = torch.randint(60, (4, 9), generator=torch.Generator().manual_seed(0))
    whole, parts = tiny(), tiny()
    one, two = Stepper(whole, KFAC()), Stepper(parts, KFAC())
    losses(whole, ids).backward()
    for half in ids.split(2):
        (losses(parts, half) / 2).backward()
    one.step(), two.step()
    for (name, a), b in zip(one.state().items(), two.state().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)


def test_passes_that_are_no_training_are_not_measured():
    net, ids = tiny(), torch.randint(60, (2, 9))
    optimizer = Stepper(net, KFAC())
    layers = optimizer.parts[0].layers.values()
    with torch.no_grad():
        net(ids)
    net(ids)  # with gradients that nobody asks for
    assert all(m.rows == 0 for m in layers)
    losses(net, ids).backward()
    assert all(m.rows == 16 for m in layers)
    optimizer.zero_grad()
    assert all(m.rows == 0 for m in layers), "a step that was not made counts for nothing"


def test_statistics_are_taken_at_the_first_steps_and_then_every_tenth():
    net, ids = tiny(), torch.randint(60, (2, 9))
    optimizer, taken = Stepper(net, KFAC(every=4)), []
    for step in range(14):
        optimizer.zero_grad()
        losses(net, ids).backward()
        taken += [step] if next(iter(optimizer.parts[0].layers.values())).rows else []
        optimizer.step()
    assert taken == [0, 1, 2, 3, 4, 8, 12]


def test_experts_that_miss_steps_are_measured_when_the_others_are():
    spec = LM(60, 32, Stack(1, Block(Attention(4), MoE(experts=8, active=1))))
    net, generator = spec.build(0), torch.Generator().manual_seed(0)
    optimizer, inverted, known = Stepper(net, KFAC(every=4)), [], []
    for step in range(29):
        optimizer.zero_grad()
        losses(net, torch.randint(60, (1, 4), generator=generator)).backward()
        before = optimizer.parts[0]._inverses
        optimizer.step()
        inverted += [step] if optimizer.parts[0]._inverses is not before else []
        known.append(sum(name.endswith("/inputs") for name in optimizer.state()))
    assert known[3] < known[-1] == known[15], "some were met late"
    assert [step for step in inverted if step % 4] == [
        1,
        2,
        3,
        *(i for i in range(4, 29) if i % 4 and known[i] > known[i - 1]),
    ]
    steps = {int(value) for name, value in optimizer.state().items() if "experts" in name and name.endswith("/step")}
    assert min(steps) < 29, "some missed a step"


def test_copies_are_not_watched_and_nothing_outlives_the_optimizer():
    for net, ids in ((tiny(), torch.randint(60, (2, 9))), (network(5, 4, 3).float(), torch.randn(2, 5))):
        optimizer = Stepper(net, KFAC())
        layers = list(optimizer.parts[0].layers.values())
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            other(ids).sum().backward()
            assert all(m.rows == 0 for m in layers)
        net(ids).sum().backward()
        assert all(m.rows > 0 for m in layers)
        before = [m.rows for m in layers]
        del optimizer
        gc.collect()
        net(ids).sum().backward()
        assert all(m.rows > n for m, n in zip(layers, before, strict=True)), "this test holds them still"
        del layers
        gc.collect()
        assert all(module.watch.moments() is None for module in net.modules() if getattr(module, "watch", None))


def test_it_compiles_as_before():
    net, ids = LM(60, 32, Stack(1, Block(Attention(4), GLU()))).build(0), [[1, 2, 3]]
    kept = Stepper(net, KFAC())
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    compiled(torch.tensor(ids)).sum().backward()
    assert kept.parts[0].layers


# ---- training


def test_cut_off_and_resumed_ends_in_the_same_bytes(new_run):
    """Between two inversions, with the average of the weights beside."""
    recipe = tiny_recipe(run__steps=14, checkpoint__count=1, optimizer="KFAC(every=4, average=EMA(decay=0.9))")
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    first = Trainer.start(recipe, broken)
    for record in first:
        if record["step"] == 5:
            first.stop()
    assert broken.checkpoint("last").step < 8
    list(Trainer.resume(broken))
    hashes = [
        {
            name: file["sha256"]
            for name, file in run.checkpoint("last").manifest["files"].items()
            if "safetensors" in name
        }
        for run in (straight, broken)
    ]
    assert hashes[0] == hashes[1]


def test_it_learns_with_experts_too():
    spec = LM(60, 32, Stack(1, Block(Attention(4), MoE(experts=4, active=2))))
    net, ids = spec.build(0), torch.randint(60, (2, 17), generator=torch.Generator().manual_seed(0))
    optimizer, found = Stepper(net, KFAC()), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = total_loss(NextToken().terms(net, ids))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.7 * found[0]


def test_the_trust_region_bounds_the_step():
    net, x = network(6, 5, 3), torch.randn(40, 6, dtype=torch.float64)
    y = torch.randn(40, 3, dtype=torch.float64)
    update, gradient = stepped(net, x, y, "mse", trust=1e-4)
    free, _ = stepped(network(6, 5, 3), x, y, "mse")
    ratio = {name: float((update[name] / free[name]).mean()) for name in update}
    assert max(ratio.values()) == pytest.approx(min(ratio.values())) and max(ratio.values()) < 1
    scaled = sum(float((update[name] * gradient[name]).sum()) for name in update) * max(ratio.values())
    assert scaled == pytest.approx(1e-4), "lr^2 v^T dW, of the step v that was made"


def test_refusals():
    with pytest.raises(SettingRange, match=r"KFAC\(every=0\)"):
        KFAC(every=0)
    for moment in (torch.full((2, 2), float("nan")), -torch.eye(2)):
        with pytest.raises(NotSolved, match="not finite or too near singular; raise"):
            inverses(torch.eye(2), moment, 0.1)

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return x @ self.inner.weight.T + self.inner.bias

    net = Reading()
    optimizer = Stepper(net, KFAC())
    assert isinstance(optimizer.parts[0], MatrixKFAC)
    net(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ModelUnsupported, match=r"measured no input of inner.weight"):
        optimizer.step()
