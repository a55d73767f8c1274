"""The residual of a law: zero on its solution and on no other, and what it adds to data on a part of the interval."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.train import (
    AdamW,
    Cosine,
    Law,
    Oscillator,
    Penalised,
    Penalty,
    PhysicsResidual,
    SquaredError,
    Stepper,
    derivatives,
    total_loss,
)

OMEGA, DAMPING = 10.0, 1.0


def solution(t):
    """The oscillator released at 1 with no speed."""
    omega = (OMEGA**2 - DAMPING**2) ** 0.5
    return (-DAMPING * t).exp() * ((omega * t).cos() + DAMPING / omega * (omega * t).sin())


def times(last, count):
    return torch.linspace(0, last, count, dtype=torch.float64)[:, None]


class Exact(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, t):
        return self.scale * solution(t)


def test_the_residual_is_zero_on_the_solution_and_on_no_other():
    law, t = Oscillator(OMEGA, DAMPING), times(1, 50)
    assert law.residual(solution, t).abs().max() < 1e-12
    assert law.residual(lambda t: 3 * solution(t), t).abs().max() < 1e-12  # the law is linear
    for other in (Oscillator(1.1 * OMEGA, DAMPING), Oscillator(OMEGA, 2 * DAMPING)):
        assert other.residual(solution, t).abs().max() > 0.05, other
    for f in (torch.cos, lambda t: solution(1.1 * t), lambda t: solution(t) + 0.1):
        assert law.residual(f, t).abs().max() > 0.05


def test_a_line_and_a_constant_have_derivatives_of_zero():
    t = times(1, 3)
    assert [u.flatten().tolist() for u in derivatives(lambda t: 2 * t, t, 3)] == [
        [0, 1, 2],
        [2, 2, 2],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert [u.flatten().tolist() for u in derivatives(torch.ones_like, t, 2)] == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_the_penalty_is_a_mean_over_its_points_with_a_gradient_to_the_weights():
    penalty = part_from_line("PhysicsResidual(law=Oscillator(omega=10, damping=1), points=20, weight=2)", Penalty)
    assert penalty.name == "physics_residual" and penalty.value(Exact(), {}).item() < 1e-24
    wrong = PhysicsResidual(law=Oscillator(12.0, DAMPING), points=20)
    net = Exact()
    value = wrong.value(net, {})
    value.backward()
    assert value.item() == pytest.approx(wrong.law.residual(solution, times(1, 20)).square().mean().item())
    assert net.scale.grad.item() == pytest.approx(2 * value.item())  # quadratic in the scale


def test_a_law_of_ones_own_stands_in_a_recipe():
    @dataclass(frozen=True)
    class Cooling(Law):
        rate: float = 1.0

        def residual(self, f, t):
            u, slope = derivatives(f, t, 1)
            return slope + self.rate * u

    penalty = part_from_line("PhysicsResidual(law=Cooling(rate=2))", Penalty)
    assert penalty.law == Cooling(2.0)
    assert penalty.law.residual(lambda t: (-2 * t).exp(), times(1, 9)).abs().max() < 1e-12


def test_what_holds_no_time_or_several_outputs_is_one_sentence():
    with pytest.raises(ClocheError, match=r"start=1, stop=1\) holds no time"):
        PhysicsResidual(start=1.0)
    with pytest.raises(ClocheError, match=r"maps \[64, 1\] to \[64, 2\]; it must have one output"):
        PhysicsResidual().value(nn.Linear(1, 2), {})


def error(penalties):
    """Relative L2 error over the interval of a small network fitted to the first 30% of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    with torch.no_grad():
        net[0].weight.mul_(10)
    batch, objective = (times(0.3, 20), solution(times(0.3, 20))), Penalised(SquaredError(), penalties)
    stepper, schedule, steps = Stepper(net, AdamW(lr=5e-3, weight_decay=0.0)), Cosine(warmup=0.02), 500
    for step in range(steps):
        stepper.set_rate(schedule.rate(step, steps))
        stepper.zero_grad()
        total_loss(objective.terms(net, batch)).backward()
        stepper.step()
    settings = {"max_iter": 600, "tolerance_grad": 1e-12, "tolerance_change": 1e-16, "history_size": 50}
    last = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe", **settings)

    def closure():
        last.zero_grad()
        loss = total_loss(objective.terms(net, batch))
        loss.backward()
        return loss

    last.step(closure)
    t = times(1, 300)
    fit = closure().item()
    with torch.no_grad():
        return ((net(t) - solution(t)).norm() / solution(t).norm()).item(), fit


@pytest.mark.slow
def test_a_law_carries_data_on_a_third_of_the_interval_over_the_rest():
    """Controls: without the law the rest is unknown, and a law whose frequency is off by a fifth does not fit the data."""
    lawful, fit = error((PhysicsResidual(law=Oscillator(OMEGA, DAMPING), points=40, weight=1.0),))
    wrong, misfit = error((PhysicsResidual(law=Oscillator(1.2 * OMEGA, DAMPING), points=40, weight=1.0),))
    without, _ = error(())
    print(f"relative L2 error: {lawful:.1e} with the law, {without:.2f} without, {wrong:.2f} with a wrong one")
    assert lawful < 1e-3 and without > 0.5 and wrong > 0.3, (lawful, without, wrong)
    assert misfit > 1000 * fit
