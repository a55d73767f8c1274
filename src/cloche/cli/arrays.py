"""Arrays in .npy and .npz files, read without executing anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloche.errors import (
    ClocheError,
    CorpusEmpty,
    FieldUnknown,
    FileMissing,
    FileTooLarge,
    FileUnreadable,
    FileUnsupported,
    NotFinite,
    SignalsShape,
    shown,
)

if TYPE_CHECKING:
    import numpy as np

FIXES = {  # by kind of dtype
    "b": "it contains booleans: save it with .astype(float)",
    "c": "it contains complex numbers: save its .real, its .imag or its absolute value",
    "O": "it contains Python objects, which are never read because they could run code: save it with .astype(float)",
    "S": "it contains text: save it with .astype(float)",
    "U": "it contains text: save it with .astype(float)",
    "M": "it contains dates: save them as numbers, such as days since the first",
    "m": "it contains durations: save them as numbers of seconds",
    "V": "it contains records: save each field as a separate array",
}


def read_array(path: Path, name: str | None = None) -> np.ndarray:
    """The array in a .npy file, or the one called `name` in a .npz, as float64 [n] or [n, d], finite and not empty.

    Raises ClocheError for anything else, with the file, the problem and its position.
    """
    import numpy as np

    if not path.is_file():
        raise FileMissing(f"There is no file {path}: name a .npy or .npz array.")
    try:
        held: Any = np.load(path, allow_pickle=False)
        if isinstance(held, np.lib.npyio.NpzFile):
            with held:
                values = held[_one_of(path, held.files, name)]
        else:
            values = held
    except ClocheError:
        raise
    except MemoryError:
        raise FileTooLarge(f"{path} states more numbers than fit into memory: save a smaller array.") from None
    except Exception as error:  # NumPy raises many classes for damaged files
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise FileUnsupported(f"{path} is not an array of numbers: {FIXES['O']}.") from None
        what = " ".join(str(error).split())[:200]
        raise FileUnreadable(f"{path} cannot be read as an array ({what}): write it again with numpy.save.") from None
    return _checked(path, values)


def _one_of(path: Path, names: list[str], asked: str | None) -> str:
    if asked is None and len(names) == 1:
        return names[0]
    if not names:
        raise FileUnsupported(f"{path} contains no arrays: write it again with numpy.savez.")
    if asked not in names:
        raise FieldUnknown(f"{path} contains the arrays {', '.join(names)[:300]}: name one with --column.")
    return str(asked)


def _checked(path: Path, values: Any) -> np.ndarray:
    import numpy as np

    where = f"{path} contains {values.dtype} of shape {list(values.shape)}"
    if values.dtype.kind not in "iuf":
        raise SignalsShape(f"{where}: {FIXES.get(values.dtype.kind, 'give real numbers')}.")
    if values.ndim not in (1, 2):
        fix = "give a series [n], or rows or a picture [n, d]"
        raise SignalsShape(f"{where}, but one or two axes are supported: {fix}.")
    if 0 in values.shape:
        raise CorpusEmpty(f"{where}: it is empty, so give one with numbers.")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        at = [int(index) for index in np.argwhere(~np.isfinite(values))[0]]
        what = "NaN" if np.isnan(values[tuple(at)]) else "an infinite number"
        raise NotFinite(f"{path} contains {what} at {shown(at)}: fill it in, or leave that part out.")
    return values
