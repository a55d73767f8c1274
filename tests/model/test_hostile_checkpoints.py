"""A checkpoint that means harm, or is damaged, is one sentence, at once: nothing of its sizes is built first."""

from __future__ import annotations

import json
import random
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from published_configs import PUBLISHED

from cloche.errors import ClocheError
from cloche.model import LM, MoE, Network, Stack, load_network, save_network
from cloche.model.huggingface.families.family import find_family
from cloche.model.huggingface.harmless import IGNORED

EACH = {config["model_type"]: config for config in PUBLISHED.values()}
HOSTILE: list[Any] = [
    *(0, -1, 1.5, 7, float("nan"), float("inf"), 1e308, 1e-320, 10**9, 10**12, 10**30, 10**4000),
    *(True, False, "3", "", None, [], {}, [[]], {"a": []}),
]
IDS = torch.arange(12)[None]


def places(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Each field that is not simply passed over, and each within one."""
    for name, value in config.items():
        if name in IGNORED - {"model_type"}:
            continue
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, inner) for inner in value)


def written(kind: str, folder: Path) -> tuple[dict[str, Any], Path]:
    config = EACH[kind]
    save_network(find_family(kind).read(config).build(0), folder)
    return config, folder / "config.json"


def sentence(folder: Path) -> str:
    """What loading the folder says, at once; empty where it loads and computes."""
    began = time.process_time()
    try:
        logits = load_network(folder)(IDS)
    except ClocheError as error:
        said = str(error)
    else:
        said = ""
        assert bool(logits.isfinite().all())
    assert time.process_time() - began < 5
    assert "\n" not in said and len(said) < 700
    return said


def hostile_fields(kind: str, folder: Path, chosen: slice | None) -> int:
    """Puts each hostile value into each field; how often that was refused."""
    config, path = written(kind, folder)
    tries = [(place, value) for place in places(config) for value in HOSTILE]
    if chosen is not None:
        random.Random(kind).shuffle(tries)
        tries = tries[chosen]
    refused = 0
    for place, value in tries:
        changed = json.loads(json.dumps(config))
        holder = changed
        for name in place[:-1]:
            holder = holder[name]
        holder[place[-1]] = value
        path.write_text(json.dumps(changed))
        refused += bool(sentence(folder))
    return refused


@pytest.mark.parametrize("kind", EACH)
def test_a_field_of_a_config_with_any_value_in_it(kind: str, tmp_path: Path) -> None:
    assert hostile_fields(kind, tmp_path, slice(0, 25)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
def test_every_field_of_a_config_with_every_value_in_it(kind: str, tmp_path: Path) -> None:
    assert hostile_fields(kind, tmp_path, None) > 100


def with_value(name: str, value: Any) -> str:
    """A Llama's config with one field of any text."""
    rest = {k: v for k, v in EACH["llama"].items() if k != name}
    return json.dumps(rest)[:-1] + f', "{name}": {value}}}'


OWN = Network(find_family("llama").read(EACH["llama"]), None).spec.to_dict()
TEXTS = {
    "a number of 5,000 digits": (with_value("hidden_size", "9" * 5000), "not JSON that can be read"),
    "a number of 4,000 digits": (with_value("hidden_size", "9" * 4000), "about 4,001 digits"),
    "nested 100,000 deep": (with_value("id2label", '{"a":' * 100_000 + "1" + "}" * 100_000), "too deeply"),
    "lists without end": (with_value("id2label", "[" * 100_000), "too deeply"),
    "a thousand million layers": (with_value("num_hidden_layers", 10**9), "the weights are .* tensors"),
    "a width of a million million": (with_value("hidden_size", 10**12), "at most 2,147,483,647"),
    "a width of a thousand million": (with_value("hidden_size", 10**9), "no axis beyond 97"),
    "no keys and values at all": (with_value("num_key_value_heads", 0), "must be a whole number above zero"),
    "our own tree, a million deep": (
        json.dumps({"cloche": OWN | {"body": OWN["body"] | {"depth": 10**6}}}),
        "at most 10,000",
    ),
    "our own tree, 9,999 deep": (
        json.dumps({"cloche": OWN | {"body": OWN["body"] | {"depth": 9999}}}),
        "are .* tensors",
    ),
    "our own tree, wide": (json.dumps({"cloche": OWN | {"width": 2**30}}), "no axis beyond 97"),
    "our own tree within itself": (
        '{"cloche": ' + '{"part": "LM", "body": ' * 300 + "1" + "}" * 301,
        "must be a Body, and LM is not one",
    ),
    "a body of a module that is not imported": (
        json.dumps({"cloche": OWN | {"body": {"part": "antigravity:Stack", "depth": 1}}}),
        "names antigravity:Stack, and the module antigravity is not imported; if you trust it, add --import antigravity",
    ),
    "a body that runs code": (
        json.dumps({"cloche": OWN | {"body": "__import__('antigravity').Stack(1)"}}),
        "is not a part; write its name and settings",
    ),
    "a mask within itself": (
        '{"cloche": {"part": "LM", "body": {"part": "Stack", "block": {"part": "Block", "mix": {"part": "Attention", "mask": '
        + ('{"part": "Both", "first": ' * 300 + "1" + "}" * 305),
        "nested more than",
    ),
    "nothing": ("", "not JSON"),
    "a list": ("[1]", "must hold a JSON object"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    written("llama", folder)
    return folder


@pytest.fixture
def spoilt(llama: Path, tmp_path: Path) -> Path:
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("case", TEXTS)
def test_a_config_that_is_no_models(case: str, spoilt: Path) -> None:
    text, said = TEXTS[case]
    (spoilt / "config.json").write_text(text)
    with pytest.raises(ClocheError, match=said):
        load_network(spoilt)
    assert sentence(spoilt) and "antigravity" not in sys.modules


def test_experts_beyond_count_are_refused_before_they_are_built(tmp_path: Path) -> None:
    config, path = written("gpt_oss", tmp_path)
    path.write_text(json.dumps(config | {"num_local_experts": 9_000, "num_hidden_layers": 9}))
    assert "config.json" in sentence(tmp_path)
    spec = find_family("gpt_oss").read(config)
    assert isinstance(spec.body, Stack) and isinstance(spec, LM)
    assert isinstance(spec.body.blocks[0].map, MoE)


def test_headers_and_indices_of_any_content(spoilt: Path) -> None:
    path = spoilt / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = max(header, key=len)
    values = [0, -1, 2**63, 2**64, 1.5, None, "x", [], {}, [0], [-1], [2**62, 2**62], "F8_E4M3", [4, 0], [0, 2**63]]
    spoilt_headers = [json.dumps(header | {name: value}) for value in values]
    for field in ("dtype", "shape", "data_offsets"):
        spoilt_headers += [json.dumps(header | {name: header[name] | {field: value}}) for value in values]
    spoilt_headers += ["", "{}", "[]", "null", "{" * 100_000, '{"__metadata__":' + '{"a":' * 40_000 + "}" * 40_001]
    for text in spoilt_headers:
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + whole[8 + length :])
        assert sentence(spoilt)
    for size in (0, 1, 2**32, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", size) + whole[8:])
        assert sentence(spoilt)
    shard, index = spoilt / "model-00001-of-00001.safetensors", spoilt / "model.safetensors.index.json"
    path.unlink()
    shard.write_bytes(whole)
    named = {tensor: shard.name for tensor in header if tensor != "__metadata__"}
    index.write_text(json.dumps({"weight_map": named}))
    assert not sentence(spoilt)
    files = ["..", ".", "", "x" * 5000, "a\0b", "../" + shard.name, "config.json", 3, None, [], {}]
    texts = [json.dumps({"weight_map": named | {next(iter(named)): file}}) for file in files]
    texts += [json.dumps({"weight_map": value}) for value in (None, [], {}, 3, "x")]
    texts += [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"weight_map":' + '{"a":' * 60_000 + "}" * 60_001,
        '{"a": ' + "9" * 5000 + "}",
    ]
    for text in texts:
        index.write_text(text)
        assert sentence(spoilt)
