"""What a log says of its weights and of the session that trained them, so that a replay can be compared with it."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from cloche.train.monitors.journal import Record

DIGITS = 16  # hex digits of the hash in a record


def weights_hash(net: nn.Module) -> str:
    """sha256 of the names, dtypes, shapes and bytes of a network's weights, in order of name.

    >>> import torch
    >>> from cloche.train import weights_hash
    >>> one, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> _ = other.load_state_dict(one.state_dict())
    >>> weights_hash(one) == weights_hash(other), len(weights_hash(one))
    (True, 64)
    """
    found = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def session_facts(recipe: str) -> Record:
    """What the bits of a session depend on, besides its checkpoint: torch, threads, vector instructions, the recipe."""
    facts: Record = {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
    facts["processor"] = torch.backends.cpu.get_cpu_capability()
    return {**facts, "recipe": recipe} if recipe else facts
