"""A run that was stored when format 2 was frozen: this version opens it, finds every file as written, and finishes it."""

import json
import shutil
from pathlib import Path

import cloche
from cloche.runs import Run, verify
from cloche.sparse import load_sae
from cloche.train import Trainer

STORED = Path(__file__).parents[1] / "data" / "runs" / "format-2"  # made by store_format_2.py


def test_every_part_of_it_opens() -> None:
    run = Run.open(STORED)
    assert run.info["format"] == 2 and [c.step for c in run.checkpoints()] == [0, 4]
    assert {r["step"] for r in run.read_log("metrics") if "loss" in r} == {2, 4}
    assert all(run.read_log(log) for log in ("health", "samples", "events"))
    glass = cloche.load(STORED)
    result = glass.run("the glass ", save=["resid_post[1]"])
    assert result.logits.shape == (1, 10, 29) and result["resid_post[1]"].shape == (1, 10, 32)
    sae = load_sae(STORED / "dictionaries" / "resid_post_1")
    assert sae.features == 16 and sae.trained_on.site == "resid_post[1]"
    (finding,) = run.findings("logit-lens")
    assert finding["checkpoint"] == "step-000004" and finding["figures"] and finding["panels"]


def test_every_file_is_as_it_was_written_and_a_changed_one_is_found(tmp_path: Path) -> None:
    found = verify(STORED)
    assert found.problems == [] and found.notes == []
    copy = Path(shutil.copytree(STORED, tmp_path / "copy"))
    weights = copy / "checkpoints" / "step-000004" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert len(verify(copy).problems) == 1


def test_it_is_resumed_and_finishes(tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(STORED, tmp_path / "copy"))
    trainer = Trainer.resume(run)
    assert trainer.step == 4
    list(trainer)
    assert run.checkpoint("last").step == 8 and verify(run.path).problems == []
    assert [r["step"] for r in run.read_log("metrics") if "loss" in r] == [2, 4, 6, 8]


def test_it_stays_small_and_names_no_machine() -> None:
    files = [path for path in STORED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 200_000
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".json", ".jsonl", ".toml")]
    assert not [text for text in texts if "/home/" in text or "/tmp/" in text or str(Path.home()) + "/" in text]
    assert json.loads((STORED / "run.json").read_text())["commands"] == []
