from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cloche
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.model import save_network
from cloche.tasks import Add


@pytest.fixture(scope="session")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


@pytest.fixture(scope="session")
def untrained(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    net = LM(259, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=64)))).build(seed=0)
    net.context = 256
    return cloche.Glass(net, tokenizer)


@pytest.fixture(scope="session")
def memoriser(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    """A model trained on the answers to the test problems of Add's first level, and on nothing else."""
    net = LM(259, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=64)))).build(seed=0)
    rows = [tokenizer.encode(f"{i.prompt}{i.answer}\n") for i in Add().examples(100, 1, split="test")]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [10] * (longest - len(row)) for row in rows])  # 10: the end of the line
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(150):
        logits = net(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits[:, 3:].flatten(0, 1), ids[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return cloche.Glass(net, tokenizer)


@pytest.fixture(scope="session")
def folder(untrained: cloche.Glass, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("model")
    save_network(untrained.net, path)
    assert untrained.tokenizer is not None
    untrained.tokenizer.save(path)
    return path
