"""Standard ways to fill in missing pixels."""

from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve


def inpainted(image: np.ndarray, observed: np.ndarray, method: Literal["harmonic", "biharmonic"]) -> np.ndarray:
    """Fills in missing pixels with the smoothest values: the minimum of a quadratic energy given the observed pixels.

    Args:
        image: [C, H, W], in [-1, 1].
        observed: bool [H, W], which pixels are kept; without any the image becomes 0.
        method: "harmonic" minimizes the squared gradient |D u|^2, so that the Laplacian is 0 where pixels are missing;
            "biharmonic" minimizes the squared Laplacian |D' D u|^2. Nothing is prescribed at the border.

    Returns:
        Of the dtype of `image`, in [-1, 1].

    Source: Chan and Shen, SIAM Journal on Applied Mathematics 62(3), 2002; biharmonic: arXiv:1707.06567.
    """
    if not observed.any():
        return np.zeros_like(image)
    energy = energy_of(*observed.shape, method)
    values = image.reshape(len(image), -1).T.astype(np.float64)
    known = observed.ravel()
    if not known.all():
        given = energy[~known][:, known] @ values[known]
        values[~known] = -spsolve(energy[~known][:, ~known], given).reshape(given.shape)
    return values.T.reshape(image.shape).astype(image.dtype).clip(-1, 1)


@lru_cache(maxsize=4)
def energy_of(height: int, width: int, method: str) -> sparse.csc_matrix:
    """The matrix of the quadratic energy of images of one size, [H W, H W]."""
    vertical, horizontal = (sparse.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n)) for n in (height, width))
    differences = sparse.vstack([sparse.kron(vertical, sparse.eye(width)), sparse.kron(sparse.eye(height), horizontal)])
    laplacian = (differences.T @ differences).tocsc()
    return laplacian if method == "harmonic" else (laplacian @ laplacian).tocsc()
