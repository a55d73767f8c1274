"""What the monitors cost: seconds of a training step with and without each, in turn, at the first model's shape.

    python -m bench.train.health_cost [--rounds 12] [--every 20]

Measured apart: health (every `every` steps), the noise scale (every fourth time), the norm of the update (every step: what
AdamW takes after its step to say it, and Muon within its own), and steps.jsonl (a record of `log.every` steps). Prints one
table and writes bench/results/health_cost.json.
Kinds of steps alternate, so that a busy machine slows all alike; on one thread CPU seconds are counted, which it slows less.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from bench.rounds import asked, write
from cloche.runs import LogWriter
from cloche.train import Health, Muon, Recipe, Stepper, TokenBatch, best_precision, gemm_rates, total_loss
from cloche.train.machine.heap import keep_freed_memory
from cloche.train.monitors.noise import BatchNoise
from cloche.train.monitors.steps import StepsLog
from cloche.train.optimizers.moved import update_by


def main() -> None:
    args = asked(__doc__, rounds=12, every=Recipe().log.health_every)
    with tempfile.TemporaryDirectory() as folder, LogWriter(Path(folder) / "log" / "steps.jsonl") as writer:
        measure(args.rounds, args.every, writer)


def measure(rounds: int, every: int, writer: LogWriter) -> None:
    keep_freed_memory()  # as a run does
    recipe = Recipe()
    rates = gemm_rates()
    fast = best_precision(rates) == "bf16"
    net, objective = recipe.model.build(0), recipe.objective
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    optimizer = Stepper(net, recipe.optimizer, torch.bfloat16 if fast else torch.float32)
    health, steps_log = Health(net, optimizer=optimizer), StepsLog(net, optimizer)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.run.batch, recipe.run.length + 1)

    def loss(batch: TokenBatch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return total_loss(objective.terms(net, batch))

    noise = BatchNoise(net, loss, every=1)
    matrices = [p.detach().clone() for _, p in net.groups()["matrix"]] if isinstance(recipe.optimizer, Muon) else []
    directions = [torch.randn_like(p) for p in matrices]

    def step() -> dict[str, float]:
        batch = TokenBatch(torch.randint(recipe.model.vocab, shape, generator=generator))
        seconds = dict.fromkeys(("step", "health", "noise", "update_norm", "plain", "steps"), 0.0)

        @contextmanager
        def timed(kind: str) -> Iterator[None]:
            start = clock()
            yield
            seconds[kind] += clock() - start

        with timed("step"):
            optimizer.zero_grad()
            loss(batch).backward()
            norm = optimizer.clip_gradient()
        with timed("noise"):
            noise.before(batch, norm)
            noise.record(1)
        with timed("health"):
            health.before()
        with timed("step"):
            optimizer.step()
        with timed("update_norm"):
            torch.stack([square for part in optimizer.parts for square in part.moved().values()]).sum().sqrt()
        with timed("plain"):
            for p, direction in zip(matrices, directions, strict=True):
                p.mul_(1.0).add_(direction, alpha=0.0)
        with timed("update_norm"):  # what Muon adds to its step
            for p, direction in zip(matrices, directions, strict=True):
                update_by(p, direction, 0.0, 1e-30)  # both tensors are of the size that its own are
        with timed("health"):
            health.record(1, batch[:, :-1], norm)
        with timed("steps"):
            for number in range(recipe.log.every):
                steps_log.add(number, 1.0, norm, applied=True)
            writer.append(dict(steps_log.take()))
        return seconds

    step()
    measured = [step() for _ in range(rounds)]
    found = {kind: median(each[kind] for each in measured) for kind in measured[0]}
    found["update_norm"] -= found.pop("plain")
    plain = found["step"] - found["update_norm"]
    often = {"health": every, "noise": 4 * every, "update_norm": 1, "steps": recipe.log.every}
    shares = {kind: found[kind] / steps / plain for kind, steps in often.items()}
    result = {
        "precision": "bf16" if fast else "fp32",
        "threads": torch.get_num_threads(),
        "gemm_flops_per_second": rates,
        "step_seconds": plain,
        "seconds": found,
        "every": often,
        "shares": shares,
        "share_of_training": sum(shares.values()),
        "rounds": rounds,
    }
    print(f"training step {plain * 1e3:8.1f} ms")
    for kind, share in shares.items():
        print(f"{kind:13} {found[kind] * 1e3:8.1f} ms, every {often[kind]} steps: {share:.2%} of training")
    print(f"together {result['share_of_training']:.2%}")
    write("health_cost", result, "torch")


if __name__ == "__main__":
    main()
