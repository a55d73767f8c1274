"""Words of other libraries are answered with ours, and a model that is not there with what to do."""

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cloche
from cloche.cli.edits import parse_edit
from cloche.decode import Session, generate
from cloche.errors import ClocheError
from cloche.glass import Glass, load
from cloche.interp.route import Route
from cloche.model import GLU, LM, Attention, Block, LayerNorm, Learned, RMSNorm, RoPE, Stack, save_network, site
from cloche.model.sites.dialects import IN_BLOCKS, ONCE
from cloche.model.sites.vocabulary import AXES
from cloche.words import ARGUMENTS, ATTRIBUTES, EDITS, IN_A_BLOCK, IN_THE_MODEL

IDS = torch.arange(6)[None]


@pytest.fixture(scope="module")
def glass() -> Glass:
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24))
    return Glass(LM(vocab=20, width=16, body=Stack(4, block)).build(seed=0))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_of_another_library_is_answered_with_ours(name: str, glass: Glass) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "run": glass.run,
        "generate": glass.generate,
        "loss": glass.loss,
        "sweep": lambda ids, **o: glass.sweep(ids, [glass.sites.z[0].zero()], read=lambda x: x, **o),
        "store": lambda ids, **o: glass.store([ids], "z[0]", "nowhere", **o),
        "net.run": glass.net.run,
        "net": glass.net,
        "decode.generate": lambda ids, **o: generate(glass.net, ids, **o),
        "load": lambda ids, **o: load("nowhere", **o),
    }
    for call in calls.values():
        with pytest.raises(ClocheError) as caught:
            call(IDS, **{name: 1})
        said = str(caught.value)
        assert f"has no argument {name!r}; {ARGUMENTS[name]}" in said and said.endswith(".")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_another_library_is_answered_with_ours(name: str, glass: Glass) -> None:
    result, made = glass.run(IDS), glass.generate(IDS, new=2)
    answered = 0
    for thing in (glass, glass.net, result, made):
        if hasattr(thing, name):
            continue
        answered += 1
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'; ") as caught:
            getattr(thing, name)
        assert isinstance(caught.value, ClocheError) and ATTRIBUTES[name] in str(caught.value)
    assert answered >= 2


def test_a_typo_is_answered_with_the_nearest_name(glass: Glass) -> None:
    for act, hint in (
        (lambda: glass.run(IDS, svae="z[0]"), "save="),
        (lambda: glass.generate(IDS, temprature=1.0), "temperature="),
        (lambda: glass.net.run(IDS, edit=[]), "edits="),
        (lambda: glass.genrate, "'generate'"),
        (lambda: glass.run(IDS).logit, "'logits'"),
    ):
        with pytest.raises(ClocheError, match=f"did you mean {hint}"):
            act()
    with pytest.raises(ClocheError, match=r"glass\.run\(prompt\)\.logits"):
        glass("text")


def test_things_that_answer_are_copied_and_kept_as_before(glass: Glass) -> None:
    result = glass.run(IDS, save="z[0]")
    for thing in (glass, result, glass.net, glass.sites):
        assert repr(copy.deepcopy(thing)) == repr(thing)
        assert repr(pickle.loads(pickle.dumps(thing))) == repr(thing)
    assert not hasattr(glass, "_anything") and not hasattr(glass.net, "no_such_thing")
    with pytest.raises(AttributeError, match=r"cloche\.load\(folder\)"):
        cloche.HookedTransformer  # noqa: B018


THEIRS = {
    "blocks.1.hook_mlp_in": "resid_mid[1]",
    "blocks.1.ln1.hook_normalized": "attn_in[1]",
    "model.layers.3": "resid_post[3]",
    "model.layers[3].mlp.output": "mlp_out[3]",
    "model.layers.3.self_attn": "attn_out[3]",
    "transformer.h.0": "resid_post[0]",
    "transformer.h.2.mlp": "mlp_out[2]",
    "gpt_neox.layers.1.attention": "attn_out[1]",
    "transformer.wte": "embed",
    "model.norm": "final_norm",
    "lm_head": "logits",
    "hidden_states": "resid_post.all",
}


@pytest.mark.parametrize("text", THEIRS)
def test_a_place_of_another_library_is_answered_with_ours(text: str, glass: Glass) -> None:
    for act in (lambda: site(text), lambda: glass.run(IDS, save=[text]), lambda: glass.run(IDS)[text]):
        with pytest.raises(ClocheError) as caught:
            act()
        said = f"{text!r} is another library's name; what comes nearest to it here is {THEIRS[text]}."
        assert str(caught.value) == said
    glass.run(IDS, save=THEIRS[text])
    assert {*IN_A_BLOCK.values(), *IN_THE_MODEL.values()} <= {
        *AXES,
        "resid_post.all",
        "pattern.all",
    }


DIALECTS = {
    **{f"blocks.3.{hook}": f"{ours}[3]" for hook, ours in IN_BLOCKS.items()},
    **ONCE,
    **{f"{name}.2": f"{name}[2]" for name in AXES if name not in ("embed", "final_scale", "final_norm", "logits")},
    "blocks.1.attn.hook_z.head(1)": "z[1].head(1)",
    "z.1.head(1)": "z[1].head(1)",
}


@pytest.mark.parametrize("text", DIALECTS)
def test_a_site_is_read_in_three_dialects_and_written_in_ours(text: str, glass: Glass, tmp_path: Path) -> None:
    ours = DIALECTS[text]
    assert str(site(text)) == ours
    if "router" in ours:  # which only a mixture of experts has
        return
    assert glass.sites[text] == glass.sites[ours] == glass.sites.resolve(text)[0] == site(ours)
    result = glass.run(IDS, save=[text])
    assert torch.equal(result[text], result[ours]) and text in result and str(result.plan) == f"save {site(ours).whole}"
    if "head_out" not in ours:
        assert parse_edit(f"{text}.scale(0.5)", tmp_path, glass.sites).site == site(ours)


def test_a_dictionarys_places_are_written_in_ours() -> None:
    route = Route.parse("blocks.2.hook_resid_post + step-000100/resid_post.1 -> blocks.0.hook_mlp_out")
    assert str(route) == "resid_post[2] + step-000100/resid_post[1] -> mlp_out[0]"


def test_stored_rows_are_read_in_three_dialects(glass: Glass, tmp_path: Path) -> None:
    kept = glass.store([IDS], "blocks.2.hook_resid_post", tmp_path / "rows")
    rows = [next(kept.batches(text)) for text in ("resid_post[2]", "resid_post.2", "blocks.2.hook_resid_post")]
    assert kept.sites == {"resid_post[2]": [16]} and all(torch.equal(rows[0], other) for other in rows)


def test_a_hook_that_holds_other_numbers_here_is_refused() -> None:
    block = Block(Attention(2, qk_norm=RMSNorm()), GLU(hidden=24), LayerNorm())
    net = LM(20, 16, Stack(2, block), position=Learned(8)).build(seed=0)
    for text, said in {
        "hook_embed": "before its positions are added .* nearest is embed",
        "blocks.1.attn.hook_q": r"q before its norm .* nearest is q_pre\[1\]",
        "blocks.0.attn.hook_k": r"k before its norm .* nearest is k_pre\[0\]",
    }.items():
        with pytest.raises(ClocheError, match=said):
            net.run(IDS, save=[text])
    assert str(net.sites["blocks.1.attn.hook_v"]) == "v[1]" and len(net.sites["z.all"]) == 2  # type: ignore[arg-type]
    with pytest.raises(ClocheError, match="takes the text of a site"):
        net.sites[3]  # type: ignore[index]


def test_a_missing_model_says_what_to_do(tmp_path: Path, glass: Glass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    save_network(glass.net, tmp_path / "runs" / "first")
    (tmp_path / "notes.txt").write_text("")
    cases: dict[Any, tuple[str, ...]] = {
        "gpt2": ('named "openai-community/gpt2"', "pip install 'cloche[hub]'", "folders here: runs"),
        "rums": ("nearest name is runs", "pip install"),
        "runs": ("name runs/first",),
        "runs/frist": ("There is no folder runs/frist (the nearest name is runs/first).",),
        "rnus/first": ("nearest name is runs", "pip install 'cloche[hub]'"),
        str(tmp_path / "runs" / "frist"): ("nearest name is",),
        "notes.txt": ("is a file; name the folder",),
        "runs/first/model.safetensors": ("is a file; name the folder",),
        "": ("contains no model",),
        "x" * 5000: ("There is no folder",),
        "a\0b": ("There is no folder",),
        None: ("named by its folder",),
        7: ("named by its folder",),
    }
    for where, hints in cases.items():
        with pytest.raises(ClocheError) as caught:
            load(where)
        said = str(caught.value)
        assert all(hint in said for hint in hints), said
        assert "\n" not in said and len(said) < 400
    assert load("runs/first").net.spec.resolved() == glass.net.spec.resolved()


def test_a_session_prints_what_was_fed(glass: Glass) -> None:
    session = Session(glass.net, IDS, None, 4, save="z[1]")
    session.feed(IDS)
    assert repr(session) == "<Session: 6 of 10 tokens fed; saves z[1]>"


@pytest.mark.parametrize("name", EDITS)
def test_a_change_that_another_library_makes_is_answered_with_ours(name: str, glass: Glass) -> None:
    with pytest.raises(AttributeError, match=f"A Site has no attribute '{name}'; ") as caught:
        getattr(glass.sites.z[1], name)
    assert isinstance(caught.value, ClocheError) and EDITS[name] in str(caught.value)


def test_a_site_is_still_a_plain_value(glass: Glass) -> None:
    place = glass.sites.z[1].head(1)
    assert copy.deepcopy(place) == pickle.loads(pickle.dumps(place)) == place
    assert not hasattr(place, "__array__")


@pytest.mark.parametrize(("text", "said"), [("attn[2]", "'attn_out'"), ("mlp[2]", "'mlp_out'"), ("z[-1]", "number")])
def test_a_site_that_is_nearly_one_is_told_which(text: str, said: str) -> None:
    with pytest.raises(ClocheError, match=said):
        site(text)
