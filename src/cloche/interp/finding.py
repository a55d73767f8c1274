"""What an instrument found: its arrays, one sentence, and a place in the run folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from cloche.errors import FileUnreadable, InstrumentUnknown
from cloche.files import to_json
from cloche.interp import views
from cloche.runs import Run

_KEYS = ("instrument", "id", "created", "summary", "checkpoint", "plan", "data")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False)
class Finding:
    """A result of one instrument at one checkpoint. docs/architecture.md says what `data` holds for each instrument.

    `summary` is one sentence; `plan` the hash of the sites and edits of the pass (empty where there was none); `data` is
    JSON; `arrays` are the tensors that are too large for it. The `id` follows from the content, so the same finding made
    again takes the same place.
    """

    instrument: str
    summary: str
    checkpoint: str
    data: dict[str, Any]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    plan: str = ""
    created: str = field(default_factory=_now)

    @property
    def id(self) -> str:
        """The checkpoint's name and the first 10 hex digits of the sha256 of plan and data."""
        content = to_json([self.instrument, self.plan, self.data])
        place = "".join(c if c.isalnum() or c in "-_." else "-" for c in self.checkpoint)
        return f"{place or 'model'}-{hashlib.sha256(content).hexdigest()[:10]}"

    @property
    def notes(self) -> list[str]:
        """What is worth knowing of the passes it rests on, one sentence each: a text beyond the model's context."""
        return list(self.data.get("notes", ()))

    def save(self, run: Run | str | Path) -> Path:
        """Writes findings/<instrument>/<id>.safetensors and .json into a run; returns the path of the latter."""
        run = run if isinstance(run, Run) else Run.open(run)
        place, ident = f"findings/{self.instrument}", self.id
        arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in self.arrays.items()}
        run.write_bytes(f"{place}/{ident}.safetensors", to_bytes(arrays))
        record = {key: ident if key == "id" else getattr(self, key) for key in _KEYS}
        return run.write_json(f"{place}/{ident}.json", record)  # last: who sees the .json finds its arrays

    @classmethod
    def load(cls, path: str | Path) -> Finding:
        """From the .json that `save` wrote, its .safetensors beside it."""
        path = Path(path)
        try:
            record = json.loads(path.read_bytes())
            arrays = load_file(path.with_suffix(".safetensors"))
        except (OSError, ValueError, SafetensorError) as error:
            raise FileUnreadable(f"The finding {path} cannot be read ({error}); make it again.") from error
        missing = [key for key in _KEYS if not isinstance(record, dict) or key not in record]
        if missing:
            raise InstrumentUnknown(f"{path} is no finding: it lacks {', '.join(missing)}; make it again.")
        kept = {key: record[key] for key in _KEYS if key != "id"}
        return cls(arrays=arrays, **kept)

    def table(self) -> str:
        """The finding as columns of text."""
        return views.text_table(*views.rows(self.instrument, self.data))

    def plot(self) -> str:
        """The finding as a picture: SVG text that needs nothing else."""
        return views.picture(self.instrument, self.data)

    def _repr_html_(self) -> str:
        return views.page(self.instrument, self.summary, self.data)

    def __repr__(self) -> str:
        notes = "".join(f" Note: {note}" for note in self.notes)
        return f"<{self.instrument} of {self.checkpoint or 'a model'}: {self.summary}{notes}>"
