"""lm-evaluation-harness on local tasks, driving our adapter and its own Hugging Face model on the same weights.

Both must give the same log-likelihoods, texts and scores. The Hugging Face side's answers go into
tests/evals/golden/lm_eval.json, against which the fast tests hold the adapter without the harness.

    bench/.venvs/lm_eval/bin/python -m bench.evals.lm_eval
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import torch

import cloche
from bench.rounds import table
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.evals import harness_model
from cloche.model import save_network

GOLDEN = Path(__file__).parents[2] / "tests" / "evals" / "golden" / "lm_eval.json"
CONTEXT = 48  # short, so that texts are longer
TEXT = "the cat sat on a mat while the dog ran off with its old red ball and nobody saw where to"
WORDS = TEXT.split(" ")
CHOICES = [
    {"question": " ".join(WORDS[i : i + 5]), "choices": [WORDS[i + 5], WORDS[(i + 9) % len(WORDS)]], "answer": i % 2}
    for i in range(10)
]
LONG = [" ".join(WORDS * n) for n in (1, 3, 7)]
TASKS = {
    "local_choice": """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
""",
    "local_rolling": """
task: local_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/long.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "local_writing": """
task: local_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def write_tasks(folder: Path) -> None:
    (folder / "choices.jsonl").write_text("".join(json.dumps(each) + "\n" for each in CHOICES))
    (folder / "long.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in LONG))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))


def make_model(folder: Path) -> None:
    """The model of the tests: tests/evals/test_harness.py builds the same."""
    tokenizer = cloche.train_bpe([" ".join(WORDS)] * 5, vocab=290)
    net = LM(290, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=64)))).build(seed=0)
    with torch.no_grad():
        net.unembed.weight[:257] = (
            0  # bytes are never the likeliest: transformers spells half characters in its own way
        )
    net.context = CONTEXT
    save_network(net, folder)
    tokenizer.save(folder)


def main() -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder)
        write_tasks(folder)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        ours: Any = harness_model(cloche.load(folder))
        theirs: Any = HFLM(str(folder), max_length=CONTEXT, batch_size=1, device="cpu", dtype="float32")
        results = {}
        for name, model in (("cloche", ours), ("transformers", theirs)):
            results[name] = lm_eval.simple_evaluate(
                model, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0
            )
    samples = {name: each["samples"] for name, each in results.items()}
    answers = {
        side: {task: [sample["filtered_resps"] for sample in rows] for task, rows in found.items()}
        for side, found in samples.items()
    }
    worst = max(
        abs(a - b)
        for task in ("local_choice", "local_rolling")
        for a, b in zip(numbers(answers["cloche"][task]), numbers(answers["transformers"][task]), strict=True)
    )
    same = answers["cloche"]["local_writing"] == answers["transformers"]["local_writing"]
    rows = [
        [task, *(json.dumps({k: v for k, v in each["results"][task].items() if "," in k}) for each in results.values())]
        for task in TASKS
    ]
    print(table(["task", "cloche", "transformers"], rows))
    print(f"largest difference of a log-likelihood: {worst:.2g} nats; the same texts written: {same}")
    if worst > 1e-3 or not same:
        raise SystemExit("the adapter and the harness's own model disagree")
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"lm_eval": lm_eval.__version__, "answers": answers["transformers"]}, indent=1) + "\n")


def numbers(value: Any) -> list[float]:
    """Every float in nested lists, in order."""
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float) else []


if __name__ == "__main__":
    main()
