"""What the papers compare with, and what should shame them: detectors on raw pixels.

    score = baselines.ocsvm(pixels(train), nu=0.1, gamma="scale")     # fitted on normal images alone
    scores = score(pixels(test))                                      # (M,), high = anomalous

Each function takes the training pixels (N, D), float32 in [0, 1], and returns a function from test pixels (M, D) to
scores (M,). All run on the CPU.
"""
import torch
from sklearn.svm import OneClassSVM

from adlib import neighbours


def pixels(images):
    """uint8 (N, C, H, W) -> float32 (N, C * H * W) in [0, 1] on the CPU."""
    return images.cpu().flatten(1).float().div_(255)


def scale(train):
    """scikit-learn's gamma "scale": 1 / (D * variance of all training pixels)."""
    return 1 / (train.shape[1] * train.var(correction=0).item())


def ocsvm(train, nu=0.1, gamma="scale", distances=None):
    """One-class SVM with an RBF kernel exp(-gamma |a - b|^2) (Schoelkopf et al. 2001), solved by scikit-learn.

    The kernel matrix is one matrix product handed over precomputed: many times faster than libsvm's own loop over
    pixels, the same solution. `distances`: squared_distances(train, train) where it is there already. Memory: 12 bytes
    for each pair of training images.
    """
    gamma = scale(train) if gamma == "scale" else gamma
    distances = neighbours.squared_distances(train, train) if distances is None else distances
    machine = OneClassSVM(kernel="precomputed", nu=nu).fit(torch.exp(-gamma * distances).double().numpy())
    support, weight = train[machine.support_], torch.from_numpy(machine.dual_coef_[0]).float()

    def score(test):
        parts = [torch.exp(-gamma * neighbours.squared_distances(part, support)) @ weight for part in test.split(2048)]
        return -torch.cat(parts)

    return score


def pca(train, variance=0.95):
    """Squared error after projection on the leading principal components that keep `variance` of the total."""
    mean = train.mean(0)
    values, vectors = torch.linalg.eigh((train - mean).T @ (train - mean))  # ascending
    kept = 1 + int((values.flip(0).cumsum(0) < variance * values.sum()).sum())
    basis = vectors[:, -kept:]

    def score(test):
        centred = test - mean
        return (centred - centred @ basis @ basis.T).square().mean(1)

    return score


def knn(train, k=5):
    """Mean Euclidean distance to the k nearest training images."""
    return lambda test: neighbours.nearest(test, train, k)[0].mean(1)


def mean_image(train):
    """Mean squared error against the mean training image."""
    mean = train.mean(0)
    return lambda test: (test - mean).square().mean(1)
