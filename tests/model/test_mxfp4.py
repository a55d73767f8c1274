"""GPT-OSS as it is published, its experts packed in four bits, beside transformers' own unpacking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import close, random_ids
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import load_network, save_network
from cloche.model.huggingface import mxfp4

transformers = pytest.importorskip("transformers")
oracle = pytest.importorskip("transformers.integrations.mxfp4").convert_moe_packed_tensors
NAMES = [f"model.layers.{i}.mlp.experts.{side}_proj" for i in range(2) for side in ("gate_up", "down")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """The same weights twice: experts packed at random, and as transformers unpacks them."""
    dense, packed = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("packed")
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=53, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=3, num_experts_per_tok=2, sliding_window=5,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.GptOssForCausalLM(config).bfloat16().save_pretrained(dense)
    state = load_file(dense / "model.safetensors")
    kept: dict[str, Tensor] = dict(state)
    generator = torch.Generator().manual_seed(1)
    for name in NAMES:
        items, columns, rows = state[name].shape
        blocks = torch.randint(0, 256, (items, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(116, 124, (items, rows, columns // 32), generator=generator, dtype=torch.uint8)
        state[name] = oracle(blocks, scales, dtype=torch.bfloat16)
        assert state[name].shape == kept.pop(name).shape
        kept |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(state, dense / "model.safetensors", {"format": "pt"})
    save_file(kept, packed / "model.safetensors", {"format": "pt"})
    fields = json.loads((dense / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (packed / "config.json").write_text(json.dumps(fields))
    return dense, packed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_unpacked_is_what_transformers_unpacks(folders: tuple[Path, Path], dtype: str) -> None:
    dense, packed = (load_network(folder, dtype) for folder in folders)
    for (name, p), q in zip(dense.named_parameters(), packed.parameters(), strict=True):
        assert p.dtype == q.dtype and torch.equal(p, q), name


def test_in_many_stages(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_network(folders[1])
    monkeypatch.setattr(mxfp4, "STAGE", 4096)
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), load_network(folders[1]).parameters(), strict=True)
    )


def test_logits_and_the_way_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """It goes back as bf16, which transformers opens."""
    net = load_network(folders[1], "auto")
    save_network(net, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    before, after = load_file(folders[0] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    opened = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    ids = random_ids(2, 11, 53)
    with torch.no_grad():
        close(load_network(folders[1])(ids), opened.eval()(ids).logits)


def _tensors(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return spoil


def _config(value: Any) -> Any:
    def spoil(folder: Path) -> None:
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": value}))

    return spoil


FIRST = NAMES[0]
SPOILT = {
    "another packing": (_config({"quant_method": "gptq"}), r"only mxfp4 is"),
    "no packing at all": (_config("mxfp4"), "must be an object"),
    "no scales": (
        _tensors(lambda s: {k: v for k, v in s.items() if k != f"{FIRST}_scales"}),
        f"lacks the tensor '{FIRST}'",
    ),
    "scales of another shape": (
        _tensors(lambda s: s | {f"{FIRST}_scales": s[f"{FIRST}_scales"][:, :-1].contiguous()}),
        "are not MXFP4 weights",
    ),
    "blocks of another kind": (
        _tensors(lambda s: s | {f"{FIRST}_blocks": s[f"{FIRST}_blocks"].to(torch.int8)}),
        "are not MXFP4 weights",
    ),
    "fewer rows": (
        _tensors(lambda s: s | {k: s[k][:, :-2].contiguous() for k in (f"{FIRST}_blocks", f"{FIRST}_scales")}),
        r"has shape \[3, 64, 190\], and the config asks for \[3, 64, 192\]",
    ),
    "a scale that is no number": (
        _tensors(lambda s: s | {f"{FIRST}_scales": s[f"{FIRST}_scales"].fill_(255)}),
        "a scale that is no number",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_one_sentence(case: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    spoil, sentence = SPOILT[case]
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    spoil(tmp_path)
    with pytest.raises(ClocheError, match=sentence) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
