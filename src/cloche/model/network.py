"""The module an LM describes: one forward path for training, looking, editing and cached generation."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from cloche.errors import ArgumentInvalid
from cloche.model.context import Context
from cloche.model.declare import Declared, Module, declarations, initialise
from cloche.model.lm import LM
from cloche.model.mixers.attention import KeyValues
from cloche.model.norms import has_scale, normalised
from cloche.model.passes.folding import folded
from cloche.model.passes.stored import Activations
from cloche.model.passes.stream import SHARD_BYTES, stream, stream_bytes
from cloche.model.passes.sweep import sweep
from cloche.model.sites.checks import check_edits, check_ids, check_no_grad, check_pad, edit_value
from cloche.model.sites.declared import each_token
from cloche.model.sites.edits import Edit
from cloche.model.sites.places import Places, make_positions
from cloche.model.sites.plan import BLANK, Blank, Plan, Tape, make_plan
from cloche.model.sites.result import Result
from cloche.model.sites.vocabulary import Site, Sites
from cloche.words import ATTRIBUTES, answering, no_attribute

Passed = tuple[Tensor | None, tuple[Tensor, ...], dict[int | None, Tensor]]  # logits, kept, patterns' sums
END = 1 << 30  # a layer number past every layer: run to the end
PLANS_HELD = 256  # plans remembered at most; one is a few names


class Embedding(Module):
    """Rows of a [vocab, width] matrix, times `scale`; `std` is the deviation wanted of what comes out."""

    def __init__(self, vocab: int, width: int, std: float, scale: float | None = None) -> None:
        super().__init__()
        self.scale, std = scale, std / (scale or 1.0)
        self.weight = self.declare("weight", (vocab, width), Declared(std=std, group="embedding", shard="rows"))

    @answering
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

    def __init__(self, spec: LM, seed: int | None) -> None:
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
        self._compiled: dict[Any, Callable[..., Any]] = {}  # by what is compiled, its plan and its backend
        self._saving: dict[tuple[Any, ...], Plan] = {}  # the plans of runs that only save, by what was asked
        if seed is not None:
            initialise(self, seed)
        stream, scale = each_token(width=spec.width), each_token(scale=1)
        self.sites = Sites(
            {"embed": stream},
            [block.declared_sites for block in self.layers],
            ({"final_scale": scale} if has_scale(self.final_norm) else {})
            | {"final_norm": stream, "logits": each_token(vocab=spec.vocab)},
        )

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> Sequence[Any]:
        """The blocks, first to last."""
        return self.body.layers  # type: ignore[return-value]

    @property
    def length(self) -> int | None:
        """Most positions the model knows; None where its position encoding sets no limit."""
        return getattr(self.spec.position, "length", None)

    def beyond(self, tokens: int) -> list[str]:
        """A sentence where a text of so many tokens is longer than those the model was trained on or is declared for."""
        if self.context is None or tokens <= self.context:
            return []
        return [
            f"{tokens:,} tokens are more than the {self.context:,} that this model was trained on or declares "
            f"(max_position_embeddings); what it computes from position {self.context:,} on is extrapolation."
        ]

    def warn_beyond(self, tokens: int) -> None:
        """The sentence of `beyond` as a warning, for what gives back tensors or text and has no notes."""
        for note in self.beyond(tokens):
            warnings.warn(note, UserWarning, stacklevel=3)

    def unembed_weight(self) -> Tensor:
        """[vocab, width]: the matrix that reads logits off the normalised stream."""
        return self.unembed.weight  # type: ignore[return-value]

    def declarations(self) -> dict[str, Declared]:
        """What each parameter is for, by name."""
        return declarations(self)

    def groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Parameters by declared group: "matrix", "embedding" and "vector", each a list of (name, parameter)."""
        declared = self.declarations()
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "vector": []}
        for name, parameter in self.named_parameters():
            groups[declared[name].group].append((name, parameter))
        return groups

    def blocks(self, name: str) -> list[tuple[int, int]]:
        """Row ranges (first, past the last) of the matrices that share the parameter `name`: q, k and v, gate and up."""
        declared, rows = self.declarations()[name], self.get_parameter(name).shape[0]
        ends = [0]
        for count in declared.blocks.values():
            ends.append(ends[-1] + count)
        return list(itertools.pairwise(ends)) or [(0, rows)]

    def flops_per_token(self, length: int) -> float:
        """Operations to train on one token in sequences of `length`: forward and twice that backward.

        Two a weight and token in every matrix, the head among them, plus attention's own (PaLM's count, 2204.02311).
        """
        matrices = sum(p.numel() for _, p in self.groups()["matrix"])
        if self.spec.tied:
            matrices += self.unembed_weight().numel()
        matrices -= sum(block.part.map.idle_weights(self.spec.width) for block in self.layers)
        mixing = sum(block.part.mix.flops_per_token(self.spec.width, length) for block in self.layers)
        return 3.0 * (2.0 * matrices + mixing)

    def folded(self) -> Network:
        """A new network that computes the same logits, with the gains and shifts of its norms folded into the matrices that
        read them, value biases into the output's, and a head matrix of its own. This one is left as it is."""
        return folded(self)

    # The pass -------------------------------------------------------------------------------------------------------

    @answering
    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, position, vocab] of token ids [batch, position]."""
        return self.unembed(self.hidden(ids))

    def hidden(self, ids: Tensor) -> Tensor:
        """The stream after the final norm, [batch, position, width]: what a loss that chunks the head starts from."""
        return self._hidden(ids, self._context(ids), None)

    def hidden_and_losses(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`hidden`, and the parts' auxiliary losses of this pass by name, each summed over the layers ("balance" of a mixture
        of experts); there are none without gradients."""
        context = self._context(ids)
        return self._hidden(ids, context, None), context.losses

    def step(
        self,
        ids: Tensor,
        states: list[Any],
        start: int,
        pad: Tensor | None = None,
        tape: Tape | Blank = BLANK,
        last: bool = False,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Logits of `ids` [batch, new] that follow the `start` tokens held in `states` (from `new_states`), which it extends.

        last: only the last position's logits, [batch, 1, vocab]; for prompts whose other predictions nobody reads.
        keys: [batch or 1, start + new], the positions of all tokens up to the last new one, where the caller has them.
        """
        if keys is None:
            context = self._context(ids, start, pad, tape)
        else:
            context = Context(keys[:, start:], keys, start, pad is not None, tape)
        hidden = self._hidden(ids, context, states)
        if last and not tape.wants("logits", None):  # an edit of the logits may name any position, so it needs them all
            return self.unembed(hidden[:, -1:])
        logits = tape("logits", None, self.unembed(hidden))
        return logits[:, -1:] if last else logits

    def climb(self, ids: Tensor, pad: Tensor | None, tape: Tape) -> None:
        """Run the layers for what `tape` keeps of them."""
        self._hidden(ids, self._context(ids, 0, pad, tape), None, len(self.layers))

    def new_states(self, batch: int, capacity: int) -> list[KeyValues]:
        """Empty caches, one a layer, for `capacity` tokens."""
        return [block.mix.new_state(batch, capacity, self._cache_like()) for block in self.layers]

    def _cache_like(self) -> Tensor:
        weight = self.embed.weight
        if torch.is_autocast_enabled(weight.device.type):
            return weight.new_empty(0, dtype=torch.get_autocast_dtype(weight.device.type))
        return weight

    def _context(self, ids: Tensor, start: int = 0, pad: Tensor | None = None, tape: Tape | Blank = BLANK) -> Context:
        positions = make_positions(start, ids.shape[1], pad, ids.device)
        keys = positions if start == 0 else make_positions(0, start + ids.shape[1], pad, ids.device)
        return Context(positions, keys, start, pad is not None, tape)

    def _hidden(self, ids: Tensor, context: Context, states: list[Any] | None, stop: int = END) -> Tensor:
        x = self.embed(ids)
        if self.position is not None:
            x = x + self.position(context.positions)
        x, _ = self.body(context.tape("embed", None, x), context, states, stop)
        return x if stop < END else self.normed(x, context.tape)

    def normed(self, x: Tensor, tape: Any) -> Tensor:
        """The final norm of the stream after the last layer, as the head reads it."""
        return tape("final_norm", None, normalised(self.final_norm, x, tape, "final_scale", None))

    # Looking and editing --------------------------------------------------------------------------------------------

    @answering
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
        (or one of its backends, by name or function), one graph a plan, without breaks; another strength of the same edit
        compiles nothing again.

        Raises ClocheError for an unknown site, an edit that would not fire, a shape that does not fit.
        """
        ids = check_ids(ids, self.spec.vocab, self.length, self.embed.weight.device)
        pad = check_pad(pad, ids)
        plan, inputs = self.plan(save, edits, ids, pad, grad=grad)
        stop = END if logits else min(END, plan.last_layer)
        with torch.set_grad_enabled(grad):
            program = self._program(plan, stop, compile)
            out, kept, off = program(ids, pad, inputs)
        notes = self.beyond(ids.shape[1] - (0 if pad is None else int(pad.min())))
        return Result(out, dict(zip(plan.kept, kept, strict=True)), plan, self.sites, pad, off, notes)

    @answering
    def sweep(
        self, ids: Any, edits: Iterable[Any], read: Callable[[Tensor], Any], pad: Any = None, rows: int = 128
    ) -> Tensor:
        """What `read` makes of the logits under each of many edits, as if each were run alone: [edit, ...].

        ids, pad: as in `run`. edits: each element one edit, or a tuple of edits made together. read: from the logits
        [batch, position, vocab] of one element to a tensor (of one shape for all) or a number. rows: sequences in flight at
        most, which bounds the memory. Layers below an edit and, in a causal model, positions before it are computed once.

        Raises ClocheError for what `run` refuses.
        """
        ids = check_ids(ids, self.spec.vocab, self.length, self.embed.weight.device)
        self.warn_beyond(ids.shape[1])
        return sweep(self, ids, edits, read, check_pad(pad, ids), rows)

    @answering
    def stream(
        self,
        batches: Sequence[Any],
        save: Iterable[Any] | Site | str,
        to: str | Path,
        dtype: str = "bfloat16",
        edits: Iterable[Edit] | Edit = (),
        shard_bytes: int = SHARD_BYTES,
    ) -> Activations:
        """Write the saved sites of many texts to the folder `to`, one row a token, and open what was written.

        batches: a list (anything with a length) of ids [batch, position], without padding. save: sites with one value a
        token. dtype: "bfloat16", "float16" or "float32". The pass stops after the last layer that is saved; memory holds one
        shard of `shard_bytes`. Called again with the same arguments after a kill, it keeps the finished shards and goes on.

        Raises ClocheError for a disk too small, a folder of other activations, a value the dtype cannot hold.
        """
        return stream(self, batches, save, to, dtype, edits, shard_bytes)

    def stream_bytes(self, batches: Sequence[Any], save: Iterable[Any] | Site | str, dtype: str = "bfloat16") -> int:
        """Bytes of tensors that `stream` would write; nothing is run."""
        return stream_bytes(self, batches, save, dtype)

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

        grad: whether the pass keeps its graph; where it does not, an edit's tensor may not ask for a gradient.
        """
        asked = (save,) if isinstance(save, str | Site) else tuple(save)
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        if not edits:
            return self._saves_only(asked), []
        saves = [site.whole for what in asked for site in self.sites.resolve(what)]
        places = Places(ids, pad, new)
        edits = check_edits(edits, self.sites, places)
        plan, carriers = make_plan(saves, edits)
        values = [edit_value(edit, ids, self, places) for edit in carriers]
        if not grad:
            check_no_grad(carriers, values)
        return plan, values

    def _saves_only(self, asked: tuple[Any, ...]) -> Plan:
        """The plan that saves these sites and edits nothing. It holds for every prompt, so it is made once."""
        try:
            plan = self._saving.get(asked)
        except TypeError:  # something that cannot be hashed is no site, and resolving it says so
            plan = None
        if plan is None:
            sites = [site.whole for what in asked for site in self.sites.resolve(what)]
            plan, _ = make_plan(sites, [])
            if len(self._saving) >= PLANS_HELD:
                self._saving.clear()
            self._saving[asked] = plan
        return plan

    def _program(self, plan: Plan, stop: int, compile: Any) -> Callable[..., Passed]:
        def program(ids: Tensor, pad: Tensor | None, inputs: list[Tensor]) -> Passed:
            lengths = (
                ids.shape[1] - pad[:, None] if pad is not None else torch.full((1, 1), ids.shape[1], device=ids.device)
            )
            context = self._context(ids, 0, pad, BLANK)
            tape = Tape(plan, inputs, context.positions, lengths, self.sites)
            if plan.touched:
                context.tape = tape
            hidden = self._hidden(ids, context, None, stop)
            out = context.tape("logits", None, self.unembed(hidden)) if stop >= END else None
            return out, tape.saved(), tape.off

        return self.compiled(program, ("run", plan, stop), compile) if compile else program

    def compiled(self, program: Callable[..., Any], what: tuple[Any, ...], backend: Any) -> Callable[..., Any]:
        """`program` through torch.compile, in one graph; made once for each (kind, plan, ...) of `what` and each backend."""
        backend = "inductor" if backend is True else backend
        if isinstance(backend, str) and backend not in torch.compiler.list_backends(exclude_tags=()):
            raise ArgumentInvalid(f"{backend!r} is no backend of torch.compile; compile=True takes its usual one.")
        key = (*what, backend)
        if key not in self._compiled:
            named = _with_own_code(cast(FunctionType, program), f"{what[0]}_{what[1].hash}_{next(_numbers)}")
            self._compiled[key] = torch.compile(named, fullgraph=True, backend=backend)
        return self._compiled[key]

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
        return (
            f"<Network: {kind}, {len(self.layers)} layers of width {self.spec.width:,}, {self.spec.vocab:,} tokens, "
            f"{parameters:,} parameters in {str(weight.dtype).removeprefix('torch.')} on {weight.device}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": {}}  # compiled passes read the weights of the network they were made for


_numbers = itertools.count()


def _with_own_code(function: FunctionType, name: str) -> FunctionType:
    """The same function with a code object of its own.

    torch.compile keeps its cache, its limit of recompilations and its record of which integers vary by code object; shared
    between plans, a second one would find its layer numbers turned into unknowns, and a ninth one would be refused.
    """
    code = function.__code__.replace(co_name=name)
    return FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
