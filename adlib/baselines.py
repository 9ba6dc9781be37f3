"""Baselines: detectors on raw pixels, which the papers compare with and should beat.

    score = baselines.ocsvm(pixels(train), nu=0.1, gamma="scale")     # fitted on normal images alone
    scores = score(pixels(test))                                      # (M,), high = anomalous

Each function except the last takes the training pixels (N, D), float32 in [0, 1], and returns a function from test
pixels (M, D) to scores (M,); the ones of `pca` and `mean_image` also give each pixel's error. These run on the CPU. The
autoencoder takes images, uint8 (N, C, H, W), and runs on their device.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.svm import OneClassSVM
from torch import Tensor, nn

from adlib import images, machine, neighbours


Score = Callable[..., Tensor]


def pixels(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 (N, C * H * W) in [0, 1] on the CPU."""
    return images.cpu().flatten(1).float().div_(255)


def scale(train: Tensor) -> float:
    """scikit-learn's gamma "scale": 1 / (D * variance of all training pixels), 1 if they are all equal."""
    return 1 / (train.shape[1] * train.var(correction=0).item() or 1)


def ocsvm(train: Tensor, nu: float = 0.1, gamma: float | str = "scale", distances: Tensor | None = None) -> Score:
    """One-class SVM with an RBF kernel exp(-gamma |a - b|^2) (Schoelkopf et al. 2001), solved by scikit-learn.

    The kernel matrix is precomputed by one matrix product, many times faster than libsvm's own loop over pixels.
    distances: squared_distances(train, train), if known. Memory: 12 bytes per pair of training images.
    """
    gamma = scale(train) if gamma == "scale" else gamma
    distances = neighbours.squared_distances(train, train) if distances is None else distances
    machine = OneClassSVM(kernel="precomputed", nu=nu).fit(torch.exp(-gamma * distances).double().numpy())
    support, weight = train[machine.support_], torch.from_numpy(machine.dual_coef_[0]).float()

    def score(test):
        parts = [torch.exp(-gamma * neighbours.squared_distances(part, support)) @ weight for part in test.split(2048)]
        return -torch.cat(parts)

    return score


def pca(train: Tensor, variance: float = 0.95) -> Score:
    """Squared error outside the leading principal components that keep `variance`: mean, or `per_pixel=True` (M, D)."""
    mean = train.mean(0)
    centred = train - mean
    few = len(train) < train.shape[1]  # then use the smaller N x N matrix, which has the same eigenvalues
    values, vectors = torch.linalg.eigh(centred @ centred.T if few else centred.T @ centred)  # ascending
    kept = 1 + int((values.flip(0).cumsum(0) < variance * values.sum()).sum())
    basis = vectors[:, -kept:]
    if few:
        basis = torch.linalg.qr(centred.T @ basis).Q  # orthonormal even if an eigenvalue is nearly 0

    def errors(test):
        centred = test - mean
        return (centred - centred @ basis @ basis.T).square()

    return lambda test, per_pixel=False: errors(test) if per_pixel else errors(test).mean(1)


def knn(train: Tensor, k: int = 5) -> Score:
    """Mean Euclidean distance to the k nearest training images."""
    chunk = max(1, min(2048, 2**26 // (k * train.shape[1])))  # test images at a time: k x D numbers for each
    return lambda test: neighbours.nearest(test, train, k, chunk)[0].mean(1)


def mean_image(train: Tensor) -> Score:
    """Squared difference from the mean training image: its mean over pixels, or `per_pixel=True` all, (M, D)."""
    mean = train.mean(0)
    errors = lambda test: (test - mean).square()  # noqa: E731
    return lambda test, per_pixel=False: errors(test) if per_pixel else errors(test).mean(1)


def _autoencoder(channels, size, latent):
    """The networks of Bergmann et al. (2018), Table 1, as one, untrained: (N, channels, size, size) -> the same.

    Theirs take 128 px. For other sizes, the number of the first convolutions of stride 2 changes, so that all sizes
    reach 8 x 8 positions. The decoder is the reversed encoder with transposed convolutions. LeakyReLU of slope 0.2
    follows each layer except the last of the two.
    """
    layers = [(32, 4, 2, 1)] * (size.bit_length() - 6)  # channels, kernel, stride, padding; 32 px: none, 256 px: three
    layers += [(32, 3, 1, 1), (64, 4, 2, 1), (64, 3, 1, 1), (128, 4, 2, 1), (64, 3, 1, 1), (32, 3, 1, 1)]
    encoder, decoder, width = [], [], channels
    for next_width, *shape in [*layers, (latent, 8, 1, 0)]:
        encoder += [nn.Conv2d(width, next_width, *shape), nn.LeakyReLU(0.2)]
        decoder = [nn.ConvTranspose2d(next_width, width, *shape), nn.LeakyReLU(0.2), *decoder]
        width = next_width
    return nn.Sequential(*encoder[:-1], *decoder[:-1])


def pixel_autoencoder(
    train: Tensor,
    loss: str = "l2",
    epochs: int = 200,
    batch: int = 8,
    lr: float = 2e-4,
    weight_decay: float = 1e-5,
    latent: int = 100,
    seed: int = 0,
    after_epoch: Callable[[float], object] | None = None,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A convolutional autoencoder on pixels (Bergmann et al. 2018), trained with Adam on "l2" or "ssim".

    train: uint8 (N, C, H, H), H a power of two from 32 to 256, on the device to train on; `seed` sets weights and image
    order. loss: "l2" is the mean squared error on [0, 1]; "ssim" is 1 - SSIM (window 11, sigma 1.5) of the grey images,
    as in the MVTec AD paper. after_epoch: called with the mean loss of each epoch.

    Returns a function from test images, uint8 (M, C, H, H), to anomaly maps (M, H, H) and the reconstructions that they
    come from (M, C, H, H; "ssim": one channel), both float32. A map is the squared error, mean over channels, or
    1 - `images.ssim_map` at full size; an image's score is its map's maximum. ValueError for other images or losses.
    """
    size = train.shape[-1]
    if train.dtype != torch.uint8 or train.ndim != 4 or train.shape[2] != size or size not in (32, 64, 128, 256):
        given = f"{train.dtype} {tuple(train.shape)}"
        raise ValueError(f"the autoencoder takes square uint8 images of 32, 64, 128 or 256 px, not {given}")
    machine.check_choice("loss", loss, ("l2", "ssim"))
    grey = loss == "ssim"

    def prepared(part):  # float32 in [0, 1], (n, 1, H, H) for SSIM
        x = part.float().div_(255)
        if grey and x.shape[1] == 3:
            x = torch.einsum("nchw,c->nhw", x, x.new_tensor([0.299, 0.587, 0.114]))[:, None]
        return x

    network = _autoencoder(1 if grey else train.shape[1], size, latent)
    network = network.to(train.device, memory_format=torch.channels_last)  # the faster layout for convolutions
    generator = torch.Generator(train.device).manual_seed(seed)
    for module in network:
        if not isinstance(module, nn.LeakyReLU):
            nn.init.kaiming_normal_(module.weight, 0.2, generator=generator)
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.Adam(network.parameters(), lr, weight_decay=weight_decay)
    for _ in range(epochs):
        total = 0
        for rows in torch.randperm(len(train), generator=generator, device=train.device).split(batch):
            x = prepared(train[rows])
            y = network(x)
            value = 1 - images.ssim_map(x, y).mean() if grey else F.mse_loss(y, x)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.detach() * len(rows)
        if after_epoch is not None:
            after_epoch(float(total) / len(train))

    @torch.no_grad()
    def detect(test):
        maps, reconstructions = [], []
        for part in test.split(64):
            x = prepared(part)
            y = network(x)
            maps.append(1 - images.ssim_map(x, y, full=True) if grey else (x - y).square().mean(1))
            reconstructions.append(y)
        return torch.cat(maps), torch.cat(reconstructions)

    return detect
