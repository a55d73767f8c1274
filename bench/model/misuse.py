"""What a mistake costs: one list of them made in cloche, TransformerLens and nnsight, on one model with the same weights.

Each ends as one of: clear (an error, or a warning, that names what is wrong), other (an error that does not: the mend must be
guessed), silent (a result as if nothing were wrong), or nothing to get wrong (the API has no such thing). The list is
`misuse_cases.py`; it holds what cloche refuses, so its own column says only that it does: the peers' columns are what is
measured. Peers are used as their tutorials use them, and are given the benefit of the doubt: a message that contains the wrong
value is clear.

    python -m bench.setup misuse && bench/.venvs/misuse/bin/python -m bench.model.misuse
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from nnsight import LanguageModel, NNsight
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.model.misuse_cases import CASES, Case
from bench.rounds import machine, table, write
from cloche.decode import generate
from cloche.errors import ClocheError
from cloche.model import Network, Result, load_network, site

SIDES = ("cloche", "transformer_lens", "nnsight")
KINDS = ("clear", "other", "silent", "nothing")
NAMES = {"cloche": "cloche", "transformer_lens": "TransformerLens", "nnsight": "nnsight"}


class Bed:
    """One model on every side, and how each side is run. Made anew for every case: a mistake may leave hooks behind."""

    def __init__(self, model: LlamaForCausalLM, short: GPT2LMHeadModel, net: Network, short_net: Network) -> None:
        self.ids = torch.randint(0, 17, (2, 6), generator=torch.Generator().manual_seed(0))
        self.net, self.short = net, short_net
        self.generate, self.site = generate, site
        self._model, self._short = model, short

    @property
    def lens(self) -> Any:
        model = copy.deepcopy(self._model)
        return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)

    @property
    def short_lens(self) -> Any:
        model = copy.deepcopy(self._short)
        return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)

    @staticmethod
    def _sight(model: Any) -> Any:
        """nnsight's wrapper for language models, with a tokenizer of its own: the numbers themselves."""
        words = WordLevel({str(i): i for i in range(17)}, unk_token="0")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="0")
        return LanguageModel(copy.deepcopy(model), tokenizer=tokenizer)

    def untokenised(self, text: str) -> Any:
        model = NNsight(copy.deepcopy(self._model))
        with model.trace(text):
            out = model.lm_head.output.save()
        return out

    def trace(self, inside: Callable[[Any], Any], ids: Any, **options: Any) -> Any:
        model = self._sight(self._model)
        with model.trace(ids, **options):
            inside(model)
            out = model.lm_head.output.save()
        return out

    def saved(self, what: Callable[[Any], Any], ids: Any, **options: Any) -> Any:
        model = self._sight(self._model)
        with model.trace(ids, **options):
            kept = what(model).save()
        return kept

    def unsaved(self, ids: Any) -> Any:
        model = self._sight(self._model)
        with model.trace(ids):
            first = model.model.layers[0].output.save()
            other = model.model.layers[1].output
        return first + other

    def stopped(self, ids: Any) -> Any:
        model = self._sight(self._model)
        with model.trace(ids) as tracer:
            model.model.layers[0].output.save()
            tracer.stop()
            out = model.lm_head.output.save()
        return out

    def sight_generate(self, ids: Any, **options: Any) -> Any:
        return _generated(self._sight(self._model), ids, **options)

    def short_sight_generate(self, ids: Any, **options: Any) -> Any:
        return _generated(self._sight(self._short), ids, **options)

    def short_trace(self, ids: Any) -> Any:
        model = self._sight(self._short)
        with model.trace(ids):
            out = model.lm_head.output.save()
        return out

    @staticmethod
    def said(result: Result) -> Any:
        """Its notes, raised so that they count as said."""
        if result.notes:
            raise ClocheError(result.notes[0])
        return result


def _generated(model: Any, ids: Any, **options: Any) -> Any:
    with model.generate(ids, **options) as tracer:
        out = tracer.result.save()
    return out


def judged(case: Case, side: str, bed: Bed) -> dict[str, str]:
    """How one side takes one mistake."""
    work = getattr(case, side)
    if work is None:
        return {"kind": "nothing", "said": ""}
    records = io.StringIO()
    handler = logging.StreamHandler(records)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("always")
            given = work(bed)
    except Exception as error:
        said = str(error)
        clear = re.search(case.names, said) is not None
        return {"kind": "clear" if clear else "other", "said": f"{type(error).__name__}: {said.strip()[-200:]}"}
    finally:
        logging.getLogger().removeHandler(handler)
    spoken = "\n".join([*(str(w.message) for w in heard), records.getvalue()])
    if re.search(case.names, spoken):
        return {"kind": "clear", "said": f"warning: {spoken.strip()[-200:]}"}
    return {"kind": "silent", "said": "", "effect": effect(given, bed)}


def effect(given: Any, bed: Bed) -> str:
    """What a mistake that passed in silence did to the logits."""
    logits = given[0] if isinstance(given, tuple) else given
    clean = bed._model(bed.ids).logits
    if not isinstance(logits, torch.Tensor) or logits.shape != clean.shape:
        return "another prompt or shape"
    if not bool(torch.isfinite(logits).all()):
        return "not finite"
    return "none" if torch.allclose(logits, clean, atol=1e-5) else "changed"


def models() -> tuple[LlamaForCausalLM, GPT2LMHeadModel, Network, Network]:
    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {"hidden_size": 8, "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=17, num_key_value_heads=2, **sizes, **tokens)).eval()
    short = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_embd=8, n_layer=2, n_head=4, n_positions=5, **tokens)).eval()
    nets = []
    for one in (model, short):
        with tempfile.TemporaryDirectory() as folder:
            one.save_pretrained(folder)
            nets.append(load_network(folder))
    return model, short, *nets


def main() -> None:
    torch.set_grad_enabled(False)
    made = models()
    rows, records = [], []
    for case in CASES:
        found = {side: judged(case, side, Bed(*made)) for side in SIDES}
        rows.append([case.what, *(found[side]["kind"] for side in SIDES)])
        records.append({"what": case.what, "sides": found})
    print(table(["the mistake", *(NAMES[side] for side in SIDES)], rows))
    counts = {side: Counter(record["sides"][side]["kind"] for record in records) for side in SIDES}
    print()
    head = ["", *(NAMES[side] for side in SIDES)]
    print(table(head, [[kind, *(str(counts[side][kind]) for side in SIDES)] for kind in KINDS]))
    both = sum(all(record["sides"][side]["kind"] != "nothing" for side in SIDES) for record in records)
    print(f"{len(records)} mistakes, {both} of them possible on every side")
    for side in SIDES:
        effects = Counter(r["sides"][side]["effect"] for r in records if "effect" in r["sides"][side])
        if effects:
            print(
                f"{NAMES[side]}, of what passed in silence: {', '.join(f'{n} {e}' for e, n in effects.most_common())}"
            )
    packages = ("torch", "transformers", "transformer-lens", "nnsight")
    kept = {side: {kind: counts[side][kind] for kind in KINDS} for side in SIDES}
    write("misuse", {"counts": kept, "possible_everywhere": both, "cases": records, "machine": machine(packages)})
    if counts["cloche"]["silent"] or counts["cloche"]["other"]:
        raise SystemExit("cloche let a mistake pass, or refused it in words that do not name it: see the table")


if __name__ == "__main__":
    main()
