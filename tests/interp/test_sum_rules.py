"""What must hold in every family: direct contributions add up to the logit difference, heads to their layer's output, and a
source that is the prompt itself changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sum_rules import check_sums

import cloche
from cloche.interp import (
    ablation,
    activation_patching,
    attribution_patching,
    direct_attribution,
    patchscope,
    path_patching,
    relevance_patching,
    token_attribution,
)
from cloche.model import Network, load_network
from cloche.tasks import PromptPair

random_configs = pytest.importorskip("random_configs", exc_type=ImportError)  # needs transformers

IDS, TASK = [3, 9, 17, 4, 9], PromptPair("ab c", "ab d", "x", "y")


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


@pytest.fixture(scope="module", params=range(len(random_configs.NAMES)), ids=lambda n: random_configs.NAMES[n])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    from family_table import built as theirs

    folder: Path = tmp_path_factory.mktemp("family")
    family, fields = random_configs.random_config(request.param)
    theirs(family, fields | {"vocab_size": 259, "num_hidden_layers": 2}, seed=request.param).save_pretrained(folder)
    return load_network(folder, check_sites=False).double()


def test_direct_contributions_add_up(net: Network, tokenizer: cloche.Tokenizer) -> None:
    check_sums(net, IDS)
    for by in ("component", "head"):
        finding = direct_attribution(cloche.Glass(net, tokenizer), TASK, by=by)  # type: ignore[arg-type]
        assert finding.figures["error"] < 1e-5
        assert finding.arrays["direct"].sum() == pytest.approx(finding.figures["total"], rel=1e-5, abs=1e-5)


def test_heads_add_up_to_the_output_of_attention(net: Network) -> None:
    S = net.sites
    result = net.run([IDS], save=[*S.head_out, *S.attn_out])
    for layer, block in enumerate(net.layers):
        if block.part.post is None:
            bias = 0.0 if block.mix.out.bias is None else block.mix.out.bias
            assert torch.allclose(result[S.head_out[layer]].sum(2) + bias, result[S.attn_out[layer]], atol=1e-10)


def test_a_prompt_that_is_its_own_source_changes_nothing(net: Network, tokenizer: cloche.Tokenizer) -> None:
    glass = cloche.Glass(net, tokenizer)
    findings = [
        activation_patching(glass, TASK),
        activation_patching(glass, TASK, site="z", direction="noise"),
        ablation(glass, TASK, kind="zero"),
        ablation(glass, TASK, site="mlp_out", kind="mean"),
        path_patching(glass, TASK, receiver="logits"),
    ]
    for finding in findings:
        assert finding.null is not None and finding.null["largest"] < 1e-10, finding.about.instrument
    for first_order in (attribution_patching, relevance_patching, token_attribution):
        null = first_order(glass, TASK).null
        assert null is not None and null["largest"] == 0
    same = patchscope(glass, IDS, position=1, target=IDS, place=1)
    own = float(net.run([IDS]).logits[0, -1].detach().softmax(-1)[IDS[1]])
    assert same.arrays["probability"].diagonal() == pytest.approx(own, rel=1e-5)
