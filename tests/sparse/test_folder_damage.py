"""Dictionary folders that are damaged, hostile or of another age: they open as what they are, or get one sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import FEATURES, WIDTH, K, lens_folder, near, ours, signals, topk, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloche.errors import ClocheError
from cloche.files import sha256_of
from cloche.sparse import BatchTopK, Dictionary, Gated, JumpReLU, TopK, Wiring, load_sae
from cloche.sparse.learners.keep import load_dictionary, save_dictionary

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*does not say how many features:UserWarning")

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2.5,
    10**12,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 3_000,
    [],
    [-1],
]
VALUES += [[10**12], ["a"], [[1]], [None], {}, {"a": 1}, [5, 3]]
DEEP = '{"trainer": ' + "[" * 100_000 + "]" * 100_000 + "}"


def learning_folder(folder: Path, rng: torch.Generator, **without: bool) -> Path:
    t = weights(rng, "b_enc")
    state = {
        "encoder.weight": t["W_enc"].T,
        "encoder.bias": t["b_enc"],
        "decoder.weight": t["W_dec"].T,
        "b_dec": t["b_dec"],
    }
    state |= {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    folder.mkdir()
    torch.save({name: value for name, value in state.items() if name not in without}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "k": K, "lm_name": "gpt2", "submodule_name": "resid_post_layer_3"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder


def folders(root: Path, rng: torch.Generator) -> list[Path]:
    found = [
        lens_folder(root / "jumprelu", weights(rng, "b_enc", "threshold"), {"architecture": "jumprelu"}),
        lens_folder(root / "topk", weights(rng, "b_enc"), {"architecture": "topk", "k": K}),
        learning_folder(root / "learning", rng),
    ]
    kinds = (TopK(nested=(10,)), BatchTopK(), JumpReLU(), Gated())
    found += [ours(kind, rng).save(root / type(kind).__name__) for kind in kinds]
    return [*found, ours(BatchTopK(), rng, Wiring((WIDTH,), (7,), True)).save(root / "transcoder")]


def changed_field(path: Path, draw: random.Random) -> None:
    """One place of a JSON file, at any depth, holds something else or is gone."""
    stated = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []
    nodes = [stated]
    while nodes:
        node = nodes.pop()
        inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        places += [(node, key) for key, _ in inside]
        nodes += [value for _, value in inside]
    node, key = draw.choice(places)
    if draw.random() < 0.1:
        del node[key]
    else:
        node[key] = draw.choice(VALUES)
    path.write_text(json.dumps(stated))


def changed_file(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    harm = draw.choice(("gone", "folder", "link", "cut", "flipped", "deep", "length"))
    if harm in ("gone", "folder", "link"):
        path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm == "link":
        path.symlink_to(path.name)
    elif harm == "cut":
        path.write_bytes(data[: draw.randrange(len(data))])
    elif harm == "flipped":
        at = draw.randrange(min(len(data), 300))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
    elif harm == "deep":
        path.write_text(DEEP)
    elif harm == "length":
        path.write_bytes((10**15).to_bytes(8, "little") + data[8:])


def changed_tensor(path: Path, draw: random.Random) -> None:
    pickled = path.suffix == ".pt"
    tensors: dict[str, Any] = torch.load(path) if pickled else load_file(path)
    name = draw.choice(sorted(tensors))
    value: Tensor = tensors[name]
    changes: list[Callable[[], Any]] = [
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.int64),
        lambda: value.float().to(torch.float8_e4m3fn),
        lambda: torch.full_like(value.float(), draw.choice((torch.nan, torch.inf, -torch.inf, 1e38, 0.0))),
        lambda: value[None].contiguous(),
        lambda: value.new_zeros(0),
    ]
    if pickled:
        changes += [lambda: 3.5, lambda: value.float().to_sparse(), lambda: torch.ones(1).expand(10**11)]
    tensors[name] = draw.choice(changes)()
    if pickled:
        torch.save(tensors, path)
        return
    save_file(tensors, path)
    if (card := path.with_name("dictionary.json")).exists():
        card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": sha256_of(path)}))


def test_drawn_damage_is_opened_or_named_in_one_sentence(tmp_path: Path, rng: torch.Generator) -> None:
    draw, refused = random.Random(5), list[str]()
    whole = folders(tmp_path, rng)
    for _ in range(300):
        case = tmp_path / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(draw.choice(whole), case)
        files = sorted(case.iterdir())
        harm = draw.choice((changed_field, changed_file, changed_tensor))
        suited = {changed_field: ".json", changed_tensor: (".pt", ".safetensors")}.get(harm, "")
        harm(draw.choice([path for path in files if path.name.endswith(suited)]), draw)
        try:
            sae = load_sae(case)
        except ClocheError as error:
            refused.append(str(error))
            continue
        assert torch.isfinite(sae.encode(torch.randn(4, sae.encoder.shape[1], generator=rng)).values).all()
        assert isinstance(sae.trained_on.site, str | None) and isinstance(sae.trained_on.checkpoint, str | None)
    assert 150 < len(refused) < 300
    assert not [sentence for sentence in refused if "\n" in sentence or len(sentence) >= 600]


@pytest.mark.parametrize(
    ("name", "dtype", "said"), [("W_enc", torch.complex64, "complex64"), ("b_dec", torch.int32, "int32")]
)
def test_numbers_that_are_not_real_are_refused(
    name: str, dtype: torch.dtype, said: str, tmp_path: Path, rng: torch.Generator
) -> None:
    t = weights(rng, "b_enc")
    t[name] = t[name].to(dtype)
    with pytest.raises(ClocheError, match=rf"{name} in .* has type {said}, but weights must be real"):
        load_sae(lens_folder(tmp_path / "theirs", t, {}))


def test_what_is_stated_is_compared_with_the_weights_before_anything_is_built(
    tmp_path: Path, rng: torch.Generator
) -> None:
    folder = ours(BatchTopK(), rng).save(tmp_path / "ours")
    card = json.loads((folder / "dictionary.json").read_text())
    for change in ({"features": 10**12}, {"wiring": card["wiring"] | {"reads": [10**12]}}, {"width": 10**12}):
        (folder / "dictionary.json").write_text(json.dumps(card | change))
        with pytest.raises(ClocheError, match=r"do not have the shapes dictionary\.json states"):
            load_sae(folder)


def test_a_packed_file_of_tensors_is_refused_unpacked(tmp_path: Path, rng: torch.Generator) -> None:
    import zipfile

    folder = learning_folder(tmp_path / "theirs", rng)
    with zipfile.ZipFile(folder / "ae.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr("archive/data/99", bytes(1 << 20))
    with pytest.raises(ClocheError, match="unpacked it has"):
        load_sae(folder)


@pytest.mark.parametrize("without", [{"threshold": True}, {"threshold": True, "k": True}])
def test_a_topk_of_an_early_dictionary_learning_opens(
    without: dict[str, bool], tmp_path: Path, rng: torch.Generator
) -> None:
    folder = learning_folder(tmp_path / "theirs", rng, **without)
    t, x, sae = torch.load(folder / "ae.pt"), signals(rng), load_sae(folder)
    pre = (x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    near(sae.encode(x).dense(), topk(pre) * t["decoder.weight"].norm(dim=0))
    assert sae.kind == TopK() and sae.l0 == K


def test_a_dictionary_with_a_card_of_other_types_is_refused(tmp_path: Path) -> None:
    folder = save_dictionary(Dictionary(torch.eye(4)), tmp_path / "atoms")
    card = json.loads((folder / "dictionary.json").read_text())
    assert load_dictionary(folder)[0].size == 4
    for key in ("sides", "level", "method", "k", "signals"):
        (folder / "dictionary.json").write_text(json.dumps(card | {key: {"a": 1}}))
        with pytest.raises(ClocheError, match=f"states {key} as"):
            load_dictionary(folder)


def test_what_is_printed_is_one_line(rng: torch.Generator) -> None:
    sae = ours(JumpReLU(), rng, Wiring((WIDTH,), (7,), True))
    assert repr(sae) == (
        f"SAE(JumpReLU, {FEATURES} features of width {WIDTH} to 7 with a skip, l0 {K}, scale 0.31, trained on mlp_out[2])"
    )
    dictionary = Dictionary(torch.eye(4), torch.zeros(4))
    assert repr(dictionary) == "Dictionary(4 atoms of width 4, bias, float32)"
    code = sae.encode(torch.randn(3, WIDTH, generator=rng))
    assert repr(code).startswith(f"Code(3 signals over {FEATURES} atoms, at most {code.k} each, ")
    assert "\n" not in repr(sae.report(torch.randn(30, WIDTH + 7, generator=rng)))
