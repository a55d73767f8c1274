"""Edges of a transformer, from what one component writes to what one component reads, each patched alone and exactly.

A sender writes into the residual stream; what it writes on another prompt minus what it writes on this one is its delta. An
edge adds the delta to the stream that one receiver reads, and to no other's. Below the receiver nothing changes, so all
deltas come from two saved passes; in the receiver's own layer only its part is computed again; and the layers above are run
in batches, from the first position at which the prompts differ, in the last layer for the last position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, InstrumentOption, ModelUnsupported, shown
from cloche.model import Context, Iterated, Network, Result
from cloche.model.sites import NULL_RECORDER, make_positions

Mode = Literal["free", "frozen"]
Read = Callable[[Tensor], Tensor]
PARTS = ("q", "k", "v")
TOKENS = 4096  # rows x positions that are computed at a time, about


@dataclass(frozen=True)
class Sender:
    """A component that writes into the stream: the embedding, a head or an MLP. `layer` is -1 for the embedding."""

    name: str
    layer: int
    column: str
    order: int  # it is read by receivers of a later order alone


@dataclass(frozen=True)
class Receiver:
    """What reads the stream: q, k or v of a head (of a layer's heads together if it names none), an MLP, or the logits."""

    name: str
    part: str
    layer: int
    head: int | None
    order: int


def senders(net: Network) -> list[Sender]:
    """Every sender, in the order of the pass. Raises ModelUnsupported where heads or blocks are of another kind."""
    _check(net)
    found = [Sender("embed", -1, "embed", -1)]
    for layer, block in enumerate(net.layers):
        found += [Sender(f"z[{layer}].head({h})", layer, f"h{h}", 2 * layer) for h in range(block.mix.heads)]
        found.append(Sender(f"mlp_out[{layer}]", layer, "mlp", 2 * layer + 1))
    return found


def receivers(net: Network, text: str) -> list[Receiver]:
    """The receivers that a text names: logits, mlp_in[3], q[2].head(1), q[2] for its heads together, or "all"."""
    _check(net)
    if text == "all":
        return [each for layer in range(len(net.layers)) for each in _of_layer(net, layer)] + [_logits(net)]
    if text == "logits":
        return [_logits(net)]
    (site, *others) = net.sites.resolve(text)
    if site.name not in (*PARTS, "mlp_in") or others:
        raise InstrumentOption(
            f"receiver={shown(text)} reads no stream of its own; name logits, mlp_in[0], q[0].head(0), k[0].head(0), "
            "v[0].head(0), or all."
        )
    return [_receiver(net, str(site), site.name, site.layer or 0, site.head_index)]


def _of_layer(net: Network, layer: int) -> Iterator[Receiver]:
    mix = net.layers[layer].mix
    for part in PARTS:
        for head in range(mix.heads if part == "q" else mix.kv_heads):
            yield _receiver(net, f"{part}[{layer}].head({head})", part, layer, head)
    yield _receiver(net, f"mlp_in[{layer}]", "mlp_in", layer, None)


def _receiver(net: Network, name: str, part: str, layer: int, head: int | None) -> Receiver:
    after = part == "mlp_in" and _sequential(net.layers[layer])  # its own layer's heads
    return Receiver(name, part, layer, head, 2 * layer + after)


def _logits(net: Network) -> Receiver:
    return Receiver("logits", "logits", len(net.layers), None, 2 * len(net.layers))


def _sequential(block: Any) -> bool:
    """Whether the MLP reads what the heads of its layer write."""
    return "resid_mid" in block.declared_sites


def _check(net: Network) -> None:
    """Raises ModelUnsupported for a body or a mixer whose edges are unknown."""
    if not isinstance(net.body, Iterated) or type(net.body).forward is not Iterated.forward:
        raise ModelUnsupported(
            f"{type(net.body).__name__.strip('_')} does more than pass one stream from block to block, so its edges are "
            "unknown; patch its sites with activation_patching."
        )
    for layer, block in enumerate(net.layers):
        needs = (getattr(block, "mix", None), ("projected", "mixed", "out")), (block, ("mix_norm", "map_norm", "map"))
        if not all(hasattr(module, name) for module, names in needs for name in names):
            raise ModelUnsupported(
                f"Layer {layer} has no heads that read and write one stream, so its edges are unknown; patch its sites with "
                "activation_patching."
            )


# ---- the passes


@dataclass(frozen=True)
class Slots:
    """The positions from `start` on, as a part of a pass whose earlier positions do not change."""

    start: int
    context: Context


class EdgePasses:
    """The pass over `base` [1, position] with edges that carry what `source`, of the same length, left in their senders.

    mode: "free", everything after the receiver is computed again; "frozen", only the receiver's own write reaches the
    logits, and every other component keeps its value. Either way norms are computed again, and `values` reads the logits at
    the last position.
    """

    def __init__(self, net: Network, base: Tensor, source: Tensor, mode: Mode = "free") -> None:
        if mode not in ("free", "frozen"):
            raise InstrumentOption(f"mode={shown(mode)} must be free or frozen.")
        if base.shape != source.shape or len(base) != 1:
            raise ArgumentInvalid(
                f"Edges are patched between two prompts of one length; these are {list(base.shape)} and {list(source.shape)}."
            )
        _check(net)
        self.net, self.mode, self.depth, self.length = net, mode, len(net.layers), base.shape[1]
        self.base, self.source = (net.run(ids, save=_saved(net), logits=True) for ids in (base, source))
        self.states = net.new_states(1, self.length)
        shares = net.causal and all(getattr(state, "by_slot", False) for state in self.states)
        same = int((base == source).int().cumprod(1).sum()) if shares else 0
        self.changed, self.last = (self._slots(net, i) for i in (min(same, self.length - 1), self.length - 1))
        for layer, state in enumerate(self.states):
            state.extend(*(self.at(part, layer).transpose(1, 2) for part in "kv"), 0)

    def _slots(self, net: Network, start: int) -> Slots:
        keys = make_positions(0, self.length, None, net.embed.weight.device)
        return Slots(start, Context(keys[:, start:], keys, start, False, NULL_RECORDER))

    def at(self, name: str, layer: int | None, slots: Slots | None = None, of: Result | None = None) -> Tensor:
        """What the pass over the base left at a site, [1, position, ...]."""
        sites = getattr(self.net.sites, name)
        value = (of or self.base)[sites if layer is None else sites[layer]]
        return value if slots is None else value[:, slots.start :]

    def seen(self, layer: int) -> Slots:
        """The positions of a layer's output that anything after it reads."""
        return self.last if self.mode == "frozen" or layer >= self.depth - 1 else self.changed

    def delta(self, sender: Sender) -> Tensor:
        """What the sender writes on the source minus what it writes on the base, [position from the first change, width]."""
        layer, slots = sender.layer, self.changed
        if layer < 0 or sender.column == "mlp":
            name, at = ("embed", None) if layer < 0 else ("mlp_out", layer)
            return (self.at(name, at, slots, self.source) - self.at(name, at, slots))[0]
        mix, head = self.net.layers[layer].mix, int(sender.column[1:])
        z, other = (self.at("z", layer, slots, of)[:, :, head] for of in (self.base, self.source))
        own = mix.out.weight.unflatten(1, (mix.heads, mix.size))[:, head]  # [width, size]
        change = (other - z) @ own.mT
        if self.net.layers[layer].mix_post is None:
            return change[0]
        return (self._attn_out(layer, slots, change) - self._attn_out(layer, slots, torch.zeros_like(change)))[0]

    @torch.no_grad()
    def values(
        self, senders: Sequence[Sender], receivers: Sequence[Receiver], read: Read, dead: bool = False
    ) -> Tensor:
        """`read` of the logits [edge, vocab] of each edge: [sender, receiver, ...]; where there is no edge, and where a
        sender writes the same on both prompts (unless `dead`), that of the base itself.

        read: from logits [row, vocab] to a tensor [row, ...].
        """
        unchanged = read(self.base.logits[:, -1])[0]
        out = unchanged.expand(len(senders), len(receivers), *unchanged.shape).clone()
        deltas = torch.stack([self.delta(each) for each in senders])
        alive = deltas.flatten(1).any(1).tolist()
        for together in _by_place(receivers):
            first = receivers[together[0]]
            writing = [i for i, each in enumerate(senders) if each.order < first.order and (dead or alive[i])]
            count = max(1, TOKENS // (len(together) * max(1, self.length - self.changed.start)))
            for start in range(0, len(writing), count):
                some = writing[start : start + count]
                logits = self._logits([receivers[i] for i in together], deltas[some])
                values = read(logits)
                out[torch.tensor(some)[:, None], torch.tensor(together)] = values.view(
                    len(some), len(together), *values.shape[1:]
                ).to(out)
        return out

    # ---- one place

    def _logits(self, wanted: Sequence[Receiver], deltas: Tensor) -> Tensor:
        """Logits [sender x receiver, vocab] of edges into receivers of one layer and branch."""
        layer, part = wanted[0].layer, wanted[0].part
        if part == "logits":
            final = self.at("resid_post", self.depth - 1, self.last)
            return self._read_out(final + deltas[:, -1:])
        if part == "mlp_in":
            return self._into_mlp(layer, deltas)
        return self._into_heads(layer, wanted, deltas)

    def _read_out(self, rows: Tensor) -> Tensor:
        """[row, vocab] of the last position's stream [row, 1, width]."""
        return self.net.unembed(self.net.normed(rows, NULL_RECORDER))[:, 0]

    def _into_mlp(self, layer: int, deltas: Tensor) -> Tensor:
        slots = self.seen(layer)
        name = "resid_mid" if _sequential(self.net.layers[layer]) else "resid_pre"
        moved = self.at(name, layer, slots) + deltas[:, slots.start - self.changed.start :]
        update = self._mapped(layer, moved, slots) - self.at("mlp_out", layer, slots)
        if self.mode == "frozen":
            return self._read_out(self.at("resid_post", self.depth - 1, slots) + update)
        return self._above(layer, self.at("resid_post", layer, slots) + update)

    def _into_heads(self, layer: int, wanted: Sequence[Receiver], deltas: Tensor) -> Tensor:
        block, slots = self.net.layers[layer], self.seen(layer)
        read = block.mix_norm(self.at("resid_pre", layer, self.changed) + deltas)
        moved = dict(zip(PARTS, block.mix.projected(read, self.changed.context, layer), strict=True))
        writes = []  # each [sender, position, width]: what the layer's heads write more, before a norm after them
        for part in dict.fromkeys(each.part for each in wanted):
            by_head = self._write(layer, part, moved[part], slots)
            own = [each.head for each in wanted if each.part == part]
            writes += [by_head.sum(1) if head is None else by_head[:, head] for head in own]
        rows = torch.stack(writes, 1).flatten(0, 1)
        before, after = self.at("attn_out", layer, slots), self._attn_out(layer, slots, rows)
        if self.mode == "frozen":
            return self._read_out(self.at("resid_post", self.depth - 1, slots) + (after - before))
        if not _sequential(block):
            return self._above(layer, self.at("resid_post", layer, slots) + (after - before))
        middle = self.at("resid_pre", layer, slots) + after
        return self._above(layer, middle + self._mapped(layer, middle, slots))

    def _write(self, layer: int, part: str, moved: Tensor, slots: Slots) -> Tensor:
        """What changes of the update if one of q, k and v of one head (a group of heads) is `moved` [sender, position, head,
        size]: [sender, head, position, width]."""
        mix, count = self.net.layers[layer].mix, len(moved)
        heads = {name: self.at(name, layer).expand(count, -1, -1, -1) for name in PARTS}
        heads[part] = torch.cat([heads[part][:, : self.changed.start], moved], 1)
        q, k, v = (value.transpose(1, 2) for value in heads.values())
        z = mix.mixed(q[:, :, slots.start :], k, v, slots.context, layer)  # [sender, head, position, size]
        change = z - self.at("z", layer, slots).transpose(1, 2)
        groups = mix.heads if part == "q" else mix.kv_heads
        change = change.unflatten(1, (groups, -1)).transpose(2, 3).flatten(3)  # [sender, group, position, head * size]
        return torch.einsum("sgpe,wge->sgpw", change, mix.out.weight.unflatten(1, (groups, -1)).to(change))

    def _attn_out(self, layer: int, slots: Slots, more: Tensor) -> Tensor:
        """What the attention adds to the stream with `more` written by its heads, [row, position, width]."""
        block = self.net.layers[layer]
        if block.mix_post is None:
            return self.at("attn_out", layer, slots) + more
        return block.mix_post(block.mix.out(self.at("z", layer, slots).flatten(2)) + more)

    # ---- what comes after

    def _mapped(self, layer: int, x: Tensor, slots: Slots) -> Tensor:
        """What the MLP adds to the stream x."""
        block = self.net.layers[layer]
        update, _ = block.map(block.map_norm(x), slots.context, layer)
        return update if block.map_post is None else block.map_post(update)

    def _above(self, layer: int, rows: Tensor) -> Tensor:
        """Logits [row, vocab] of the stream after a layer, [row, position, width]."""
        last = self.depth - 1
        if layer < last - 1:
            states = None
            if self.changed.start:
                states = [
                    state.repeated(len(rows)) if layer < i < last else None for i, state in enumerate(self.states)
                ]
            rows, _ = self.net.body(rows, self.changed.context, states, layer + 1, last)
        return self._read_out(rows if layer == last else self._last_layer(rows))

    def _last_layer(self, x: Tensor) -> Tensor:
        """The last layer at the last position, of its input at all that changed: [row, 1, width]."""
        layer, count = self.depth - 1, len(x)
        block = self.net.layers[layer]
        q, k, v = block.mix.projected(block.mix_norm(x), self.changed.context, layer)
        if self.changed.start:
            k, v = (
                torch.cat([self.at(name, layer)[:, : self.changed.start].expand(count, -1, -1, -1), value], 1)
                for name, value in (("k", k), ("v", v))
            )
        q, k, v = (value.transpose(1, 2) for value in (q[:, -1:], k, v))
        update = block.mix.out(block.mix.mixed(q, k, v, self.last.context, layer).transpose(1, 2).flatten(2))
        here = x[:, -1:]
        middle = here + (update if block.mix_post is None else block.mix_post(update))
        return middle + self._mapped(layer, middle if _sequential(block) else here, self.last)


def _saved(net: Network) -> list[Any]:
    names = ["resid_pre", "q", "k", "v", "z", "attn_out", "mlp_out", "resid_post"]
    middle = [net.sites.resid_mid[i] for i, block in enumerate(net.layers) if _sequential(block)]
    return [net.sites.embed, *(f"{name}.all" for name in names), *middle]


def _by_place(receivers: Sequence[Receiver]) -> list[list[int]]:
    """Indices of the receivers that are computed together, those of one layer's heads."""
    places: dict[tuple[int, str], list[int]] = {}
    for i, each in enumerate(receivers):
        places.setdefault((each.layer, "heads" if each.part in PARTS else each.part), []).append(i)
    return list(places.values())
