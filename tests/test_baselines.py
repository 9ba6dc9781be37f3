import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.svm import OneClassSVM
from torch import nn

from adlib import baselines, images


TRAIN = torch.rand(60, 12, generator=torch.Generator().manual_seed(0))
TEST = torch.rand(30, 12, generator=torch.Generator().manual_seed(1)) * 1.5
ALL = {"mean_image": baselines.mean_image, "pca": baselines.pca, "knn": baselines.knn, "ocsvm": baselines.ocsvm}


@pytest.mark.parametrize(("nu", "gamma"), [(0.1, "scale"), (0.5, 2.0)])
def test_ocsvm_with_a_precomputed_kernel_is_scikit_learns_ocsvm(nu, gamma):
    reference = OneClassSVM(nu=nu, gamma=gamma).fit(TRAIN.double().numpy())
    ours = baselines.ocsvm(TRAIN, nu, gamma)(TEST).numpy()
    expected = -reference.score_samples(TEST.double().numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_pca_error_is_scikit_learns():
    reference = PCA(0.95).fit(TRAIN.numpy())
    rebuilt = reference.inverse_transform(reference.transform(TEST.numpy()))
    expected = ((TEST.numpy() - rebuilt) ** 2).mean(1)
    np.testing.assert_allclose(baselines.pca(TRAIN, 0.95)(TEST).numpy(), expected, rtol=1e-3, atol=1e-6)


def test_pca_that_keeps_everything_rebuilds_everything():
    assert baselines.pca(TRAIN, 1.0)(TEST).max() < 1e-10


@pytest.mark.parametrize("variance", [0.5, 0.95])
def test_pca_of_fewer_images_than_pixels_is_that_of_the_pixels(variance):
    few = TRAIN[:8]
    reference = PCA(variance, svd_solver="full").fit(few.numpy())
    rebuilt = reference.inverse_transform(reference.transform(TEST.numpy()))
    errors = baselines.pca(few, variance)(TEST, per_pixel=True)
    np.testing.assert_allclose(errors.numpy(), (TEST.numpy() - rebuilt) ** 2, rtol=1e-3, atol=1e-5)


def test_pca_of_a_few_large_images_needs_no_matrix_of_their_pixels():
    train = torch.rand(5, 200_000, generator=torch.Generator().manual_seed(3))  # 160 GB for D x D
    assert baselines.pca(train, 1.0)(train).max() < 1e-8
    assert baselines.pca(train, 1.0)(1 - train).min() > 0.01


@pytest.mark.parametrize("name", ["mean_image", "pca"])
def test_the_score_is_the_mean_of_the_errors_of_the_pixels(name):
    score = ALL[name](TRAIN)
    errors = score(TEST, per_pixel=True)
    assert errors.shape == TEST.shape and errors.std(1).min() > 0
    torch.testing.assert_close(errors.mean(1), score(TEST))


def test_mean_image_and_knn_by_hand():
    train, test = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    assert baselines.mean_image(train)(test).tolist() == [0.0, 5.0]
    assert baselines.knn(train, k=1)(test).tolist() == [1.0, 3.0]
    assert baselines.knn(train, k=2)(test).tolist() == [1.0, pytest.approx((3 + 13**0.5) / 2)]


@pytest.mark.parametrize("name", ALL)
def test_far_images_score_higher_and_each_score_is_its_images_alone(name):
    score = ALL[name](TRAIN)
    assert score(TRAIN + 3).min() > score(TRAIN).max()
    shuffled = torch.randperm(len(TEST), generator=torch.Generator().manual_seed(2))
    together = score(TEST)
    torch.testing.assert_close(score(TEST[shuffled]), together[shuffled], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([score(part) for part in TEST.split(7)]), together, rtol=1e-4, atol=1e-5)


def test_pixels_are_floats_in_the_unit_interval_one_row_an_image():
    image = torch.tensor([[[[0, 255]], [[51, 0]]]], dtype=torch.uint8)
    assert torch.equal(baselines.pixels(image), torch.tensor([[0.0, 1.0, 0.2, 0.0]]))


def stripes(n, channels=1, size=32, seed=0):
    """uint8 (n, channels, size, size): stripes of one width, each image shifted and tinted in its own way."""
    generator = torch.Generator().manual_seed(seed)
    shift, tint = torch.rand(n, 1, 1, 1, generator=generator), torch.rand(n, channels, 1, 1, generator=generator)
    wave = 1 + torch.sin(6.3 * (torch.arange(size) / 16 + shift)).expand(n, 1, size, size)
    return (60 * wave * (0.5 + tint) + 20).to(torch.uint8)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_autoencoder_narrows_to_its_latent_numbers_and_comes_back_to_the_image(size):
    network = baselines._autoencoder(3, size, latent=10)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    z = network[: list(network).index(convolutions[-1]) + 1](torch.rand(2, 3, size, size))
    assert z.shape == (2, 10, 1, 1) and network(torch.rand(2, 3, size, size)).shape == (2, 3, size, size)


def test_at_128_px_the_autoencoder_is_the_table_of_its_paper():
    network = baselines._autoencoder(1, 128, latent=100)
    encoder = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in encoder] == [
        (32, 4, 2),
        (32, 4, 2),
        (32, 3, 1),
        (64, 4, 2),
        (64, 3, 1),
        (128, 4, 2),
        (64, 3, 1),
        (32, 3, 1),
        (100, 8, 1),
    ]
    decoder = [layer for layer in network if isinstance(layer, nn.ConvTranspose2d)]
    mirrored = [(layer.out_channels, layer.in_channels, layer.kernel_size, layer.stride) for layer in decoder[::-1]]
    assert mirrored == [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in encoder]


@pytest.mark.parametrize("loss", ["l2", "ssim"])
def test_the_autoencoder_learns_and_fails_on_what_it_has_not_seen(loss):
    train, losses = stripes(8), []
    detect = baselines.pixel_autoencoder(train, loss, epochs=40, batch=4, lr=1e-3, after_epoch=losses.append)
    assert len(losses) == 40 and losses[-1] < 0.3 * losses[0]
    defective = train.clone()
    defective[:, :, 10:16, 10:16] = 255
    maps, _ = detect(defective)
    assert maps[:, 11:15, 11:15].mean() > 3 * maps[:, 20:, 20:].mean()


@pytest.mark.parametrize("loss", ["l2", "ssim"])
def test_a_perfect_reconstruction_has_an_empty_map_of_the_images_size(loss):
    # untrained and without bias, the network rebuilds black as black
    detect = baselines.pixel_autoencoder(stripes(2, 3), loss, epochs=0)
    test = torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 255)]).to(torch.uint8)
    maps, reconstructions = detect(test)
    assert maps.shape == (2, 32, 32) and reconstructions.shape == (2, 3 if loss == "l2" else 1, 32, 32)
    assert maps[0].abs().max() == 0 and maps[1].min() > 0.01


def test_maps_are_the_squared_error_over_channels_and_one_minus_the_ssim_of_the_grey_images():
    test = stripes(3, 3, seed=1)
    x = test / 255
    maps, y = baselines.pixel_autoencoder(stripes(4, 3), "l2", epochs=1)(test)
    torch.testing.assert_close(maps, ((x - y) ** 2).mean(1))
    maps, y = baselines.pixel_autoencoder(stripes(4, 3), "ssim", epochs=1)(test)
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    torch.testing.assert_close(maps, 1 - images.ssim_map(grey, y, full=True))


@pytest.mark.parametrize("loss", ["l2", "ssim"])
def test_a_map_is_its_images_alone_and_the_seed_decides_all_of_it(loss):
    train, test = stripes(6), stripes(70, seed=1)
    fit = lambda seed: baselines.pixel_autoencoder(train, loss, epochs=2, batch=3, seed=seed)  # noqa: E731
    detect = fit(0)
    together = detect(test)[0]
    torch.testing.assert_close(detect(test.flip(0))[0].flip(0), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([detect(part)[0] for part in test.split(9)]), together, rtol=1e-4, atol=1e-5)
    torch.rand(1)  # whatever else draws from torch's own generator
    assert torch.equal(fit(0)(test)[0], together) and not torch.allclose(fit(1)(test)[0], together)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (torch.zeros(2, 3, 48, 48, dtype=torch.uint8), r"32, 64, 128 or 256 px, not torch.uint8 \(2, 3, 48, 48\)"),
        (torch.zeros(2, 3, 512, 512, dtype=torch.uint8), "32, 64, 128 or 256 px"),
        (torch.zeros(2, 3, 32, 64, dtype=torch.uint8), "square"),
        (torch.zeros(2, 3, 32, 32), "uint8 images .*, not torch.float32"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"not torch.uint8 \(3, 32, 32\)"),
    ],
)
def test_the_autoencoder_says_which_images_it_takes(train, message):
    with pytest.raises(ValueError, match=message):
        baselines.pixel_autoencoder(train)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="unknown loss 'mse': choose l2, ssim"):
        baselines.pixel_autoencoder(stripes(2), loss="mse")
