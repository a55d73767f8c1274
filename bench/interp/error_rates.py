"""How often instruments report an effect at their 5% level: in random models, where there is none, and in random models with a
planted one. Every instrument whose finding has a p-value is run on 100 models of each kind; at most 9 false and at least 90
true reports are wanted. A test that keeps its level exactly has more than 9 in one of 35 runs, so one that has is run on 400
further random models.

Planted effects, in a model of 2 layers, 4 heads and width 32 with random weights otherwise:
- lookup: head 0 of layer 0 reads which of 8 letters it attends to and writes 32 unit vectors towards another letter's logit;
- echo: each token's row of the unembedding is moved 2 unit vectors towards its embedding (patchscope), or towards the
  embedding of the token before it in the prompt (lens);
- concept: texts that end in one token rather than another (steering_comparison);
- rule: the hand-built model of `planted_rule`, with noise of 0.01 on every weight (function_vectors);
- induction: the weights of a previous-token head and of an induction head that attends with scores of about 12.

    python -m bench.interp.error_rates               # 15 minutes of a quiet core
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

import torch

import cloche
from bench.interp.planted_rule import Successor, in_context
from bench.rounds import asked, table, write
from cloche import GLU, LM, MLP, Attention, Block, Learned, Stack
from cloche.interp import (
    Concept,
    ablation,
    activation_patching,
    attribution_patching,
    direct_attribution,
    function_vectors,
    head_scores,
    logit_attribution,
    logit_lens,
    patchscope,
    path_patching,
    relevance_patching,
    steering_comparison,
    token_attribution,
)
from cloche.model import Network, NoNorm
from cloche.tasks import Rule, Task
from cloche.tasks.task import Values

LETTERS, NAMED = "abcdefgh", "PQRSTUVW"
VOCAB, WIDTH, HEADS = 259, 32, 4
LOOKUP, ECHO = 32.0, 2.0  # strengths
NOISE = 0.01


@dataclass(frozen=True)
class Lookup(Task):
    """The letter that belongs to the prompt's last one."""

    def draw(self, level: int, rng: Random) -> Values:
        return {"digit": rng.choice("0123456789"), "letter": rng.choice(LETTERS)}

    def template(self, values: Values) -> str:
        return "{digit}{letter}"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(("letter",), lambda letter: NAMED[LETTERS.index(letter)])}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return rng.choice([each for each in LETTERS if each != values["letter"]]) if name == "letter" else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        return values

    def choices(self, values: Values) -> Sequence[str]:
        return NAMED


@cache
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


def random_model(seed: int) -> Network:
    return LM(VOCAB, WIDTH, Stack(2, Block(Attention(HEADS), GLU(hidden=64)))).build(seed=seed)


@torch.no_grad()
def with_lookup(seed: int) -> Network:
    net = random_model(seed)
    letters, named = (torch.tensor([tokenizer().encode(each)[0] for each in text]) for text in (LETTERS, NAMED))
    read = net.layers[0].mix_norm(net.embed.weight[letters])
    size = WIDTH // HEADS
    mix = net.layers[0].mix
    mix.qkv.weight[2 * WIDTH : 2 * WIDTH + size] = torch.linalg.pinv(read.T)
    towards = torch.nn.functional.normalize(net.unembed_weight()[named], dim=1)
    mix.out.weight[:, :size] = LOOKUP * towards.T
    return net


@torch.no_grad()
def with_echo(seed: int, said: Sequence[int], after: Sequence[int]) -> Network:
    """A model that says each of `after` where it reads the token of `said` beside it."""
    net = random_model(seed)
    net.unembed_weight()[list(after)] += ECHO * torch.nn.functional.normalize(net.embed.weight[list(said)], dim=1)
    return net


@torch.no_grad()
def with_induction(seed: int, planted: bool = True) -> Network:
    """Tokens and positions are one-hot in the stream; heads read them through random projections."""
    tokens, positions, width, size = 20, 40, 128, 32
    block = Block(Attention(HEADS), MLP("relu", hidden=16), norm=NoNorm())
    net = LM(tokens, width, Stack(2, block), norm=NoNorm(), position=Learned(positions)).build(seed=seed)
    if not planted:
        return net
    net.embed.weight[:, :80] = torch.cat([torch.eye(tokens), torch.zeros(tokens, 60)], 1)
    net.position.weight[:, :80] = torch.cat(
        [torch.zeros(positions, 20), torch.eye(positions), torch.zeros(positions, 20)], 1
    )
    token, place, before = slice(0, 20), slice(20, 60), slice(60, 80)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.diag(torch.ones(positions - 1), 1)
    for layer, asks, has, match, writes in ((0, place, place, shift, before), (1, token, before, torch.eye(20), token)):
        mix = net.layers[layer].mix
        q, k, v = mix.qkv.weight.split(width)
        code = torch.nn.functional.normalize(torch.randn(size, len(match), generator=generator), dim=0)
        q[:size], k[:size], v[:size] = 0, 0, 0
        q[:size, asks], k[:size, has] = 12 * size**0.5 * code @ match, code
        v[:20, token] = torch.eye(20)
        mix.out.weight[:, :size] = 0
        mix.out.weight[writes, :20] = 3 * torch.eye(20)
    return net


def p_of(
    instrument: Callable[..., Any], *given: Any, make: Callable[[int], Network], seed: int, **options: Any
) -> float:
    net = make(seed)
    glass = cloche.Glass(net, tokenizer() if net.spec.vocab == VOCAB else None)
    figures = instrument(glass, *given, **options, seed=seed).figures
    return float(figures["p"] if "p" in figures else not figures["heads_beyond_chance"])


def _task(instrument: Callable[..., Any], **options: Any) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """p of a random model and of a planted one, by seed."""
    null, planted = (partial(p_of, instrument, Lookup(), make=make, **options) for make in (random_model, with_lookup))
    return (lambda seed: null(seed=seed)), (lambda seed: planted(seed=seed))


def _prompt(seed: int) -> list[int]:
    return torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1_000 + seed))[:16].tolist()


def _logit(seed: int, make: Callable[[int], Network]) -> float:
    letter = seed % len(LETTERS)
    answer, other = NAMED[letter], NAMED[(letter + 1) % len(NAMED)]
    return p_of(logit_attribution, LETTERS[letter], answer, other, ablate="none", make=make, seed=seed)


def _lens(seed: int, planted: bool) -> float:
    prompt = _prompt(seed)
    make = partial(with_echo, said=prompt[:-1], after=prompt[1:]) if planted else random_model
    return p_of(logit_lens, prompt, make=make, seed=seed)


def _scope(seed: int, planted: bool) -> float:
    prompt = _prompt(seed)
    make = partial(with_echo, said=prompt, after=prompt) if planted else random_model
    return p_of(patchscope, prompt[:4], target=prompt[4:8], make=make, seed=seed)


def _steering(seed: int, planted: bool) -> float:
    """Texts of random tokens; those with the concept end in another token than those without it."""
    generator = torch.Generator().manual_seed(2_000 + seed)
    rows = torch.randint(VOCAB, (32, 4), generator=generator)
    if planted:
        rows[:16, -1], rows[16:, -1] = torch.randperm(VOCAB, generator=generator)[:2]
    texts = torch.randint(VOCAB, (4, 24), generator=generator)
    concept = Concept("random", tuple(rows[:16].tolist()), tuple(rows[16:].tolist()))
    return p_of(steering_comparison, concept, [texts], "resid_post[0]", make=random_model, seed=seed)


def _rule(seed: int, planted: bool) -> float:
    make = (lambda seed: in_context(tokenizer(), seed, NOISE)) if planted else random_model
    return p_of(function_vectors, Successor(by=seed % 2), shots=4, prompts=8, make=make, seed=seed)


INSTRUMENTS: dict[str, tuple[Callable[[int], float], Callable[[int], float]]] = {
    "logit_lens": (partial(_lens, planted=False), partial(_lens, planted=True)),
    "patchscope": (partial(_scope, planted=False), partial(_scope, planted=True)),
    "logit_attribution": (partial(_logit, make=random_model), partial(_logit, make=with_lookup)),
    "direct_attribution": _task(direct_attribution),
    "head_scores": (
        lambda seed: p_of(head_scores, make=partial(with_induction, planted=False), length=16, draws=2, seed=seed),
        lambda seed: p_of(head_scores, make=with_induction, length=16, draws=2, seed=seed),
    ),
    "activation_patching": _task(activation_patching),
    "attribution_patching": _task(attribution_patching),
    "relevance_patching": _task(relevance_patching),
    "path_patching": _task(path_patching),
    "steering_comparison": (partial(_steering, planted=False), partial(_steering, planted=True)),
    "function_vectors": (partial(_rule, planted=False), partial(_rule, planted=True)),
    "token_attribution": _task(token_attribution, steps=2),
    **{f"ablation ({kind})": _task(ablation, kind=kind) for kind in ("zero", "mean", "resample", "noise", "optimal")},
}
LEVEL = 0.05
MOST, FURTHER = 0.09, 400  # false reports that are expected by chance; models if there are more


def error_rates(models: int, names: Sequence[str] = tuple(INSTRUMENTS)) -> dict[str, tuple[int, int]]:
    """How many of `models` random and of as many planted models each instrument reports an effect in."""
    return {
        name: (
            sum(INSTRUMENTS[name][0](seed) <= LEVEL for seed in range(models)),
            sum(INSTRUMENTS[name][1](seed) <= LEVEL for seed in range(models)),
        )
        for name in names
    }


def main() -> None:
    options = asked(__doc__, models=100, threads=1)
    found = error_rates(options.models)
    print(table(["reports at 5%", "random models", "planted models"], [[k, *map(str, v)] for k, v in found.items()]))
    record: dict[str, dict[str, int]] = {}
    for name, (false, true) in found.items():
        record[name] = {"random": false, "planted": true}
        if false > MOST * options.models:
            seeds = range(options.models, options.models + FURTHER)
            record[name][f"random, {FURTHER} further"] = sum(INSTRUMENTS[name][0](seed) <= LEVEL for seed in seeds)
            print(name, record[name])
    write("error_rates", {"models": options.models, "level": LEVEL, "reports": record}, "torch")


if __name__ == "__main__":
    main()
