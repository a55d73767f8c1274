"""Lenses of two small trained models beside the packages they are known from: tuned-lens and, for the Jacobian lens,
TransformerLens.

Tuned lens: CPU seconds to a divergence, KL(model || lens) in nats per token on held-out text, mean over layers. Ours has its
default settings. tuned-lens has the loop of its training script (its own lens, SGD with Nesterov momentum, decay, clipping,
linear schedule); its 250 steps of 2^18 tokens are hours here, so optimiser and tokens per step are swept at our own CPU
seconds, and the best goes on with 1, 3 and 5 times as many, a schedule of that length each, and any text but the held-out.
Every lens is read by one evaluation; models that disagree are refused.

Jacobian lens: CPU seconds for the same texts with all cotangents, the relative difference between the two Js, the passes that
our seconds are worth, and our error with fewer cotangents.

    python -m bench.setup lenses && bench/.venvs/lenses/bin/python -m bench.interp.lenses [--rounds 3] [--threads 1]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, get_linear_schedule_with_warmup
from tuned_lens import TunedLens, model_surgery

import cloche
from bench.rounds import asked, table, write
from cloche.interp import JacobianConfig, Lens, fit_jacobian, lens_comparison, train_lens
from cloche.interp.lenses import Affine

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "model"))  # shifted_relu: relu2M in transformers
model_surgery._transformer_lens_available = False  # it asks for a class that TransformerLens 4 does not have
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = DATA / "text" / "tinystories_sample_ascii.jsonl"
MODELS = ("stories260K", "relu2M")
LENGTH, TRAINED, HELD, PROMPTS = 128, 384, 64, 16  # tokens a window; windows: ours to train on, held out, for J
SWEPT = [("SGD", 512), ("SGD", 2_048), ("Adam", 512)]
TIMES = (1, 3, 5)  # of our CPU seconds
AGREE = 1e-3  # largest difference of logits between the two models


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def windows_of(glass: cloche.Glass) -> Tensor:
    """[window, position] of all stories, one after the other."""
    ids = [i for line in STORIES.read_text().splitlines() for i in glass.tokenizer.encode(json.loads(line)["text"])]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)


# ---- tuned-lens


def step_of(model: PreTrainedModel, lens: TunedLens, ids: Tensor, optimizer: Any, schedule: Any) -> None:
    """One step of tuned-lens' training script, without its autocast to bfloat16, which is slower here."""
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
    labels = output.logits.float().log_softmax(-1)
    for layer, h in enumerate(output.hidden_states[:-1]):
        logits = lens(h, idx=layer)
        (labels.exp() * (labels - logits.log_softmax(-1))).sum(-1).mean().backward()
    torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    schedule.step()


def peer(model: PreTrainedModel, windows: Tensor, kind: tuple[str, int], budget: float) -> tuple[float, TunedLens]:
    """A lens trained for about `budget` CPU seconds, and the seconds that it took."""
    name, tokens = kind
    batches = windows.split(tokens // LENGTH)[:-1]

    def train(steps: int) -> TunedLens:
        lens = TunedLens.from_model(model)
        weights = [p for p in lens.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if name == "SGD":
            optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
        else:
            optimizer = torch.optim.Adam(weights, lr=1e-3, amsgrad=True, weight_decay=1e-3)
        warm = min(1_000, steps // 5) if name == "Adam" else 0
        schedule = get_linear_schedule_with_warmup(optimizer, warm, steps - warm)
        for ids in islice(cycle(batches), steps):
            step_of(model, lens, ids, optimizer, schedule)
        return lens

    train(1)
    each, _ = seconds(lambda: train(4))
    return seconds(lambda: train(max(4, round(budget / each * 4))))


def read(lens: TunedLens, sites: tuple[str, ...]) -> Lens:
    """tuned-lens' translators as our maps; both are residual."""
    weight, bias = (torch.stack([getattr(each, name).detach() for each in lens]) for name in ("weight", "bias"))
    return Lens({"tuned lens": Affine(weight, bias)}, sites)


def tuned(glass: cloche.Glass, model: PreTrainedModel, windows: Tensor, rounds: int) -> dict[str, Any]:
    held = windows[-HELD:]
    text = windows[:-HELD][torch.randperm(len(windows) - HELD, generator=torch.Generator().manual_seed(0))]

    def scored(lens: Lens) -> list[float]:
        kl: list[float] = lens_comparison(glass, [held], lens).data["kl"]["tuned lens"]
        return kl

    train_lens(glass, [text[:32]])
    first, lens = seconds(lambda: train_lens(glass, [text[:TRAINED]]))
    swept = {kind: sum(scored(read(peer(model, text, kind, first)[1], lens.sites))) for kind in SWEPT}
    best = min(swept, key=lambda kind: swept[kind])
    sides: dict[str, list[tuple[float, list[float]]]] = {}
    for number in range(rounds):
        ours, lens = seconds(lambda seed=number: train_lens(glass, [text[:TRAINED]], seed=seed))
        sides.setdefault("cloche", []).append((ours, scored(lens)))
        for times in TIMES if number == 0 else TIMES[:-1]:
            spent, theirs = peer(model, text, best, times * first)
            sides.setdefault(f"tuned-lens, {times} x", []).append((spent, scored(read(theirs, lens.sites))))
    made = {
        name: {
            "cpu": median(cpu for cpu, _ in runs),
            "kl": [median(each) for each in zip(*(kl for _, kl in runs), strict=True)],
        }
        for name, runs in sides.items()
    }
    ours_kl = made["cloche"]["kl"]
    for side in made.values():
        side |= {
            "mean": sum(side["kl"]) / len(ours_kl),
            "ratio": side["cpu"] / made["cloche"]["cpu"],
            "layers": sum(a <= b for a, b in zip(side["kl"], ours_kl, strict=True)),
        }
    return {"best": list(best), "swept": {f"{o} {n}": kl / len(ours_kl) for (o, n), kl in swept.items()}, "sides": made}


# ---- Jacobian lens


def theirs(model: PreTrainedModel, windows: Tensor) -> Callable[[], Tensor]:
    """J [layer, width, width] by TransformerLens; its prompts are texts, here the numbers of windows."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.tools.analysis import JacobianLens

    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)
    bridge.to_tokens = lambda number: windows[int(number)][None]  # type: ignore[method-assign,assignment]

    def work() -> Tensor:
        prompts = [str(i) for i in range(len(windows))]
        lens = JacobianLens.fit(bridge, prompts, corpus="stories", show_progress=False)
        return torch.stack([lens.jacobians[layer].float() for layer in lens.source_layers])

    return work


def jacobian(glass: cloche.Glass, model: PreTrainedModel, windows: Tensor, rounds: int) -> dict[str, Any]:
    texts, width = windows[:PROMPTS], glass.net.spec.width
    exact = JacobianConfig(cotangents=0)
    other = theirs(model, texts) if type(model).__name__ == "LlamaForCausalLM" else None
    fit_jacobian(glass, [texts[:1]], exact)
    cpu: dict[str, list[float]] = {"cloche": [], "TransformerLens": [], "pass": []}
    for _ in range(rounds):
        spent, lens = seconds(lambda: fit_jacobian(glass, [texts], exact))
        cpu["cloche"].append(spent)
        spent, _ = seconds(
            lambda: [
                glass.net.run(part, logits=False, save=[glass.net.sites.resid_post[-1]]) for part in texts.split(8)
            ]
        )
        cpu["pass"].append(spent)
        if other is not None:
            spent, found = seconds(other)
            cpu["TransformerLens"].append(spent)
    spent = {name: median(each) for name, each in cpu.items() if each}
    weight = lens.maps["Jacobian lens"].weight
    made: dict[str, Any] = {"cpu": spent, "passes": spent["cloche"] / spent["pass"], "floor": width + 1, "error": {}}
    if other is not None:
        made |= {"ratio": spent["TransformerLens"] / spent["cloche"]}
        mine = weight[1:] + torch.eye(width)  # theirs starts after the first layer
        made["difference"] = float((found - mine).norm() / mine.norm())
    for cotangents in (width, width // 4, width // 16):  # the same number of backward passes
        count = PROMPTS * width // cotangents
        fit = fit_jacobian(glass, [windows[-HELD - count : -HELD]], JacobianConfig(cotangents=cotangents)).jacobian
        made["error"][f"{count} texts x {cotangents} cotangents"] = list(fit.error)
    return made


def main() -> None:
    options = asked(__doc__, rounds=3, threads=1)
    record: dict[str, Any] = {"threads": options.threads, "models": {}}
    for name in MODELS:
        import shifted_relu  # noqa: F401

        glass = cloche.load(DATA / "weights" / name / "hf")
        model = AutoModelForCausalLM.from_pretrained(DATA / "weights" / name / "hf").eval().requires_grad_(False)
        windows = windows_of(glass)
        apart = float((model(windows[:2]).logits - glass.net(windows[:2])).abs().max())
        if apart > AGREE:
            raise SystemExit(f"{name}: the two models' logits differ by {apart:.2g}")
        print(f"{name}: {glass.net}")
        made = tuned(glass, model, windows, options.rounds)
        rows = [
            [
                side,
                f"{each['cpu']:.1f}",
                f"{each['ratio']:.1f}",
                f"{each['mean']:.3f}",
                " ".join(f"{kl:.2f}" for kl in each["kl"]),
            ]
            for side, each in made["sides"].items()
        ]
        print(f"swept at our seconds: {made['swept']}")
        print(table(["tuned lens", "CPU s", "ratio", "KL", "by layer"], rows) + "\n")
        found = jacobian(glass, model, windows, options.rounds)
        print(json.dumps(found, indent=1) + "\n")
        record["models"][name] = {"tuned": made, "jacobian": found}
    write("lenses", record, "torch transformers tuned-lens transformer-lens")


if __name__ == "__main__":
    main()
