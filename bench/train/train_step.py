"""Training tokens per second: cloche beside transformers' Llama, nanochat and nanoGPT, one shape, one run.

Every side trains on the same batches, 16 rows of 256 tokens of the standard library's text, at width 256, 6 layers, 8 heads,
vocabulary 4,096 (embedding and head untied, unless --tied), and takes a whole step: batch, forward, backward, gradient
clipping at 1, fused AdamW; cloche through its own `Trainer.update`. All run eagerly. MFU is 6 operations a matrix weight
and token plus attention's 12 * layers * width * length (PaLM, 2204.02311) over the rate of a 2048 x 2048 product that takes its
turn in the same rounds, in bf16 or in fp32, whichever is the faster. Each side has a process of its own: how often the heap
gives memory back to the system and asks for it again depends on who else lives in it, and is a third of some sides' step.

    python -m bench.train.train_step [--rounds 10] [--threads 2] [--nanochat FOLDER] [--nanogpt FOLDER] [--tied] [--profile]
                                [--precisions fp32]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.rounds import Apart, Side, Spread, busy, interleave, machine, ratio, table, write
from cloche.data import Batches, PackedTokens, prepare, standard_library
from cloche.model import GLU, LM, Attention, Block, Causal, RMSNorm, RoPE, Stack
from cloche.runs import Run
from cloche.train import Recipe, Trainer

WIDTH, LAYERS, HEADS, HIDDEN, VOCAB, LENGTH, BATCH = 256, 6, 8, 688, 4096, 256, 16
TOKENS = BATCH * LENGTH
GEMM, GEMM_CALLS = 2048, 4
PROFILED = 2  # steps
FILES = 250  # of the standard library: a few megabytes
STEPS = 10_000  # of the schedule, of which only the first are taken
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CLIP, LEARNING_RATE = 1.0, 1e-3
# (what, slower side, faster side, wanted ratio of their seconds)
TARGETS = [
    ("bf16 over fp32, cloche", "cloche fp32", "cloche bf16", 1.8),
    ("over transformers' Llama, both bf16", "transformers Llama bf16", "cloche bf16", 1.25),
    ("over transformers' Llama, both fp32", "transformers Llama fp32", "cloche fp32", 1.25),
    ("over nanochat as it ships, cloche bf16", "nanochat fp32", "cloche bf16", 2.0),
    ("over nanochat as it ships, cloche fp32", "nanochat fp32", "cloche fp32", None),
    ("over nanoGPT, both bf16", "nanoGPT bf16", "cloche bf16", None),
]
WANTED_MFU = 0.5
Maker = Callable[..., tuple[Callable[[], object], float]]


def autocast(precision: str) -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def prepared(folder: Path) -> Run:
    """A run folder with a tokenizer of 4,096 and packed tokens of a part of the standard library."""
    run = Run.create(folder / "run", "")
    prepare(standard_library()[:FILES], run.path, vocab=VOCAB)
    return run


def recipe(precision: str, threads: int, tied: bool) -> Recipe:
    block = Block(
        mix=Attention(heads=HEADS, position=RoPE(theta=10_000), mask=Causal()),
        map=GLU("silu", hidden=HIDDEN),
        norm=RMSNorm(),
    )
    model = LM(vocab=VOCAB, width=WIDTH, body=Stack(LAYERS, block), tied=tied)
    run = {"length": LENGTH, "batch": BATCH, "threads": threads, "precision": precision, "steps": STEPS}
    settings = {f"run.{key}": value for key, value in run.items()} | {"optimizer.part": "AdamW"}
    return Recipe(model=model).with_set(settings)


@dataclass(frozen=True)
class Setting:
    """What all sides share."""

    run: Run
    threads: int
    tied: bool

    def batches(self) -> Callable[[], Tensor]:
        """The same batches for every caller, [16, 257], from the first on."""
        batches = Batches(PackedTokens.open(self.run.path, "train"), LENGTH, BATCH)
        return lambda: torch.from_numpy(batches.next())


def cloche(precision: str, setting: Setting) -> tuple[Callable[[], object], float]:
    """The trainer's own step. Also returns operations a step."""
    trainer = Trainer(recipe(precision, setting.threads, setting.tied), setting.run)
    return trainer.update, trainer.net.flops_per_token(LENGTH) * TOKENS


def plain_step(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], precision: str, setting: Setting
) -> tuple[Callable[[], object], float]:
    """A step as peers write it, with torch's fused AdamW; and its operations, from the shapes of its matrices."""
    batch = setting.batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> None:
        with autocast(precision):
            loss = loss_of(batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    linears = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)}
    return step, (6 * sum(linears.values()) + 12 * LAYERS * WIDTH * LENGTH) * TOKENS


def llama(precision: str, setting: Setting) -> tuple[Callable[[], object], float]:
    """transformers' LlamaForCausalLM with SDPA and its own loss, which shifts the labels itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=setting.tied,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).train()

    def loss(batch: Tensor) -> Tensor:
        ids = batch[:, :-1]
        return model(input_ids=ids, labels=ids).loss

    return plain_step(model, loss, precision, setting)


def source(folder: Path, module: str) -> object:
    """A module of a peer's source folder."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(module)


def pair(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


def nanochat(folder: Path, setting: Setting) -> tuple[Callable[[], object], float]:
    """nanochat's GPT in the precision it picks on a CPU (fp32), full attention as its CPU script asks; never tied."""
    gpt = source(folder, "nanochat.gpt")
    config = gpt.GPTConfig(
        sequence_len=LENGTH,
        vocab_size=VOCAB,
        n_layer=LAYERS,
        n_head=HEADS,
        n_kv_head=HEADS,
        n_embd=WIDTH,
        window_pattern="L",
    )
    model = gpt.GPT(config)
    model.init_weights()
    return plain_step(model, lambda batch: model(*pair(batch)), "fp32", setting)


def nanogpt(folder: Path, precision: str, setting: Setting) -> tuple[Callable[[], object], float]:
    """nanoGPT's GPT: LayerNorm, learned positions, GELU of 4 * width, no biases."""
    module = source(folder, "model")
    config = module.GPTConfig(
        block_size=LENGTH, vocab_size=VOCAB, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, dropout=0.0, bias=False
    )
    model = module.GPT(config)
    if not setting.tied:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return plain_step(model, lambda batch: model(*pair(batch))[1], precision, setting)


def gemm(dtype: torch.dtype) -> Callable[[], object]:
    a, b = torch.randn(GEMM, GEMM).to(dtype), torch.randn(GEMM, GEMM).to(dtype)

    def products() -> None:
        for _ in range(GEMM_CALLS):
            torch.mm(a, b)

    return products


def contestants(setting: Setting, arguments: argparse.Namespace) -> tuple[list[Side], dict[str, float]]:
    """The sides that can be had here, each in its own process, and the operations of a step of each."""
    wanted: dict[str, tuple[Maker, tuple[object, ...]]] = {}
    for p in arguments.precisions:
        wanted |= {f"cloche {p}": (cloche, (p,)), f"transformers Llama {p}": (llama, (p,))}
        if arguments.nanogpt:
            wanted[f"nanoGPT {p}"] = nanogpt, (arguments.nanogpt, p)
    if arguments.nanochat:
        wanted["nanochat fp32"] = nanochat, (arguments.nanochat,)
    sides: list[Side] = []
    flops = {}
    for name, (make, options) in wanted.items():
        side = Apart(name, alone, make, options, setting)
        side.units, flops[name] = TOKENS, side.operations
        sides.append(side)
    for p in arguments.precisions:
        name = f"GEMM {p}"
        sides.append(Side(name, gemm(DTYPES[p]), 1.0))
        flops[name] = 2.0 * GEMM**3 * GEMM_CALLS
    return sides, flops


def alone(make: Maker, options: tuple[object, ...], setting: Setting) -> tuple[Callable[[], object], float]:
    torch.set_num_threads(setting.threads)
    return make(*options, setting)


def mfu(side: Side, yardstick: Side, flops: dict[str, float], clock: str) -> Spread:
    """Operations a second over the yardstick's, round by round."""
    pairs = zip(getattr(side, clock), getattr(yardstick, clock), strict=True)
    return Spread.of(flops[side.name] / s / (flops[yardstick.name] / y) for s, y in pairs)


def report(sides: list[Side], flops: dict[str, float], load: float, arguments: argparse.Namespace) -> dict[str, object]:
    """Prints the tables and returns what results/train_step.json keeps."""
    by_name = {side.name: side for side in sides}
    fast = min((by_name[f"GEMM {p}"] for p in arguments.precisions), key=lambda side: Spread.of(side.cpu).median)
    rows, kept = [], {}
    for side in sides:
        wall, cpu = Spread.of(side.wall), Spread.of(side.cpu)
        share = {clock: mfu(side, fast, flops, clock) for clock in ("wall", "cpu")}
        speed = "" if side.name.startswith("GEMM") else f"{TOKENS / wall.median:,.0f}"
        rate = flops[side.name] / wall.median / 1e9
        rows.append([side.name, speed, f"{wall.median:.3f}", f"{cpu.median:.3f}", f"{rate:.0f}"])
        rows[-1] += [f"{share['wall'].median:.0%}", f"{share['cpu'].median:.0%}"]
        kept[side.name] = {"wall": side.wall, "cpu": side.cpu, "flops": flops[side.name]}
        kept[side.name] |= {f"mfu_{clock}": spread.record() for clock, spread in share.items()}
    print(table(["side", "tokens/s", "wall s", "CPU s", "GFLOP/s", "MFU", "MFU, CPU time"], rows))
    print(f"\nMFU against {fast.name}. Ratios below: median over rounds (least..greatest).\n")
    rows, ratios = [], []
    for what, slow, quick, wanted in TARGETS:
        if slow in by_name and quick in by_name:
            spreads = {clock: ratio(by_name[slow], by_name[quick], clock) for clock in ("wall", "cpu")}
            rows.append([what, str(spreads["wall"]), str(spreads["cpu"]), "" if wanted is None else f"{wanted}"])
            ratios.append({"what": what, "wanted": wanted} | {clock: s.record() for clock, s in spreads.items()})
    print(table(["times faster", "wall", "CPU", "wanted"], rows))
    shape = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN, "vocab": VOCAB, "length": LENGTH}
    return {
        "what": "seconds of one training step: forward, backward, clip, fused AdamW",
        "shape": shape | {"batch": BATCH, "tied": arguments.tied},
        "yardstick": f"{fast.name}, {GEMM} x {GEMM}",
        "wanted_mfu": WANTED_MFU,
        "ratios": ratios,
        "sides": kept,
        "load_before": load,
        "threads": arguments.threads,
        "processes": "one a side",
        "machine": machine(("torch", "transformers")),
    }


def profile(setting: Setting, precisions: list[str]) -> None:
    """Where a step of cloche spends its time: the operations with the largest own time, by precision."""
    for precision in precisions:
        step, _ = cloche(precision, setting)
        step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as record:
            for _ in range(PROFILED):
                step()
        print(f"\ncloche {precision}, {PROFILED} steps")
        for shapes in (False, True):
            averages = record.key_averages(group_by_input_shape=shapes)
            print(averages.table(sort_by="self_cpu_time_total", row_limit=18, max_shapes_column_width=70))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--nanochat", type=Path, help="folder that holds nanochat/gpt.py's package; skipped where not given"
    )
    parser.add_argument("--nanogpt", type=Path, help="folder that holds nanoGPT's model.py; skipped where not given")
    parser.add_argument("--tied", action="store_true", help="share embedding and head, on every side that can")
    parser.add_argument("--profile", action="store_true", help="only list the operations that dominate a cloche step")
    parser.add_argument(
        "--precisions", nargs="+", choices=DTYPES, default=list(DTYPES), help="leave bf16 out where this CPU has none"
    )
    arguments = parser.parse_args()
    for name, needed in (("nanochat", "nanochat/gpt.py"), ("nanogpt", "model.py")):
        folder = getattr(arguments, name)
        if folder and not (folder / needed).is_file():
            raise SystemExit(f"--{name} {folder} holds no {needed}; name the root of a checkout")
        if not folder:
            print(f"{name}: skipped, no --{name} FOLDER given")
    with tempfile.TemporaryDirectory() as temporary:
        setting = Setting(prepared(Path(temporary)), arguments.threads, arguments.tied)
        torch.set_num_threads(arguments.threads)
        if arguments.profile:
            return profile(setting, arguments.precisions)
        load = busy()
        sides, flops = contestants(setting, arguments)
        interleave(sides, arguments.rounds)
        write("train_step", report(sides, flops, load, arguments))


if __name__ == "__main__":
    main()
