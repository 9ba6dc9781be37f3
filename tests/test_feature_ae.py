"""The hierarchical feature autoencoder: its equations against hand computation, its decoder against the literal one."""

import pytest
import torch
import torch.nn.functional as F

from adlib import backbones, feature_ae, images


CHANNELS = [4, 6, 8]


def features(n=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, c, size // 2**k, size // 2**k, generator=generator) for k, c in enumerate(CHANNELS)]


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return feature_ae.build(CHANNELS)


def test_the_residual_is_half_the_squared_distance_of_the_normalised_vectors():
    """Eq. (5), (6), by hand: (3, 4) / 5 against (1, 0), and against itself and its opposite."""
    encoded = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    decoded = torch.stack([torch.tensor([7.0, 0.0]), torch.tensor([0.3, 0.4]), torch.tensor([-3.0, -4.0])], 1)
    (phi,) = feature_ae.residuals([encoded], [decoded[None, :, None]])
    torch.testing.assert_close(phi, torch.tensor([[[((0.6 - 1) ** 2 + 0.8**2) / 2, 0.0, 2.0]]]))


def test_the_residual_and_its_gradient_are_those_of_the_equations_written_out():
    encoded, decoded = features(seed=1), [f.requires_grad_() for f in features(seed=2)]
    literal = [
        (F.normalize(e, dim=1) - F.normalize(d, dim=1)).square().sum(1) / 2
        for e, d in zip(encoded, decoded, strict=True)
    ]
    ours = feature_ae.residuals(encoded, decoded)
    torch.testing.assert_close(ours, literal)
    wanted = torch.autograd.grad(sum(phi.square().sum() for phi in literal), decoded)
    torch.testing.assert_close(torch.autograd.grad(sum(phi.square().sum() for phi in ours), decoded), wanted)


def test_with_the_norm_of_the_whole_map_the_mean_residual_is_one_minus_the_cosine_of_the_maps():
    encoded, decoded = features(seed=1), [f.requires_grad_() for f in features(seed=2)]
    ours = feature_ae.residuals(encoded, decoded, "map")
    for phi, e, d in zip(ours, encoded, decoded, strict=True):
        places = e.shape[2] * e.shape[3]
        e, d = (f / f.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for f in (e, d))
        torch.testing.assert_close(phi, (e - d).square().sum(1) / 2 * places)
        cosines = F.cosine_similarity(e.flatten(1), d.flatten(1))
        torch.testing.assert_close(phi.mean((1, 2)), 1 - cosines)
    with pytest.raises(ValueError, match="unknown norm 'channel': choose location, map"):
        feature_ae.residuals(encoded, decoded, "channel")


def test_where_a_feature_is_zero_the_residual_is_one_and_the_gradient_finite():
    encoded = [torch.zeros(1, 4, 1, 1)]
    decoded = [torch.zeros(1, 4, 1, 1, requires_grad=True)]
    (phi,) = feature_ae.residuals(encoded, decoded)
    phi.sum().backward()
    assert phi.item() == 1 and torch.isfinite(decoded[0].grad).all()


def test_the_loss_weighs_levels_alike_whatever_their_size():
    """Eq. (7), (8): the mean over 16 locations and the mean over 4 locations count one half each."""
    maps = [torch.full((2, 4, 4), 1.0), torch.full((2, 2, 2), 3.0)]
    maps[0][:, 0, 0] = 17.0
    assert feature_ae.loss(maps).item() == pytest.approx(((15 + 17) / 16 + 3) / 2)


def test_the_decoder_is_the_papers_with_upsampling_before_the_first_block(decoder):
    """Eq. (3), (4) written out: the order that is chosen for speed changes nothing."""
    deepest = features()[-1]
    f, wanted = deepest, []
    for index, level in enumerate(decoder.train().levels):
        if index:
            f = F.interpolate(f, scale_factor=2, mode="nearest")
        for block in (level.first, level.second, level.third):
            convolution, norm, _ = block
            f = F.conv2d(f, convolution.weight, padding=convolution.kernel_size[0] // 2)
            f = F.batch_norm(f, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
            f = F.leaky_relu(f, 0.1)
        f = level.last(f)
        wanted.insert(0, f)
    torch.testing.assert_close(decoder(deepest), wanted)


def test_shapes_kernels_and_widths(decoder):
    assert [tuple(f.shape) for f in decoder(features()[-1])] == [tuple(f.shape) for f in features()]
    kernels = [m.kernel_size[0] for m in decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kernels == [1, 3, 1, 1] * 3
    narrow = feature_ae.build(CHANNELS, width=0.5)
    assert [level.second[0].weight.shape[:2] for level in narrow.levels] == [(4, 4), (3, 3), (2, 2)]
    assert [tuple(f.shape) for f in narrow(features()[-1])] == [tuple(f.shape) for f in features()]
    two = feature_ae.build(CHANNELS[:2])
    assert [tuple(f.shape) for f in two(features()[1])] == [tuple(f.shape) for f in features()[:2]]


def test_a_finer_level_is_fed_with_what_was_rebuilt_not_with_what_was_encoded(decoder):
    """The loss of level 1 alone moves the blocks of the deeper levels too, and the encoder's features never."""
    encoded = [f.requires_grad_() for f in features()]
    maps = feature_ae.residuals([f.detach() for f in encoded], decoder(encoded[-1].detach()))
    feature_ae.loss(maps[:1]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    assert all(f.grad is None for f in encoded)
    decoder.zero_grad()
    maps = feature_ae.residuals([f.detach() for f in encoded], decoder(encoded[-1].detach()))
    feature_ae.loss(maps[2:]).backward()  # level 3 is rebuilt first: nothing of levels 1 and 2 is in it
    assert [all(p.grad is None for p in level.parameters()) for level in decoder.levels] == [False, True, True]


def test_training_moves_the_decoder_and_not_the_backbone():
    encoder, _ = backbones.load("resnet18", "random")
    decoder = feature_ae.build()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1, momentum=0.9)
    f = encoder(torch.rand(8, 3, 32, 32) * 2 - 1)
    losses = []
    for _ in range(15):
        loss = feature_ae.loss(feature_ae.residuals(f, decoder(f[-1])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_the_anomaly_map_is_a_sum_and_as_printed_a_weighted_one():
    """Eq. (9), (10) on constant maps, which resizing and blurring leave as they are."""
    maps = [torch.full((2, 8, 8), 1.0), torch.full((2, 4, 4), 2.0), torch.full((2, 2, 2), 4.0)]
    plain = feature_ae.anomaly_map(maps, size=32)
    assert plain.shape == (2, 32, 32)
    torch.testing.assert_close(plain, torch.full((2, 32, 32), 7.0))
    printed = feature_ae.anomaly_map(maps, size=32, weighted=True)
    torch.testing.assert_close(printed, torch.full((2, 32, 32), 1 / 64 + 2 / 16 + 4 / 4))


def test_the_anomaly_map_points_where_the_residual_is_and_sigma_0_smooths_nothing():
    maps = [torch.zeros(1, 8, 8)]
    maps[0][0, 1, 6] = 1.0
    sharp, smooth = (feature_ae.anomaly_map(maps, size=32, sigma=sigma)[0] for sigma in (0, 4))
    for anomaly_map in (sharp, smooth):
        row, column = divmod(anomaly_map.argmax().item(), 32)
        assert 4 <= row < 8 and 24 <= column < 28
    torch.testing.assert_close(sharp[None, None], F.interpolate(maps[0][:, None], size=(32, 32), mode="bilinear"))
    torch.testing.assert_close(smooth[None, None], images.gaussian_blur(sharp[None, None], 4.0))
    assert smooth.max() < sharp.max()


def test_the_score_is_the_maximum_of_the_map():
    assert feature_ae.score(
        torch.tensor([[[0.1, 0.9], [0.2, 0.3]], [[0.0, 0.0], [0.0, 0.5]]])
    ).tolist() == pytest.approx([0.9, 0.5])


def test_a_perfect_reconstruction_scores_nothing():
    f = features()
    maps = feature_ae.residuals(f, [3 * level for level in f])
    assert feature_ae.score(feature_ae.anomaly_map(maps, 32)).max() < 1e-5


def test_a_score_depends_on_its_own_image_alone():
    """Shuffled, split and repeated, each image keeps its score."""
    torch.manual_seed(1)
    encoder, _ = backbones.load("resnet18", "random")
    decoder = feature_ae.build()
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    decoder(encoder(x)[-1])  # in training mode: batch norm has something to forget
    decoder.eval()

    def score(x):
        with torch.no_grad():
            f = encoder(x)
            return feature_ae.score(feature_ae.anomaly_map(feature_ae.residuals(f, decoder(f[-1])), 32))

    wanted = score(x)
    order = torch.tensor([5, 2, 0, 3, 3, 1, 4])
    torch.testing.assert_close(score(x[order]), wanted[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([score(part) for part in x.split(1)]), wanted, rtol=1e-4, atol=1e-5)
