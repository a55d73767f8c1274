"""A run from its making to its end: whose the folder is, who may train it, and what a kill or damage at any point leaves."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny_training import tiny_recipe

import cloche
from bench.runs.faults import snapshot
from cloche import files
from cloche.data import PackedTokens
from cloche.errors import ClocheError
from cloche.interp import DictionaryConfig, TokenBudget, train_dictionary
from cloche.microscope import write_report
from cloche.model import save_network
from cloche.runs import Run, Verification, verify
from cloche.train import Recipe, Trainer, checkpoint, prepare_data


@pytest.fixture
def finished(new_run):
    run = new_run("finished", tiny_recipe(run__steps=4))
    list(Trainer.start(Recipe.parse(run.recipe), run))
    return run


def cut_off(new_run, tmp_path: Path, name: str, when) -> Run:
    """The folder as a kill would leave it at the first record for which `when` is true."""
    run = new_run(name, tiny_recipe(run__steps=4, log__every=1))
    trainer = Trainer.start(Recipe.parse(run.recipe), run)
    for record in trainer:
        if when(record):
            shutil.copytree(run.path, tmp_path / f"{name}-killed")
            break
    return Run.open(tmp_path / f"{name}-killed")


def elsewhere(work, *arguments) -> str:
    """What another process says when it tries: the sentence of its ClocheError, or "" when it could."""

    def live(pipe) -> None:
        try:
            work(*arguments)
            pipe.send("")
        except ClocheError as error:
            pipe.send(str(error))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=live, args=(theirs,))
    process.start()
    process.join(60)
    return ours.recv()


# ---- whose a folder is


@pytest.mark.parametrize(
    "name", ["data/measurements.bin", "tokenizer.json", "recipe.toml", "run.json", "notes", "log/a"]
)
def test_a_folder_with_files_of_its_own_is_refused_and_left_as_it_was(tmp_path, name):
    file = tmp_path / "own" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"mine": 1}')
    before = snapshot(tmp_path)
    with pytest.raises(ClocheError, match=r"do not belong to a run.*new or empty folder"):
        Run.create(tmp_path / "own", "")
    assert snapshot(tmp_path) == before


def test_a_network_is_written_only_where_nothing_else_is(tmp_path, finished):
    net = cloche.load(finished).net
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    before = snapshot(tmp_path / "own")
    with pytest.raises(ClocheError, match="nothing of it is overwritten"):
        save_network(net, tmp_path / "own")
    assert snapshot(tmp_path / "own") == before
    save_network(net, tmp_path / "new")
    save_network(net, tmp_path / "new")  # its own may be replaced


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", "").recipe == ""


def test_what_came_to_nothing_is_undone_and_nothing_of_others(tmp_path):
    def fail() -> None:
        with Run.making(tmp_path / "run", "") as run:
            (run.path / "mine.txt").write_text("put here meanwhile")
            raise ClocheError("no text")

    with pytest.raises(ClocheError, match="no text"):
        fail()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_page_of_the_users_own_is_not_replaced_by_the_report(finished):
    page = finished.path / "report.html"
    page.write_text("mine")
    with pytest.raises(ClocheError, match="cloche did not write it"):
        write_report(finished.path)
    assert page.read_text() == "mine"
    page.unlink()
    write_report(finished.path)
    write_report(finished.path)  # its own may be replaced


# ---- one process at a time


def test_two_cannot_make_or_train_one_run(tmp_path, finished):
    with Run.making(tmp_path / "run", ""):
        assert "already holds a run" in elsewhere(Run.create, tmp_path / "run", "")
        assert (tmp_path / "run" / "run.json").exists(), "the loser removed nothing"
    with finished.training():
        assert "another process is training" in elsewhere(Trainer.resume, finished, {"run.steps": "8"})
    assert elsewhere(Trainer.resume, finished, {"run.steps": "8"}) == "", "the lock ends with its holder"


def test_two_cannot_train_one_dictionary(finished):
    glass, tokens = cloche.load(finished), PackedTokens.open(finished.path, "train")

    def begin(name: str) -> None:
        next(
            train_dictionary(
                finished,
                glass,
                tokens,
                config=DictionaryConfig(budget=TokenBudget(tokens=512, shown=256, length=32)),
                name=name,
            )
        )

    first = train_dictionary(
        finished,
        glass,
        tokens,
        config=DictionaryConfig(budget=TokenBudget(tokens=512, shown=256, length=32)),
        name="one",
    )
    next(first)
    assert "another process is training the dictionary one" in elsewhere(begin, "one")
    assert elsewhere(begin, "other") == ""
    first.close()
    assert elsewhere(begin, "one") == "", "the lock ends with its holder"


# ---- only from the bytes that were written


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoints/step-000004/model.safetensors", "checkpoints/step-000004/optimizer.safetensors"),
        *("checkpoints/step-000004/state.json", "checkpoints/step-000004/config.json"),
        *("data/train-00000.bin", "data/validation-00000.bin", "tokenizer.json"),
    ],
)
def test_one_flipped_bit_is_not_trained_on(finished, name):
    path = finished.path / name
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    before = snapshot(finished.path)
    with pytest.raises(ClocheError, match=f"{path.name} does not have the bytes that were written"):
        Trainer.resume(finished, {"run.steps": "8"})
    assert snapshot(finished.path) == before


def test_a_checkpoint_with_a_flipped_bit_is_loaded_only_when_asked_to(finished):
    path = finished.checkpoint("last").path / "model.safetensors"
    cloche.load(finished)
    data = bytearray(path.read_bytes())
    data[-4] ^= 1  # of a mantissa
    path.write_bytes(data)
    with pytest.raises(ClocheError, match="does not have the bytes that were written"):
        cloche.load(finished)
    cloche.load(finished, check_files=False)


def test_data_that_was_packed_from_other_files_is_refused_before_anything_is_written(tmp_path, prepared):
    (tmp_path / "corpus").mkdir()
    for file in (prepared.parent / "corpus").glob("*.txt"):
        shutil.copy(file, tmp_path / "corpus")
    recipe = tiny_recipe(run__steps=4, data__paths=[str(tmp_path / "corpus")], data__validation_share=0.2)
    run = Run.create(tmp_path / "run", recipe.to_toml())
    list(Trainer.start(recipe, run))
    shutil.rmtree(run.path / "data")
    resumed = Recipe.parse(run.recipe)
    prepare_data(resumed, run)  # the same files give the same bytes
    assert verify(run.path).problems == []
    shutil.rmtree(run.path / "data")
    (tmp_path / "corpus" / "0.txt").write_text("other words, many of them " * 99)
    tokenizer = (run.path / "tokenizer.json").read_bytes()
    with pytest.raises(ClocheError, match="no longer give the tokens"):
        prepare_data(resumed, run)
    assert (run.path / "tokenizer.json").read_bytes() == tokenizer
    assert not (run.path / "data").exists()


def test_lost_checkpoints_do_not_start_the_run_again(finished):
    shutil.rmtree(finished.path / "checkpoints")
    with pytest.raises(ClocheError, match="has lost its checkpoints"):
        Trainer.resume(finished, {"run.steps": "8"})
    assert max(record["step"] for record in finished.read_log("metrics")) == 4


# ---- killed at the two ends


def test_a_kill_while_step_0_is_the_last_checkpoint_logs_it_once(new_run, tmp_path):
    run = cut_off(new_run, tmp_path, "zero", lambda r: r.get("kind") == "checkpoint" and r["step"] == 0)
    list(Trainer.resume(run))
    assert [r["step"] for r in run.read_log("metrics") if "val_bpb" in r].count(0) == 1
    assert [r["step"] for r in run.read_log("samples")].count(0) == 1
    assert verify(run.path).problems == []


def test_a_kill_between_the_last_checkpoint_and_the_end_can_be_finished(new_run, tmp_path):
    run = cut_off(new_run, tmp_path, "end", lambda r: r.get("kind") == "checkpoint" and r["step"] == 4)
    assert "finished" not in [r["kind"] for r in run.read_log("events")]
    list(Trainer.resume(run))
    assert [r["kind"] for r in run.read_log("events")].count("finished") == 1
    assert verify(run.path).problems == []
    with pytest.raises(ClocheError, match="has finished its 4 steps"):
        Trainer.resume(run)


@pytest.mark.parametrize("reader", [verify, Run.open])
def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path, reader):
    """Where the system cannot exchange two folders in one step."""
    run, folder = Run.create(tmp_path / "run", ""), "dictionaries/one"

    def write(text: str) -> None:
        with run.writing_folder(folder) as fresh:
            (fresh / "card.json").write_text(text)

    def write_and_die() -> None:
        rename = os.rename

        def die_at_the_second(one, other) -> None:
            if Path(one).name.startswith(files.WRITING) and list(run.path.glob(f"dictionaries/{files.REPLACED}*")):
                os.kill(os.getpid(), signal.SIGKILL)
            rename(one, other)

        files._exchange = lambda one, other: False
        os.rename = die_at_the_second
        write('{"new": 1}')

    write('{"old": 1}')
    process = multiprocessing.get_context("fork").Process(target=write_and_die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (run.path / folder).exists()
    reader(run.path)
    assert (run.path / folder / "card.json").read_text() == '{"old": 1}'
    assert verify(run.path).problems == []
    write('{"new": 2}')
    assert [path.name for path in (run.path / "dictionaries").iterdir()] == ["one"], "nothing is left behind"
    assert verify(run.path) == Verification([], [])


def test_a_disk_that_fills_up_under_the_weights_is_a_sentence_and_loses_nothing(new_run, monkeypatch):
    run = new_run("full", tiny_recipe(run__steps=4))

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    trainer = Trainer.start(Recipe.parse(run.recipe), run)
    records = iter(trainer)
    while next(records).get("kind") != "checkpoint":
        pass
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(ClocheError, match=r"cannot write .*step-.*No space left on device; free some space"):
            list(records)
    list(Trainer.resume(run))
    assert json.loads((run.checkpoint("last").path / "state.json").read_text())["step"] == 4
    assert verify(run.path).problems == []
