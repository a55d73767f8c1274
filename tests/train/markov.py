"""A stationary Markov chain whose every entropy is known, and the network that knows it too."""

import itertools
from types import SimpleNamespace

import torch
from torch import Tensor

from cloche.model import Full, Unembed

NEVER = -1e6  # the logit of what cannot be: zero times it is zero still


class Chain:
    """A chain of P[i, j] = p(next is j | i), started from its stationary law."""

    def __init__(self, moves: list[list[float]]) -> None:
        self.moves = torch.tensor(moves, dtype=torch.float64)
        stays = self.moves.T - torch.eye(len(moves))
        ones = torch.ones(1, len(moves), dtype=torch.float64)
        one = torch.cat([torch.zeros(len(moves), dtype=torch.float64), ones[0, :1]])
        self.law = torch.linalg.lstsq(torch.cat([stays, ones]), one).solution

    def ahead(self, steps: int) -> float:
        """H(X_{t + steps} | X_t), nats."""
        rows = torch.special.entr(torch.linalg.matrix_power(self.moves, steps)).sum(1)
        return float(self.law @ rows)

    @property
    def marginal(self) -> float:
        """H(X_t), nats."""
        return float(torch.special.entr(self.law).sum())

    def entropy(self, length: int) -> float:
        """H(X_1, ..., X_length), nats."""
        return self.marginal + (length - 1) * self.ahead(1)

    def sample(self, rows: int, length: int, seed: int) -> Tensor:
        """[row, length] states."""
        generator = torch.Generator().manual_seed(seed)
        states = [torch.multinomial(self.law, rows, replacement=True, generator=generator)]
        for _ in range(length - 1):
            states.append(torch.multinomial(self.moves[states[-1]], 1, generator=generator)[:, 0])
        return torch.stack(states, 1)

    def all(self, length: int) -> tuple[Tensor, Tensor]:
        """Every sequence [row, length], and its probability [row]."""
        ids = torch.tensor(list(itertools.product(range(len(self.law)), repeat=length)))
        return ids, self.law[ids[:, 0]] * self.moves[ids[:, :-1], ids[:, 1:]].prod(1)


class Denoiser:
    """A network whose head gives log p(token | all visible tokens) exactly, by the forward-backward algorithm; the id after
    the chain's last state is the mask."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.states = chain, len(chain.law)
        self.spec = SimpleNamespace(head=Unembed(), vocab=self.states + 1)
        self.unembed = SimpleNamespace(bias=None, feedback=None)
        self.masks, self.causal = [Full()], False

    def unembed_weight(self) -> Tensor:
        return torch.eye(self.states + 1, dtype=torch.float64)

    def hidden_and_losses(self, ids: Tensor, documents: Tensor | None, prefix: Tensor | None) -> tuple[Tensor, dict]:
        moves, length = self.chain.moves, ids.shape[1]
        seen = torch.ones(*ids.shape, self.states, dtype=torch.float64)
        visible = ids < self.states
        seen[visible] = torch.nn.functional.one_hot(ids[visible], self.states).double()
        forward, backward = [self.chain.law.expand(len(ids), -1)], [torch.ones(len(ids), self.states).double()]
        for i in range(length - 1):
            forward.append((forward[-1] * seen[:, i]) @ moves)
            backward.append((backward[-1] * seen[:, length - 1 - i]) @ moves.T)
        both = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
        logits = (both / both.sum(-1, keepdim=True)).log().clamp(min=NEVER)
        return torch.cat([logits, torch.full_like(logits[..., :1], NEVER)], -1), {}


THREE = Chain([[0.8, 0.15, 0.05], [0.1, 0.3, 0.6], [0.5, 0.25, 0.25]])
TURNS = Chain([[0.0, 1.0], [1.0, 0.0]])  # ABAB... or BABA...
