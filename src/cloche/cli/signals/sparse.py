"""`cloche sparse`: sparse models of signals and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.help import Command, group
from cloche.cli.options import AsJson
from cloche.cli.outputs import SignalDenoised
from cloche.cli.signals.learn import atoms, encode, learn
from cloche.cli.streams import emit
from cloche.errors import ArgumentInvalid
from cloche.files import refuse_existing

sparse = group(
    "Dictionaries and sparse codes of signals and images.", "cloche sparse denoise noisy.png --out clean.png"
)
for command, example in (
    (learn, "cloche sparse learn photos/*.png --out patches --atoms 256"),
    (encode, "cloche sparse encode patches photo.png --out code.npz --decoded back.png"),
    (atoms, "cloche sparse atoms patches --out atoms.png"),
):
    sparse.command(cls=Command, epilog=f"Example: {example}")(command)


@sparse.command(cls=Command, epilog="Example: cloche sparse denoise noisy.png --out clean.png --dictionary curvelet")
def denoise(
    signal: Annotated[Path, typer.Argument(metavar="SIGNAL", help="A picture, a .npy array or a .csv table.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the result.")],
    dictionary: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="wavelet, biorthogonal, steerable, curvelet, contourlet, bandlet, or a transform with settings, such as "
            "'Curvelets(directions=16)'.",
        ),
    ] = "wavelet",
    sigma: Annotated[
        str, typer.Option(metavar="SIGMA", help="Standard deviation of the noise, in the units of the file, or auto.")
    ] = "auto",
    threshold: Annotated[
        float, typer.Option(metavar="T", help="Smallest coefficient kept, in standard deviations of its noise.")
    ] = 3.0,
    spins: Annotated[int, typer.Option(metavar="N", max=256, help="Shifts to average over along each axis.")] = 1,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="The column of a table to denoise.")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove noise from a picture or a signal.

    Sets transform coefficients below the threshold to zero, each channel by itself. With --sigma auto the noise is
    estimated from the median magnitude of the finest wavelet coefficients.
    """
    from cloche.cli.signals.files import read, with_values, write

    refuse_existing(out, "choose another --out", [signal])
    given = read(signal, column)
    import torch

    from cloche.sparse import transforms

    values = torch.from_numpy(given.values)
    fit = transforms.fitted(dictionary, tuple(values.shape[1:]))
    if fit.padded and not as_json:
        print(f"Padded by mirroring from {list(fit.shape)} to {list(fit.transform.shape)}; cropped at the end.")
    cleaned, levels = [], []
    for channel in values:
        noise = transforms.noise_level(channel) if sigma == "auto" else _number(sigma) / given.full
        cleaned.append(transforms.denoise(channel, fit, noise, threshold, spins))
        levels.append(noise * given.full)
    write(out, with_values(given, torch.stack(cleaned).numpy()))
    if as_json:
        found: SignalDenoised = {
            "out": str(out),
            "dictionary": dictionary,
            "noise": levels,
            "estimated": sigma == "auto",
            "shape": list(values.shape[1:]),
            "padded": list(fit.transform.shape) if fit.padded else None,
        }
        emit(found)
        return
    shown = (f"{noise:.4g}" for noise in levels)
    print(f"{out}: denoised with {dictionary}, noise {', '.join(shown)}{' (estimated)' if sigma == 'auto' else ''}.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentInvalid(f"--sigma {text!r} is not a number: give one, or auto.") from None
