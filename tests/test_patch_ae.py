"""The patch-wise autoencoder: which pixel sees which vector, eq. (3) by hand, PatchCore's features and scores."""

import numpy as np
import pytest
import torch

from adlib import backbones, images, neighbours, patch_ae


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("resnet18", "random")[0]  # layer2 and layer3 of 128 and 256 channels


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def enlarged(maps, factor):
    """(..., h, w) -> (..., factor h, factor w), bilinear with pixel centres at halves, written out."""
    for _ in range(2):
        maps = np.moveaxis(maps, -1, -2)  # one axis, then the other
        out = np.empty((*maps.shape[:-2], factor * maps.shape[-2], maps.shape[-1]))
        for i in range(out.shape[-2]):
            place = max((i + 0.5) / factor - 0.5, 0)
            below = int(place)
            above = min(below + 1, maps.shape[-2] - 1)
            out[..., i, :] = maps[..., below, :] * (1 - place + below) + maps[..., above, :] * (place - below)
        maps = out
    return maps


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vector_rebuilds_its_own_patch_and_nothing_else(channels):
    torch.manual_seed(0)
    decoder = patch_ae.Decoder(6, hidden=10, image_channels=channels)
    r = noise(2, 6, 3, 4)
    image = decoder(r)
    assert image.shape == (2, channels, 24, 32)
    r[1, :, 2, 1] += 1
    changed = decoder(r) != image
    assert changed[1, :, 16:24, 8:16].all() and changed.sum() == channels * 64


def test_a_patch_is_two_linear_layers_of_its_vector_written_row_by_row():
    torch.manual_seed(0)
    decoder = patch_ae.Decoder(4, hidden=5, image_channels=3)
    first, _, second, _ = decoder
    r = noise(1, 4, 2, 2)
    patch = second.weight[:, :, 0, 0] @ (first.weight[:, :, 0, 0] @ r[0, :, 1, 0] + first.bias).relu() + second.bias
    torch.testing.assert_close(decoder(r)[0, :, 8:, :8], patch.reshape(3, 8, 8))


def test_the_imagewise_decoder_mixes_neighbouring_vectors():
    torch.manual_seed(0)
    decoder = patch_ae.ImagewiseDecoder(6, hidden=12, image_channels=1)
    shapes = [tuple(m.weight.shape) for m in decoder if isinstance(m, torch.nn.Conv2d)]
    assert shapes == [(12, 6, 3, 3), (6, 12, 3, 3), (3, 6, 3, 3), (1, 3, 3, 3)]
    r = noise(2, 6, 3, 4).requires_grad_()
    image = decoder(r)
    assert image.shape == (2, 1, 24, 32)
    seen = torch.autograd.grad(image[0, 0, 8:16, 8:16].sum(), r)[0].abs().sum(1) > 0
    assert seen[0, :, :3].all() and not seen[1].any()  # its eight neighbours too, and no other image


def test_patch_norm_is_mean_0_and_variance_1_over_all_values_of_a_patch():
    x = noise(2, 3, 16, 24)
    ours = patch_ae.patch_norm(x)
    assert ours.shape == (2, 6, 192)
    for image in range(2):
        for number in range(6):
            row, column = divmod(number, 3)
            patch = x[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].double().numpy()
            wanted = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(ours[image, number], wanted.reshape(-1), atol=1e-5)
    small = patch_ae.patch_norm(x[:1, :1, :2, :2] * 1e-3, patch=2, eps=1e-6)[0, 0].double().numpy()
    patch = x[0, 0, :2, :2].double().numpy().reshape(-1) * 1e-3
    np.testing.assert_allclose(small, (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6), atol=1e-5)


def test_patches_without_contrast_are_zero_with_finite_gradients():
    x = torch.full((1, 3, 8, 16), 0.3).requires_grad_()
    ours = patch_ae.patch_norm(x)
    assert ours.abs().max() < 1e-3
    (ours * noise(*ours.shape)).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_eq_3_written_out(alpha, channels):
    rebuilt, x = noise(3, channels, 16, 8, seed=1), noise(3, channels, 16, 8, seed=2)
    total = 0
    for a, b in zip(rebuilt.double().numpy(), x.double().numpy(), strict=True):
        for top in (0, 8):
            p, q = a[:, top : top + 8], b[:, top : top + 8]
            norm_p, norm_q = ((v - v.mean()) / np.sqrt(v.var(ddof=1) + 1e-6) for v in (p, q))
            total += alpha * np.sqrt(((norm_p - norm_q) ** 2).sum()) + (1 - alpha) * np.sqrt(((p - q) ** 2).sum())
    assert patch_ae.loss(rebuilt, x, alpha).item() == pytest.approx(total / 3, rel=1e-5)  # the mean over images


def test_alpha_chooses_between_values_and_contrast():
    """0.1 off everywhere is 0.1 sqrt(192) in each of 4 patches, and not off at all once normalised."""
    x = noise(2, 3, 16, 16)
    assert patch_ae.loss(x + 0.1, x, alpha=0).item() == pytest.approx(4 * 0.1 * 192**0.5, rel=1e-5)
    assert patch_ae.loss(2 * x + 0.1, x, alpha=1).item() == pytest.approx(0, abs=1e-3)
    assert patch_ae.loss(x + 0.1, x).item() == pytest.approx(4 * 0.1 * 192**0.5 / 2, rel=1e-4)  # one half of each
    assert patch_ae.loss(x + 0.1, x, alpha=0, patch=4).item() == pytest.approx(16 * 0.1 * 48**0.5, rel=1e-5)


@pytest.mark.parametrize("x", [noise(2, 3, 16, 16), torch.zeros(1, 1, 8, 8)])
def test_the_gradient_is_finite_where_a_patch_is_met_exactly(x):
    rebuilt = x.clone().requires_grad_()
    loss = patch_ae.loss(rebuilt, x)
    loss.backward()
    assert loss.item() == 0 and torch.equal(rebuilt.grad, torch.zeros_like(x))


def test_the_loss_is_taken_in_the_precision_of_the_image():
    x = noise(1, 3, 16, 16)
    rebuilt = noise(1, 3, 16, 16, seed=1).bfloat16()
    loss = patch_ae.loss(rebuilt, x)
    assert loss.dtype == torch.float32 and torch.equal(loss, patch_ae.loss(rebuilt.float(), x))


def test_what_the_loss_cannot_take_is_refused():
    x = noise(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"alpha is 1.2: it must lie in \[0, 1\]"):
        patch_ae.loss(x, x, alpha=1.2)
    with pytest.raises(ValueError, match="images of 20 x 16 px cannot be cut into patches of 8 px"):
        patch_ae.loss(noise(1, 3, 20, 16), noise(1, 3, 20, 16))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_features_are_layer2_and_layer3_upsampled(backbone, channels):
    x = noise(2, channels, 64, 32)
    _, second, third = backbone(x)
    features = patch_ae.features(backbone(x))
    assert features.shape == (2, 384, 8, 4) and not features.requires_grad
    assert torch.equal(features[:, :128], second)
    np.testing.assert_allclose(features[:, 128:], enlarged(third.double().numpy(), 2), atol=1e-5)


def test_r_is_two_1x1_convolutions_each_with_a_relu(backbone):
    torch.manual_seed(0)
    encoder = patch_ae.Encoder(backbone, 10)
    x = noise(2, 3, 32, 32)
    first, second = (m for m in encoder.reduce if isinstance(m, torch.nn.Conv2d))
    for mean in (False, True):
        wanted = patch_ae.features(backbone(x), mean).movedim(1, -1)
        for layer in (first, second):
            wanted = (wanted @ layer.weight[:, :, 0, 0].T + layer.bias).relu()
        r = encoder(x, mean)
        assert r.shape == (2, 10, 4, 4) and 0 < (r == 0).float().mean() < 1
        torch.testing.assert_close(r.movedim(1, -1), wanted)
    assert torch.equal(encoder(x), encoder(x, mean=False)) and not torch.allclose(encoder(x), r)


def test_the_head_starts_as_it_is_told(backbone):
    torch.manual_seed(0)
    for head, gain in (("orthogonal", 1.0), ("he", 2**0.5)):
        first, second = (m for m in patch_ae.Encoder(backbone, 100, head).reduce if isinstance(m, torch.nn.Conv2d))
        assert first.bias.abs().max() == second.bias.abs().max() == 0
        assert first.weight.std().item() == pytest.approx(gain / 384**0.5, rel=0.05)
        weights = second.weight[:, :, 0, 0]
        assert torch.allclose(weights @ weights.T, torch.eye(100), atol=1e-5) == (head == "orthogonal")
    assert patch_ae.build(backbone, 100).encoder.reduce[0].bias.abs().max() > 0
    with pytest.raises(ValueError, match="unknown head 'zero': choose default, he, orthogonal"):
        patch_ae.build(backbone, head="zero")


def test_build_gives_encoder_and_decoder_and_their_settings(backbone):
    model = patch_ae.build(backbone)
    assert model.encoder.reduce[0].weight.shape[:2] == (192, 384)  # half of both layers together
    assert isinstance(model.decoder, patch_ae.Decoder) and model.decoder[0].weight.shape[:2] == (256, 192)
    grey = patch_ae.build(backbone, channels=7, hidden=8, imagewise=True, image_channels=1)
    assert isinstance(grey.decoder, patch_ae.ImagewiseDecoder)
    x = noise(2, 1, 32, 32)
    assert grey(x).shape == x.shape and grey.encoder(x).shape == (2, 7, 4, 4)
    torch.testing.assert_close(grey(x), grey.decoder(grey.encoder(x)))
    for channels in (0, 384):
        with pytest.raises(ValueError, match=f"channels is {channels}: .* layer3 together, 384"):
            patch_ae.build(backbone, channels=channels)


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_reach_the_whole_backbone_or_nothing_of_it(backbone, trained):
    torch.manual_seed(0)
    model = patch_ae.build(backbone, channels=20, hidden=16, trained=trained).train()
    x = noise(4, 3, 32, 32)
    patch_ae.loss(model(x), x).backward()
    own = dict(model.encoder.backbone.named_parameters())
    assert {name.split(".")[0] for name in own} == {"stem", "layers"}
    for name, parameter in model.named_parameters():
        if trained or not name.startswith("encoder.backbone."):
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("trained", [True, False])
def test_training_lowers_the_loss_and_leaves_statistics_and_the_callers_backbone(backbone, trained):
    torch.manual_seed(0)
    model = patch_ae.build(backbone, channels=32, hidden=32, trained=trained)
    before = {name: value.clone() for name, value in model.encoder.backbone.state_dict().items()}
    given = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x = images.gaussian_blur(noise(4, 3, 32, 32), 4.0) * 4
    losses = []
    for _ in range(12):
        loss = patch_ae.loss(model.train()(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not model.encoder.backbone.training
    buffers = {name for name, _ in model.encoder.backbone.named_buffers()}
    for name, value in model.encoder.backbone.state_dict().items():
        assert torch.equal(value, before[name]) == (name in buffers or not trained), name
    assert all(torch.equal(value, given[name]) for name, value in backbone.state_dict().items())


def test_patchcores_features_are_means_over_3x3_zeros_at_the_edge():
    second, third = noise(2, 3, 6, 4, seed=1), noise(2, 5, 3, 2, seed=2)

    def means(maps):
        padded = np.pad(maps.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        h, w = maps.shape[2:]
        return sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9

    ours = patch_ae.features([None, second, third], mean=True)
    np.testing.assert_allclose(ours, np.concatenate([means(second), enlarged(means(third), 2)], 1), atol=1e-6)


def test_statistics_are_those_of_a_decoder_that_gives_each_patch_its_mean():
    """One patch of two values 2 d apart, one without contrast: d grey levels off, in half of the patches."""
    x = torch.full((1, 1, 8, 16), 0.2)
    x[..., :4] += 10 / 127.5
    x[..., 4:8] -= 10 / 127.5
    found = patch_ae.statistics(x, alpha=0.25)
    assert found["flat_patches"] == 0.5 and found["error_of_means"] == pytest.approx(5, rel=1e-4)
    rebuilt = torch.full_like(x, 0.2)
    contrast, whole = patch_ae.loss(rebuilt, x, alpha=1.0), patch_ae.loss(rebuilt, x, alpha=0.25)
    assert found["contrast_share"] == pytest.approx((0.25 * contrast / whole).item(), rel=1e-4)
    assert patch_ae.statistics(torch.zeros(1, 3, 8, 8)) == {"flat_patches": 1, "error_of_means": 0, "contrast_share": 0}


def test_a_detector_takes_means_without_r_unless_it_is_told(backbone):
    torch.manual_seed(0)
    images_ = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    x = images.to_float(images_)
    for channels, mean, used in ((None, None, True), (None, False, False), (8, None, False), (8, True, True)):
        detector = patch_ae.Detector(backbone, channels, n_vectors=5, mean=mean)
        f = patch_ae.features(backbone(x), used)
        f = f if channels is None else detector.encoder.reduce(f)
        detector.bank = patch_ae.vectors(f)[::7]
        torch.testing.assert_close(detector(images_)[0], patch_ae.score(found(f, detector.bank)[0]))


def test_vectors_come_image_by_image_and_row_by_row():
    features = noise(2, 3, 4, 5)
    ours = patch_ae.vectors(features)
    assert ours.shape == (40, 3) and ours.is_contiguous()
    for image, row, column in ((0, 0, 1), (0, 1, 0), (1, 3, 4)):
        assert torch.equal(ours[image * 20 + row * 5 + column], features[image, :, row, column])
    last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patch_ae.vectors(last), ours) and patch_ae.vectors(last[:, 1:]).is_contiguous()


def test_the_score_is_the_largest_distance():
    assert patch_ae.score(torch.tensor([[[0.1, 0.9], [0.2, 0.3]], [[0.0, 0.0], [0.0, 0.5]]])).tolist() == pytest.approx(
        [0.9, 0.5]
    )


def found(features, bank):
    """Distances and indices (N, h, w) of the nearest in the bank."""
    n, _, h, w = features.shape
    distances, indices = neighbours.nearest(patch_ae.vectors(features), bank)
    return distances.view(n, h, w), indices.view(n, h, w)


def naive_reweighted(features, bank, k):
    """Eq. (7) of PatchCore, image by image, in double precision."""
    scores = []
    for image in features.double().numpy():
        queries, memory = image.reshape(len(image), -1).T, bank.double().numpy()
        distances = np.linalg.norm(queries[:, None] - memory, axis=2)
        m = queries[distances.min(1).argmax()]
        star = memory[np.linalg.norm(memory - m, axis=1).argmin()]
        around = memory[np.linalg.norm(memory - star, axis=1).argsort()[:k]]
        share = np.exp(np.linalg.norm(m - star)) / np.exp(np.linalg.norm(m - around, axis=1)).sum()
        scores.append(np.linalg.norm(m - star) * (1 - share))
    return scores


@pytest.mark.parametrize("k", [2, 9, 30])
def test_reweighting_is_patchcores_eq_7(k):
    features, bank = noise(5, 4, 3, 2, seed=1), noise(20, 4, seed=2)
    ours = patch_ae.reweighted(features, *found(features, bank), bank, k)
    assert ours.shape == (5,)
    np.testing.assert_allclose(ours, naive_reweighted(features, bank, k), rtol=1e-5)  # 30: cut to all 20
    plain = patch_ae.score(found(features, bank)[0])
    assert ((1 - 1 / min(k, 20)) * plain - 1e-6 <= ours).all() and (ours < plain).all()


def test_reweighting_by_one_neighbour_or_a_bank_of_one_is_the_score():
    features, bank = noise(5, 4, 3, 2, seed=1), noise(20, 4, seed=2)
    for memory, k in ((bank, 1), (bank[:1], 9)):
        distances, indices = found(features, memory)
        assert torch.equal(patch_ae.reweighted(features, distances, indices, memory, k), patch_ae.score(distances))
    with pytest.raises(ValueError, match="k is 0: at least one neighbour is needed"):
        patch_ae.reweighted(features, *found(features, bank), bank, k=0)


def test_reweighting_is_stable_far_from_the_bank():
    features, bank = 1e4 * noise(5, 4, 3, 2, seed=1), noise(20, 4, seed=2)
    distances, indices = found(features, bank)
    ours = patch_ae.reweighted(features, distances, indices, bank)
    assert torch.isfinite(ours).all() and (ours / patch_ae.score(distances) > 0.88).all()


def test_the_anomaly_map_points_where_the_distance_is():
    distances = torch.zeros(2, 4, 4)
    distances[0, 1, 3] = distances[1, 3, 0] = 1.0
    sharp, smooth = (patch_ae.anomaly_map(distances, 32, sigma) for sigma in (0, 4.0))
    for maps in (sharp, smooth):
        assert maps.shape == (2, 32, 32)
        for anomaly_map, (top, left) in zip(maps, ((8, 24), (24, 0)), strict=True):
            row, column = divmod(anomaly_map.argmax().item(), 32)
            assert top <= row < top + 8 and left <= column < left + 8
    np.testing.assert_allclose(sharp, enlarged(distances.double().numpy(), 8), atol=1e-6)
    torch.testing.assert_close(smooth, images.gaussian_blur(sharp[:, None], 4.0)[:, 0])
    torch.testing.assert_close(patch_ae.anomaly_map(distances, 32), smooth)
    assert smooth.max() < sharp.max()


def test_a_score_depends_on_its_own_image_alone(backbone):
    """Shuffled, split and repeated, each image keeps its scores."""
    torch.manual_seed(0)
    model = patch_ae.build(backbone, channels=16).train()  # in training mode too
    x = noise(6, 3, 32, 32, seed=1)

    def score(x):
        with torch.no_grad():
            r = model.encoder(x)
            distances, indices = found(r, bank)
            return torch.stack([patch_ae.score(distances), patch_ae.reweighted(r, distances, indices, bank)], 1)

    with torch.no_grad():
        bank = patch_ae.vectors(model.encoder(noise(3, 3, 32, 32, seed=2)))
    wanted = score(x)
    assert wanted.std(0).min() > 0
    order = torch.tensor([5, 2, 0, 3, 3, 1, 4])
    torch.testing.assert_close(score(x[order]), wanted[order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cat([score(part) for part in x.split(1)]), wanted, rtol=1e-4, atol=1e-6)
