"""Features of a dictionary, the most telling first: where each is active, and which tokens it promotes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.drawing import Finding, Panel, Passage, Provenance, Tokens, percent, visible
from cloche.errors import ClocheError, CorpusEmpty, FeatureUnknown
from cloche.interp.dictionaries.firings import Firings, collect_firings
from cloche.interp.dictionaries.learn import Tokens as Corpus
from cloche.interp.dictionaries.learn import batched_windows
from cloche.interp.dictionaries.report import density_panel, explained_shuffled, measured_figures
from cloche.interp.dictionaries.telling import logit_effects, telling_order
from cloche.interp.harvesting import activations
from cloche.interp.records import ExampleRecord, FeatureRecord, FeaturesData, histogram_of, plain
from cloche.interp.route import Others, Reader, reader_of, rows_without_first
from cloche.interp.subject import Subject, spell, windows_of
from cloche.model import Network
from cloche.sparse import SAE, Report

CONTEXT = (24, 12)  # tokens shown before and after an activation
WINDOW = 256
QUANTILES = (0.1, 0.5, 0.9)
EXAMPLES = {1.0: 5, 0.9: 3, 0.5: 2}  # examples by quantile of a feature's activations; 1.0 is the strongest
LOGITS, NEIGHBOURS = 10, 5
STREAM = (
    "embed",
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
)  # sites that add up to the last residual


def held_out_windows(tokens: Corpus, net: Network, count: int) -> list[np.ndarray]:
    """About `count` tokens from the start of a text, in batches of windows that the model can read.

    >>> from pathlib import Path
    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.data import PackedTokens, prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> tokenizer = cloche.Tokenizer.load(run.path)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> from cloche.interp import held_out_windows
    >>> tokens = PackedTokens.open(run.path, "train")
    >>> [batch.shape for batch in held_out_windows(tokens, net, count=1_000)]
    [(3, 256)]
    """
    length = min(WINDOW, net.length or WINDOW, len(tokens))
    return batched_windows(tokens, np.arange(max(1, min(count, len(tokens)) // length)), length)


@torch.no_grad()
def features_report(
    subject: Subject,
    sae: SAE,
    windows: Iterable[Any],
    name: str = "",
    count: int = 40,
    others: Others | None = None,
) -> Finding:
    """Encodes `windows` (batches of ids [batch, position], or texts) with a dictionary and shows its `count` most telling
    features.

    `data`: docs/architecture.md. Logits are a feature's direct effect at its strongest activation, in nats. `arrays` cover
    all features: density and maximum [features]. `others` are the other models that a crosscoder names. Choose windows that
    the dictionary was not trained on, or its FVU is too low.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import harvest
    >>> from cloche.sparse import Provenance, Training, train_sae
    >>> rows, where = harvest(glass, [text], "resid_post[1]"), Provenance("resid_post[1]")
    >>> sae, _ = train_sae(rows, 64, 4, Training(steps=4, batch=64), trained_on=where)
    >>> from cloche.interp import features_report
    >>> finding = features_report(glass, sae, [text], count=3)
    >>> len(finding.data["features"]) <= 3
    True
    """
    return FeatureReader(subject, sae, windows, others).finding(name, count)


class FeatureReader:
    """Encodes some text with a dictionary once; then gives the page of any feature, whether or not a finding lists it.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import harvest
    >>> from cloche.sparse import Provenance, Training, train_sae
    >>> rows, where = harvest(glass, [text], "resid_post[1]"), Provenance("resid_post[1]")
    >>> sae, _ = train_sae(rows, 64, 4, Training(steps=4, batch=64), trained_on=where)
    >>> from cloche.interp import FeatureReader
    >>> FeatureReader(glass, sae, [text]).page(0)["id"]
    0
    """

    @torch.no_grad()
    def __init__(self, subject: Subject, sae: SAE, windows: Iterable[Any], others: Others | None = None) -> None:
        """The arguments are those of `features_report`."""
        self.subject, self.sae = subject, sae
        self.reader = reader_of(sae, subject.net, others)
        stream = windows_of(subject, windows)
        first = next(stream, None)
        if first is None:
            raise CorpusEmpty("There is no text to read features from: give at least one window of two tokens.")
        batches = activations(subject.net, chain([first], stream), self.reader.route, others)
        self.firings, self.measured = collect_firings(sae, batches)
        self.effects = _effects(subject.net, self.reader, sae, first)
        sample = torch.cat(
            [rows_without_first(v).cpu() for _, v in activations(subject.net, [first], self.reader.route, others)]
        )
        self.shuffled = explained_shuffled(sae, sample)
        self._pages = _Pages(subject, sae, self.firings, self.measured, self.effects)

    @torch.no_grad()
    def page(self, feature: int) -> dict[str, Any]:
        """One feature in the form of a finding's `features`, with `tokens_seen`. A feature that was never active has no
        examples and no logits. Raises ClocheError for a number that the dictionary does not have."""
        if not 0 <= feature < self.sae.features:
            raise FeatureUnknown(f"There is no feature {feature}: the dictionary has {self.sae.features:,}, from 0 on.")
        return plain(self._pages.of(feature)) | {"tokens_seen": self.measured.signals}

    @torch.no_grad()
    def finding(self, name: str = "", count: int = 40) -> Finding:
        """The `features` finding of the `count` most telling features."""
        measured, firings, route = self.measured, self.firings, self.reader.route
        chosen = telling_order(firings, self.effects, self.sae.dictionary.unit(), count)
        record: FeaturesData = {
            "dictionary": name,
            "site": str(route),
            "places": [str(place) for place in route.writes or route.reads],
            "tokens_seen": measured.signals,
            "fvu": measured.fvu,
            "l0": measured.l0,
            "dead_share": measured.dead_share,
            "density_histogram": histogram_of(measured),
            "features": [self._pages.of(i) for i in chosen],
        }
        data = plain(record)
        strongest = torch.zeros(self.sae.features).scatter_reduce_(0, firings.owner, firings.values, "amax")
        arrays = {"density": measured.density.float(), "maximum": strongest}
        plan, _ = self.subject.net.plan(self.reader.own, [], firings.tokens[None, :1], None)
        about, null = Provenance("features", self.subject.checkpoint, plan.hash), {"explained": self.shuffled}
        summary = _summary(self.subject, self.sae, data)
        return Finding(about, summary, measured_figures(measured), data, arrays, null, panels(data))


def panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    """Each feature's strongest example, the most telling first, and the density of all features."""
    passages = [_passage(feature) for feature in data["features"]]
    silent = bool(passages) and not any(feature["top_logits"] for feature in data["features"])
    note = "A token's colour is its feature's activation relative to the maximum."
    if silent:
        note += f" No direct effect on the logits: {data['site']} writes to no place of the residual stream."
    shown = (Tokens("The most telling features", tuple(passages), high=1.0, note=note),) if passages else ()
    return (*shown, density_panel(data["density_histogram"]))


def _passage(feature: dict[str, Any]) -> Passage:
    """A feature's strongest example, how often it is active, and the tokens it promotes."""
    example = feature["examples"][0] if feature["examples"] else {"tokens": [], "acts": []}
    most = feature["max"] or 1.0
    promoted = " ".join(visible(token) for token, _ in feature["top_logits"][:5])
    note = f"{percent(feature['density'])} of tokens" + (f"; promotes {promoted}" if promoted else "")
    return Passage(
        f"Feature {feature['id']}", tuple(example["tokens"]), tuple(act / most for act in example["acts"]), note
    )


def _effects(net: Network, reader: Reader, sae: SAE, window: Any) -> Tensor | None:
    """[features, vocab] what each atom adds to the logits by the direct path from the last place written in this model;
    None if that is not a site of the residual stream, or the final norm is not linear."""
    block, site = reader.written()[-1]
    if site.name not in STREAM:
        return None
    atoms = sae.blocks(sae.dictionary.atoms)[block]
    try:
        return logit_effects(net, atoms, _last_residuals(net, window))
    except ClocheError:  # a final norm that is not linear
        return None


def _last_residuals(net: Network, window: Any) -> Tensor:
    """[n, width] inputs of the final norm over one batch of windows."""
    last = net.sites.resid_post[-1]
    return net.run(window, save=[last], logits=False)[last].flatten(0, -2)


def _summary(subject: Subject, sae: SAE, data: dict[str, Any]) -> str:
    elsewhere = sae.trained_on.checkpoint not in (None, subject.checkpoint)
    origin = f" (a dictionary of {sae.trained_on.checkpoint})" if elsewhere else ""
    return (
        f"{sae.features:,} features{origin} explain {1 - data['fvu']:.0%} of the variance of {data['site']} with "
        f"{data['l0']:.1f} active per token, over {data['tokens_seen']:,} tokens; {data['dead_share']:.0%} are never active."
    )


class _Words:
    """Texts of tokens, each looked up once."""

    def __init__(self, subject: Subject) -> None:
        self.tokenizer = subject.tokenizer
        self.known: dict[int, str] = {}

    def of(self, ids: Tensor) -> list[str]:
        wanted = ids.tolist()
        fresh = sorted(set(wanted) - self.known.keys())
        self.known.update(zip(fresh, spell(self.tokenizer, fresh), strict=True))
        return [self.known[i] for i in wanted]


class _Pages:
    """Makes the pages of features, one at a time."""

    def __init__(self, subject: Subject, sae: SAE, firings: Firings, measured: Report, effects: Tensor | None) -> None:
        self.firings, self.measured, self.effects = firings, measured, effects
        self.atoms, self.words = sae.dictionary.unit(), _Words(subject)
        blocks = torch.stack([block.square().sum(1) for block in sae.blocks(sae.decoder.detach())], 1)
        self.shares = blocks / blocks.sum(1, keepdim=True)

    def of(self, i: int) -> FeatureRecord:
        where, values = self.firings.of(i)
        fires = len(values) > 0
        strongest = float(values.max()) if fires else 0.0
        cosine = self.atoms @ self.atoms[i]
        cosine[i] = -torch.inf
        near = cosine.topk(min(NEIGHBOURS, len(cosine) - 1))
        examples = _choose_examples(self.firings, where, values) if fires else []
        return {
            "id": i,
            "density": float(self.measured.density[i]),
            "max": strongest,
            "quantiles": values.quantile(torch.tensor(QUANTILES)).tolist() if fires else [0.0] * len(QUANTILES),
            "examples": [_example(self.firings, i, at, quantile, self.words) for at, quantile in examples],
            "top_logits": self._logits(i, strongest, largest=True) if fires else [],
            "bottom_logits": self._logits(i, strongest, largest=False) if fires else [],
            "neighbours": [(j, c) for j, c in zip(near.indices.tolist(), near.values.tolist(), strict=True)],
            "shares": self.shares[i].tolist(),
        }

    def _logits(self, i: int, strongest: float, largest: bool) -> list[tuple[str, float]]:
        if self.effects is None:
            return []
        best = self.effects[i].topk(min(LOGITS, self.effects.shape[1]), largest=largest)
        effects = (best.values * strongest).tolist()
        return list(zip(self.words.of(best.indices), effects, strict=True))


def _choose_examples(firings: Firings, where: Tensor, values: Tensor) -> list[tuple[int, float]]:
    """(token, quantile) of the activations to show: the strongest, and those nearest to each quantile, without repeated
    contexts."""
    order = values.argsort(descending=True, stable=True)
    chosen: list[tuple[int, float]] = []
    for quantile, wanted in EXAMPLES.items():
        start = round((1 - quantile) * (len(order) - 1))
        fitting = (at for at in where[order[start:]].tolist() if _apart(at, chosen, firings))
        chosen += [(at, quantile) for at in _distinct(fitting, wanted, firings)]
    return chosen


def _distinct(places: Iterable[int], wanted: int, firings: Firings) -> list[int]:
    """The first `wanted` tokens that differ in their last four tokens."""
    seen: dict[tuple[int, ...], int] = {}
    for at in islice(places, 50 * wanted):
        seen.setdefault(tuple(firings.tokens[max(0, at - 3) : at + 1].tolist()), at)
        if len(seen) == wanted:
            break
    return list(seen.values())


def _apart(at: int, chosen: list[tuple[int, float]], firings: Firings) -> bool:
    return all(abs(at - other) > CONTEXT[1] for other, _ in chosen)


def _example(firings: Firings, feature: int, at: int, quantile: float, words: _Words) -> ExampleRecord:
    """The tokens around one activation, within its window, and the feature's activation on each."""
    window = firings.window
    first, last = max(0, at - CONTEXT[0]), min(len(window), at + CONTEXT[1] + 1)
    inside = (window[first:last] == window[at]).nonzero().squeeze(1)
    first, last = first + int(inside[0]), first + int(inside[-1]) + 1
    where, values = firings.of(feature)
    acts = torch.zeros(last - first)
    near = (where >= first) & (where < last)
    acts[where[near] - first] = values[near]
    return {"tokens": words.of(firings.tokens[first:last]), "acts": acts.tolist(), "quantile": quantile}
