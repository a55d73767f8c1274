"""A network with its tokenizer, so that prompts may be text: `cloche.load` and what it gives. Above the packages."""

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
from cloche.model.huggingface import hub
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.words import answering, check_arguments, no_attribute

Prompt = str | list[str] | Tensor | list[list[int]]
RUN = ("prompt", "save", "edits", "pad", "logits", "grad", "compile")
STREAM = ("batches", "save", "to", "dtype", "edits", "shard_bytes")
GENERATE = ("prompt", "new", "edits", "stop", "pad", "save", "logprobs", *Sampling.__dataclass_fields__)


class Written(str):
    """A text that a model wrote; `notes`: what is worth knowing of it, one sentence each."""

    notes: tuple[str, ...] = ()


class Glass:
    """A model to look into: `net`, `tokenizer` (None where the folder holds none) and where they are from.

    `name` is for people ("first/step-000500"), `checkpoint` what findings are filed under ("step-000500").
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
            "A Glass is not called: glass.run(prompt).logits are its logits, glass.generate(prompt) its text."
        )

    @property
    def sites(self) -> Sites:
        """The places in this model, for `save=` and `edits=`."""
        return self.net.sites

    def ids(self, prompt: Prompt) -> tuple[Tensor, Tensor | None]:
        """Token ids [batch, position] of a prompt and its left padding [batch], None where nothing is padded.

        A text is encoded as its tokenizer encodes it, nothing added; an empty one begins at the end-of-text token, as
        documents do in training. Texts of unequal length are padded on the left. Ids pass as they are.
        """
        return read_prompt(prompt, self.tokenizer, self.name)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerMissing(
                f"{self.name} has no tokenizer.json, so it cannot read text; give token ids instead."
            )
        return self.tokenizer

    def tokens(self, prompt: str) -> list[str]:
        """How the model reads a text: its tokens, as shown by `Tokenizer.show`."""
        tokenizer = self._tokenizer()
        return [tokenizer.show(i) for i in encoded([prompt], tokenizer)[0]]

    def run(self, prompt: Prompt, save: Any = (), edits: Iterable[Edit] | Edit = (), **options: Any) -> Result:
        """One forward pass that saves and edits sites; the arguments of `Network.run`, the prompt also as text."""
        check_arguments("run", options, RUN)
        ids, pad = self.ids(prompt)
        return self.net.run(ids, save=save, edits=edits, pad=options.pop("pad", pad), **options)

    @answering
    def loss(self, prompt: Prompt, edits: Iterable[Edit] | Edit = (), pad: Any = None) -> Loss:
        """How well the model foresees a text, a list of texts, or ids: nats per token and bits per byte.

        Every token but the first of each text is predicted from those before it, under `edits` where there are any. Raises
        ClocheError for what `run` refuses, and where there is nothing to predict.
        """
        ids, own = self.ids(prompt)
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

    @answering
    def next_tokens(self, prompt: Prompt, top: int = 10, edits: Iterable[Edit] | Edit = ()) -> Any:
        """The `top` likeliest tokens after a prompt, with their probabilities: it prints as a table. A list of them for a
        list of texts or several rows of ids."""
        ids, pad = self.ids(prompt)
        result = self.net.run(ids, edits=edits, pad=pad)
        tables = [next_of(row, top, self.tokenizer, result.notes) for row in result.logits[:, -1]]
        return tables if is_texts(prompt) or len(tables) > 1 else tables[0]

    @answering
    def sweep(
        self, prompt: Prompt, edits: Iterable[Any], read: Callable[[Tensor], Any], pad: Any = None, rows: int = 128
    ) -> Tensor:
        """What `read` makes of the logits under each of many edits: `Network.sweep`, the prompt also as text."""
        ids, own = self.ids(prompt)
        return self.net.sweep(ids, edits, read, own if pad is None else pad, rows)

    def stream(self, batches: Any, save: Any, to: str | Path, **options: Any) -> StoredActivations:
        """Write saved sites of many batches of ids, or of texts, to a folder: `Network.stream`, with its options.

        Each text is a batch of its own; one longer than the model's context is cut into windows of so many tokens.
        """
        check_arguments("stream", options, STREAM)
        if isinstance(batches, str) or (isinstance(batches, list | tuple) and any(map(_is_text, batches))):
            lengths = [length for length in (self.net.length, self.net.context) if length is not None]
            batches = list(read_windows(batches, self.tokenizer, min(lengths, default=None), self.name))
        return self.net.stream(batches, save, to, **options)

    @overload
    def generate(self, prompt: str, new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> list[str]: ...
    @overload
    def generate(
        self, prompt: Tensor | list[list[int]], new: int = 64, edits: Iterable[Edit] = (), **options: Any
    ) -> Generation: ...

    def generate(self, prompt: Prompt, new: int = 64, edits: Iterable[Edit] = (), **options: Any) -> Any:
        """What the model writes on: text for a text, texts for texts, a Generation for ids.

        Ends a text at the tokenizer's end-of-text token. options: temperature (0: greedy), top_k, top_p, min_p, seed, pad;
        stop: token ids and texts (the text written ends before the first of them); with ids also save and logprobs.
        A text is written in the tokenizer's own tokens: rows of the vocabulary beyond them are never drawn. `notes` of a text
        or Generation say how probable they were, and what else is worth knowing.
        """
        check_arguments("generate", options, GENERATE)
        ids, pad = self.ids(prompt)
        if pad is not None:
            options["pad"] = pad
        texts = _is_text(prompt)
        given = sorted({"save", "logprobs"} & set(options))
        if texts and given:
            raise ArgumentInvalid(
                f"{given[0]}= comes back in a Generation, which text is not given; ids, pad = glass.ids(prompt) and generate "
                "from those."
            )
        stop, ends = self._stops(options.pop("stop", None), texts)
        if texts and self.unused:
            options["exclude"] = (*options.get("exclude", ()), *self.unused)
        out = generate(self.net, ids, new, edits, stop=stop, **options)
        if not texts:
            return out
        written = [Written(self._written(made, ends)) for made in out.new]
        for text in written:
            text.notes = out.notes
        return written[0] if isinstance(prompt, str) else written

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """The ids that the model has a row for and the tokenizer no token: padding of the vocabulary."""
        return () if self.tokenizer is None else self.tokenizer.unused(self.net.spec.vocab)

    def _stops(self, stop: Any, texts: bool) -> tuple[Any, list[bytes]]:
        """What `decode.generate` is to stop at, and the texts among it as bytes."""
        given = [stop] if isinstance(stop, str) else [] if stop is None else stop
        if callable(given):
            return given, []
        try:
            given = list(given)
        except TypeError:
            raise ArgumentInvalid(f"stop= takes token ids and texts; got {stop!r}.") from None
        ends = [item.encode() for item in given if isinstance(item, str)]
        if b"" in ends:
            raise ArgumentInvalid("stop= holds an empty text, which everything ends with; leave it out.")
        tokens = [item for item in given if not isinstance(item, str)]
        if texts and not tokens and (ends or stop is None) and self.tokenizer and self.tokenizer.end is not None:
            tokens = [self.tokenizer.end]
        if not ends:
            return tokens, []
        tokenizer, last = self._tokenizer(), set(check_stop(tokens, self.net.spec.vocab))

        def ended(made: list[int]) -> bool:
            return made[-1] in last or any(end in tokenizer.decode_bytes(made) for end in ends)

        return ended, ends

    def _written(self, made: list[int], ends: list[bytes]) -> str:
        tokenizer = self._tokenizer()
        text = tokenizer.decode_bytes(i for i in made if i != tokenizer.end)
        cut = min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))
        return text[:cut].decode("utf-8", "replace")


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) or is_texts(prompt)


@answering
def load(
    where: str | Path | Run,
    checkpoint: str | int = "last",
    dtype: str = "float32",
    *,
    check_files: bool = True,
    check_sites: bool = True,
) -> Glass:
    """A model to look into: from a run (its last checkpoint, or the step or name given), a checkpoint folder, a Hugging Face
    folder, or with `cloche[hub]` from the Hub ("owner/name" where no folder `owner` is here, "hf://owner/name@revision").

    The tokenizer is the one beside the weights, else the run's. dtype: of the weights in memory, on the CPU: "float32",
    "bfloat16", "float16", or "auto" for the one they are stored in. check_files: compare the weights of a checkpoint with the
    sha256 that its manifest records; a file is hashed once for as long as it does not change. check_sites: compare every site,
    on a few random tokens, with what the model's parts and weights say that it is.
    """
    if not isinstance(where, str | Path | Run):
        raise ArgumentInvalid(
            f"A model is named by its folder, by its name on the Hub, or by a Run; got {shown(where)}."
        )
    check_name(where)
    how = {"dtype": dtype, "check_files": check_files, "check_sites": check_sites}
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
    net = load_network(folder, **how)
    if net.context is None and run is not None:
        net.context = _trained_length(run)
    return Glass(net, tokenizer, name or f"{owner.name}/{folder.resolve().name}", folder.resolve().name)


def _trained_length(run: Path) -> int | None:
    """How long the texts were that a run trained on; None where its recipe does not say."""
    try:
        length = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))["run"]["length"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return length if type(length) is int and length > 0 else None
