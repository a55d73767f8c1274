"""EleutherAI's lm-evaluation-harness, driving a model of ours: `pip install 'cloche[lm-eval]'`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloche.errors import ExtraMissing, TaskInvalid
from cloche.evals.scoring import Scored, continuation_ids, score_ids
from cloche.glass import Glass
from cloche.text import Tokenizer

__all__ = ["Harness", "harness_model"]

CONTEXT = 2048  # tokens where the model states no context, as the harness takes it
NEW = 256  # tokens to write where a task does not say


class Harness:
    """The three questions that the harness asks of a model, answered as its own Hugging Face model answers them.

    A text longer than the model's context loses its beginning, as there. Unlike there, a token with characters of both a
    context and its continuation counts as the continuation's (see `continuation_ids`).

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.evals import Harness
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> [(logprob < 0, greedy) for logprob, greedy in Harness(glass).loglikelihoods([("One and", " two")])]
    [(True, False)]
    """

    def __init__(self, subject: Glass) -> None:
        self.subject, self.tokenizer = subject, subject.need_tokenizer()
        self.context = subject.net.most_tokens or CONTEXT

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation) the log-probability in nats, and whether greedy decoding would write it."""
        return [(scored.logprob, scored.greedy) for scored in self._score([self._pair(*pair) for pair in pairs])]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text from its first token on, in windows of the model's whole context."""
        return [sum(scored.logprob for scored in self._score(self._windows(text))) for text in texts]

    def generate_until(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """For each (context, options) what the model writes greedily, up to the first text of the option `until`."""
        found = []
        for context, options in asked:
            if options.get("do_sample") or options.get("temperature"):
                raise TaskInvalid(
                    "A task of the harness asks for sampling; answers are greedy, so set do_sample: false."
                )
            until = options.get("until") or []
            ends = [until] if isinstance(until, str) else list(until)
            new = int(options.get("max_gen_toks", NEW))
            ids = _encode(self.tokenizer, context)[-max(1, self.context - new) :]
            stop: list[Any] = [*ends, *([self.tokenizer.end] if self.tokenizer.end is not None else [])]
            out = self.subject.generate([ids], new=new, temperature=0, stop=stop)
            text = self.tokenizer.decode(i for i in out.new[0] if i != self.tokenizer.end)
            found.append(text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))])
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Blanks at the end of a context belong to the continuation, whose first token they are part of."""
        kept = context.rstrip()
        return continuation_ids(self.tokenizer, kept, context[len(kept) :] + continuation)

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        before, ids = continuation_ids(self.tokenizer, "", text)
        whole, first = [*before, *ids], len(before)
        found = []
        while first < len(whole):
            stop = min(first + self.context, len(whole))
            found.append((whole[max(0, stop - self.context - 1) : first], whole[first:stop]))
            first = stop
        return found

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        """Of rows without what is before their last `context` + 1 tokens: the last token is predicted, and not read."""
        fitting = []
        for before, after in rows:
            whole = [*before, *after][-self.context - 1 :]
            cut = max(1, len(whole) - len(after))
            fitting.append((whole[:cut], whole[cut:]))
        return score_ids(self.subject.net, fitting)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    return ids or ([tokenizer.end] if tokenizer.end is not None else [0])


def harness_model(subject: Glass) -> Any:
    """A model for `lm_eval.simple_evaluate(model=...)`. Raises ExtraMissing without lm-eval.

    >>> from cloche.evals import harness_model
    >>> results = lm_eval.simple_evaluate(harness_model(cloche.load("first")), tasks=["blimp"])  # doctest: +SKIP
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ExtraMissing("lm-eval is not installed; run `pip install 'cloche[lm-eval]'`.") from error

    class ClocheModel(LM):
        """Answers the harness with `Harness`."""

        def __init__(self) -> None:
            super().__init__()
            self.harness = Harness(subject)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return self.harness.loglikelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return self.harness.rolling([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any]) -> list[str]:
            return self.harness.generate_until([request.args for request in requests])

    return ClocheModel()
