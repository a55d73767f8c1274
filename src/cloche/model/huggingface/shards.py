"""The tensors of a checkpoint on disk, read straight into their places and written from there: none is in memory twice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cloche.errors import FileDamaged, FileExists, FileMissing, FileUnreadable, NotFinite, WeightsInvalid

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
STAGE = 1 << 23  # bytes that are read at one time where a tensor is not copied as it stands


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its name there, its kind as safetensors says it, its shape, and where its bytes begin."""

    file: Path
    name: str
    kind: str
    shape: list[int]
    start: int

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype. Raises ClocheError for what is not floating-point weights."""
        if self.kind not in DTYPES:
            raise WeightsInvalid(
                f"{self.file}: {self.name} holds {self.kind}, not floating-point weights ({', '.join(DTYPES)}); nothing was "
                "loaded."
            )
        return DTYPES[self.kind]

    def read_into(self, place: Tensor, item: int | None = None) -> None:
        """Fill `place`, whose numbers in their order are this tensor's (or its item's), in the dtype of `place`.

        Raises ClocheError where that dtype cannot hold a number, and for a number that is none.
        """
        dtype, count = self.dtype, place.numel()
        with self.file.open("rb") as file:
            file.seek(self.start + (item or 0) * count * dtype.itemsize)
            if dtype == place.dtype and place.is_contiguous():
                for part in place.view(-1).split(STAGE // dtype.itemsize):
                    self._read(file, part)
                    check_finite(part, self)
                return
            each = count // len(place)  # numbers in a row of the place
            rows = max(1, STAGE // (each * dtype.itemsize))
            for first in range(0, len(place), rows):
                part = place[first : first + rows]
                staged = torch.empty(part.shape, dtype=dtype)
                self._read(file, staged)
                check_finite(staged, self)
                part.copy_(staged)
                check_reach(staged, part, self)

    def bytes_at(self, start: int, count: int) -> Tensor:
        """Some of its bytes, uint8 [count]."""
        into = torch.empty(count, dtype=torch.uint8)
        with self.file.open("rb") as file:
            file.seek(self.start + start)
            self._read(file, into)
        return into

    def same(self, other: Stored) -> bool:
        """Whether both hold the same bytes."""
        if (self.kind, self.shape) != (other.kind, other.shape):
            return False
        left = math.prod(self.shape) * self.dtype.itemsize
        with self.file.open("rb") as one, other.file.open("rb") as two:
            one.seek(self.start)
            two.seek(other.start)
            while left:
                count = min(left, STAGE)
                if one.read(count) != two.read(count):
                    return False
                left -= count
        return True

    def _read(self, file: Any, into: Tensor) -> None:
        # The numpy view shares the tensor's memory: the bytes are read to where they belong.
        if file.readinto(into.view(-1).view(torch.uint8).numpy()) != into.numel() * into.element_size():
            raise FileDamaged(f"{self.file} is damaged or cut short; copy it again from its source.")


def check_finite(numbers: Tensor, stored: Any) -> None:
    """Raise for a NaN or an infinity among weights just read; a sum meets each, and costs little more than reading."""
    if not bool(numbers.sum().isfinite()) and not bool((fine := numbers.isfinite()).all()):
        kind = "NaN" if bool(numbers.isnan().any()) else "infinity"
        raise NotFinite(
            f"{stored.file}: the tensor {stored.name} holds {kind} ({int((~fine).sum()):,} of {numbers.numel():,} numbers read "
            "together), and every logit would be NaN; take an earlier checkpoint, or copy the file again from its source."
        )


def check_reach(given: Tensor, held: Tensor, stored: Any) -> None:
    """Raise where numbers became infinite in the dtype that holds them."""
    if held.dtype == torch.float16 and given.dtype != torch.float16 and bool((held.isinf() & ~given.isinf()).any()):
        raise NotFinite(
            f"{stored.file}: {stored.name} holds numbers beyond what float16 reaches (65,504); load it in bfloat16 or float32."
        )


def catalogue(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder by name, from its one file or from the shards that its index names.

    Raises ClocheError for a file that is missing or damaged and for an index that disagrees with its shards.
    """
    index = folder / INDEX
    if not index.is_file():
        return _tensors(folder / ONE)
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(
        isinstance(n, str) and Path(n).name == n and n.endswith(".safetensors") and len(n) < 200 for n in named.values()
    ):
        raise FileDamaged(
            f"{index} must hold a weight_map of tensor names to names of .safetensors files; restore it from "
            "its source."
        )
    found: dict[str, Stored] = {}
    for file in sorted(set(named.values())):
        if not (folder / file).is_file():
            raise FileMissing(
                f"{folder / file} is missing, and {INDEX} says that it holds {sum(f == file for f in named.values())} tensors; "
                "copy it from the model's source."
            )
        tensors = _tensors(folder / file)
        if twice := sorted(tensors.keys() & found.keys()):
            raise WeightsInvalid(
                f"The tensor {twice[0]!r} is in {found[twice[0]].file} and in {folder / file}, and only one can count; restore "
                "the shards from their source."
            )
        found |= tensors
    for name, file in named.items():
        if name not in found or found[name].file.name != file:
            raise WeightsInvalid(
                f"{index} says that {file} holds the tensor {name!r}, and it does not; restore the shards from their source."
            )
    if (folder / ONE).is_file() and ONE not in named.values():
        raise FileExists(
            f"{folder} holds both {ONE} and shards with an index, and which of them counts is not known; move one away."
        )
    return found


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold the weights of a checkpoint folder: its one file, or its shards and the index that names them.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import save_network, weight_files
    >>> save_network(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), "model")
    >>> [path.name for path in weight_files("model")]
    ['model.safetensors']
    """
    folder = Path(folder)
    files = sorted({stored.file for stored in catalogue(folder).values()})
    return [*files, folder / INDEX] if (folder / INDEX).is_file() else files


def _tensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file, by name."""
    if not path.is_file():
        raise FileMissing(f"{path} is missing; weights are read from safetensors files only.")
    try:
        # Checks the header and the length against one another and reads nothing else; "pt" would map a file of any size as
        # memory to be written to, which Linux refuses for one larger than its memory.
        with safe_open(path, "np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise FileUnreadable(
            f"{path} cannot be read ({error.strerror or error}); allow it, or copy it again."
        ) from None
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileDamaged(f"{path} is damaged or cut short ({reason}); copy it again from its source.") from None
    header.pop("__metadata__", None)
    return {
        name: Stored(path, name, entry["dtype"], entry["shape"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def write(path: Path, tensors: dict[str, tuple[list[int], list[Tensor]]]) -> None:
    """Write a safetensors file of tensors by name: their shape, and the views that hold their numbers, one after the other.

    A view is brought together piece by piece, so that no tensor is ever in memory twice.
    """
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1][1][0].element_size())  # so that all lie aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, views) in ordered:
        start, end = end, end + sum(view.numel() * view.element_size() for view in views)
        header[name] = {"dtype": kinds[views[0].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, (_, views) in ordered:
            for view in views:
                each = view[0].numel() * view.element_size()
                for piece in view.split(max(1, STAGE // each)):
                    file.write(piece.cpu().contiguous().view(-1).view(torch.uint8).numpy())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read ({error.strerror}); allow it, or copy it again.") from None
    except RecursionError:
        raise FileDamaged(f"{path} nests its values too deeply to be read; restore it from its source.") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        reason = str(error).split(";")[0]
        raise FileDamaged(f"{path} is not JSON that can be read ({reason}); restore it from its source.") from None
    if not isinstance(content, dict):
        raise FileDamaged(f"{path} must hold a JSON object; restore it from its source.")
    return content
