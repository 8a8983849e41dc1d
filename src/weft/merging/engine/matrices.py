"""Products of matrices that methods on factors and sums of low rank are made of."""

from __future__ import annotations

import torch
from torch import Tensor

_STRIP = 256  # rows of a Gram matrix computed at once


def gram_of_rows(x: Tensor) -> Tensor:
    """X Xᵀ [n, n] of X [n, p], at little more than half the price of a full product.

    >>> gram_of_rows(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[5., 2.],
            [2., 1.]])
    """
    n = x.shape[0]
    product = x.new_empty(n, n)
    for start in range(0, n, _STRIP):
        stop = min(start + _STRIP, n)
        strip = x[start:stop] @ x[:stop].T
        product[start:stop, :stop] = strip
        product[:start, start:stop] = strip[:, :start].T
    return product


def square_root(product: Tensor) -> Tensor:
    """L [n, n] with L Lᵀ = G for a positive semidefinite G [n, n], up to rounding."""
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(product)
    if failed:
        values, vectors = torch.linalg.eigh(product)
        root = vectors * values.clamp(min=0).sqrt()
    return root
