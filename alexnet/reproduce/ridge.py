"""A linear classifier for many features and few images: ridge regression on products of images.

One regression for each class, to 1 for its images and -1 for the others; the largest answer wins.
With the eigenvectors of the products of all pairs of images, every weight of the penalty costs
little more than one, and so does leaving each image out in turn (Hastie, Tibshirani, Friedman, The
Elements of Statistical Learning, 7.10).
"""

from typing import NamedTuple

import torch
from torch import Tensor

PENALTIES = tuple(10 ** (power / 2) for power in range(-6, 5))
"""Weights of the penalty that are tried, as multiples of the mean eigenvalue."""


class Ridge(NamedTuple):
    """A fitted classifier."""

    penalty: float
    """The weight that was chosen, as a multiple of the mean eigenvalue."""
    left_out_error: float
    """Share of training images that are classified wrongly by a fit to all the others."""
    mean: Tensor
    """Of the training images' features: (features,)."""
    coefficients: Tensor
    """(features, classes)."""
    intercept: Tensor
    """(classes,)."""

    def answers(self, features: Tensor) -> Tensor:
        """Return the answer of each class: (images, classes)."""
        return (features - self.mean) @ self.coefficients + self.intercept


def fit_ridge(features: Tensor, labels: Tensor, classes: int) -> Ridge:
    """Fit to features (images, features), with the penalty of the fewest errors on left-out images.

    Of equal ones the largest penalty is taken.
    """
    mean, images = features.mean(0), len(features)
    centred = features - mean
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values = values.clamp_min(0)
    targets = torch.full((images, classes), -1.0).scatter_(1, labels[:, None], 1.0)
    intercept = targets.mean(0)
    along = vectors.T @ (targets - intercept)
    best = None
    for factor in reversed(PENALTIES):
        penalty = factor * float(values.mean())
        shrunk = values / (values + penalty)
        residuals = targets - intercept - vectors @ (shrunk[:, None] * along)
        # How far each image pulls its own answer; the intercept pulls by 1 / images.
        own = vectors.square() @ shrunk + 1 / images
        left_out = targets - residuals / (1 - own).clamp_min(1e-6)[:, None]
        error = float((left_out.argmax(1) != labels).float().mean())
        if best is None or error < best[0]:
            best = error, factor, along / (values + penalty)[:, None]
    assert best is not None  # noqa: S101 - there are penalties
    error, factor, weights = best
    return Ridge(factor, error, mean, centred.T @ (vectors @ weights), intercept)
