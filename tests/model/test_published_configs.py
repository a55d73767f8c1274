"""Configs as the hub has them open, compute what transformers computes, and a field that could matter is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import close, random_ids
from published_configs import LLAMA, OLD, PUBLISHED

from cloche.errors import ClocheError
from cloche.model import load_network
from cloche.model.huggingface.families.family import families
from cloche.model.huggingface.harmless import IGNORED, OFF

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_opens_and_gives_transformers_logits(name: str, tmp_path: Path) -> None:
    config = PUBLISHED[name]
    torch.manual_seed(0)
    known = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    known.dtype = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(
        known, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = random_ids(2, 30, 97)  # beyond the windows, which are of 17
    with torch.no_grad():
        close(load_network(tmp_path)(ids), model(ids).logits)


FAMILIES = {family.model_type: family for family in families()}
FAMILY_CONFIGS = {kind: name for kind in FAMILIES for name, config in PUBLISHED.items() if config["model_type"] == kind}


@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_every_default_field_of_transformers_own_class_is_known(kind: str) -> None:
    """What `to_dict` holds, all of it, with what older versions wrote besides."""
    whole = transformers.AutoConfig.for_model(kind).to_dict()
    assert FAMILIES[kind].read(whole) == FAMILIES[kind].read({**OLD, **whole})


@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_field_that_could_matter_is_named(kind: str) -> None:
    config = PUBLISHED[FAMILY_CONFIGS[kind]]
    spec = FAMILIES[kind].read(config)
    for name in IGNORED - {"model_type"}:
        assert FAMILIES[kind].read(config | {name: [{"any": "thing"}]}) == spec
    matter: dict[str, Any] = {
        "alibi": True,
        "logits_scaling": 8.0,
        "quantization_config": {"quant_method": "gptq", "bits": 4},
        "is_encoder_decoder": True,
        "pruned_heads": {"0": [1]},
        "clip_qkv": 8.0,
    }
    for name, value in matter.items():
        with pytest.raises(ClocheError, match=rf"{name}.*nothing was loaded\."):
            FAMILIES[kind].read(config | {name: value})


def test_the_list_names_each_field_once() -> None:
    assert not IGNORED & OFF.keys()
    assert not IGNORED & {"num_hidden_layers", "rope_theta", "sliding_window", *LLAMA} - {
        *("architectures", "bos_token_id", "eos_token_id", "initializer_range", "model_type", "torch_dtype"),
        *("transformers_version", "use_cache"),
    }
