"""A first look into a finished run: a dictionary of its middle layer, its most telling features, and a logit lens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloche.interp.dictionaries.features import features_report
from cloche.interp.dictionaries.learn import DEFAULT, DictionaryConfig, Progress, Tokens, train_dictionary
from cloche.interp.lenses.reading import logit_lens
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

    Writes dictionaries/<site>/, a `features` finding and one `logit-lens` finding per prompt to the run (without prompts,
    for a few tokens of the text). The same `seed` gives the same results under the same names.

    >>> from pathlib import Path
    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.data import PackedTokens, prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> tokenizer = cloche.Tokenizer.load(run.path)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer, checkpoint="step-000100")
    >>> from cloche.interp import DictionaryConfig, TokenBudget, look_inside
    >>> config = DictionaryConfig(features=32, k=2, budget=TokenBudget(tokens=1_000, passes=1, shown=200, length=32))
    >>> tokens = PackedTokens.open(run.path, "train")
    >>> stages = [p.stage for p in look_inside(run, glass, tokens, ["the cat"], config=config)]
    >>> sorted(set(stages)), sorted(finding["instrument"] for finding in run.findings())
    (['dictionary', 'features', 'harvest', 'lens'], ['features', 'logit-lens'])
    """
    name, sae, shown = yield from train_dictionary(run, subject, tokens, seed, config)
    texts: list[Any] = list(prompts) or [shown[0][0][:16].tolist()]
    for done, prompt in enumerate(texts if subject.net.causal else ()):  # a lens reads next tokens
        lens = logit_lens(subject, prompt)
        lens.save(run)
        yield Progress("lens", done + 1, len(texts), lens.summary)
    yield Progress("features", 0, 1, f"reading {sum(batch.size for batch in shown):,} other tokens with {name}")
    finding = features_report(subject, sae, shown, name, config.budget.count)
    finding.save(run)
    yield Progress("features", 1, 1, finding.summary)
