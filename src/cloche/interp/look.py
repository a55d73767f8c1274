"""Looking into a finished run: a dictionary of its middle layer, its most telling features, a logit lens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloche.interp.dictionaries.features import features_report
from cloche.interp.dictionaries.learn import DEFAULT, DictionaryConfig, Progress, Tokens, train_dictionary
from cloche.interp.lens import logit_lens
from cloche.interp.subject import Subject
from cloche.runs import Run


def look_inside(
    run: Run,
    subject: Subject,
    tokens: Tokens,
    prompts: Sequence[str] = (),
    seed: int = 0,
    config: DictionaryConfig = DEFAULT,
) -> Iterator[Progress]:
    """Harvests, trains a dictionary, reports its features and reads `prompts` with the logit lens; yields as it goes.

    Leaves dictionaries/<site>/, a `features` finding and a `logit-lens` finding a prompt in the run (without prompts, for a
    few tokens of the text itself). Everything follows from `seed`: looking again puts the same things in the same places.
    """
    name, sae, shown = yield from train_dictionary(run, subject, tokens, seed, config)
    yield Progress("features", 0, 1, f"reading {sum(batch.size for batch in shown):,} other tokens with {name}")
    finding = features_report(subject, sae, shown, name, config.budget.count)
    finding.save(run)
    yield Progress("features", 1, 1, finding.summary)
    texts: list[Any] = list(prompts) or [shown[0][0][:16].tolist()]
    for done, prompt in enumerate(texts):
        lens = logit_lens(subject, prompt)
        lens.save(run)
        yield Progress("lens", done + 1, len(texts), lens.summary)
