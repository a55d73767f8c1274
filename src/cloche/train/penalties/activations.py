"""The activations of hidden layers, collected during a forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cloche.model import hidden_layers


@contextmanager
def watched_activations(net: nn.Module | None) -> Iterator[Callable[[], Mapping[str, Tensor]]]:
    """Collects what the outer map of every hidden layer reads during the block; the function that it yields returns them by
    layer, [token, unit]. None: nothing is collected."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name].append(inputs[0].flatten(0, -2))

        return hook

    with ExitStack() as stack:
        for layer in hidden_layers(net) if net is not None else ():
            stack.callback(layer.outer.register_forward_pre_hook(keep(layer.name)).remove)
        yield lambda: {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in seen.items()}
