"""What health costs: seconds of a training step with and without it, in turn, at the first model's shape.

    python -m bench.train.health_cost [--rounds 12] [--every 20]

Prints one table and writes bench/results/health_cost.json. Steps alternate, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from bench.rounds import asked, write
from cloche.train import Health, Recipe, Stepper, best_precision, gemm_rates, total_loss


def main() -> None:
    args = asked(__doc__, rounds=12, every=Recipe().log.health_every)

    recipe = Recipe()
    rates = gemm_rates()
    fast = best_precision(rates) == "bf16"
    net, objective = recipe.model.build(0), recipe.objective
    optimizer, health = Stepper(net, recipe.optimizer), Health(net)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.run.batch, recipe.run.length + 1)

    def step(measure: bool) -> float:
        batch = torch.randint(recipe.model.vocab, shape, generator=generator)
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss = total_loss(objective.terms(net, batch))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0).item()
        if measure:
            health.before()
        optimizer.step()
        if measure:
            health.record(1, batch[:, :-1], norm)
        return time.perf_counter() - start

    step(True)
    pairs = [(step(False), step(True)) for _ in range(args.rounds)]
    plain = median(a for a, _ in pairs)
    extra = median(b - a for a, b in pairs)
    share = extra / args.every / plain
    result = {
        "precision": "bf16" if fast else "fp32",
        "threads": torch.get_num_threads(),
        "gemm_flops_per_second": rates,
        "step_seconds": plain,
        "health_seconds": extra,
        "every": args.every,
        "share_of_training": share,
        "rounds": args.rounds,
    }
    print(f"training step {plain * 1e3:8.1f} ms")
    print(f"health record {extra * 1e3:8.1f} ms, every {args.every} steps: {share:.2%} of training")
    write("health_cost", result, "torch")


if __name__ == "__main__":
    main()
