"""What loading a checkpoint costs in memory: the peak of resident memory over what the process held before, by the weights'
own bytes. A Llama of about 440 MB in fp32 (or a GPT-2, whose matrices are stored the other way round), random weights, whole
or in shards, fp32 or bf16 on disk; each load in a process of its own, cloche beside transformers (whose weights stay
mapped from the file where it can leave them there, which also counts as resident once read).

    python -m bench.model.load_memory
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from bench.rounds import machine, table, write

WANTED = 1.10
SIDES = {
    "cloche": "from cloche.model import load_network as load",
    "transformers": "import torch; from transformers import AutoModelForCausalLM as M\n"
    "load = lambda folder: M.from_pretrained(folder, dtype=torch.float32)",
}
CHILD = """
import gc, resource, sys, time, torch
def now(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
{load}
load(sys.argv[1])                # a small one first: everything is imported and every buffer of the library made
gc.collect()
open("/proc/self/clear_refs", "w").write("5")   # the high-water mark starts again from here
before, start = now("VmRSS"), time.perf_counter()
net = load(sys.argv[2])
seconds, peak = time.perf_counter() - start, now("VmHWM")
total = sum(float(p.detach().sum()) for p in net.parameters())      # every page is really there
weights = sum(p.numel() * p.element_size() for p in net.parameters())
print(weights, peak - before, now("VmRSS") - before, seconds)
"""


def folders(root: Path) -> dict[str, Path]:
    """Checkpoints by what they are; "small" among them."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192}
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, **shape))
    made = {"small": root / "small", "Llama, fp32, one file": root / "one", "Llama, fp32, shards": root / "shards"}
    small = shape | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **small)).save_pretrained(made["small"])
    llama.save_pretrained(made["Llama, fp32, one file"], max_shard_size="5GB")
    llama.save_pretrained(made["Llama, fp32, shards"], max_shard_size="100MB")
    made["Llama, bf16, shards, widened"] = root / "bf16"
    llama.bfloat16().save_pretrained(made["Llama, bf16, shards, widened"], max_shard_size="100MB")
    made["GPT-2, fp32, one file"] = root / "gpt2"
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=8192, n_embd=1024, n_layer=8, n_head=8, n_positions=256))
    gpt2.save_pretrained(made["GPT-2, fp32, one file"], max_shard_size="5GB")
    return made


def main() -> None:
    rows, records = [], []
    with tempfile.TemporaryDirectory() as root:
        found = folders(Path(root))
        small = found.pop("small")
        for name, folder in found.items():
            for side, load in SIDES.items():
                command = [sys.executable, "-c", CHILD.format(load=load), str(small), str(folder)]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                weights, peak, after = map(int, out[:3])
                share, kept = peak / weights, after / weights
                row = [name, side, f"{weights / 1e6:.0f}", f"{share:.3f}", f"{kept:.3f}", f"{float(out[3]):.2f}"]
                rows.append(row)
                figures = {"peak_over_weights": share, "after_over_weights": kept, "seconds": float(out[3])}
                records.append({"checkpoint": name, "side": side, "weights_bytes": weights, **figures})
                print(json.dumps(records[-1]), flush=True)
    print(table(["checkpoint", "side", "MB", "peak / weights", "after / weights", "seconds"], rows))
    print(f"wanted: at most {WANTED} of the weights' bytes")
    write("load_memory", {"wanted": WANTED, "loads": records, "machine": machine(("torch", "transformers"))})


if __name__ == "__main__":
    main()
