"""The head's loss and gradient: our fused chunks beside torch's full logits and its own linear_cross_entropy, in one run.

    python -m bench.train.head_loss [--rounds 7]

The first model's head: 4,096 tokens, width 256, vocabulary 4,096, in fp32 and under bf16 autocast. Every gradient is compared
with float64. Prints one table and writes bench/results/head_loss.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.rounds import asked, write
from cloche.train.objectives.head_loss import HeadLoss, Shape

TOKENS, WIDTH, VOCAB = 4096, 256, 4096
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(chunk: int) -> Loss:
    return lambda h, w, t: HeadLoss.apply(h, w, t, None, Shape(chunk))[0] / len(h)


def contenders() -> dict[str, Loss]:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=1024)
    return {
        "full logits, F.cross_entropy": lambda h, w, t: F.cross_entropy(F.linear(h, w).float(), t),
        "F.linear_cross_entropy": lambda h, w, t: F.linear_cross_entropy(h, w, t),
        "F.linear_cross_entropy, chunks of 1024": lambda h, w, t: F.linear_cross_entropy(h, w, t, options=options),
        "fused, chunks of 256": fused(256),
        "fused, chunks of 512": fused(512),
        "fused, chunks of 1024": fused(1024),
    }


def measure(loss: Loss, problem: tuple[Tensor, Tensor, Tensor], bf16: bool) -> tuple[float, Tensor, Tensor]:
    hidden, weight, target = problem
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss(h, w, target)
    value.backward()
    assert h.grad is not None and w.grad is not None
    return time.perf_counter() - start, h.grad, w.grad


def error(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


def main() -> None:
    rounds = asked(__doc__, rounds=7).rounds
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(TOKENS, WIDTH, generator=g), torch.randn(VOCAB, WIDTH, generator=g) / 16
    problem = hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=g)
    exact = measure(contenders()["full logits, F.cross_entropy"], (hidden.double(), weight.double(), problem[2]), False)

    rows = []
    for bf16 in (False, True):
        runs: dict[str, list[tuple[float, Tensor, Tensor]]] = {name: [] for name in contenders()}
        for _ in range(rounds):
            for name, loss in contenders().items():
                runs[name] = [*runs[name][-1:], measure(loss, problem, bf16)]
                best = min(seconds for seconds, _, _ in runs[name])
                runs[name] = [(best, *runs[name][-1][1:])]
        for name, [(seconds, h, w)] in runs.items():
            errors = max(error(h, exact[1]), error(w, exact[2]))
            row = {"precision": "bf16" if bf16 else "fp32", "loss": name, "seconds": seconds, "gradient_error": errors}
            rows.append(row)
            print(f"{row['precision']}  {name:42s} {seconds * 1e3:7.1f} ms   gradient error {errors:.1e}")
    write("head_loss", {"threads": torch.get_num_threads(), "rows": rows}, "torch")


if __name__ == "__main__":
    main()
