"""Makes tests/data/runs/format-2, the stored run that every later version must open, verify and resume.

    PYTHONPATH=src python tests/runs/store_format_2.py FOLDER

It is made once, and never again for format 2: a version that cannot read the stored one is wrong, not the folder. A tiny model
(2 layers of width 32) is trained for 4 of 8 steps and stopped; a dictionary and a finding are added. The corpus is named by a
relative path and its text made here, so nothing of the machine is in the folder.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import tokenizers
import torch

import cloche
from cloche.interp import logit_lens
from cloche.model import GLU, LM, Attention, Block, RoPE, Stack
from cloche.runs import Run
from cloche.sparse import Provenance, Training, train_sae
from cloche.train import Recipe, Trainer, prepare_data

WORDS = "the glass house grows a model under light and we look inside it step by step while it learns"
STOPPED = 4  # of 8 steps
BYTES = {" ": "Ġ", "\n": "Ċ"}  # as byte-level tokenizers write them
LETTERS = "\n abcdefghijklmnopqrstuvwxyz"
VOCAB = 1 + len(LETTERS)


def recipe() -> Recipe:
    block = Block(mix=Attention(heads=2, kv_heads=1, head_size=8, position=RoPE()), map=GLU("silu", hidden=16))
    spec = LM(vocab=VOCAB, width=32, body=Stack(2, block), tied=True)
    settings = {
        "data.paths": ["corpus"],
        "data.validation_share": 0.2,
        "run.length": 16,
        "run.batch": 2,
        "run.steps": 2 * STOPPED,
        "run.threads": 1,
        "checkpoint.count": 1,
        "optimizer.part": "Muon",
        "run.precision": "fp32",
        "log.every": 2,
        "log.health_every": 4,
        "evaluate.validations": 2,
        "evaluate.tokens": 128,
        "evaluate.samples": 1,
        "evaluate.sample_tokens": 4,
        "evaluate.prompts": ["the "],
        "evaluate.look": False,
    }
    return Recipe(model=spec, tokenizer={"path": "letters", "vocab": VOCAB}).with_set(settings)


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(0)
    for number in range(6):
        words = " ".join(rng.choice(WORDS.split()) for _ in range(60))
        (folder / f"{number}.txt").write_text(words, encoding="utf-8")


def write_tokenizer(folder: Path) -> None:
    """A token per letter: the 256 of a byte-level tokenizer would be most of what is stored."""
    folder.mkdir()
    vocab = {"<|endoftext|>": 0} | {BYTES.get(letter, letter): i for i, letter in enumerate(LETTERS, 1)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make(out: Path) -> Run:
    out, before = out.resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as beside:
        write_corpus(Path(beside) / "corpus")
        write_tokenizer(Path(beside) / "letters")
        os.chdir(beside)
        try:
            wanted = recipe()
            run = Run.create(Path(out.name), wanted.to_toml())  # what is logged names the run as it is given here
            prepare_data(wanted, run)
            trainer = Trainer.start(wanted, run)
            for record in trainer:
                if record["step"] >= STOPPED:
                    trainer.stop()
            shutil.move(run.path.resolve(), out)
        finally:
            os.chdir(before)
    run = Run.open(out)
    glass = cloche.load(run.path)
    ids = torch.randint(VOCAB, (32, 16), generator=torch.Generator().manual_seed(0))
    rows = glass.run(ids, save=["resid_post[1]"])["resid_post[1]"].reshape(-1, 32)
    made_on = Provenance("resid_post[1]", f"step-{STOPPED:06d}")
    (run.path / "dictionaries").mkdir()
    sae, _ = train_sae(rows, 16, 3, Training(steps=20, batch=128), trained_on=made_on)
    sae.save(run.path / "dictionaries" / "resid_post_1")
    run.record("dictionaries/resid_post_1/dictionary.json", "dictionaries/resid_post_1/dictionary.safetensors")
    logit_lens(glass, "the glass ", top=2).save(run)
    return run


if __name__ == "__main__":
    print(make(Path(sys.argv[1])).path)
