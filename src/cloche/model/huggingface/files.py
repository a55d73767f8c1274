"""Checkpoint folders in and out: Hugging Face layout wherever the architecture exists there."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloche.errors import ClocheError, FileDamaged, FileTooLarge, ModelMissing, ModelUnsupported, WeightsInvalid
from cloche.files import writing_folder
from cloche.model.huggingface.bounds import check_layers, check_memory, check_sizes
from cloche.model.huggingface.families.family import Family, families, find_family
from cloche.model.huggingface.mxfp4 import Packed, with_packed
from cloche.model.huggingface.rename import Rename, places, shape_of, to_theirs
from cloche.model.huggingface.shards import DTYPES, ONE, Stored, catalogue, read_json, write
from cloche.model.huggingface.written import CONFIG, require_as_written, require_room
from cloche.model.lm import LM
from cloche.model.network import Network
from cloche.model.sites.proof import prove_sites
from cloche.part import part_from_dict

Tensors = Stored | Packed
HEADS = ("lm_head", "embed_out")  # what families call the unembedding
WANTED = {str(dtype).removeprefix("torch."): dtype for kind, dtype in DTYPES.items() if kind != "F64"}
OWN = "cloche"  # model_type of a tree that no family describes


def load_network(
    folder: str | Path, dtype: str | torch.dtype = "float32", check_files: bool = True, check_sites: bool = True
) -> Network:
    """The network of a checkpoint folder, ours or Hugging Face's: config.json and model.safetensors (or its shards).

    dtype: of the weights in memory, on the CPU: "float32", "bfloat16", "float16", or "auto" for the one they are stored in.
    Everything is checked against config.json before a weight is read; then each is read straight into its place.

    check_files: where a manifest.json beside the weights records their sha256, compare them with it. check_sites: run a few
    random tokens through and compare every site with what the parts and weights say that it is.

    Raises ClocheError for anything missing or not understood.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> from cloche.model import load_network, save_network
    >>> save_network(net, "model")
    >>> bool((load_network("model").run([[1, 2, 3]]).logits == net.run([[1, 2, 3]]).logits).all())
    True
    """
    folder = Path(folder)
    if check_files:
        require_as_written(folder)
    config = _read_config(folder)
    tensors = with_packed(catalogue(folder))
    check_layers(config, len(tensors), folder)
    family, spec = _read(config, folder)
    check_sizes(spec, tensors, folder)
    with torch.device("meta"):  # shapes alone
        net = spec.build(seed=None)
    if family is None:
        found = [Rename(name, (name,)) for name, _ in net.named_parameters()]
    else:
        found = family.names(spec)
        tensors = _with_prefix(_drop_derived(tensors), family.prefix)
        if spec.tied:
            _drop_head(tensors, found)
    rows = row_counts(net)
    _check(dict(net.named_parameters()), found, rows, tensors, folder)
    chosen = _dtype(dtype, tensors, folder)
    check_memory(sum(parameter.numel() for parameter in net.parameters()), chosen.itemsize, folder)
    _materialise(net, chosen)
    parameters = dict(net.named_parameters())
    for rule in found:
        for name, place in places(rule, parameters[rule.ours].detach(), rows[rule.ours]):
            tensors[name].read_into(place, rule.item)
    declared = config.get("max_position_embeddings")
    net.context = declared if type(declared) is int and declared > 0 else None
    net.family = None if family is None else family.model_type
    if check_sites:
        prove_sites(net)
    return net


def save_network(net: Network, folder: str | Path) -> None:
    """Write config.json and model.safetensors into `folder`, under Hugging Face's names where its architecture exists there.

    Weights are written in the dtype they have. The config always carries the parts tree too, under "cloche". The files appear
    complete or not at all; a network that this wrote before is replaced, a tokenizer beside it stays. Raises ClocheError for a
    folder with anything else in it.

    >>> from cloche import GLU, LM, Attention, Block, RoPE, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0)
    >>> import json
    >>> from pathlib import Path
    >>> from cloche.model import save_network
    >>> save_network(net, "model")
    >>> json.loads(Path("model/config.json").read_text())["model_type"]
    'llama'
    """
    folder = Path(folder)
    beside = require_room(folder)
    config, family = describe(net.spec, net.family)
    state = {name: parameter.detach() for name, parameter in net.named_parameters()}
    found = [Rename(name, (name,)) for name in state] if family is None else family.names(net.spec)
    if family is not None:
        config["dtype"] = str(net.embed.weight.dtype).removeprefix("torch.")
    if net.context is not None and net.length is None and not _stretched(config):
        config["max_position_embeddings"] = net.context
    with writing_folder(folder, replace=True) as fresh:
        (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write(fresh / ONE, to_theirs(state, found, row_counts(net)))
        for path in beside:
            shutil.copy2(path, fresh)


def _stretched(config: dict[str, Any]) -> bool:
    """Whether the context is one of the numbers that a scaling of positions is computed from."""
    return (config.get("rope_parameters") or {}).get("rope_type") == "dynamic"


def row_counts(net: Network) -> dict[str, list[int]]:
    """For each parameter, how many rows each of the matrices that share it has."""
    declared = net.declarations()
    return {name: [*declared[name].blocks.values()] or [len(p)] for name, p in net.named_parameters()}


def describe(spec: LM, first: str | None = None) -> tuple[dict[str, Any], Family | None]:
    """config.json of a tree, and the family whose names its tensors take (None: our own names).

    first: the family to try before the others, where several can say the same.

    >>> from cloche import GLU, LM, Attention, Block, RoPE, Stack
    >>> from cloche.model.huggingface import describe
    >>> config, family = describe(LM(64, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=64)))))
    >>> config["model_type"], config["num_hidden_layers"]
    ('llama', 2)
    """
    for family in sorted(families(), key=lambda family: family.model_type != first):
        config = family.write(spec)
        if config is not None and _says(family, config, spec):
            return {**config, "dtype": "float32", OWN: spec.to_dict()}, family
    return {"model_type": OWN, OWN: spec.to_dict()}, None


def _says(family: Family, config: dict[str, Any], spec: LM) -> bool:
    """Whether the config is this very tree: what a family cannot say (a window, a norm, ...) shows as a difference."""
    try:
        read: LM = family.read(config)
    except ClocheError:
        return False
    return read.resolved() == spec.resolved()


def _read(config: dict[str, Any], folder: Path) -> tuple[Family | None, LM]:
    """The family whose names the tensors have (None: our own names), and the tree."""
    path, kind = folder / "config.json", config.get("model_type")
    try:
        family = None if OWN in config and kind in (OWN, None) else find_family(kind)
        if family is not None and OWN not in config:
            spec = family.read(config)
            spec.check_fields()
            return family, spec
    except ClocheError as error:
        raise ModelUnsupported(f"{path}: {error}") from None
    try:
        spec = part_from_dict(config[OWN], f"{path}: {OWN}", LM)
    except RecursionError:
        raise FileTooLarge(f"{path}: its parts tree is nested too deeply to be read; restore it.") from None
    return family, spec


def _drop_derived(tensors: dict[str, Tensors]) -> dict[str, Tensors]:
    """Without what old checkpoints repeat: rotary frequencies and causal masks."""
    derived = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(derived)}


def _drop_head(tensors: dict[str, Tensors], found: list[Rename]) -> None:
    """Leave out a tied model's head, which some files repeat. Raises ClocheError where it is not the embedding."""
    embedding = next(tensors.get(rule.theirs[0]) for rule in found if rule.ours == "embed.weight")
    for head in (tensors.pop(f"{name}.weight", None) for name in HEADS):
        if isinstance(head, Stored) and isinstance(embedding, Stored) and not head.same(embedding):
            raise WeightsInvalid(
                f"{head.file}: {head.name} is not the embedding's matrix, and the config says that they are one; set "
                "tie_word_embeddings to false, or take the tensor out."
            )


def _with_prefix(tensors: dict[str, Tensors], prefix: str) -> dict[str, Tensors]:
    """With the names of a whole language model; OpenAI's GPT-2 files name its trunk without the prefix."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {name if name.startswith(HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


def _check(
    parameters: dict[str, nn.Parameter],
    found: list[Rename],
    rows: dict[str, list[int]],
    tensors: dict[str, Tensors],
    folder: Path,
) -> None:
    """Raise unless the stored tensors are the very ones that the parameters ask for, each of its shape."""
    stacks = Counter(name for rule in found if rule.item is not None for name in rule.theirs)
    asked = set()
    for rule in found:
        for name, place in places(rule, parameters[rule.ours], rows[rule.ours]):
            asked.add(name)
            if name not in tensors:
                raise FileDamaged(
                    f"{folder} lacks the tensor {name!r} that its config promises; the checkpoint is not whole."
                )
            shape = [*([stacks[name]] if rule.item is not None else []), *shape_of(rule, place)]
            stored = tensors[name]
            if stored.shape != shape:
                raise WeightsInvalid(
                    f"{stored.file}: {name} has shape {stored.shape}, and the config asks for {shape}; nothing was loaded."
                )
    if left := sorted(tensors.keys() - asked):
        raise WeightsInvalid(
            f"{tensors[left[0]].file} holds a tensor {left[0]!r} that its config does not explain; nothing was loaded."
        )


def _dtype(wanted: str | torch.dtype, tensors: dict[str, Tensors], folder: Path) -> torch.dtype:
    """The dtype that the weights shall have in memory."""
    stored = {str(tensor.dtype).removeprefix("torch."): tensor.dtype for tensor in tensors.values()}
    if wanted == "auto":
        if len(stored) > 1:
            raise ModelUnsupported(
                f"{folder} stores weights in {' and '.join(sorted(stored))}; name one of them as dtype=."
            )
        return next(iter(stored.values()))
    chosen = WANTED.get(wanted, wanted) if isinstance(wanted, str) else wanted
    if chosen not in WANTED.values():
        raise ModelUnsupported(
            f"dtype={wanted!r} is none of {', '.join(map(repr, [*WANTED, 'auto']))}; name one of these."
        )
    return chosen  # type: ignore[return-value]


def _materialise(net: nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter memory of its own, not yet written to; what is tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in net.modules():
        for name, shape in module._parameters.items():
            if shape is not None:
                if shape not in made:
                    made[shape] = nn.Parameter(torch.empty(shape.shape, dtype=dtype))
                module._parameters[name] = made[shape]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelMissing(f"{folder} holds no config.json; name a run, a checkpoint or a Hugging Face model folder.")
    return read_json(path)
