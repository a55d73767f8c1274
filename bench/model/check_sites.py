"""What proving a model's sites on loading costs: seconds, and peak memory over what the process held before, beside a plain
pass over the same tokens. Models of about 125M parameters, random weights.

    python -m bench.model.check_sites
"""

from __future__ import annotations

import resource
import time
from typing import Any

import torch

from bench.rounds import machine, table, write
from cloche.model import GLU, LM, MLP, Attention, Block, LayerNorm, Learned, RoPE, Stack
from cloche.model.sites import prove_sites

WANTED = 1.0
SPECS = {
    "Llama": LM(50257, 768, Stack(12, Block(Attention(12, position=RoPE()), GLU(hidden=2048))), tied=True),
    "GPT-2": LM(
        50257,
        768,
        Stack(12, Block(Attention(12, bias=True), MLP("gelu_tanh", bias=True), LayerNorm())),
        norm=LayerNorm(),
        tied=True,
        position=Learned(1024),
    ),
}


def seconds(run: Any, times: int = 5) -> tuple[float, float]:
    """Least wall and CPU seconds of several runs."""
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def main() -> None:
    rows, records = [], []
    for name, spec in SPECS.items():
        net = spec.build(seed=0)
        ids = torch.randint(spec.vocab, (2, 7))
        plain, _ = seconds(lambda net=net, ids=ids: net.run(ids))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = seconds(lambda net=net: prove_sites(net))
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        rows.append([name, f"{millions:.0f}M", f"{plain:.2f} s", f"{wall:.2f} s", f"{cpu:.2f} s", f"{more:.0f} MB"])
        records.append(
            {"model": name, "plain": plain, "wall": wall, "cpu": cpu, "megabytes": more, "ok": wall <= WANTED}
        )
    print(table(["model", "parameters", "plain pass", "proof", "its CPU seconds", "its memory"], rows))
    write("check_sites", {"machine": machine(), "threads": torch.get_num_threads(), "wanted": WANTED, "rows": records})


if __name__ == "__main__":
    main()
