"""Settings under former names and under the names of other trainers."""

from __future__ import annotations

from typing import Any

from cloche.errors import SettingMoved

MOVED = {  # former key -> current key
    "run.log_every": "log.every",
    "run.health_every": "log.health_every",
    "run.validations": "evaluate.validations",
    "run.validation_tokens": "evaluate.tokens",
    "run.samples": "evaluate.samples",
    "run.sample_tokens": "evaluate.sample_tokens",
    "run.prompts": "evaluate.prompts",
    "run.look": "evaluate.look",
    "run.checkpoints": "checkpoint.count",
    "objective.kind": 'objective.part, such as "NextToken"',
    "optimizer.kind": 'optimizer.part, such as "Muon" or "AdamW"',
    "optimizer.matrix_lr": "optimizer.lr, and that of all else is adamw_ratio times it",
    "optimizer.schedule": 'schedule.part, such as "WSD" or "Cosine"',
    "optimizer.warmup": "schedule.warmup",
    "optimizer.decay": "schedule.decay",
    "optimizer.final": "schedule.final",
}
ELSEWHERE = {  # other trainers' names -> ours
    "batch_size": "run.batch",
    "block_size": "run.length",
    "context": "run.length",
    "d_model": "model.width",
    "hidden_size": "model.width",
    "layers": "model.body.depth",
    "learning_rate": "optimizer.lr",
    "max_iters": "run.steps",
    "max_steps": "run.steps",
    "n_embd": "model.width",
    "n_head": "model.body.block.mix.heads",
    "n_layer": "model.body.depth",
    "num_attention_heads": "model.body.block.mix.heads",
    "num_hidden_layers": "model.body.depth",
    "seq_len": "run.length",
    "vocab_size": "tokenizer.vocab",
    "warmup_steps": "schedule.warmup, a share of all steps",
}


def refuse_other_names(values: dict[str, Any], known: dict[str, set[str]], where: str) -> None:
    """Raises SettingMoved, naming our key, for a key that was renamed or is another trainer's.

    known: the keys of each section.
    """
    for section, keys in values.items():
        for key in keys if isinstance(keys, dict) and section in known else ():
            if key in known[section]:
                continue
            if (now := MOVED.get(f"{section}.{key}")) is not None:
                raise SettingMoved(f"{where}: [{section}] {key} is now {now}")
            if key in ELSEWHERE:
                raise SettingMoved(f"{where}: [{section}] has no key {key!r}; here it is called {ELSEWHERE[key]}")
