"""What instruments read from a run besides the model: held-out text, dictionaries, and other checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloche.data import PackedTokens
from cloche.drawing import Finding
from cloche.errors import DictionaryMissing, InstrumentOption, shown
from cloche.interp.dictionaries.features import held_out_windows
from cloche.interp.route import Route
from cloche.interp.subject import Subject
from cloche.model import Network
from cloche.runs import Run
from cloche.sparse import SAE, load_sae

PROMPT = 28  # tokens of a prompt from held-out text


def held_out(run: Run, subject: Subject, count: int) -> list[np.ndarray]:
    """About `count` tokens of a run's held-out text, in batches of windows [batch, length] that the model can read.

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
    >>> from cloche.interp import held_out
    >>> [batch.shape[1] <= 256 for batch in held_out(run, glass, count=100)]
    [True]
    """
    return held_out_windows(PackedTokens.open(run.path, "validation"), subject.net, count)


def held_out_prompts(run: Run, count: int) -> list[list[int]]:
    """Token ids of `count` pieces of a run's held-out text, spread evenly over it; fewer if the text is short.

    >>> from pathlib import Path
    >>> import cloche
    >>> from cloche.data import prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> from cloche.interp import held_out_prompts
    >>> [len(ids) for ids in held_out_prompts(run, count=3)]
    [28, 28, 28]
    """
    tokens = PackedTokens.open(run.path, "validation")
    length = min(PROMPT, len(tokens))
    count = max(1, min(count, len(tokens) // length))
    return [tokens.window(i * (len(tokens) - length) // max(1, count - 1), length).tolist() for i in range(count)]


def open_dictionary(run: Run, name: str) -> SAE:
    """Loads a dictionary of a run by its name. Raises ClocheError, listing the run's dictionaries, if there is none of that
    name.

    >>> import cloche
    >>> from cloche.interp import open_dictionary
    >>> from cloche.sparse import SAE
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = SAE(8, 32, l0=4).save(run.path / "dictionaries" / "mine")
    >>> open_dictionary(run, "mine")
    SAE(TopK, 32 features of width 8, l0 4, scale 1)
    """
    if name not in (known := dictionaries(run)):  # also ".." and paths, which a request to a server must not name
        raise DictionaryMissing(
            f"{run.path} has no dictionary {shown(name)}: "
            + (f"it has {', '.join(known)}." if known else "train one with `cloche sae train`.")
        )
    return load_sae(run.path / "dictionaries" / name)


def open_finding(run: Run, name: str) -> Finding:
    """A finding of a run by its id, or the newest of an instrument by the instrument's name. Raises InstrumentOption, listing
    what there is."""
    found = sorted(filter(Path.is_file, run.path.glob("findings/*/*.json")), key=lambda path: path.stat().st_mtime)
    wanted = name.replace("_", "-")
    chosen = [path for path in found if path.stem == name or path.parent.name == wanted]
    if not chosen:
        known = ", ".join(sorted({path.parent.name for path in found}))
        raise InstrumentOption(
            f"{run.path} has no finding {shown(name)}"
            + (f"; it has some of {known}." if known else ": make one with `cloche look`.")
        )
    return Finding.load(chosen[-1])


def dictionaries(run: Run) -> list[str]:
    """The names of a run's dictionaries."""
    return sorted(path.name for path in (run.path / "dictionaries").glob("[!.]*/"))


def others_of(run: Run, site: str | None) -> dict[str, Network]:
    """The networks of the run's other checkpoints that a route names, by checkpoint.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import others_of
    >>> from cloche.model import save_network
    >>> run = cloche.Run.create("first", recipe="")
    >>> with run.new_checkpoint(100) as folder:
    ...     save_network(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), folder)
    >>> list(others_of(run, "resid_post[1] + step-000100/resid_post[1]"))
    ['step-000100']
    """
    from cloche.glass import load

    named: set[Any] = {place.model for place in Route.parse(site).places} - {""} if site else set()
    return {model: load(run, model).net for model in named}


@dataclass
class Materials:
    """What arguments are read from: a model, and its run, None for a model without one. `paths`: whether an option may name
    a file or another model on this machine; it may on the command line, but not in a request to a server.

    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))
    >>> from cloche.interp import Materials, fill_in, find_instrument
    >>> fill_in(*find_instrument("logit-lens"), {"prompt": "the cat"}, Materials(glass))
    {'prompt': 'the cat'}
    """

    subject: Subject
    run: Run | None = None
    paths: bool = True

    def need_paths(self, option: str) -> None:
        if not self.paths:
            raise InstrumentOption(f"{option}= can name a file or folder only on the command line: use `cloche look`.")

    def need_run(self, option: str) -> Run:
        if self.run is None:
            raise InstrumentOption(
                f"{option}= names something in a run, and this model has no run; make one with `cloche adopt`."
            )
        return self.run
