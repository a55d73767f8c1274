"""A recipe small enough to train in a second."""

from cloche.model import GLU, LM, Attention, Block, RoPE, Stack
from cloche.train import Recipe


def tiny_recipe(**changes: object) -> Recipe:
    """Two layers of width 32; `changes` are dotted keys with _ for the dot: run__steps=20."""
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=48))
    spec = LM(vocab=300, width=32, body=Stack(2, block), tied=True)
    settings: dict[str, object] = {
        "tokenizer.vocab": 300,
        "data.paths": ["corpus"],
        "run.length": 32,
        "run.batch": 4,
        "run.steps": 20,
        "run.threads": 1,
        "run.precision": "fp32",
        "log.every": 5,
        "log.health_every": 5,
        "evaluate.validations": 2,
        "evaluate.tokens": 512,
        "checkpoint.count": 3,
        "evaluate.samples": 1,
        "evaluate.sample_tokens": 4,
        "evaluate.prompts": ["the "],
    }
    return Recipe(model=spec).with_set(
        {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    )
