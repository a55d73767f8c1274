"""`cloche sparse`: sparse models of signals and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson
from cloche.cli.outputs import Denoised
from cloche.cli.signals.learn import atoms, encode, learn
from cloche.cli.streams import emit
from cloche.errors import ArgumentInvalid
from cloche.files import refuse_existing

sparse = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Dictionaries and sparse codes of signals and images.",
)
for command, example in (
    (learn, "cloche sparse learn photos/*.png --out patches --atoms 256"),
    (encode, "cloche sparse encode patches photo.png --out code.npz --decoded back.png"),
    (atoms, "cloche sparse atoms patches --out atoms.png"),
):
    sparse.command(epilog=f"Example: {example}")(command)


@sparse.command(epilog="Example: cloche sparse denoise noisy.png --out clean.png --dictionary curvelet")
def denoise(
    signal: Annotated[Path, typer.Argument(metavar="SIGNAL", help="A picture, a .npy array or a .csv table.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the result goes.")],
    dictionary: Annotated[
        str,
        typer.Option(
            help="wavelet, biorthogonal, steerable, curvelet, contourlet, bandlet, or one with settings, such as "
            "'Curvelets(directions=16)'."
        ),
    ] = "wavelet",
    sigma: Annotated[str, typer.Option(help="Noise of a sample, in the file's units, or auto.")] = "auto",
    threshold: Annotated[float, typer.Option(help="Least coefficient kept, in its noise's standard deviations.")] = 3.0,
    spins: Annotated[int, typer.Option(max=256, help="Shifts averaged over along each axis.")] = 1,
    column: Annotated[str | None, typer.Option(help="Which column of a table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take the noise out of a picture or a signal.

    Each channel apart: coefficients below the threshold are set to zero. The noise, where it is auto, is the median magnitude
    of the finest wavelets.
    """
    from cloche.cli.signals.files import changed, read, write

    refuse_existing(out, "choose another --out", [signal])
    given = read(signal, column)
    import torch

    from cloche.sparse import transforms

    values = torch.from_numpy(given.values)
    fit = transforms.fitted(dictionary, tuple(values.shape[1:]))
    if fit.padded and not as_json:
        print(f"Padded by mirroring from {list(fit.shape)} to {list(fit.transform.shape)}; cropped again at the end.")
    cleaned, levels = [], []
    for channel in values:
        noise = transforms.noise_level(channel) if sigma == "auto" else _amount(sigma) / given.full
        cleaned.append(transforms.denoise(channel, fit, noise, threshold, spins))
        levels.append(noise * given.full)
    write(out, changed(given, torch.stack(cleaned).numpy()))
    if as_json:
        found: Denoised = {
            "out": str(out),
            "dictionary": dictionary,
            "noise": levels,
            "estimated": sigma == "auto",
            "shape": list(values.shape[1:]),
            "padded": list(fit.transform.shape) if fit.padded else None,
        }
        emit(found)
        return
    told = (f"{noise:.4g}" for noise in levels)
    print(f"{out}: denoised with {dictionary}, noise {', '.join(told)}{' (estimated)' if sigma == 'auto' else ''}.")


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentInvalid(f"--sigma {text!r} is no number: give one, or auto.") from None
