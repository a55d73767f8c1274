"""Checkpoint folders in and out: Hugging Face layout wherever the architecture exists there."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model.huggingface import (
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    gpt_oss,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
)
from glasshouse.model.huggingface.rename import to_ours, to_theirs
from glasshouse.model.lm import LM
from glasshouse.model.network import Network
from glasshouse.model.part import part_from_dict

# A family is a module with PREFIX (of its tensors' names, the head's apart), read (config to tree), write (the config that
# might describe a tree; it is held against the tree here) and names (a rule for each tensor).
# The first that can say a tree is the one written.
FAMILIES: dict[str, ModuleType] = {
    "llama": llama,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "phi3": phi3,
    "olmo2": olmo2,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "gpt_oss": gpt_oss,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
}
HEADS = ("lm_head", "embed_out")  # what families call the unembedding
OWN = "glasshouse"  # model_type of a tree that no family describes


def load_network(folder: str | Path) -> Network:
    """The network of a checkpoint folder, ours or Hugging Face's: config.json and model.safetensors (or its shards).

    Weights are brought to fp32 on the CPU. Raises GlasshouseError for anything missing or not understood.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    where = str(folder / "model.safetensors")
    spec = _spec(config, folder)
    net = spec.build(seed=None)
    family = FAMILIES.get(config.get("model_type", ""))
    if family is not None:
        tensors = _with_prefix(_drop_derived(tensors, spec), family.PREFIX)
    if whole := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        kind = tensors[whole[0]].dtype
        raise GlasshouseError(f"{where}: {whole[0]} holds {kind}, not floating-point weights; nothing was loaded.")
    if family is not None:
        tensors = to_ours(tensors, family.names(spec), where)
    _fill(net, tensors, where)
    net.family = None if family is None else config["model_type"]
    return net


def save_network(net: Network, folder: str | Path) -> None:
    """Write config.json and model.safetensors into `folder`, under Hugging Face's names where its architecture exists there.

    The config always carries the parts tree too, under "glasshouse".
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, family = describe(net.spec, net.family)
    state = {name: parameter.detach().cpu() for name, parameter in net.named_parameters()}
    if family is not None:
        rows = {name: [last - first for first, last in net.blocks(name)] for name in state}
        state = to_theirs(state, family.names(net.spec), rows)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def describe(spec: LM, first: str | None = None) -> tuple[dict[str, Any], ModuleType | None]:
    """config.json of a tree, and the family whose names its tensors take (None: our own names).

    first: the family to try before the others, where several can say the same.
    """
    for family in sorted(FAMILIES.values(), key=lambda family: family is not FAMILIES.get(first or "")):
        config = family.write(spec)
        if config is not None and _says(family, config, spec):
            return {**config, "dtype": "float32", OWN: spec.to_dict()}, family
    return {"model_type": OWN, OWN: spec.to_dict()}, None


def _says(family: ModuleType, config: dict[str, Any], spec: LM) -> bool:
    """Whether the config is this very tree: what a family cannot say (a window, a norm, ...) shows as a difference."""
    try:
        read: LM = family.read(config)
    except GlasshouseError:
        return False
    return read.resolved() == spec.resolved()


def _spec(config: dict[str, Any], folder: Path) -> LM:
    if OWN in config:
        spec = part_from_dict(config[OWN], f"{folder / 'config.json'}: {OWN}")
        if not isinstance(spec, LM):
            raise GlasshouseError(f"{folder / 'config.json'}: its parts tree is a {type(spec).__name__}, not an LM.")
        return spec
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise GlasshouseError(
            f"{folder / 'config.json'}: model_type {kind!r} is not one glasshouse reads; it reads {', '.join(FAMILIES)}."
        )
    try:
        spec = FAMILIES[kind].read(config)
        spec.check_fields()
    except GlasshouseError as error:
        raise GlasshouseError(f"{folder / 'config.json'}: {error}") from None
    return spec


def _drop_derived(tensors: dict[str, Tensor], spec: LM) -> dict[str, Tensor]:
    """Without what old checkpoints repeat: rotary frequencies, causal masks, and the head of a tied model."""
    derived = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(derived)}
    if spec.tied:
        for head in HEADS:
            kept.pop(f"{head}.weight", None)
    return kept


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """With the names of a whole language model; OpenAI's GPT-2 files name its trunk without the prefix."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {name if name.startswith(HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


def _fill(net: Network, tensors: dict[str, Tensor], where: str) -> None:
    parameters = dict(net.named_parameters())
    if missing := sorted(parameters.keys() - tensors.keys()):
        raise GlasshouseError(
            f"{where} lacks the tensor {missing[0]!r} that its config promises; the file is not whole."
        )
    if extra := sorted(tensors.keys() - parameters.keys()):
        raise GlasshouseError(
            f"{where} holds a tensor {extra[0]!r} that its config does not explain; nothing was loaded."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            tensor = tensors[name]
            if tensor.shape != parameter.shape:
                raise GlasshouseError(
                    f"{where}: {name} has shape {list(tensor.shape)}, and the config asks for {list(parameter.shape)}."
                )
            parameter.copy_(tensor)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise GlasshouseError(
            f"{folder} holds no config.json; name a run, a checkpoint or a Hugging Face model folder."
        )
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        raise GlasshouseError(f"{path} is not JSON ({error}); restore it from its source.") from None
    if not isinstance(content, dict):
        raise GlasshouseError(f"{path} must hold a JSON object; restore it from its source.")
    return content


def _shards(index: Path) -> list[str]:
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise GlasshouseError(
            f"{index} must hold a weight_map of tensor names to file names; restore it from its source."
        )
    return sorted(set(names.values()))


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    files = _shards(index) if index.is_file() else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for file in files:
        path = folder / file
        if not path.is_file():
            raise GlasshouseError(f"{path} is missing; weights are read from safetensors files only.")
        try:
            with safe_open(path, "pt") as handle:
                tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise GlasshouseError(f"{path} is damaged or cut short ({error}); copy it again from its source.") from None
    return tensors
