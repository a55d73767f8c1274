"""The peers' trainers of sparse autoencoders behind one face: a step, the learned atoms, and the codes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.sparse import Code, Dictionary

_ROWS = 1_024


@dataclass(frozen=True)
class Shape:
    """What is to be trained, alike for every side."""

    width: int
    features: int
    l0: int
    steps: int
    batch: int


class SAELens:
    """A trainer of SAELens: `kind` is standard, gated, topk, batchtopk, jumprelu or matryoshka_batchtopk.

    `sparsity` is the coefficient of its penalty, where it has one. Activations are given at mean square one, as SAELens would
    scale them.
    """

    def __init__(self, kind: str, shape: Shape, lr: float, sparsity: float | None = None, **options: Any) -> None:
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.sae import SAEMetadata
        from sae_lens.training.sae_trainer import SAETrainer

        logging.getLogger("sae_lens").setLevel(logging.ERROR)
        name = {"topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU"}.get(
            kind, kind.replace("batchtopk", "BatchTopK").title().replace("_", "").replace("Batchtopk", "BatchTopK")
        )
        if "topk" in kind:
            options["k"] = shape.l0
        if kind == "matryoshka_batchtopk":
            options["matryoshka_widths"] = [
                shape.features // 8,
                shape.features // 4,
                shape.features // 2,
                shape.features,
            ]
        if sparsity is not None:
            options["l0_coefficient" if kind == "jumprelu" else "l1_coefficient"] = sparsity
        config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
            d_in=shape.width, d_sae=shape.features, metadata=SAEMetadata(), **options
        )
        self.sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
        trainer_config = SAETrainerConfig(
            total_training_samples=shape.steps * shape.batch,
            train_batch_size_samples=shape.batch,
            lr=lr,
            lr_warm_up_steps=shape.steps // 20,
            lr_decay_steps=shape.steps // 5,
            lr_end=0.0,
            dead_feature_window=min(
                1_000, max(1, shape.steps // 32)
            ),  # theirs, or a run this short would revive nothing
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(trainer_config, self.sae, data_provider=iter(()))

    def step(self, x: Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    @property
    def dictionary(self) -> Dictionary:
        return Dictionary(self.sae.W_dec.detach().clone(), self.sae.b_dec.detach().clone())

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        self.sae.eval()
        acts = torch.cat([self.sae.encode(rows).to_dense() for rows in x.split(_ROWS)])
        return code_of(acts)


class DictionaryLearning:
    """A trainer of dictionary_learning: topk or batch_topk."""

    def __init__(self, kind: str, shape: Shape, lr: float) -> None:
        warnings.filterwarnings("ignore", module="dictionary_learning")
        from dictionary_learning.trainers import BatchTopKTrainer, TopKTrainer

        make = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}[kind]
        self.trainer = make(
            steps=shape.steps,
            activation_dim=shape.width,
            dict_size=shape.features,
            k=shape.l0,
            layer=0,
            lm_name="none",
            lr=lr,
            warmup_steps=shape.steps // 20,
            decay_start=shape.steps - shape.steps // 5,
            threshold_start_step=min(1_000, shape.steps // 2),
            device="cpu",
            seed=0,
        )
        self.done = 0

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.done, x)
        self.done += 1

    @property
    def dictionary(self) -> Dictionary:
        return Dictionary(
            self.trainer.ae.decoder.weight.detach().T.contiguous(), self.trainer.ae.b_dec.detach().clone()
        )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        return code_of(torch.cat([self.trainer.ae.encode(rows) for rows in x.split(_ROWS)]))


def code_of(acts: Tensor) -> Code:
    """The code of dense answers [n, features]."""
    best = acts.topk(max(1, int((acts != 0).sum(1).max())), dim=1)
    return Code(best.indices, best.values, acts.shape[1])


def batches(x: Tensor, batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Endless shuffled passes."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=rng)
        for start in range(0, len(x) - batch + 1, batch):
            yield x[order[start : start + batch]]
