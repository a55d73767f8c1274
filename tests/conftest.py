"""What every test shares: one thread, the real data beside the checkout, and the account of CPU seconds by tier."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

# Before torch is imported anywhere: results must not depend on the number of cores, and on models this small a second thread
# only waits (200 s against 13 s for the model package's tests, on a busy machine).
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"  # where a test asks for two threads, one that waits takes no CPU time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

# bench/runs/faults.py draws faults for tests and measurements alike.
sys.path.append(str(Path(__file__).resolve().parents[1]))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

FAST, SLOW = 2.0, 30.0  # CPU seconds that a test of each tier may take


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """`shared("weights/sortgpt/hf")` is that path in the real data; the test is skipped where it is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"real data is absent: ../shared/data/{relative}")
        return path

    return find


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kernels of pursuits and learners, compiled where this machine has not kept them yet: no test waits for that.

    Of several workers one compiles, and the others read what it kept.
    """
    import torch

    from cloche.files import locked
    from cloche.sparse import Dictionary
    from cloche.sparse.learners import KSVD, OnlineDictionaryLearning
    from cloche.sparse.pursuit import IHT, LARS, OMP, Lasso, MatchingPursuit, NonNegativeOMP

    pursuits = MatchingPursuit(3, 0.1), OMP(2), NonNegativeOMP(2, 0.1), IHT(2), Lasso(0.1), LARS(0.1)
    learners = OnlineDictionaryLearning(4, OMP(k=1), batch=6), KSVD(4, OMP(k=1), rounds=1)
    x, directions = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).split((12, 8))
    atoms = torch.nn.functional.normalize(directions, dim=1)
    with locked(tmp_path_factory.getbasetemp().parent / "kernels.lock", seconds=300):
        for dtype in (torch.float32, torch.float64):
            for pursuit in pursuits:
                pursuit.encode(x.to(dtype), Dictionary(atoms.to(dtype)))
            for learner in learners:
                learner.fit(x.to(dtype))


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children, those that still run included (a server, a browser)."""
    total = sum(os.times()[:4])
    waiting = [os.getpid()]
    while waiting:
        for tasks in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for child in _read(tasks).split():
                # utime, stime and what its own reaped children took; the command before them may hold spaces and brackets.
                total += sum(map(int, _read(Path(f"/proc/{child}/stat")).rpartition(")")[2].split()[11:15])) / _TICKS
                waiting.append(int(child))
    return total


_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has just ended
        return ""


class CpuAccount:
    """CPU seconds of each test, without what fixtures shared between tests took; those are counted beside it.

    Where tests run in workers, the workers measure and their reports carry the figures to the controller, which prints.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.shared = 0.0  # of the phase that runs now
        self.depth = 0
        self.tests: dict[str, float] = defaultdict(float)
        self.fixtures: dict[str, float] = defaultdict(float)
        self.slow: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self.since, self.shared = cpu_seconds(), 0.0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        shared = fixturedef.scope != "function" and not self.depth  # what a shared fixture asks for is part of it
        if not shared:
            return (yield)
        before, self.depth = cpu_seconds(), 1
        try:
            return (yield)
        finally:
            self.shared += cpu_seconds() - before
            self.depth = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = cpu_seconds()
        report.cpu = max(0.0, now - self.since - self.shared), self.shared
        report.is_slow = item.get_closest_marker("slow") is not None
        self.since, self.shared = now, 0.0
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        own, shared = getattr(report, "cpu", (0.0, 0.0))
        self.tests[report.nodeid] += own
        self.fixtures[_folder(report.nodeid)] += shared
        if getattr(report, "is_slow", False):
            self.slow.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.tests:
            return
        shown = terminalreporter.config.getoption("slowest")
        write = terminalreporter.write_line
        folders: dict[str, float] = defaultdict(float)
        for test, seconds in self.tests.items():
            folders[_folder(test)] += seconds
        terminalreporter.section("CPU seconds per folder: tests, and the fixtures they share")
        for folder in sorted(folders):
            write(f"{folders[folder]:8.1f} {self.fixtures[folder]:8.1f}  {folder}")
        write(f"{sum(folders.values()):8.1f} {sum(self.fixtures.values()):8.1f}  in all")
        ranked = sorted(self.tests, key=self.tests.__getitem__, reverse=True)
        terminalreporter.section(f"the {shown} slowest tests, CPU seconds")
        for test in ranked[:shown]:
            write(f"{self.tests[test]:8.1f}  {test}")
        over = [test for test in ranked if self.tests[test] > (SLOW if test in self.slow else FAST)]
        if over:
            terminalreporter.section(f"over their tier (fast {FAST:g} CPU seconds, slow {SLOW:g})", yellow=True)
            for test in over:
                write(f"{self.tests[test]:8.1f}  {test}", yellow=True)


def _folder(test: str) -> str:
    return test.partition("::")[0].rpartition("/")[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slowest", type=int, default=10, help="how many of the slowest tests to name (default: 10)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuAccount(), "cpu account")
