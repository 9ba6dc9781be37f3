import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.svm import OneClassSVM

from adlib import baselines


TRAIN = torch.rand(60, 12, generator=torch.Generator().manual_seed(0))
TEST = torch.rand(30, 12, generator=torch.Generator().manual_seed(1)) * 1.5
ALL = {
    "mean_image": baselines.mean_image,
    "pca": baselines.pca,
    "knn": baselines.knn,
    "ocsvm": baselines.ocsvm,
}


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
