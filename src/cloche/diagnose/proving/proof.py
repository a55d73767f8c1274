"""What counterfactual replays showed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from cloche.diagnose.divergence import STAYS, WINDOW, first_divergence
from cloche.diagnose.proving.remedy import Remedy
from cloche.drawing import Table, number

LAST = 10  # steps whose median is the loss at the end
BEFORE = 20  # steps before the onset whose median is the loss there
MARGIN = 1.1  # times that: what the loss at the end may be of a replay that survives
LOWER = 0.95  # times the loss of a run that did not diverge: a remedy betters it


@dataclass(frozen=True)
class Retrained:
    """Steps trained again with a remedy, or with none (the control). `losses` are those from the checkpoint on, infinite if
    not finite; `diverged` is the step, counted from 1, by the definition of `first_divergence`; `same`: the losses are the
    control's.

    >>> from cloche.diagnose import LowerRate, Retrained
    >>> found = Retrained(LowerRate(), 40, (3.0, 2.9), None, survives=True, same=False)
    >>> found.loss, found.steps
    (2.95, 2)
    """

    remedy: Remedy | None
    begun: int
    losses: tuple[float, ...]
    diverged: int | None
    survives: bool
    same: bool
    note: str = ""

    @property
    def steps(self) -> int:
        """Steps that it took."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The median of the last ten losses."""
        return median(self.losses[-LAST:]) if self.losses else math.nan

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.same and self.remedy is not None:
            return "makes no difference"
        if self.diverged is not None:
            return f"diverges at step {self.diverged:,}"
        if self.remedy is None:
            return "does not diverge"
        return "survives" if self.survives else "does not diverge, but does not recover"

    def row(self, name: str) -> tuple[str, int, int, float | None, str, str]:
        """Change, checkpoint, steps, loss, outcome, note."""
        return name, self.begun, self.steps, self.loss if math.isfinite(self.loss) else None, self.verdict, self.note


@dataclass(frozen=True)
class Attempt:
    """The replays from one checkpoint: the control, a change that should not matter (None if nothing survived), and the
    remedies.

    >>> from cloche.diagnose import Attempt, Retrained
    >>> control = Retrained(None, 40, (3.0, 9.0), 42, survives=False, same=True)
    >>> Attempt(40, control, None, ()).proved
    ()
    """

    begun: int
    control: Retrained
    null: Retrained | None
    remedies: tuple[Retrained, ...]

    @property
    def survivors(self) -> tuple[Retrained, ...]:
        return tuple(each for each in self.remedies if each.survives)

    @property
    def proved(self) -> tuple[Retrained, ...]:
        """The remedies that survive where the control diverges and a change that should not matter does too."""
        if self.control.diverged is None or self.null is None or self.null.survives:
            return ()
        return self.survivors

    @property
    def better(self) -> tuple[Retrained, ...]:
        """The remedies that end with a lower loss where the control does not diverge, and a change that should not matter is no
        lower."""
        if self.control.diverged is not None or self.null is None:
            return ()
        least = LOWER * min(self.control.loss, self.null.loss)
        return tuple(each for each in self.remedies if each.survives and each.loss < least)


@dataclass(frozen=True)
class Proof:
    """What replays of a run with one change each showed. `refused` says why there are none, else it is "".

    >>> from cloche.diagnose import Attempt, LowerRate, Proof, Retrained, WithoutBatches
    >>> control = Retrained(None, 40, (9.0, 9.0), 42, survives=False, same=True)
    >>> null = Retrained(WithoutBatches((41,)), 40, (9.1, 9.0), 42, survives=False, same=False)
    >>> half = Retrained(LowerRate(), 40, (3.0, 2.9), None, survives=True, same=False)
    >>> batch = Retrained(WithoutBatches((42,)), 40, (9.1, 9.0), 43, survives=False, same=False)
    >>> proof = Proof(42, 44, (Attempt(40, control, null, (batch, half)),))
    >>> proof.sentence
    'Replayed from step 40, it diverges at step 42 as it did; without batch 42 it still breaks; at half the rate it does not.'
    >>> [each.remedy for each in proof.proved]
    [LowerRate(factor=0.5)]
    """

    onset: int
    until: int
    attempts: tuple[Attempt, ...] = ()
    refused: str = ""
    left_out: tuple[str, ...] = field(default=())  # remedies that did not apply

    @property
    def proved(self) -> tuple[Retrained, ...]:
        """The remedies that count as a proof."""
        return tuple(each for attempt in self.attempts for each in attempt.proved)

    @property
    def replays(self) -> tuple[Retrained, ...]:
        """The replay of each remedy, of those from several checkpoints the last."""
        last = {each.remedy: each for attempt in self.attempts for each in attempt.remedies}
        return tuple(last.values())

    def of(self, remedy: Remedy) -> Retrained | None:
        """The replay of a remedy; None if it did not apply."""
        return next((each for each in self.replays if each.remedy == remedy), None)

    @property
    def sentence(self) -> str:
        """What was shown, in a sentence."""
        if self.refused or not self.attempts:
            return self.refused or "Nothing was replayed: the remedies have nothing to change in this run."
        said = [_told(attempt) for attempt in self.attempts]
        return f"{'. '.join(one[:1].upper() + one[1:] for one in said)}."

    def table(self) -> Table:
        """A row for each replay."""
        rows = []
        for attempt in self.attempts:
            rows.append(attempt.control.row("none (control)"))
            if attempt.null is not None:
                rows.append(attempt.null.row(f"{_phrase(attempt.null)} (should not matter)"))
            rows += [each.row(_phrase(each)) for each in attempt.remedies]
        note = "Each replay has the batches and the random state of the run, and one change."
        if self.left_out:
            note += f" Not tried, since there is nothing to change: {', '.join(self.left_out)}."
        columns = ("change", "from step", "steps", "loss at the end", "outcome", "note")
        return Table("Replays", columns, tuple(rows), ("number", "count", "count", "number", "number", "number"), note)


def divergence(before: Sequence[float], losses: Sequence[float]) -> int | None:
    """As `first_divergence` of all losses, of which those long before are not looked at again; a run that ends with a loss that
    is not finite has diverged, also before its 21st step."""
    recent = before[-(WINDOW + STAYS) :]
    found = first_divergence([*recent, *losses])
    if found is None and losses and math.isinf(losses[-1]):
        found = len(recent) + len(losses)
    return None if found is None else len(before) - len(recent) + found


def judged(
    remedy: Remedy | None,
    before: Sequence[float],
    losses: Sequence[float],
    onset: int,
    control: Retrained | None,
    note: str,
) -> Retrained:
    """The outcome of a replay that follows the losses `before` it."""
    diverged = divergence(before, losses)
    whole = [*before, *(losses if control is None else control.losses)]
    usual = median(whole[max(0, onset - 1 - BEFORE) : max(1, onset - 1)])
    begun, same = len(before), control is None or _alike(losses, control.losses)
    found = Retrained(remedy, begun, tuple(losses), diverged, False, same, note)
    survives = diverged is None and not (control and same) and found.loss <= MARGIN * usual
    return Retrained(remedy, begun, tuple(losses), diverged, survives, same, note)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two replays have the same losses, as far as both go."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _told(attempt: Attempt) -> str:
    begin = f"replayed from step {attempt.begun:,}, it "
    if attempt.control.diverged is None:
        better = [f"{_phrase(each)} at {number(each.loss)}" for each in attempt.better]
        than = f"; its loss ends at {number(attempt.control.loss)}, and {', '.join(better)}" if better else ""
        return f"{begin}does not diverge, and neither did the run, so no remedy can be proved{than}"
    said = [f"{begin}diverges at step {attempt.control.diverged:,} as it did"]
    if (null := attempt.null) is not None and null.survives:
        return f"{said[0]}, but {_phrase(null)}, which should not matter, it does not, so nothing is proved"
    broken = [each for each in attempt.remedies if not each.survives]
    if broken:
        said.append(f"{_listed(broken)} it still breaks")
    if attempt.survivors:
        said.append(f"{_listed(attempt.survivors)} it does not")
    return "; ".join(said)


def _listed(replays: Sequence[Retrained]) -> str:
    names = [_phrase(each) for each in replays]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


def _phrase(replay: Retrained) -> str:
    return replay.remedy.phrase if replay.remedy else "without a change"
