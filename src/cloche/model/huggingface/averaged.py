"""The average of the weights that training keeps beside them in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cloche.errors import FileUnreadable, ModelMissing
from cloche.model.huggingface.written import require_as_written
from cloche.model.network import Network

STATE = "optimizer.safetensors"


@torch.no_grad()
def put_average(net: Network, folder: Path, check_files: bool = True) -> None:
    """Gives a network that was loaded from a checkpoint folder the average of its weights, "name/average" in
    optimizer.safetensors. Raises ClocheError if there is none."""
    path = folder / STATE
    if check_files:
        require_as_written(folder, (STATE,))
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            for name, parameter in net.named_parameters():
                if f"{name}/average" not in held:
                    raise ModelMissing(
                        f"{folder} has no average of its weights; train with one, as by --set "
                        "'optimizer.average=EMA(decay=0.999)', or leave out average."
                    )
                parameter.copy_(file.get_tensor(f"{name}/average"))
    except FileNotFoundError:
        raise ModelMissing(
            f"{folder} has no {STATE}, which holds the average of the weights; name a checkpoint of a run that was trained "
            "here, or leave out average."
        ) from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileUnreadable(
            f"{path} cannot be read ({str(error).splitlines()[0]}); restore it from a copy."
        ) from error
