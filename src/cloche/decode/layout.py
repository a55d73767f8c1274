"""How matrices lie in memory while tokens are made one at a time."""

from __future__ import annotations

import torch

from cloche.model import Network


@torch.no_grad()
def lay_by_columns(net: Network) -> Network:
    """Lay the matrices of `net` in memory column after column, in place; gives `net` back.

    Shapes, values, names and the parameters themselves stay as they are: only the strides change. One token at a time, a CPU
    then adds up columns in long runs instead of taking one dot product a row (bench/generate.py measures it). Peak memory
    grows by the largest matrix while it is laid anew. Larger products, as in training, gain nothing by it.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> from cloche.decode import generate, lay_by_columns
    >>> before = generate(net, [[1, 2, 3]], new=5).ids
    >>> (generate(lay_by_columns(net), [[1, 2, 3]], new=5).ids == before).all()
    tensor(True)
    """
    matrices = {id(p): p for p in [*(p for _, p in net.groups()["matrix"]), net.unembed_weight()] if p.dim() == 2}
    for matrix in matrices.values():
        matrix.data = matrix.data.t().contiguous().t()
    return net
