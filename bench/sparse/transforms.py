"""Images from few terms, and images out of noise: all fixed dictionaries beside each other, on photographs and a drawn cartoon.

M-term: M is a share of the pixels, whatever the dictionary's redundancy. "largest" keeps the M largest coefficients of the
analysis and synthesises; "iht" lets them learn of each other by 30 steps of iterative hard thresholding (the same in an
orthogonal basis). Denoising: Gaussian noise of a known deviation, hard threshold at 3 deviations of each band's noise, coarse
band kept; "spun" averages over 3 x 3 shifts. PSNR in dB, of values 0..1, before clipping. Images are grey, their middle
256 x 256; so no dictionary is padded. The cartoon is drawn here, each pixel the mean of 4 x 4 samples: smooth shades between
curved edges, what curvelets, contourlets and bandlets are made for.

    python -m bench.sparse.transforms [--images FOLDER] [--processes 2]
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image

from bench.rounds import asked, table, write
from cloche.sparse.transforms import Transform, approximate, denoise, fitted

IMAGES = Path(__file__).resolve().parents[3] / "shared" / "data" / "signals" / "images"
SIDE = 256
SHARES = (0.01, 0.02, 0.05, 0.1)
SIGMAS = (10, 25, 50)  # of 255
SPUN = 25
CARTOON = "cartoon (drawn)"


def cartoon(side: int = SIDE, fine: int = 4) -> torch.Tensor:
    """Shaded discs, an ellipse and a curved horizon."""
    y, x = (np.mgrid[: side * fine, : side * fine] + 0.5) / (side * fine)
    out = 0.3 + 0.3 * x
    horizon = 0.62 + 0.1 * np.sin(5 * x) + 0.05 * np.cos(9 * x)
    out = np.where(y > horizon, 0.75 - 0.4 * (y - horizon), out)
    out = np.where((x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.21**2, 0.9 - 1.2 * (x - 0.2), out)
    out = np.where(((x - 0.7) / 0.22) ** 2 + ((y - 0.45 - 0.3 * (x - 0.7)) / 0.13) ** 2 < 1, 0.15 + 0.3 * y, out)
    out = np.where((x - 0.55) ** 2 + (y - 0.8) ** 2 < 0.1**2, 0.2, out)
    return torch.from_numpy(out.reshape(side, fine, side, fine).mean((1, 3)))


def pictures(folder: Path) -> dict[str, torch.Tensor]:
    found = {CARTOON: cartoon()}
    for path in sorted(folder.glob("*.*")):
        grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
        top, left = ((n - SIDE) // 2 for n in grey.shape)
        found[path.stem] = torch.from_numpy(grey[top : top + SIDE, left : left + SIDE].copy())
    return found


def psnr(clean: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * (clean - other).square().mean().log10())


def measured(x: torch.Tensor, name: str) -> dict[str, object]:
    """Every figure of one image in one dictionary."""
    fit = fitted(name, (SIDE, SIDE))
    started = time.process_time()
    terms: dict[str, dict[str, float]] = {"largest": {}, "iht": {}}
    for share in SHARES:
        m = round(share * x.numel())
        threshold = float(fit.transform.analyse(x).flat.abs().topk(m).values[-1])
        transform = fit.transform.adapted(x, threshold)
        for method, row in terms.items():
            if method == "iht" and transform.redundancy == 1 and name != "biorthogonal":
                row[str(share)] = terms["largest"][str(share)]
            else:
                row[str(share)] = psnr(x, approximate(x, transform, m, refine=method == "iht"))
    cleaned = {}
    for sigma in SIGMAS:
        noisy = x + sigma / 255 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(sigma))
        cleaned[str(sigma)] = psnr(x, denoise(noisy, fit, sigma / 255))
        if sigma == SPUN:
            cleaned[f"{sigma} spun"] = psnr(x, denoise(noisy, fit, sigma / 255, spins=3))
    return {"terms": terms, "denoised": cleaned, "cpu_seconds": round(time.process_time() - started, 2)}


def main() -> None:
    options = asked(__doc__, images=IMAGES, processes=2)
    torch.set_num_threads(1)
    found = pictures(options.images)
    with ProcessPoolExecutor(options.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = {
            (name, image): pool.submit(measured, x, name) for image, x in found.items() for name in Transform.renamed
        }
        figures = {name: {image: pending[name, image].result() for image in found} for name in Transform.renamed}
    photographs = [image for image in found if image != CARTOON]
    if photographs:
        show("photographs (mean)", figures, photographs)
    show(CARTOON, figures, [CARTOON])
    write(
        "transforms",
        {
            "what": "PSNR (dB) of M-term approximation and of denoising at 3 sigma, fixed dictionaries, 256 x 256 grey images",
            "redundancy": {name: fitted(name, (SIDE, SIDE)).transform.redundancy for name in Transform.renamed},
            "figures": figures,
        },
        "torch numpy PyWavelets pillow",
    )


def show(title: str, figures: dict[str, dict[str, dict]], images: list[str]) -> None:
    rows = []
    for name, by_image in figures.items():
        cells = [by_image[image] for image in images]
        row = [mean(c["terms"][method][str(s)] for c in cells) for s in SHARES for method in ("largest", "iht")]
        row += [mean(c["denoised"][key] for c in cells) for key in cells[0]["denoised"]]
        rows.append([name, *(f"{value:.2f}" for value in row)])
    heads = [f"{s:.0%} {method}" for s in SHARES for method in ("largest", "iht")]
    keys = next(iter(figures.values()))[images[0]]["denoised"]
    print(table([title, *heads, *(f"s={key}" for key in keys)], rows))
    print()


if __name__ == "__main__":
    main()
