"""A network with its tokenizer, so that prompts may be text: `cloche.load` and the `Glass` it returns."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from cloche.answers import Loss, NextTokens, loss_of, next_of
from cloche.decode import Generation, Sampling, check_stop, encoded, generate, is_texts, read_prompt, read_windows
from cloche.errors import ArgumentInvalid, TokenizerInvalid, TokenizerMissing, shown
from cloche.missing import check_name, nearest, no_model
from cloche.model import Edit, Network, Result, Sites, StoredActivations, load_network
from cloche.model.huggingface import hub, put_average
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.words import check_arguments, no_attribute, with_hints

Prompt = str | list[str] | Tensor | list[list[int]]
RUN = ("prompt", "save", "edits", "pad", "logits", "grad", "compile")
STORE = ("batches", "save", "to", "dtype", "edits", "shard_bytes")
GENERATE = ("prompt", "new", "edits", "stop", "pad", "save", "logprobs", *Sampling.__dataclass_fields__)


class GeneratedText(str):
    """Text that a model generated; `notes`: sentences about it that the reader should know."""

    notes: tuple[str, ...] = ()


class Glass:
    """A model to look into: `net`, `tokenizer` (None if the folder has none) and where they come from.

    `name` is shown to people ("first/step-000500"); findings are filed under `checkpoint` ("step-000500").

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> result = glass.run("the cat sat", save=["resid_post.all"])
    >>> glass.tokens("the cat sat"), result["resid_post.all"].shape
    (['the', '·c', 'at', '·', 's', 'at'], torch.Size([2, 1, 6, 32]))
    """

    def __init__(
        self, net: Network, tokenizer: Tokenizer | None = None, name: str = "model", checkpoint: str = ""
    ) -> None:
        if tokenizer is not None and tokenizer.vocab > net.spec.vocab:
            raise TokenizerInvalid(
                f"The tokenizer of {name} has {tokenizer.vocab:,} tokens and its model only {net.spec.vocab:,}, so they do not "
                "belong together; put the right tokenizer.json beside the weights."
            )
        self.net = net.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.checkpoint = checkpoint or name

    def __repr__(self) -> str:
        words = "no tokenizer" if self.tokenizer is None else f"a tokenizer of {self.tokenizer.vocab:,} tokens"
        context = "" if self.net.context is None else f", context {self.net.context:,}"
        return f"<Glass {self.name!r}: {repr(self.net)[1:-1]}, {words}{context}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise no_attribute(
            "Glass", name, [known for known in dir(Glass) if not known.startswith("_")] + ["net", "tokenizer"]
        )

    def __call__(self, *prompt: Any, **options: Any) -> Any:
        raise ArgumentInvalid(
            "A Glass is not callable: use glass.run(prompt).logits for logits, glass.generate(prompt) for text."
        )

    @property
    def sites(self) -> Sites:
        """The sites of this model, for `save=` and `edits=`."""
        return self.net.sites

    def ids(self, prompt: Prompt) -> tuple[Tensor, Tensor | None]:
        """Token ids [batch, position] of a prompt, and its left padding [batch] (None if nothing is padded).

        A text is encoded by the tokenizer as it is, with nothing added; an empty text becomes the end-of-text token, which
        starts documents in training. Texts of unequal length are padded on the left. Ids are returned as they are.
        """
        return read_prompt(prompt, self.tokenizer, self.name)

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises TokenizerMissing if there is none."""
        if self.tokenizer is None:
            raise TokenizerMissing(
                f"{self.name} has no tokenizer.json, so it cannot read text; put one beside it, or give token ids."
            )
        return self.tokenizer

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of a text, as shown by `Tokenizer.show`."""
        tokenizer = self.need_tokenizer()
        return [tokenizer.show(i) for i in encoded([prompt], tokenizer)[0]]

    def run(self, prompt: Prompt, save: Any = (), edits: Iterable[Edit] | Edit = (), **options: Any) -> Result:
        """One forward pass that saves and edits sites: `Network.run`, with prompts that may be text."""
        check_arguments("run", options, RUN)
        ids, pad = self.ids(prompt)
        return self.net.run(ids, save=save, edits=edits, pad=options.pop("pad", pad), **options)

    @with_hints
    def loss(self, prompt: Prompt, edits: Iterable[Edit] | Edit = (), pad: Any = None) -> Loss:
        """Loss of the model on a text, a list of texts, or ids: nats per token and bits per byte.

        Every token but the first of each text is predicted from those before it, under any `edits`. Raises ClocheError as
        `run` does, and if there is nothing to predict.
        """
        ids, own = self.ids(prompt)
        self.net.require_causal("The loss of a text")
        result = self.net.run(ids, edits=edits, pad=own if pad is None else pad)
        return loss_of(result.logits, ids, result.pad, self.tokenizer, result.notes)

    @overload
    def next_tokens(self, prompt: str, top: int = 10, edits: Iterable[Edit] | Edit = ()) -> NextTokens: ...
    @overload
    def next_tokens(self, prompt: list[str], top: int = 10, edits: Iterable[Edit] | Edit = ()) -> list[NextTokens]: ...
    @overload
    def next_tokens(
        self, prompt: Tensor | list[list[int]], top: int = 10, edits: Iterable[Edit] | Edit = ()
    ) -> NextTokens | list[NextTokens]: ...

    @with_hints
    def next_tokens(self, prompt: Prompt, top: int = 10, edits: Iterable[Edit] | Edit = ()) -> Any:
        """The `top` most likely tokens after a prompt, with their probabilities; prints as a table. A list of texts or
        several rows of ids gives a list."""
        ids, pad = self.ids(prompt)
        self.net.require_causal("A table of next tokens")
        result = self.net.run(ids, edits=edits, pad=pad)
        tables = [next_of(row, top, self.tokenizer, result.notes) for row in result.logits[:, -1]]
        return tables if is_texts(prompt) or len(tables) > 1 else tables[0]

    @with_hints
    def sweep(
        self, prompt: Prompt, edits: Iterable[Any], read: Callable[[Tensor], Any], pad: Any = None, rows: int = 128
    ) -> Tensor:
        """`read(logits)` under each of many edits: `Network.sweep`, with prompts that may be text."""
        ids, own = self.ids(prompt)
        return self.net.sweep(ids, edits, read, own if pad is None else pad, rows)

    def store(self, batches: Any, save: Any, to: str | Path, **options: Any) -> StoredActivations:
        """Write saved sites of many batches of ids, or of texts, to a folder: `Network.store`, with its options.

        Each text is a batch of its own; a text longer than the model's context is cut into windows of that length.
        """
        check_arguments("store", options, STORE)
        if isinstance(batches, str) or (isinstance(batches, list | tuple) and any(map(_is_text, batches))):
            batches = list(read_windows(batches, self.tokenizer, self.net.most_tokens, self.name))
        return self.net.store(batches, save, to, **options)

    @overload
    def generate(self, prompt: str, new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> list[str]: ...
    @overload
    def generate(
        self, prompt: Tensor | list[list[int]], new: int = 64, edits: Iterable[Edit] = (), **options: Any
    ) -> Generation: ...

    def generate(self, prompt: Prompt, new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> Any:
        """The model's continuation: a text for a text, a list for a list, a Generation for ids.

        Generation of a text ends at the tokenizer's end-of-text token. options: temperature (0: greedy), top_k, top_p,
        min_p, seed, pad; stop: token ids and texts (the text ends before the first of them); with ids also save and
        logprobs. Vocabulary rows beyond the tokenizer's tokens are never sampled for a text. `notes` of a text or
        Generation say how probable those were, and anything else the reader should know.
        """
        check_arguments("generate", options, GENERATE)
        ids, pad = self.ids(prompt)
        if pad is not None:
            options["pad"] = pad
        texts = _is_text(prompt)
        given = sorted({"save", "logprobs"} & set(options))
        if texts and given:
            raise ArgumentInvalid(
                f"{given[0]}= is returned in a Generation, which needs a prompt of ids: take ids, pad = glass.ids(prompt) "
                "and generate from those."
            )
        stop, ends = self._stops(options.pop("stop", None), texts)
        if texts and self.unused:
            options["exclude"] = (*options.get("exclude", ()), *self.unused)
        out = generate(self.net, ids, new, edits, stop=stop, **options)
        if not texts:
            return out
        written = [GeneratedText(self._written(made, ends)) for made in out.new]
        for text in written:
            text.notes = out.notes
        return written[0] if isinstance(prompt, str) else written

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """Ids that have a row in the model but no token in the tokenizer: padding of the vocabulary."""
        return () if self.tokenizer is None else self.tokenizer.unused(self.net.spec.vocab)

    def _stops(self, stop: Any, texts: bool) -> tuple[Any, list[bytes]]:
        """The stop argument for `decode.generate`, and the texts in it as bytes."""
        given = [stop] if isinstance(stop, str) else [] if stop is None else stop
        if callable(given):
            return given, []
        try:
            given = list(given)
        except TypeError:
            raise ArgumentInvalid(f"stop= takes token ids and texts; got {stop!r}.") from None
        ends = [item.encode() for item in given if isinstance(item, str)]
        if b"" in ends:
            raise ArgumentInvalid("stop= contains an empty text, with which everything ends; leave it out.")
        tokens = [item for item in given if not isinstance(item, str)]
        if texts and not tokens and (ends or stop is None) and self.tokenizer and self.tokenizer.end is not None:
            tokens = [self.tokenizer.end]
        if not ends:
            return tokens, []
        tokenizer, last = self.need_tokenizer(), set(check_stop(tokens, self.net.spec.vocab))

        def ended(made: list[int]) -> bool:
            return made[-1] in last or any(end in tokenizer.decode_bytes(made) for end in ends)

        return ended, ends

    def _written(self, made: list[int], ends: list[bytes]) -> str:
        tokenizer = self.need_tokenizer()
        text = tokenizer.decode_bytes(i for i in made if i != tokenizer.end)
        cut = min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))
        return text[:cut].decode("utf-8", "replace")


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) or is_texts(prompt)


@with_hints
def load(
    where: str | Path | Run,
    checkpoint: str | int = "last",
    dtype: str = "float32",
    *,
    average: bool = False,
    check_files: bool = True,
    check_sites: bool = True,
) -> Glass:
    """Load a model to look into: from a run (its last checkpoint, or the step or name given), a checkpoint folder, a
    Hugging Face folder, or with `cloche[hub]` the Hub ("owner/name" if there is no local folder `owner`, or
    "hf://owner/name@revision").

    The tokenizer is the one beside the weights, else the run's. dtype: of the weights in memory, on the CPU: "float32",
    "bfloat16", "float16", or "auto" for the one they are stored in. average: take the average of the weights that training
    kept in the checkpoint (`Optimizer.average`). check_files: compare the weights of a checkpoint with
    the sha256 that its manifest records; a file is hashed once for as long as it does not change. check_sites: compare
    every site, on a few random tokens, with its definition by the model's parts and weights.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> from cloche.model import save_network
    >>> save_network(net, "first")
    >>> tokenizer.save("first")
    >>> glass = cloche.load("first")
    >>> glass.net.spec.width, glass.tokenizer.vocab
    (32, 280)
    """
    if not isinstance(where, str | Path | Run):
        raise ArgumentInvalid(
            f"A model is named by its folder, by its name on the Hub, or by a Run; got {shown(where)}."
        )
    check_name(where)
    how = {"dtype": dtype, "check_files": check_files, "check_sites": check_sites, "average": average}
    if isinstance(where, str) and (name := hub.named(where)):
        if checkpoint != "last":
            raise ArgumentInvalid(
                f"{name} is one model, so checkpoint={checkpoint!r} cannot be chosen in it; leave it out."
            )
        return _open(hub.fetch(name, nearest(where)), None, how, name)
    folder = where.path if isinstance(where, Run) else Path(where).expanduser()
    if (folder / "run.json").is_file():
        chosen = Run.open(folder).checkpoint(checkpoint)
        return _open(chosen.path, folder, how)
    if not (folder / "config.json").is_file():
        raise no_model(folder)
    if checkpoint != "last":
        raise ArgumentInvalid(
            f"{folder} is one checkpoint, so checkpoint={checkpoint!r} cannot be chosen in it; name its run."
        )
    run = folder.parents[1] if folder.resolve().parent.name == "checkpoints" and len(folder.parents) > 1 else None
    return _open(folder, run, how)


def _open(folder: Path, run: Path | None, how: dict[str, Any], name: str = "") -> Glass:
    homes = [home for home in (folder, run) if home is not None and (home / "tokenizer.json").is_file()]
    tokenizer = Tokenizer.load(homes[0]) if homes else None
    owner = folder.resolve().parent if run is None else run.resolve()
    name = name or f"{owner.name}/{folder.resolve().name}"
    checkpoint = folder.resolve().name
    average = how.pop("average")
    net = load_network(folder, **how)
    if average:
        put_average(net, folder, how["check_files"])
        name, checkpoint = f"{name}-average", f"{checkpoint}-average"
    if net.context is None and run is not None:
        net.context = _trained_length(run)
    return Glass(net, tokenizer, name, checkpoint)


def _trained_length(run: Path) -> int | None:
    """The length of the windows that a run trained on; None if its recipe does not say."""
    try:
        length = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))["run"]["length"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return length if type(length) is int and length > 0 else None
