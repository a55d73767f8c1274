"""Files taken into a run, and the names that state a step."""

import os
from pathlib import Path

import pytest

from cloche.errors import FileExists
from cloche.files import writing_folder
from cloche.runs import adopt_command, revisions_in, step_in
from cloche.runs.linking import take


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("step1000", 1000), ("step-2000", 2000), ("checkpoint-500", 500), ("pythia-70m-step3000", 3000)),
        *(("stage1-step900-tokens4B", 900), ("global_step_12", 12), ("iter_0000100", 100), ("ckpt7", 7)),
        *(("main", None), ("pythia-70m", None), ("footstep12", None), ("step", None), ("v1.0", None)),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_in(name) == step


def test_revisions_are_model_folders_by_step(tmp_path: Path) -> None:
    for name in ("step200", "step30", "main", "step9"):
        (tmp_path / name).mkdir()
        if name != "step9":
            (tmp_path / name / "config.json").touch()
    assert list(revisions_in(tmp_path).items()) == [("step30", 30), ("step200", 200)]
    assert revisions_in(tmp_path / "nowhere") == {}


def test_the_command_names_a_folder_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert adopt_command(Path("my models/hf")) == "cloche adopt 'my models/hf' --out 'runs/my models'"
    (tmp_path / "runs" / "gpt2").mkdir(parents=True)
    assert adopt_command("openai-community/gpt2") == "cloche adopt openai-community/gpt2 --out runs/gpt2-2"


@pytest.mark.parametrize("copy", [True, False])
def test_a_file_is_taken_whole_and_its_source_stays(tmp_path: Path, copy: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    source.chmod(0o444)
    (tmp_path / "link").symlink_to(source)
    before = source.stat()
    with writing_folder(tmp_path / "run") as fresh:  # gives the files it made the permissions of the umask
        how = take(tmp_path / "link", fresh / "taken", copy)
    taken = tmp_path / "run" / "taken"
    assert taken.read_bytes() == b"weights" and not taken.is_symlink()
    assert (how == "copy") or not copy
    assert taken.samefile(source) == (how == "hard link")
    after = source.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    if how != "hard link":
        assert taken.stat().st_mode & 0o600 == 0o600
    os.unlink(taken)
    assert source.read_bytes() == b"weights"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExists):
        take(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
