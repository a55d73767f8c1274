"""Sparse probing of a network whose basis is known, of labels whose truth is the text itself, and of real models."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_built import TOKENS, echo, glass
from test_telling_features import one_feature_a_token
from torch import Tensor

import cloche
from cloche.errors import ClocheError
from cloche.interp import Finding, sparse_probing, token_labels
from cloche.interp.probing.labels import quoted
from cloche.interp.probing.sparse import mean_scores
from cloche.model import Network
from cloche.runs import Run
from cloche.sparse import SAE, Provenance, Wiring
from cloche.text import Tokenizer, train_bpe


def text(batches: int = 16, length: int = 41) -> list[Tensor]:
    return list(torch.randint(TOKENS, (batches, 4, length), generator=torch.Generator().manual_seed(0)).unbind())


def is_token(*which: int) -> Callable:
    return lambda subject, ids: {f"is {i}": ids == i for i in which}


def mixing() -> Network:
    """`echo`, whose neurons in layer 0 fire on three tokens each, so that no one of them is of a token alone."""
    net = echo()
    with torch.no_grad():
        inner = net.get_parameter("body.layers.0.map.inner.weight")
        for unit in range(TOKENS):
            inner[unit, [(unit + offset) % TOKENS for offset in (0, 1, 3)]] = 1.0
    return net


def scores(finding: Finding, label: str, basis: str, k: int) -> dict:
    bases = next(row for row in finding.data["labels"] if row["name"] == label)["bases"]
    return next(row for row in bases[basis]["k"] if row["k"] == k)


def test_one_axis_one_feature_and_many_neurons() -> None:
    """Token i is axis i of the stream and feature i of the dictionary; the neurons mix the tokens, and layer 1 has none."""
    finding = sparse_probing(glass(mixing()), text(), sae=one_feature_a_token(), labels=is_token(4, 9), ks=(4, 1))
    data = finding.data
    assert data["ks"] == [1, 4] and data["site"] == "resid_post[0]"
    assert [basis["name"] for basis in data["bases"]] == ["features", "resid_post[0]", "mlp_act[0]"]
    assert [basis["units"] for basis in data["bases"]] == [TOKENS + 2, TOKENS, TOKENS]
    assert data["tokens"] == 16 * 4 * 40 and data["held_out"] == round(0.3 * 64) * 40
    for token in (4, 9):
        for basis in ("features", "resid_post[0]"):
            one = scores(finding, f"is {token}", basis, 1)
            assert one["chosen"] == [token] and one["f1"] == one["auroc"] == 1
        mixed = scores(finding, f"is {token}", "mlp_act[0]", 1)
        assert mixed["f1"] < 0.7 and token in {(mixed["chosen"][0] + offset) % TOKENS for offset in (0, 1, 3)}
        assert scores(finding, f"is {token}", "mlp_act[0]", 4)["f1"] == 1
    by_k, dense, shuffled = mean_scores(data, "mlp_act[0]")
    assert by_k[0] < 1 and dense == pytest.approx(1)
    assert all(abs(area - 0.5) < 0.15 for area in shuffled)
    assert "the best 1 of 14 features 1.00 (1.00)" in finding.summary


def test_a_site_without_a_dictionary_and_neurons_that_are_silent() -> None:
    finding = sparse_probing(glass(echo()), text(), "resid_post[1]", labels=is_token(4), ks=(1, 2))
    assert [basis["name"] for basis in finding.data["bases"]] == ["resid_post[1]", "mlp_act[1]"]
    assert scores(finding, "is 4", "resid_post[1]", 1)["chosen"] == [4]
    silent = scores(finding, "is 4", "mlp_act[1]", 2)
    assert silent["chosen"] == [] and silent["auroc"] == 0.5
    neurons = sparse_probing(glass(mixing()), text(), "mlp_act[0]", labels=is_token(4), ks=(1,))
    assert [basis["name"] for basis in neurons.data["bases"]] == ["mlp_act[0]"]


def test_a_dictionary_of_several_places_is_read_at_all_of_them() -> None:
    """A crosscoder of two layers whose features are the tokens again, and a transcoder that reads the first."""
    places = {
        "resid_post[0] + resid_post[1]": (Wiring((TOKENS, TOKENS)), "resid_post[1]"),
        "resid_post[0] -> mlp_out[1]": (Wiring((TOKENS,), (TOKENS,)), "resid_post[0]"),
    }
    for route, (wiring, site) in places.items():
        sae = SAE(wiring, TOKENS, 1, trained_on=Provenance(route))
        with torch.no_grad():
            sae.encoder.copy_(torch.cat([torch.eye(TOKENS)] * len(wiring.reads), 1))
        finding = sparse_probing(glass(echo()), text(), sae=sae, labels=is_token(4), ks=(1,))
        assert finding.data["site"] == site and scores(finding, "is 4", "features", 1)["chosen"] == [4]


def test_heads_side_by_side_are_a_basis_too() -> None:
    finding = sparse_probing(glass(echo()), text(), "z[0]", labels=is_token(4), ks=(1,))
    assert finding.data["bases"][0] == {"name": "z[0]", "units": TOKENS}


def test_rare_labels_are_named_and_left_out() -> None:
    labels = lambda subject, ids: {"is 4": ids == 4, "never": ids < 0, "always": ids >= 0}  # noqa: E731
    finding = sparse_probing(glass(echo()), text(), "resid_post[0]", labels=labels, ks=(1,))
    assert finding.data["skipped"].keys() == {"never", "always"}
    assert [row["name"] for row in finding.data["labels"]] == ["is 4"]


def test_a_finding_of_probes_is_kept_and_seen(tmp_path: Path) -> None:
    finding = sparse_probing(glass(mixing()), text(), sae=one_feature_a_token(), labels=is_token(4, 9), ks=(1, 4))
    again = sparse_probing(glass(mixing()), text(), sae=one_feature_a_token(), labels=is_token(4, 9), ks=(1, 4))
    assert finding.data == again.data
    back = Finding.load(finding.save(Run.create(tmp_path / "run", recipe="", seed=0, command=[])))
    assert back.table() == finding.table() and len(finding.table().splitlines()) == 2 + 2 * 3
    page = finding._repr_html_()
    assert page.count('class="curve"') == 2 * 3 and "features" in page and "shuffled labels" in page
    assert finding.null is not None and finding.figures["auroc_4"] > 0.9 > finding.null["auroc_4"]


STORY = 'Tom said, "I am not here." Then\n"No 42!" he said (and sat). Tom ran.\n'


@pytest.fixture(scope="module")
def reader() -> SimpleNamespace:
    return SimpleNamespace(net=echo(), tokenizer=train_bpe([STORY * 50], vocab=300), checkpoint="")


def test_labels_are_what_the_text_says(reader: SimpleNamespace) -> None:
    tokenizer: Tokenizer = reader.tokenizer
    ids = torch.tensor([tokenizer.encode(STORY)])
    pieces = [tokenizer.decode_bytes([i]).decode() for i in ids[0].tolist()]
    labels = token_labels(reader, ids)
    assert all(label.shape == ids.shape and label.dtype == torch.bool for label in labels.values())

    def of(name: str) -> list[str]:
        return [piece for piece, on in zip(pieces, labels[name][0].tolist(), strict=True) if on]

    assert set(of("digit")) == {p for p in pieces if "4" in p or "2" in p} != set()
    assert all(p.startswith(" ") for p in of("space")) and len(of("space")) == sum(p[0] == " " for p in pieces)
    assert all("\n" in p for p in of("line end")) and "".join(of("line end")).count("\n") == 2
    assert {p.strip() for p in of("keyword")} <= {"not", "and", "in", "as", "is", "or", "if"}
    assert not any(c.isalnum() for p in of("punctuation") for c in p) and "," in "".join(of("punctuation"))
    assert all(p.strip().lstrip('"(')[:1].isupper() for p in of("capital")) and "Tom" in "".join(of("capital"))
    quotes = "".join(of("quoted"))
    assert "I am not here" in quotes and "No 42" in quotes and "said" not in quotes and "Then" not in quotes
    first = {i: ids[0].tolist().index(i) for i in ids[0].tolist()}
    assert labels["seen"][0].tolist() == [first[i] < place for place, i in enumerate(ids[0].tolist())]


@pytest.mark.parametrize(
    ("line", "inside"),
    [
        ('He said, "yes" and', "yes"),
        ('it was so." They', "it was so."),  # the text began inside
        ('a "b c\nd" e', "b c"),  # ends with its line, and nothing opened the second
        ('5" and 6" wide', "5"),  # a mark for inches closes what the text may have begun with
        ("\u201cso\u201d it", "so"),
        ('\n(" a "b")', "b"),  # a mark between blanks opens nothing
        ("no quotes", ""),
    ],
)
def test_where_quotes_begin_and_end(line: str, inside: str) -> None:
    pieces = [c.encode() for c in line]
    assert "".join(c for c, on in zip(line, quoted(pieces), strict=True) if on) == inside


def test_ids_beyond_the_tokenizer_have_labels_too(reader: SimpleNamespace) -> None:
    labels = token_labels(reader, torch.tensor([[5, 9_999, 9_999]]))
    assert labels["seen"].tolist() == [[False, False, True]] and not labels["space"][0, 1]


def mismatched() -> SAE:
    return SAE(TOKENS, TOKENS, 1, trained_on=Provenance("resid_post[1]"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"site": None}, "Probing needs a site or a dictionary"),
        ({"site": "pattern[0]"}, "one vector per token"),
        ({"site": "resid_post[9]"}, "resid_post"),
        ({"sae": mismatched()}, "The dictionary reads .*, not"),
        ({"sae": SAE(5, 9, 1, trained_on=Provenance("resid_post[0]"))}, "12.*5|5.*12"),
        ({"site": None, "sae": SAE(5, 9, 1)}, "does not record the site"),
        ({"sae": SAE(5, 9, 1, trained_on=Provenance("step-000100/resid_post[0]"))}, "is a site of the model"),
        ({"windows": []}, "at least four windows"),
        ({"windows": [text()[0][:4]], "labels": is_token(4)}, "give more windows"),
        ({"labels": lambda subject, ids: {"wrong": ids}}, "'wrong'.* are not one bool for each token"),
        ({"labels": token_labels}, "no tokenizer"),
        ({"ks": (0,)}, "from 1 to 64"),
    ],
)
def test_misuse_of_probing_gets_one_sentence(options, sentence: str) -> None:
    given = {"windows": text(), "site": "resid_post[0]", "labels": is_token(4)} | options
    with pytest.raises(ClocheError, match=sentence):
        sparse_probing(glass(echo()), **given)


@pytest.mark.parametrize(("name", "least"), [("relu2M", 0.9), ("stories260K", 0.85)])
def test_real_models_know_where_lines_end_and_quotes_stand(
    shared: Callable[[str], Path], name: str, least: float
) -> None:
    model = cloche.load(shared(f"weights/{name}/hf"))
    lines = shared("text/tinystories_sample_ascii.jsonl").read_text().splitlines()[:60]
    ids = np.concatenate([model.tokenizer.encode(json.loads(line)["text"]) for line in lines])[: 32 * 128]
    finding = sparse_probing(model, ids.reshape(-1, 8, 128), "resid_post[2]", ks=(1, 16))
    told = {row["name"]: row["bases"]["resid_post[2]"] for row in finding.data["labels"]}
    assert told["line end"]["dense"]["f1"] > 0.98 and told["punctuation"]["dense"]["auroc"] > 0.98
    by_k, dense, shuffled = mean_scores(finding.data, "resid_post[2]")
    assert by_k[0] < by_k[1] < dense and dense > least
    assert abs(np.mean(shuffled) - 0.5) < 0.06
