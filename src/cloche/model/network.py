"""The module of an LM: one forward pass for training, saving, editing and cached generation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model.context import Context
from cloche.model.declare import Declared, Module, declarations, groups, initialise, matrix_weights, row_blocks
from cloche.model.initialisation import FanIn, Initialisation
from cloche.model.lm import LM
from cloche.model.mixers.masks import Mask
from cloche.model.norms import has_scale, normalised
from cloche.model.passes.compiled import Compiled
from cloche.model.passes.folding import folded
from cloche.model.passes.run import plan_of, run
from cloche.model.passes.stored import StoredActivations
from cloche.model.passes.storing import SHARD_BYTES, store, stored_bytes
from cloche.model.passes.sweep import sweep
from cloche.model.sites import Edit, Plan, Recorder, Result, Site, Sites, check_ids, each_token
from cloche.model.sites.dialects import unlike
from cloche.words import ATTRIBUTES, no_attribute, with_hints


class Embedding(Module):
    """Rows of a [vocab, width] matrix, times `scale`; `std` is the standard deviation of the result."""

    def __init__(self, vocab: int, width: int, std: float, scale: float | None = None) -> None:
        super().__init__()
        self.scale, std = scale, std / (scale or 1.0)
        self.weight = self.declare("weight", (vocab, width), Declared(std=std, group="embedding", shard="rows"))

    @with_hints
    def forward(self, ids: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, self.weight)
        return rows if self.scale is None else rows * self.scale


class Network(Module):
    """A transformer under glass. Build it with `LM(...).build(seed)`.

    `net(ids)` is the plain forward pass; `net.run(ids, save=, edits=)` the same pass with sites saved and edited.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> S = net.sites
    >>> r = net.run([[1, 2, 3]], save=[S.resid_post[1], S.z[0].head(2)], edits=[S.mlp_out[0].zero()])
    >>> r[S.resid_post[1]].shape, r[S.z[0].head(2)].shape
    (torch.Size([1, 3, 32]), torch.Size([1, 3, 8]))
    """

    def __init__(self, spec: LM, seed: int | None, initialisation: Initialisation | None = None) -> None:
        super().__init__()
        self.spec = spec
        std = spec.stream_std
        self.embed = Embedding(spec.vocab, spec.width, std, spec.embed_scale)
        self.position = spec.position.build(spec.width, std) if spec.position else None
        self.body = spec.body.build(spec.width, std)
        self.final_norm = spec.norm.build(spec.width)
        self.unembed = spec.head.build(spec.width, spec.vocab, self.embed if spec.tied else None)
        self.family: str | None = None  # of the Hugging Face checkpoint it was read from
        self.context: int | None = None  # tokens of the longest texts it was trained on, or is declared for
        if seed is not None:
            how = initialisation or FanIn()
            how.check(self)
            initialise(self, seed, functools.partial(how.weights, net=self))
        self.redescribed(spec)

    def redescribed(self, spec: LM) -> None:
        """Takes over a spec whose sizes the modules already have: names the sites, and forgets what was compiled."""
        self.spec, self.compiled = spec, Compiled()
        self.save_plans: dict[tuple[Any, ...], Plan] = {}  # of runs that only save, by what was asked
        stream, scale = each_token(width=spec.width), each_token(scale=1)
        self.sites = Sites(
            {"embed": stream},
            [block.declared_sites for block in self.layers],
            ({"final_scale": scale} if has_scale(self.final_norm) else {})
            | {"final_norm": stream, "logits": each_token(vocab=spec.vocab)},
            self.body.named,
        )
        self.sites.unlike = unlike(self.position, [getattr(block, "mix", None) for block in self.layers])

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> Sequence[Any]:
        """The block that serves each iteration of the body, first to last: of a stack, its layers."""
        return self.body.layers

    @property
    def causal(self) -> bool:
        """Whether no token sees a later one, outside a prefix."""
        return all(mask.causal for mask in self.masks)

    @property
    def masks(self) -> list[Mask]:
        """The mask of each iteration's mixer."""
        return [block.part.mix.mask for block in self.layers]

    def require_causal(self, what: str) -> None:
        """Raises ModelUnsupported if a token sees later ones; `what` predicts each token from those before it."""
        for i, mask in enumerate(self.masks):
            if not mask.causal:
                raise ModelUnsupported(
                    f"{what} predicts each token from those before it, and {mask} of {self.body.named(i)} lets a token see "
                    "later ones: use a model with causal attention."
                )

    @property
    def length(self) -> int | None:
        """The largest number of positions; None if the position encoding sets no limit."""
        return getattr(self.spec.position, "length", None)

    @property
    def most_tokens(self) -> int | None:
        """The most tokens that a text should have: the smaller of `length` and `context`, None if neither is known."""
        return min((limit for limit in (self.length, self.context) if limit is not None), default=None)

    def beyond(self, tokens: int) -> list[str]:
        """A sentence, if a text of so many tokens is longer than those the model was trained on or declared for."""
        if self.context is None or tokens <= self.context:
            return []
        return [
            f"{tokens:,} tokens are more than the {self.context:,} that this model was trained on or declares "
            f"(max_position_embeddings); what it computes from position {self.context:,} on is extrapolation."
        ]

    def warn_beyond(self, tokens: int) -> None:
        """Warns with the sentence of `beyond`, for results without notes."""
        for note in self.beyond(tokens):
            warnings.warn(note, UserWarning, stacklevel=3)

    def unembed_weight(self) -> Tensor:
        """[vocab, width]: the matrix from the normalised stream to logits."""
        return self.unembed.weight  # type: ignore[return-value]

    def declarations(self) -> dict[str, Declared]:
        """What each parameter is for, by name."""
        return declarations(self)

    def groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Parameters by declared group: "matrix", "embedding" and "vector", each a list of (name, parameter)."""
        return groups(self)

    def blocks(self, name: str) -> list[tuple[int, int]]:
        """Row ranges (first, past the last) of the matrices that share the parameter `name`: q, k and v, gate and up."""
        return row_blocks(self, name)

    def flops_per_token(self, length: int) -> float:
        """Operations to train on one token in sequences of `length`: forward and twice that backward.

        Two for each use of a weight of a matrix, including the head's, plus attention's (PaLM's count, 2204.02311).
        """
        outside = matrix_weights(self, without={id(p) for p in self.body.parameters()})
        if self.spec.tied:
            outside += self.unembed_weight().numel()
        inside = sum(self.body.flops_per_token(i, length) for i in range(len(self.layers)))
        return 3.0 * (2.0 * outside + inside)

    def folded(self) -> Network:
        """A new network with the same logits: gains and shifts of norms are folded into the matrices that follow,
        value biases into the output's bias, and the head has a matrix of its own. This network does not change."""
        return folded(self)

    # The pass -------------------------------------------------------------------------------------------------------

    @with_hints
    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, position, vocab] of token ids [batch, position]; those that are no tensor are checked as in `run`."""
        if not isinstance(ids, Tensor):
            ids = check_ids(ids, self.spec.vocab, self.length, self.embed.weight.device)
        return self.unembed(self.hidden(ids))

    def hidden(self, ids: Tensor) -> Tensor:
        """The residual stream after the final norm, [batch, position, width], for losses that compute the head in
        chunks."""
        return self.hidden_and_losses(ids)[0]

    def hidden_and_losses(
        self, ids: Tensor, documents: Tensor | None = None, prefix: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`hidden`, and the parts' auxiliary losses of this pass by name, each summed over the layers ("balance" of a mixture
        of experts); there are none without gradients.

        documents: [batch, position], the number of each token's document within its row: each is computed as if it stood
        alone. prefix: [batch, 1], how many first positions a mask with a prefix shows to all.
        """
        context = Context.over(ids, documents=documents, prefix=prefix)
        return self.normed(self.run_layers(ids, context), context.record), context.losses

    def logits(self, ids: Tensor, context: Context, states: list[Any] | None = None, last: bool = False) -> Tensor:
        """Logits of `ids` [batch, new] after the tokens in the caches `states` (from `new_states`), which it extends.

        last: only the last position's logits, [batch, 1, vocab]; for prompts whose other predictions are not needed.
        """
        x, record = self.normed(self.run_layers(ids, context, states), context.record), context.record
        if last and not record.wants(
            "logits", None
        ):  # an edit of the logits may name any position, so it needs them all
            return self.unembed(x[:, -1:])
        logits = record("logits", None, self.unembed(x))
        return logits[:, -1:] if last else logits

    def run_layers(
        self, ids: Tensor, context: Context, states: list[Any] | None = None, stop: int | None = None
    ) -> Tensor:
        """The residual stream after the body's iterations before `stop`, or after all of them."""
        x = self.embed(ids)
        if self.position is not None:
            x = x + self.position(context.positions)
        x, stop = context.record("embed", None, x), len(self.layers) if stop is None else stop
        return self.body(x, context, states, 0, stop)[0] if stop else x

    def normed(self, x: Tensor, record: Recorder) -> Tensor:
        """The final norm of the stream, as the head reads it."""
        return record("final_norm", None, normalised(self.final_norm, x, record, "final_scale", None))

    def new_states(self, batch: int, capacity: int) -> list[Any]:
        """Empty caches, one for each iteration of the body, for `capacity` tokens."""
        like: Tensor = self.embed.weight
        if torch.is_autocast_enabled(like.device.type):
            like = like.new_empty(0, dtype=torch.get_autocast_dtype(like.device.type))
        return self.body.new_states(batch, capacity, like)

    # Looking and editing --------------------------------------------------------------------------------------------

    @with_hints
    def run(
        self,
        ids: Any,
        save: Iterable[Any] | Site | str = (),
        edits: Iterable[Edit] | Edit = (),
        pad: Any = None,
        logits: bool = True,
        grad: bool = False,
        compile: bool | str | Callable[..., Any] = False,
    ) -> Result:
        """One forward pass that saves and edits sites.

        ids: [batch, position] (or [position]) token ids. save: sites, `sites.resid_post.all`, or their text.
        edits: values from the sites' methods, applied in order. pad: tokens of left padding in each row.
        logits=False stops after the last layer the plan needs. grad: keep the graph. compile: through torch.compile
        (or one of its backends, by name or function), one graph per plan, without breaks; changing the strength of an
        edit does not recompile.

        Raises ClocheError for an unknown site, an edit that would not fire, a shape that does not fit.
        """
        return run(self, ids, save, edits, pad, logits, grad, compile)

    @with_hints
    def sweep(
        self, ids: Any, edits: Iterable[Any], read: Callable[[Tensor], Any], pad: Any = None, rows: int = 128
    ) -> Tensor:
        """`read` of the logits under each of many edits, as if each were run alone: [edit, ...].

        ids, pad: as in `run`. edits: each element one edit, or a tuple of edits made together. read: from the logits
        [batch, position, vocab] of one element to a tensor (of one shape for all) or a number. rows: the most sequences
        computed at a time, which bounds the memory. Layers below an edit and, in a causal model, positions before it are
        computed once.

        Raises ClocheError for what `run` refuses.
        """
        return sweep(self, ids, edits, read, pad, rows)

    @with_hints
    def store(
        self,
        batches: Sequence[Any],
        save: Iterable[Any] | Site | str,
        to: str | Path,
        dtype: str = "bfloat16",
        edits: Iterable[Edit] | Edit = (),
        shard_bytes: int = SHARD_BYTES,
    ) -> StoredActivations:
        """Write the saved sites of many texts to the folder `to`, one row per token, and open it.

        batches: a list (anything with a length) of ids [batch, position], without padding. save: sites with one value per
        token. dtype: "bfloat16", "float16" or "float32". The pass stops after the last layer that is saved; memory holds
        one shard of `shard_bytes`. Called again with the same arguments after a kill, it keeps the finished shards and goes
        on.

        Raises ClocheError for a disk too small, a folder of other activations, a value the dtype cannot hold.
        """
        return store(self, batches, save, to, dtype, edits, shard_bytes)

    def stored_bytes(self, batches: Sequence[Any], save: Iterable[Any] | Site | str, dtype: str = "bfloat16") -> int:
        """Bytes of tensors that `store` would write, without running it."""
        return stored_bytes(self, batches, save, dtype)

    def plan(
        self,
        save: Iterable[Any] | Site | str,
        edits: Iterable[Edit] | Edit,
        ids: Tensor,
        pad: Tensor | None,
        new: int = 0,
        grad: bool = False,
    ) -> tuple[Plan, list[Tensor]]:
        """The plan of these saves and edits for a prompt `ids` followed by `new` generated tokens, and its tensors.

        grad: whether the pass keeps its graph; if not, an edit's tensor may not require a gradient.
        """
        return plan_of(self, save, edits, ids, pad, new, grad)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in ATTRIBUTES:
                raise
            raise no_attribute("Network", name, ()) from None

    def __repr__(self) -> str:
        weight, parameters = self.embed.weight, sum(p.numel() for p in self.parameters())
        kind = self.family or type(self.layers[0]).__name__.strip("_") + "s"
        layers, iterations = len(set(self.layers)), len(self.layers)
        often = f"in {iterations} iterations " if iterations != layers else ""
        return (
            f"<Network: {kind}, {layers} layers {often}of width {self.spec.width:,}, {self.spec.vocab:,} tokens, "
            f"{parameters:,} parameters in {str(weight.dtype).removeprefix('torch.')} on {weight.device}>"
        )
