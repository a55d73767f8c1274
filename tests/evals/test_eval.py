"""eval: planted knowledge is found, guessing is chance, and the controls do what they are for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

import cloche
from cloche import GLU, LM, Attention, Block, Stack, evals
from cloche.evals import few_shot, unseen_words, wilson
from cloche.evals.answering import items_of
from cloche.interp import Materials, find_instrument, read_options
from cloche.tasks import Add, Copy, FromFile, IndirectObject, Parity, Rule, Task
from cloche.tasks.task import Values
from tests.evals.bigger import Bigger


@dataclass(frozen=True)
class Choosing(Bigger):
    gap = ""

    def template(self, values: Values) -> str:
        return "{a}"

    def rules(self, values: Values) -> dict[str, Rule]:
        return {"answer": Rule(("a",), lambda a: "cd")}

    def choices(self, values: Values) -> tuple[str, ...]:
        return ("cd", "dd")


@dataclass(frozen=True)
class Broken(Bigger):
    def accepts(self, values: Values, answer: str) -> bool:
        raise KeyError("no such thing")


@dataclass(frozen=True)
class Empty(Bigger):
    def examples(self, *given: object, **named: object) -> list[object]:  # type: ignore[override]
        return []


def test_wilson_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for right, n in ((0, 5), (3, 5), (5, 5), (17, 200), (1, 1)):
        theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_what_was_memorised_is_found_and_its_variant_is_not(memoriser: cloche.Glass) -> None:
    stock = evals.eval(memoriser, [Add()], limit=30, level=1)
    assert stock.figures["accuracy"] == 1
    assert stock.figures["low"] > 0.5
    assert stock.null is not None and 0 < stock.null["accuracy"] < 0.1
    fresh = evals.eval(memoriser, [Add()], limit=30, level=1, fresh=5)
    assert fresh.figures["gap"] == pytest.approx(1 - fresh.figures["accuracy"])
    assert fresh.figures["gap_low"] < fresh.figures["gap"] < fresh.figures["gap_high"]


def test_an_untrained_model_is_at_chance(untrained: cloche.Glass) -> None:
    found = evals.eval(untrained, [Add(), Bigger()], limit=60)
    row = found.data["tasks"][1]
    assert row["accuracy"] == 0  # it writes nothing that reads as an answer
    low, high = wilson(row["choice"] * row["items"], row["items"])
    assert low < row["chance"] == 0.5 < high
    assert found.data["tasks"][0]["choice"] is None and found.null is not None
    assert found.null["choice"] == 0.5 > found.null["accuracy"]  # Add lists no choices, so it is no part of it
    assert {panel.title for panel in found.panels} >= {"Right answers", "Add: right answers by level"}


def test_the_verifiers_oracle_would_score_1(untrained: cloche.Glass, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loop around a model that writes the right answers."""
    known = {item.prompt: item for level in (1, 2) for item in Bigger().examples(200, level)}

    seen: set[tuple[str, bool]] = set()

    def oracle(prompts: list[str], **options: object) -> list[str]:
        for line in "\n".join(prompts).splitlines():
            a, b, label = line.replace(" or ", " ").replace(":", " ").split(" ", 2)
            seen.add((Bigger().item({"a": int(a), "b": int(b)}).split, bool(label.strip())))
        items = [known[text.rpartition("\n")[2]] for text in prompts]
        return [f"{item.gap}{item.answer}" for item in items]

    monkeypatch.setattr(untrained, "generate", oracle)
    found = evals.eval(untrained, [Bigger()], limit=20, shots=4)
    assert found.figures["accuracy"] == 1
    assert seen == {("train", True), ("test", False)}  # only shots, which are training items, show answers
    assert found.figures["unseen_labels"] == 0  # it writes the labels it knows
    monkeypatch.undo()


def test_shots_are_training_items_and_shuffling_moves_their_answers() -> None:
    task = Bigger()
    (item,) = items_of(task, 1, level=2)
    shots = task.examples(8, 2, seed=1, split="train")
    true, shuffled = few_shot(item, shots), few_shot(item, shots, "shuffled", seed=3)
    assert true.text.endswith(item.prompt) and true.text.count("\n") == 8
    assert all(f"{shot.prompt} {shot.answer}\n" in true.text for shot in shots)
    assert shuffled.text != true.text
    assert sorted(shuffled.text.split()) == sorted(true.text.split())
    assert item.split == "test" and {shot.split for shot in shots} == {"train"}
    words = unseen_words(task, [item, *shots])
    assert words is not None and set(words) == {"first", "other"} and len(set(words.values())) == 2
    unseen = few_shot(item, shots, "unseen", words).text
    assert "first" not in unseen and words["first"] in unseen
    assert few_shot(item, shots, "unseen", words).answers == words


def test_answers_end_with_the_line_though_prompts_have_several(
    untrained: cloche.Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def nothing(prompts: list[str], **options: object) -> list[str]:
        asked.append(options["stop"])
        return [""] * len(prompts)

    monkeypatch.setattr(untrained, "generate", nothing)
    evals.eval(untrained, [Copy(), Bigger()], limit=4)
    assert asked == [["\n"]] * 2


def test_fresh_items_are_variants_and_unseen_labels_are_asked_where_a_shot_shows_them(
    untrained: cloche.Glass, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(untrained, "generate", lambda prompts, **_: asked.extend(prompts) or [""] * len(prompts))
    evals.eval(untrained, [Copy()], limit=4, level=2, fresh=5)
    fresh = [item.prompt for item in items_of(Copy(renaming=6), 4, 2, 5 + 1_000_000)]
    assert asked == [item.prompt for item in items_of(Copy(), 4, 2)] + fresh
    asked.clear()
    evals.eval(untrained, [Bigger()], limit=20, level=2, shots=1)
    (shot,), items = Bigger().examples(1, 2, 1, "train"), items_of(Bigger(), 20, 2)
    assert len(asked) == 20 + sum(item.answer == shot.answer for item in items) < 40


def test_shuffled_answers_are_others_as_far_as_they_can_be() -> None:
    task = Bigger()
    item, *shots = task.examples(21, 2)
    for n in range(2, 20):
        given = [shot.answer for shot in shots[:n]]
        lines = few_shot(item, shots[:n], "shuffled", seed=n).text.splitlines()[:-1]
        kept = sum(line.endswith(answer) for line, answer in zip(lines, given, strict=True))
        assert kept == max(0, 2 * max(map(given.count, given)) - n)


def test_labels_are_the_choices_that_all_items_have() -> None:
    assert unseen_words(IndirectObject(), IndirectObject().examples(3)) is None  # names of the prompt
    assert unseen_words(Add(), Add().examples(3)) is None
    assert set(unseen_words(Parity(), Parity().examples(3)) or ()) == {"0", "1"}


def test_a_token_across_the_border_is_the_continuations_and_choices_are_scored_from_the_same_token() -> None:
    tokenizer = cloche.train_bpe(["bcd"] * 9, vocab=260)
    (bc, d), (x, b) = tokenizer.encode("bcd"), tokenizer.encode("xb")
    assert evals.continuation_ids(tokenizer, "xb", "cd") == ([x], [bc, d])
    assert evals.continuation_ids(tokenizer, "xb", "dd") == ([x, b], [d, d])
    task, seen = Choosing(), []
    item = task.item({"a": "xb"})
    for seed in range(12):
        net = LM(260, 32, Stack(1, Block(Attention(4), GLU(hidden=64)))).build(seed=seed)
        (found,) = evals.answer_items(cloche.Glass(net, tokenizer), task, [item])
        right, wrong = evals.score_ids(net, [([x], [bc, d]), ([x], [b, d, d])])
        assert found.choice == (right.logprob > wrong.logprob)
        (of_last,) = evals.score_ids(net, [([x, b], [d, d])])
        seen.append(found.choice == (right.logprob > of_last.logprob))
    assert not all(seen)  # scored from where each begins, another choice wins


def test_the_same_seed_gives_the_same_finding(untrained: cloche.Glass) -> None:
    one, two = (evals.eval(untrained, [Add()], limit=10, shots=1, seed=4) for _ in range(2))
    assert one.record() | {"created": ""} == two.record() | {"created": ""}
    assert evals.eval(untrained, [Add()], limit=10, shots=1, seed=5).data != one.data
    assert evals.eval(untrained, [Add(), "Add"], limit=10, shots=1, seed=4).data == one.data  # not counted twice


def test_a_file_is_used_whole_but_for_the_shots(untrained: cloche.Glass, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n} is", "answer": f" {n % 3}"}) + "\n" for n in range(40)))
    task = FromFile(str(path))
    assert len(items_of(task, 100)) == 40
    assert len(items_of(task, 100, shots=4)) == 36
    assert evals.eval(untrained, [task], limit=100, shots=4, controls=False).data["tasks"][0]["items"] == 36


ADD, BIGGER, ERRORS = [Add()], [Bigger()], {
    "no task": (lambda glass: evals.eval(glass, []), "There is no task to evaluate; name one, such as Add"),
    "no items": (lambda glass: evals.eval(glass, ADD, limit=0), "limit=0 must be a whole number of at least 1"),
    "level": (lambda glass: evals.eval(glass, ADD, level=9), "Add has levels 1 to 8, not 9"),
    "half": (lambda glass: evals.eval(glass, ADD, limit=2.5), "limit=2.5 must be a whole number of at least 1"),
    "a class": (lambda glass: evals.eval(glass, [Add]), "is no task; give one such as Add"),
    "empty": (lambda glass: evals.eval(glass, [Empty()]), "Empty has no test items"),
    "a text for a seed": (lambda glass: evals.eval(glass, ADD, seed="x"), "seed='x' must be a whole number"),
    "a text for fresh": (lambda glass: evals.eval(glass, ADD, fresh="x"), "fresh='x' must be a whole number of at least 0"),
    "a text for a level": (lambda glass: evals.eval(glass, ADD, level="x"), "Add has levels 1 to 8, not 'x'"),
    "no list": (lambda glass: evals.eval(glass, 5), "5 is no list of tasks"),
    "verifier": (lambda glass: evals.eval(glass, [Broken()], limit=2), "The verifier of Broken raised KeyError"),
    "context": (lambda glass: evals.eval(glass, ADD, shots=60, limit=4, level=6), "context of 256; give fewer shots or"),
    "shots": (lambda glass: evals.eval(glass, BIGGER, shots=500, level=1), "training items at level 1; ask for fewer"),
    "row": (lambda glass: evals.score_ids(glass.net, [([1] * 300, [2])]), "has 301 tokens, and the model's context is"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_done_is_one_sentence(untrained: cloche.Glass, case: str) -> None:
    call, wanted = ERRORS[case]
    with pytest.raises(cloche.ClocheError, match=wanted) as error:
        call(untrained)
    assert str(error.value).count(". ") == 0


@dataclass(frozen=True)
class Wrapped(Bigger):
    inner: Task = Bigger()


def test_a_request_to_a_server_names_no_file(untrained: cloche.Glass, tmp_path: Path) -> None:
    """On the command line a task may read a file; asked through the microscope it may not, not even inside another."""
    name, function = find_instrument("eval")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    here = f"{__name__}:Wrapped"
    for line in (f"FromFile({str(path)!r})", f"{here}(inner=FromFile({str(path)!r}))"):
        given = {"tasks": [f"Add,{line}"]}
        assert len(read_options(name, function, given, Materials(untrained))["tasks"]) == 2
        with pytest.raises(cloche.ClocheError, match="only on the command line"):
            read_options(name, function, given, Materials(untrained, paths=False))
