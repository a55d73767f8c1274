"""Evaluation: tasks, minimal pairs, last words and texts, graded with intervals and controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.evals.answering import Answered, answer_items
    from cloche.evals.contaminated import contamination
    from cloche.evals.evaluating import eval
    from cloche.evals.files import last_words, minimal_pairs
    from cloche.evals.harness import Harness, harness_model
    from cloche.evals.intervals import bootstrap_ratio, newcombe, wilson
    from cloche.evals.scoring import Scored, continuation_ids, score_ids
    from cloche.evals.shots import Prompt, few_shot, unseen_words
    from cloche.evals.texts import perplexity

__all__ = [
    "Answered",
    "Harness",
    "Prompt",
    "Scored",
    "answer_items",
    "bootstrap_ratio",
    "contamination",
    "continuation_ids",
    "eval",
    "few_shot",
    "harness_model",
    "last_words",
    "minimal_pairs",
    "newcombe",
    "perplexity",
    "score_ids",
    "unseen_words",
    "wilson",
]

__getattr__ = lazy(__name__)
