"""`cloche sindy`: tables made with known equations, real series, and a run's loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from cloche.cli import main
from cloche.runs import Run

Shared = Callable[[str], Path]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["sindy", *map(str, words)])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def foxes(path: Path) -> np.ndarray:
    t = np.arange(0, 40, 0.1)
    slope = lambda _, s: [s[0] - 0.5 * s[0] * s[1], -s[1] + 0.5 * s[0] * s[1]]  # noqa: E731
    x = solve_ivp(slope, (0, 40), [1.0, 1.0], t_eval=t, rtol=1e-9, atol=1e-9).y.T
    noisy = x + 0.02 * x.std(0) * np.random.default_rng(0).standard_normal(x.shape)
    np.savetxt(path, np.column_stack([t, noisy]), delimiter=",", header="time,hare,fox", comments="")
    return x


def test_a_table_gives_its_equations_and_its_motion(tmp_path: Path, ask) -> None:
    x = foxes(tmp_path / "foxes.csv")
    code, out, _ = ask(tmp_path / "foxes.csv", "--simulate", tmp_path / "moved.csv")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith(("hare'", "fox'"))]
    assert [line.count("hare fox") for line in lines] == [1, 1] and lines[0].count(" hare") == 2
    moved = np.loadtxt(tmp_path / "moved.csv", delimiter=",", skiprows=1)
    assert moved.shape == (400, 3) and np.abs(moved[:50, 1:] - x[:50]).max() < 0.3
    code, _, err = ask(tmp_path / "foxes.csv", "--simulate", tmp_path / "moved.csv")
    assert code == 1 and "nothing is overwritten" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "--time"),
        ("t,x\n1,2\n2,x\n", "Row 2"),
        ("t,x\n" + "".join(f"{i},1\n" for i in range(30)), "never changes"),
        ("t,x\n" + "".join(f"{i},{i}\n" for i in range(5)), "5 samples"),
        ("1,2\n3,4\n", "give each column a unique name"),
        ("t,x\n", "no rows"),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(tmp_path: Path, ask, text: str, says: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    code, _, err = ask(tmp_path / "bad.csv")
    assert code == 1 and says in err and len(err.strip().splitlines()) == 1


def test_hares_and_lynxes(shared: Shared, ask) -> None:
    code, out, err = ask(shared("signals/timeseries/hudson-bay-lynx-hare.csv"))
    assert code == 0, err
    assert "Lynx' =" in out and "Hare' =" in out


def test_sunspots_need_their_past(shared: Shared, ask) -> None:
    code, out, err = ask(shared("signals/timeseries/sunspots.csv"), "--delay", 3)
    assert code == 0, err
    assert "SUNACTIVITY_lag" in out


def test_the_loss_of_a_run(tmp_path: Path, ask) -> None:
    """A loss that falls as loss' = -0.02 (loss - 1.5)."""
    run = Run.create(tmp_path / "run", recipe="", seed=0, command=[])
    rng = np.random.default_rng(0)
    with run.log("metrics") as log:
        for step in range(0, 400, 2):
            loss = 1.5 + 3 * np.exp(-0.02 * step) + 0.005 * rng.standard_normal()
            log.append({"step": step, "time": float(step), "tokens": step, "loss": loss})
    code, out, err = ask(tmp_path / "run")
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("loss' ="))
    constant, rate = re.fullmatch(r"loss' = (\S+) - (\S+) loss", line).groups()
    assert abs(float(constant) - 0.03) < 0.001 and abs(float(rate) - 0.02) < 0.001
