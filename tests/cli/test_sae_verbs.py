"""`glasshouse sae` on a tiny run: trained, measured, read; and what cannot be."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glasshouse.runs import Run
from glasshouse.sparse import load_sae

Call = Callable[..., tuple[int, str, str]]
SMALL = ("--features", 96, "--l0", 4, "--tokens", 6_000)


@pytest.fixture
def run(grown: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grown, tmp_path / "run"))


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_dictionary_is_trained_measured_and_read(call: Call, run: Path, kind: str) -> None:
    code, _, err = call("sae", "train", run, "--site", "resid_post[1]", "--kind", kind, *SMALL)
    assert code == 0, err
    sae = load_sae(run / "dictionaries" / "resid_post_1")
    assert (sae.features, sae.trained_on.site, sae.trained_on.checkpoint) == (96, "resid_post[1]", "step-000012")
    code, out, err = call("sae", "report", run, "resid_post_1", "--tokens", 2_000)
    assert code == 0, err
    assert "recovered, KL" in out and "by non-negative OMP" in out
    before = (run / "dictionaries/resid_post_1/dictionary.safetensors").read_bytes()
    code, out, err = call("sae", "features", run, "resid_post_1", "--count", 3, "--tokens", 2_000)
    assert code == 0 and out.count(", says ") == 3, err
    assert Run.open(run).findings("features")[0]["summary"] in out
    code, _, err = call("sae", "train", run, "--site", "resid_post[1]", *SMALL)
    assert code == 1 and "nothing is overwritten" in err
    assert (run / "dictionaries/resid_post_1/dictionary.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--kind", "wavelet"), "no kind of dictionary called 'wavelet': choose among topk"),
        (("train", "--site", "resid_post[9]"), "resid_post[9]"),
        (("report", "nothing"), "train one with `glasshouse sae train`"),
        (("features", "nothing"), "has no dictionary 'nothing'"),
    ],
)
def test_misuse_gets_one_sentence(call: Call, run: Path, words: tuple[str, ...], said: str) -> None:
    verb, *rest = words
    code, _, err = call("sae", verb, run, *rest)
    assert (code, err.count("\n")) == (1, 1) and said in err
    assert not (run / "dictionaries").exists()
