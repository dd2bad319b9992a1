"""The trace of the square root in a Frechet distance, d = 2048, against `scipy.linalg.sqrtm`: `make bench`.

Against kept statistics of the real images, as in every evaluation but the first: their factor is known. The error is
relative to the singular values of the two matrices of features, which need no covariance at all.
"""

import time

import numpy as np
import torch
from scipy.linalg import sqrtm

from src.metrics.statistics import Features

D = 2048


def features(num: int, seed: int) -> Features:
    """Correlated features, like those of Inception: a spectrum that falls over three decades."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1.5, D)
    mixing = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
    return Features((torch.randn(num, D, generator=generator) * scale) @ mixing)


def main() -> None:
    for num in (2000, 4000):
        real, fake = features(num, 1), features(num, 2)
        factor, covariances = real.factor, [f.covariance.numpy() for f in (real, fake)]  # kept, computed for both
        ratios = []
        for _ in range(2):
            start = time.perf_counter()
            if num <= D:
                other = (fake.values.double() - fake.mean).T / (num - 1) ** 0.5
            else:
                other = fake.factor
                del fake.factor  # computed again the next time
            ours = torch.linalg.svdvals(factor.T @ other).sum().item()
            middle = time.perf_counter()
            theirs = np.trace(sqrtm(covariances[0] @ covariances[1])).real
            ratios.append((time.perf_counter() - middle) / (middle - start))
        x, y = ((f.values.double() - f.mean) / (num - 1) ** 0.5 for f in (real, fake))
        exact = torch.linalg.svdvals(x @ y.T).sum().item()
        print(
            f"N = {num}: sqrtm / ours {min(ratios):.1f} to {max(ratios):.1f} times the time;"
            f" relative error {abs(ours / exact - 1):.1e}, of sqrtm {abs(theirs / exact - 1):.1e}"
        )


if __name__ == "__main__":
    main()
