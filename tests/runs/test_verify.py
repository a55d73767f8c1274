"""Each kind of damage, planted alone in a sound run, must be found where it is; a sound run must give nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cloche.errors import ClocheError
from cloche.runs import Run, verify


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def sound(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", "[run]\nsteps = 2\n", seed=0)
    for step in (1, 2):
        with run.new_checkpoint(step) as folder:
            (folder / "model.safetensors").write_bytes(save({"w": np.full(64, step, np.float32)}))
            (folder / "state.json").write_text(json.dumps({"step": step}))
    with run.log("metrics") as log:
        log.append({"step": 1})
        log.append({"step": 2})
    splits = {}
    for split in ("train", "validation"):
        tokens = np.arange(100, dtype="<u2").tobytes()
        run.write_bytes(f"data/{split}-00000.bin", tokens)
        splits[split] = {"shards": [{"file": f"{split}-00000.bin", "tokens": 100, "sha256": sha256(tokens)}]}
    run.write_json("data/data.json", {"dtype": "uint16", "splits": splits})
    dictionary = save({"decoder": np.ones((4, 2), np.float32)})
    run.write_bytes("dictionaries/hashed/dictionary.safetensors", dictionary)
    run.write_json("dictionaries/hashed/dictionary.json", {"sha256": sha256(dictionary)})
    run.write_bytes("dictionaries/plain/dictionary.safetensors", dictionary)
    run.write_json("dictionaries/plain/dictionary.json", {"k": 4})
    run.write_json("findings/lens/a.json", {"id": "a"})
    run.write_bytes("findings/lens/a.safetensors", save({"entropy": np.zeros(3, np.float32)}))
    run.write_json("tokenizer.json", {"model": {}})
    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def copy_weights(run: Path) -> None:
    """The damage of a release pipeline that uploads one step's weights under another's name, manifest and all."""
    one, two = run / "checkpoints/step-000001", run / "checkpoints/step-000002"
    shutil.copy(one / "model.safetensors", two / "model.safetensors")
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = json.loads((one / "manifest.json").read_text())["files"][
        "model.safetensors"
    ]
    (two / "manifest.json").write_text(json.dumps(manifest))


def move_step(run: Path) -> None:
    (run / "checkpoints/step-000002").rename(run / "checkpoints/step-000003")


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped byte in weights": (
        lambda run: flip(run / "checkpoints/step-000001/model.safetensors"),
        "checkpoints/step-000001/model.safetensors",
        "sha256 differs",
    ),
    "missing weights": (
        lambda run: (run / "checkpoints/step-000002/model.safetensors").unlink(),
        "checkpoints/step-000002/model.safetensors",
        "is missing",
    ),
    "truncated state": (
        lambda run: shorten(run / "checkpoints/step-000002/state.json"),
        "checkpoints/step-000002/state.json",
        "bytes",
    ),
    "foreign file": (
        lambda run: (run / "checkpoints/step-000002/other.safetensors").write_bytes(b"x"),
        "checkpoints/step-000002/other.safetensors",
        "not in the manifest",
    ),
    "missing manifest": (
        lambda run: (run / "checkpoints/step-000001/manifest.json").unlink(),
        "checkpoints/step-000001/manifest.json",
        "missing",
    ),
    "unreadable manifest": (
        lambda run: (run / "checkpoints/step-000001/manifest.json").write_text('{"step": 1}'),
        "checkpoints/step-000001/manifest.json",
        "unreadable",
    ),
    "same weights": (copy_weights, "checkpoints/step-000002/model.safetensors", "same weights as step-000001"),
    "wrong step": (move_step, "checkpoints/step-000003", "step 2"),
    "torn log": (lambda run: append(run / "log/metrics.jsonl", b'{"step"'), "log/metrics.jsonl", "torn"),
    "damaged log": (lambda run: append(run / "log/metrics.jsonl", b"}\n"), "log/metrics.jsonl", "at byte 24"),
    "flipped token": (lambda run: flip(run / "data/train-00000.bin"), "data/train-00000.bin", "sha256 differs"),
    "truncated shard": (lambda run: shorten(run / "data/validation-00000.bin"), "data/validation-00000.bin", "bytes"),
    "missing shard": (lambda run: (run / "data/train-00000.bin").unlink(), "data/train-00000.bin", "missing"),
    "missing data.json": (lambda run: (run / "data/data.json").unlink(), "data/data.json", "missing"),
    "unreadable data.json": (lambda run: shorten(run / "data/data.json"), "data/data.json", "not readable"),
    "flipped dictionary": (
        lambda run: flip(run / "dictionaries/hashed/dictionary.safetensors"),
        "dictionaries/hashed/dictionary.safetensors",
        "sha256 differs",
    ),
    "truncated dictionary without a hash": (
        lambda run: shorten(run / "dictionaries/plain/dictionary.safetensors"),
        "dictionaries/plain/dictionary.safetensors",
        "bytes",
    ),
    "truncated finding": (lambda run: shorten(run / "findings/lens/a.json"), "findings/lens/a.json", "not readable"),
    "unreadable finding arrays": (
        lambda run: (run / "findings/lens/a.safetensors").write_bytes(b"\xff" * 40),
        "findings/lens/a.safetensors",
        "not readable",
    ),
    "missing recipe": (lambda run: (run / "recipe.toml").unlink(), "recipe.toml", "missing"),
    "damaged recipe": (lambda run: append(run / "recipe.toml", b"= ="), "recipe.toml", "TOML"),
    "damaged run.json": (lambda run: shorten(run / "run.json"), "run.json", "JSON"),
    "missing run.json": (lambda run: (run / "run.json").unlink(), "run.json", "missing"),
    "damaged tokenizer": (lambda run: shorten(run / "tokenizer.json"), "tokenizer.json", "JSON"),
}


def test_a_sound_run_has_no_problem(sound: Run) -> None:
    assert verify(sound.path) == []


@pytest.mark.parametrize("kind", DAMAGE)
def test_planted_damage_is_found_where_it_is(sound: Run, kind: str) -> None:
    plant, where, what = DAMAGE[kind]
    plant(sound.path)
    problems = verify(sound.path)
    assert [problem.where for problem in problems] == [where]
    assert what in problems[0].what
    assert problems[0].mend


def test_a_log_that_is_being_written_is_not_called_torn(sound: Run) -> None:
    with sound.log("metrics") as log:
        append(sound.log_path("metrics"), b'{"step"')
        assert verify(sound.path) == []
        log.close()
    assert len(verify(sound.path)) == 1


def test_leftovers_of_a_killed_write_are_no_problem(sound: Run) -> None:
    (sound.path / "checkpoints/.writing-step-000003-00").mkdir()
    (sound.path / "findings/lens/.writing-b.json-00").write_bytes(b"{")
    assert verify(sound.path) == []


def test_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match="no folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ClocheError, match="is no run"):
        verify(tmp_path)
