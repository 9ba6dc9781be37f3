import pytest
import torch

from adlib import images, two_stage
from adlib._torchvision import import_torchvision


def picture(n=4, channels=1, seed=0):
    return 2 * torch.rand(n, channels, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_encoder_is_torchvisions_resnet18_but_for_the_classifier():
    torchvision = import_torchvision()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    ours = two_stage.ResNet18(channels=3).eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and unexpected == ["fc.weight", "fc.bias"]
    theirs.fc = torch.nn.Identity()
    x = picture(2, 3)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_every_encoder_gives_512_numbers_and_trains_all_its_parameters(stem, pre_activation):
    encoder, head, _ = two_stage.build(1, stem, pre_activation)
    x4, turns = images.rotations(picture(2))
    z = encoder(x4)
    assert z.shape == (8, 512)
    two_stage.rotation_loss(head(z), turns).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_cifar_stem_keeps_sixteen_times_more_positions():
    shapes = []
    for stem in ("imagenet", "cifar"):
        encoder = two_stage.ResNet18(1, stem)
        encoder.layer1.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[2:]))
        encoder(picture())
    assert [tuple(shape) for shape in shapes] == [(8, 8), (32, 32)]


def test_an_unknown_stem_or_latent_is_an_error_that_names_the_choices():
    with pytest.raises(ValueError, match="unknown stem .*: choose imagenet, cifar"):
        two_stage.ResNet18(stem="tree")
    with pytest.raises(ValueError, match="unknown latent .*: choose pooled, layer3"):
        two_stage.build(latent="layer5")


@pytest.mark.parametrize("stem, n", [("imagenet", 1024), ("cifar", 16384)])
def test_the_map_of_layer3_is_what_layer4_sees(stem, n):
    encoder, _, decoders = two_stage.build(1, stem, latent="layer3")
    seen = []
    encoder.layer4.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1)))
    encoder.eval()(picture())
    z = encoder(picture(), "layer3")
    assert z.shape == (4, n) and torch.equal(z, seen[0]) and len(seen) == 1  # layer4 is not asked
    assert decoders["mse"].eval()(z).shape == (4, 1, 32, 32)


@pytest.mark.parametrize("shape", [(3, 1, 1, 1, 1), (3, 2, 1, 2, 2), (1, 2, 0, 2, 2), (4, 2, 1, 3, 3), (3, 1, 1, 1, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_on_a_small_map_is_pytorchs_gradients_included(shape, bias):
    *geometry, height, width = shape  # of kernel, stride, padding
    torch.manual_seed(0)
    x = torch.randn(3, 5, height, width, requires_grad=True)
    found = []
    ours = two_stage.Conv2d(5, 4, *geometry, bias=bias)
    for forward in (ours, lambda x: torch.nn.Conv2d.forward(ours, x)):
        y = forward(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *ours.parameters()])])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("channels", "count"), [(1, 2_754_432), (3, 2_756_480)])
def test_the_decoder_is_ganomalys(channels, count):
    torch.manual_seed(0)
    decoder = two_stage.Decoder(channels)
    assert sum(p.numel() for p in decoder.parameters()) == count
    out = decoder(torch.randn(2, 512))
    assert out.shape == (2, channels, 32, 32) and out.abs().max() <= 1
    convolutions = [m for m in decoder if isinstance(m, torch.nn.ConvTranspose2d)]
    assert all(m.bias is None and abs(m.weight.std().item() - 0.02) < 0.002 for m in convolutions)


@pytest.mark.parametrize(("channels", "latent"), [(1, 512), (3, 1024)])
def test_the_decoder_computes_what_its_layers_do_one_by_one(channels, latent):
    torch.manual_seed(0)
    decoder = two_stage.Decoder(channels, latent)
    z = torch.randn(3, latent, requires_grad=True)
    found = []
    for images_of in (decoder, lambda z: torch.nn.Sequential.forward(decoder, z)):
        y = images_of(z)
        weights = [p for p in decoder.parameters() if p.ndim == 4]
        found.append([y, *torch.autograd.grad(y.square().sum(), [z, *weights])])
    for ours, layered in zip(*found, strict=True):
        torch.testing.assert_close(ours, layered, rtol=1e-3, atol=1e-4 * layered.abs().max().item())


def test_the_rate_steps_down_at_shares_of_the_steps_also_in_one_epoch():
    rates = [two_stage.rate(step, 10) for step in range(10)]
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 2 + [0.004] * 2)
    assert [two_stage.rate(step, 1, lr=1.0) for step in (0, 1)] == pytest.approx([1.0, 0.04])


def test_rotation_loss_is_the_mean_negative_log_probability_of_the_right_turn():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    loss = two_stage.rotation_loss(logits, torch.tensor([0, 3]))
    torch.testing.assert_close(loss, -(torch.tensor(0.5).log() + torch.tensor(0.4).log()) / 2)


def test_rotation_score_sums_the_right_turns_probabilities_of_each_image():
    # two images: the first is sure and right in every turn, the second knows nothing
    sure, unsure = 50 * torch.eye(4), torch.zeros(4, 4)
    logits = torch.stack([sure, unsure], 1).flatten(0, 1)  # turn 0 of both, turn 1 of both, ...
    torch.testing.assert_close(two_stage.rotation_score(logits), torch.tensor([-4.0, -1.0]))
    log = two_stage.rotation_score(logits, log=True)
    torch.testing.assert_close(log, torch.tensor([0.0, 4 * torch.log(torch.tensor(4.0)).item()]))


def test_mse_is_on_the_unit_interval():
    white, black = torch.ones(1, 1, 32, 32), -torch.ones(1, 1, 32, 32)
    assert two_stage.mse(white, black).tolist() == [1.0] and two_stage.mse(white, 0 * white).tolist() == [0.25]


def test_ssim_tells_unrelated_images_apart_where_the_package_default_does_not():
    from pytorch_msssim import ssim

    x, y = picture(seed=0), picture(seed=1)
    assert two_stage.ssim(x, y).max() < 0.1
    torch.testing.assert_close(two_stage.ssim(x, x), torch.ones(4))
    blind = ssim((x + 1) / 2, (y + 1) / 2, size_average=False)  # data_range 255
    assert blind.min() > 0.99
    near = 0.6 * x + 0.4 * y
    theirs = ssim((x + 1) / 2, (near + 1) / 2, data_range=1.0, size_average=False)
    torch.testing.assert_close(two_stage.ssim(x, near), theirs, rtol=1e-4, atol=1e-5)


def test_the_score_is_mse_minus_lambda_ssim():
    x, x1, x2 = picture(seed=0), picture(seed=1), 0.5 * picture(seed=0)
    expected = two_stage.mse(x, x1) - 0.3 * two_stage.ssim(x, x2)
    torch.testing.assert_close(two_stage.score(x, x1, x2, lam=0.3), expected)
    assert (two_stage.score(x, x, x) < two_stage.score(x, x1, x2)).all()
    torch.testing.assert_close(two_stage.score(x, x, x), torch.full((4,), -1.0))


def test_each_decoder_loss_moves_its_own_decoder_and_never_the_frozen_encoder():
    encoder, _, decoders = two_stage.build(1)
    encoder.eval().requires_grad_(False)
    x = picture()
    with torch.no_grad():
        z = encoder(x)
    two_stage.mse(x, decoders["mse"](z)).mean().backward()
    assert all(p.grad is None for p in [*encoder.parameters(), *decoders["ssim"].parameters()])
    assert all(p.grad.abs().sum() > 0 for p in decoders["mse"].parameters())
    before = [p.grad.clone() for p in decoders["mse"].parameters()]
    (-two_stage.ssim(x, decoders["ssim"](z)).mean()).backward()
    assert all(p.grad.abs().sum() > 0 for p in decoders["ssim"].parameters())
    assert all(torch.equal(a, p.grad) for a, p in zip(before, decoders["mse"].parameters(), strict=True))


def test_scores_do_not_change_with_order_batch_or_repetition_of_the_test_images():
    torch.manual_seed(0)
    encoder, head, decoders = two_stage.build(1)
    encoder(picture(16, seed=5))  # move the running statistics off their start
    for network in (encoder, head, *decoders.values()):
        network.eval()
    x = picture(10)

    @torch.no_grad()
    def score(x):
        z = encoder(x)
        rotnet = two_stage.rotation_score(head(encoder(images.rotations(x)[0])))
        return torch.stack([two_stage.score(x, decoders["mse"](z), decoders["ssim"](z)), rotnet], 1)

    together = score(x)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(score(x[order]), together[order], **close)
    torch.testing.assert_close(torch.cat([score(part) for part in x.split(3)]), together, **close)
    torch.testing.assert_close(score(torch.cat([x, x[:1].repeat(30, 1, 1, 1)]))[:10], together, **close)
