"""What objectives cost, and what fill-in-the-middle takes from left-to-right prediction.

    python -m bench.train.objectives [--rounds 8] [--steps 600] [--seeds 3] [--threads 1]

First the seconds of a training step of each objective over those of `NextToken`, at the first model's shape, in turns; those
that hide tokens train the same model with Full() masks. Then small models (width 64, 2 layers, rows of 128 tokens) on 150 files
of the standard library, the same steps and seeds for rates 0, 0.5 and 0.9 of fill-in-the-middle: bits per byte of held-out
text from left to right, and nats per token of middles of 16 characters with 128 on both sides, with and without the suffix.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, stdev

import torch

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.data import Batches, PackedTokens, prepare, standard_library
from cloche.model import GLU, LM, Attention, Block, Full, Network, RoPE, Stack
from cloche.text import Tokenizer, train_bpe
from cloche.train import (
    AdamW,
    FillInTheMiddle,
    MaskedDiffusion,
    NextToken,
    Objective,
    Recipe,
    SpanCorruption,
    Stepper,
    TokenBatch,
    evaluate,
    total_loss,
)

VOCAB, LENGTH, BATCH, FILES = 1024, 128, 16, 150
RATES = (0.0, 0.5, 0.9)
MIDDLE, BESIDE, ASKED = 16, 128, 300  # characters of a middle and of each side of it; middles
OBJECTIVES: dict[str, Objective] = {
    "next token": NextToken(),
    "fill-in-the-middle, rate 0.5": FillInTheMiddle(0.5),
    "fill-in-the-middle, rate 0.9": FillInTheMiddle(0.9),
    "span corruption": SpanCorruption(),
    "masked diffusion": MaskedDiffusion(),
}
SPECIAL = (*FillInTheMiddle().special_tokens, *MaskedDiffusion().special_tokens)


def corpus(folder: str, vocab: int) -> tuple[Tokenizer, PackedTokens, PackedTokens]:
    paths = sorted(standard_library(), key=lambda path: path.name)[:FILES]
    prepare(paths, folder, vocab=lambda texts: train_bpe(texts, vocab, SPECIAL))
    return Tokenizer.load(folder), PackedTokens.open(folder, "train"), PackedTokens.open(folder, "validation")


def bidirectional(spec: LM) -> LM:
    block = spec.body.block
    return dataclasses.replace(
        spec, body=Stack(spec.body.depth, dataclasses.replace(block, mix=dataclasses.replace(block.mix, mask=Full())))
    )


def costs(rounds: int) -> dict[str, dict[str, float]]:
    recipe = Recipe()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, train, _ = corpus(folder, recipe.model.vocab)
        spec = dataclasses.replace(recipe.model, vocab=tokenizer.vocab)
        batches = Batches(train, recipe.run.length, recipe.run.batch)

        def stepping(name: str) -> Callable[[], None]:
            objective = OBJECTIVES[name].bound(tokenizer)
            hides = name in ("span corruption", "masked diffusion")
            net = (bidirectional(spec) if hides else spec).build(0)
            stepper, seed = Stepper(net, AdamW()), iter(range(10**6))

            def step() -> None:
                batch = TokenBatch(torch.from_numpy(batches.next()), seed=next(seed))
                stepper.zero_grad()
                total_loss(objective.terms(net, batch)).backward()
                stepper.step()

            return step

        moving = FillInTheMiddle(0.9).bound(tokenizer)
        sides = [Side(name, stepping(name)) for name in OBJECTIVES]
        sides.append(Side("moving the text alone", lambda: moving.examples(torch.from_numpy(batches.next()))))
        interleave(sides, rounds)
    found = {side.name: ratio(side, sides[0], "cpu") for side in sides}
    seconds = {side.name: Spread.of(side.cpu) for side in sides}
    print(table(["a step", "CPU seconds", "over next token"], [[n, str(seconds[n]), str(found[n])] for n in found]))
    return {name: found[name].record() | {"seconds": seconds[name].median} for name in found}


def grown(objective: Objective, tokenizer: Tokenizer, train: PackedTokens, steps: int, seed: int) -> Network:
    block = Block(Attention(4, position=RoPE()), GLU())
    net = LM(tokenizer.vocab, 64, Stack(2, block), tied=True).build(seed)
    stepper, batches = Stepper(net, AdamW(lr=3e-3)), Batches(train, LENGTH, BATCH, seed)
    for step in range(steps):
        stepper.set_rate(min(1.0, (step + 1) / 20, 2 * (1 - step / steps)))
        stepper.zero_grad()
        total_loss(objective.terms(net, TokenBatch(torch.from_numpy(batches.next()), seed=step))).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        stepper.step()
    return net


@torch.no_grad()
def middles(net: Network, objective: FillInTheMiddle, tokenizer: Tokenizer, tokens: PackedTokens) -> dict[str, float]:
    """Nats per token of middles, given both sides in the form that training had, and given what came before alone."""
    rng, nats, count = random.Random(0), {"with suffix": 0.0, "without": 0.0}, 0
    text = tokenizer.decode(tokens.window(0, min(len(tokens), 60_000)).tolist())
    pre, suf, mid = objective.marks
    for _ in range(ASKED):
        start = rng.randrange(len(text) - 2 * BESIDE - MIDDLE)
        cuts = (start, start + BESIDE, start + BESIDE + MIDDLE, start + 2 * BESIDE + MIDDLE)
        before, middle, after = (tokenizer.encode(text[a:b], special=False) for a, b in pairwise(cuts))
        count += len(middle)
        for name, ids in (("with suffix", [pre, *before, suf, *after, mid, *middle]), ("without", [*before, *middle])):
            x = torch.tensor([ids])
            shares = net(x[:, :-1]).log_softmax(-1).gather(-1, x[:, 1:, None])[0, -len(middle) :]
            nats[name] -= float(shares.sum())
    return {name: total / count for name, total in nats.items()}


def free(steps: int, seeds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, train, validation = corpus(folder, VOCAB)
        for seed in range(seeds):
            for rate in RATES:
                objective = FillInTheMiddle(rate).bound(tokenizer)
                net = grown(objective, tokenizer, train, steps, seed)
                score = evaluate(net, validation, tokenizer.byte_lengths, LENGTH, BATCH, 32_768, objective)
                figures = {"bits per byte": score.bits_per_byte, **middles(net, objective, tokenizer, validation)}
                for name, value in figures.items():
                    found.setdefault(f"rate {rate}", {}).setdefault(name, []).append(value)

    def shown(values: list[float]) -> str:
        return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")

    names = ["bits per byte", "with suffix", "without"]
    rows = [[rate, *(shown(each[name]) for name in names)] for rate, each in found.items()]
    print(table(["fill-in-the-middle", *names], rows))
    return found


def main() -> None:
    options = asked(__doc__, rounds=8, steps=600, seeds=3, threads=1)
    record = {"step": costs(options.rounds), "left_to_right": free(options.steps, options.seeds)}
    write("objectives", record | {"steps": options.steps, "seeds": options.seeds}, "torch tokenizers")


if __name__ == "__main__":
    main()
