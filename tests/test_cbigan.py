"""Losses, penalties and scores against cases computed by hand; who moves in which step; the networks' sizes."""

import copy
import json
import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adlib import cbigan
from adlib.images import cut_patches
from repro import claims, register, sweep
from repro.rows import KEY, METRICS, is_untrained, merge, read, row, write_whole


TEXT = cbigan.PRESETS["text"]
PARTS = ("encoder", "generator", "critic")


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(**settings):
    """Real networks of the least size, in double precision."""
    torch.manual_seed(0)
    return cbigan.build(**{"channels": 1, "width": 1, "latent": 3, "size": 32} | settings).double()


def inputs(nets, n=4, channels=1):
    """x, z, epsilon for `small`."""
    x = rand(n, channels, nets.size, nets.size, seed=1)
    z = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return x, z, rand(n, seed=3)


def state(nets):
    return {part: torch.cat([p.detach().flatten() for p in getattr(nets, part).parameters()]) for part in PARTS}


def size_of(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("preset", "width", "size", "expected"),
    [
        ("tables", 16, 128, (2_424_736, 2_080_947, 3_098_209)),
        ("tables", 16, 64, (1_638_304, 2_080_947, 2_311_777)),
        ("october", 3, 128, (88_246, 83_640, 668_327)),  # those of rewrite and the biases that it lacks
        ("rewrite", 3, 128, (87_892, 83_142, 666_437)),
        ("rewrite", 3, 64, (60_244, 83_142, 638_789)),
        ("text", 16, 128, (2_424_736, 2_080_947, 3_098_209)),
    ],
)
def test_the_networks_have_as_many_parameters_as_the_authors_programs_give_them(preset, width, size, expected):
    settings = cbigan.PRESETS[preset]
    assert settings["width"] == width
    with torch.device("meta"):
        nets = cbigan.build(size=size, **settings)
    assert tuple(size_of(getattr(nets, part)) for part in PARTS) == expected


@pytest.mark.parametrize(
    ("size", "encoder", "generator"),
    [
        (32, [16, 8, 4, 2, 1, 1], [2, 2, 4, 8, 16, 32]),
        (64, [32, 16, 8, 4, 2, 2], [2, 4, 8, 16, 32, 64]),
        (128, [64, 32, 16, 8, 4, 4], [4, 8, 16, 32, 64, 128]),
        (256, [128, 64, 32, 16, 8, 8], [8, 16, 32, 64, 128, 256]),
    ],
)
def test_the_sides_of_the_maps_behind_each_block(size, encoder, generator):
    nets = cbigan.build(channels=2, width=1, latent=3, size=size)
    sides = []
    for block in nets.modules():
        if isinstance(block, cbigan.Block):
            block.register_forward_hook(lambda _, __, out: sides.append(out.shape[2]))
    z = nets.encoder(torch.rand(2, 2, size, size))
    x = nets.generator(z)
    assert sides == encoder + generator
    assert [type(layer).__name__ for layer in list(nets.generator)[:3]] == ["Linear", "Unflatten", "Block"]
    assert z.shape == (2, 3) and x.shape == (2, 2, size, size) and nets.critic(x, z).shape == (2,)
    assert nets.critic.features(x, z, "dense").shape == (2, 16)
    assert nets.critic.features(x, z, "conv1").shape == (2, size * size)


def test_a_block_by_hand():
    def block(resample):
        made = cbigan.Block(1, 1, True, resample)
        with torch.no_grad():
            for name, factor in (("first", -1), ("second", 2), ("third", 3), ("skip", 5)):
                conv = getattr(made, name)
                conv.weight.zero_()[0, 0, conv.kernel_size[0] // 2, conv.kernel_size[0] // 2] = factor
                conv.bias.fill_(-4 if name == "third" else 0)
        return lambda row: made(torch.tensor(row).expand(1, 1, len(row), -1))[0, 0, 0].tolist()

    # of  1: -1, leaky -0.2, -0.4, leaky -0.08, -0.24 - 4, and 5 beside it
    # of -1:  1,              2,                 6 - 4,     and -5 beside it: -3, leaky -0.6
    # of  0: -4, leaky -0.8
    assert block(None)([1.0, -1.0]) == pytest.approx([0.76, -0.6])
    assert block("down")([1.0, -1.0, 0.0, 0.0]) == pytest.approx([0.08, -0.8], abs=1e-6)
    four = [4.0, 2.0, -2.0, -4.0]  # what bilinear doubling makes of 4, -4
    assert block("up")([4.0, -4.0]) == pytest.approx(block(None)(four))


@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
def test_images_come_and_go_in_the_range_of_the_output(output):
    nets = cbigan.build(width=2, size=32, output=output)
    low = 0 if output == "sigmoid" else -1
    x = nets.generator(100 * torch.randn(20, 64))
    assert low <= x.min() and x.max() <= 1 and (x.min() < 0) == (output == "tanh")
    bytes_ = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert cbigan.to_range(bytes_, nets.output).flatten().tolist() == [low, 1]
    assert cbigan.to_range(bytes_.float(), nets.output).flatten().tolist() == [low, 1]
    assert bytes_.flatten().tolist() == [0, 255]


def test_without_bias_one_is_left_to_each_block_and_to_the_last_layers():
    nets = cbigan.build(width=1, size=32, bias=False)
    names = {name.removesuffix(".bias") for name, _ in nets.named_parameters() if name.endswith(".bias")}
    of_blocks = {name for name in names if name.endswith(".third")}
    assert len(of_blocks) == 18
    assert names - of_blocks == {"encoder.3", "generator.8", "critic.last"}


def test_initial_weights_have_the_deviation_of_their_rule_and_biases_are_zero():
    he, glorot = (cbigan.build(width=8, size=32, init=init) for init in ("he_normal", "glorot_uniform"))
    assert all((p == 0).all() for p in he.parameters() if p.ndim == 1)
    weight = he.critic.image[5].second.weight  # 128 x 128 x 3 x 3
    std = math.sqrt(2 / (128 * 9))
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert 1.9 * std < weight.abs().max().item() < 2.28 * std
    limit = math.sqrt(6 / (2 * 128 * 9))  # of fan in and fan out together
    assert glorot.critic.image[5].second.weight.abs().max().item() == pytest.approx(limit, rel=0.01)


def test_a_bad_setting_is_named_before_anything_starts():
    with pytest.raises(ValueError, match="size is 96 px: the networks need a power of two, 32 or more"):
        cbigan.build(size=96)
    with pytest.raises(ValueError, match="unknown init 'zeros': choose he_normal, glorot_uniform"):
        cbigan.build(init="zeros")
    nets = small()
    for wrong, message in [
        ({"penalty": "none"}, "unknown penalty 'none': choose matched, crossed, squared"),
        ({"alpha": 2}, r"alpha is 2: it must lie in \[0, 1\]"),
        ({"gamma": 1}, "setting 'gamma' is unknown: choose width, latent"),
    ]:
        with pytest.raises(ValueError, match=message):
            cbigan.optimizers(nets, TEXT | wrong)
    with pytest.raises(ValueError, match="setting 'lam' is missing"):
        cbigan.check({name: value for name, value in TEXT.items() if name != "lam"})


def test_every_preset_is_whole_and_differs_from_the_text_where_it_is_known_to():
    for settings in cbigan.PRESETS.values():
        cbigan.check(settings)
    different = {
        preset: {name for name in TEXT if TEXT[name] != settings[name]} for preset, settings in cbigan.PRESETS.items()
    }
    of_tables = {"critic", "penalty", "penalty_weight", "over_batch", "beta2_critic", "beta2_generator", "adam_eps"}
    assert different == {
        "text": set(),
        "tables": of_tables | {"crops"},
        "october": of_tables | {"width", "output", "resample"},
        "rewrite": {
            "width",
            "bias",
            "init",
            "output",
            "penalty",
            "critic_steps",
            "alpha",
            "beta2_generator",
            "adam_eps",
            "feature",
            "resample",
        },
    }


def test_alpha_is_carried_over_by_sides_and_by_the_batch_that_is_summed():
    """By the gradients themselves: of a critic of slope 1, and of (11) between unrelated images."""
    weight = {}
    for side, batch in ((128, 32), (64, 16)):
        x, y = rand(batch, 3, side, side), rand(batch, 3, side, side, seed=1).requires_grad_()
        slope = torch.full((3 * side**2,), (3 * side**2) ** -0.5, dtype=torch.float64)
        (game,) = torch.autograd.grad((y.flatten(1) @ slope).mean(), y)
        for over_batch, reduce in (("mean", torch.mean), ("sum", torch.sum)):
            settings = TEXT | {"over_batch": over_batch, "batch": batch}
            (image,) = torch.autograd.grad(reduce(cbigan.distance(x, y)), y)
            weight[over_batch, side] = cbigan.scaled_alpha(settings, side) * image.norm() / game.norm()
    for over_batch in ("mean", "sum"):
        assert weight[over_batch, 64].item() == pytest.approx(weight[over_batch, 128].item())
    assert weight["mean", 64].item() == pytest.approx(1e-4 * (3 * 128**2) ** 0.5)  # 0.022
    assert cbigan.scaled_alpha(TEXT, 128) == 1e-4
    quick = [cbigan.scaled_alpha(cbigan.PRESETS[p] | {"batch": 16}, 64) for p in ("text", "tables", "october")]
    assert quick == pytest.approx([2e-4, 4e-4, 4e-4])
    assert cbigan.scaled_alpha(TEXT, 32, (64, 32)) == pytest.approx(2e-4)


class Linear(nn.Module):
    """D(x, z) = a . x + b . z: its gradient is (a, b) everywhere."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in (a, b))

    def forward(self, x, z):
        return x.flatten(1) @ self.a + z @ self.b


def test_the_penalty_of_a_linear_critic_and_its_gradient():
    critic = Linear([2.0, 4.0], [4.0])  # the norm of both parts together is 6
    x, made = rand(3, 1, 1, 2), rand(3, 1, 1, 2, seed=1)
    encoded, z, epsilon = rand(3, 1), rand(3, 1, seed=1), rand(3, seed=2)
    for kind in ("matched", "crossed"):
        penalty = cbigan.gradient_penalty(critic, (x, encoded), (made, z), epsilon, kind)
        assert penalty.item() == pytest.approx((6 - 1) ** 2)
        by_a, by_b = torch.autograd.grad(penalty, (critic.a, critic.b))
        # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
        assert [*by_a.tolist(), *by_b.tolist()] == pytest.approx([2 * 5 * w / 6 for w in (2, 4, 4)])
    penalty = cbigan.gradient_penalty(critic, (x, encoded), (made, z), None, "squared")
    assert penalty.item() == pytest.approx(2**2 + 4**2)  # the image's part alone
    assert torch.autograd.grad(penalty, critic.a)[0].tolist() == pytest.approx([4, 8])


def test_one_pass_over_real_and_fake_pairs_is_two_passes():
    nets = small(width=2)
    x, z, epsilon = inputs(nets)
    with torch.no_grad():
        real, fake = (x, nets.encoder(x)), (nets.generator(z), z)
    found = cbigan.critic_terms(nets.critic, real, fake, epsilon, TEXT)
    estimate = nets.critic(*real).mean() - nets.critic(*fake).mean()
    torch.testing.assert_close(found["estimate"], estimate)
    torch.testing.assert_close(found["loss"], 10 * found["penalty"] - estimate)


class Quadratic(nn.Module):
    """D(x, z) = (|x|^2 + |z|^2) / 2: its gradient at a point is the point."""

    def forward(self, x, z):
        return (x.flatten(1).square().sum(1) + z.square().sum(1)) / 2


def test_where_the_penalty_is_taken():
    x, made = torch.full((1, 1, 1, 1), 9.0), torch.full((1, 1, 1, 1), 1.0)
    encoded, z, epsilon = torch.tensor([[10.0]]), torch.tensor([[2.0]]), torch.tensor([0.25])
    at = lambda kind: cbigan.gradient_penalty(Quadratic(), (x, encoded), (made, z), epsilon, kind).item()  # noqa: E731
    # image 0.25 * 9 + 0.75 * 1 = 3; latent 0.25 * 10 + 0.75 * 2 = 4, crossed 0.25 * 2 + 0.75 * 10 = 8
    assert at("matched") == pytest.approx((math.hypot(3, 4) - 1) ** 2)
    assert at("crossed") == pytest.approx((math.hypot(3, 8) - 1) ** 2, rel=1e-6)
    assert at("squared") == pytest.approx(1)


def test_each_sample_has_one_epsilon_and_one_norm():
    x, made = torch.tensor([4.0, 8.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    encoded, z = torch.tensor([[3.0], [6.0]]), torch.zeros(2, 1)
    penalty = cbigan.gradient_penalty(Quadratic(), (x, encoded), (made, z), torch.tensor([1.0, 0.5]), "matched")
    assert penalty.item() == pytest.approx((5 - 1) ** 2)  # (4, 3) and (8, 6) / 2, both of norm 5


@pytest.mark.parametrize("kind", cbigan.CHOICES["penalty"])
def test_second_derivatives_reach_all_weights_of_the_real_critic(kind):
    """The penalty's gradient, by double backward, against differences of the penalty itself."""
    nets = small(width=2)
    x, z, epsilon = inputs(nets)
    with torch.no_grad():
        real, fake = (x, nets.encoder(x)), (nets.generator(z), z)
    penalty = lambda: cbigan.gradient_penalty(nets.critic, real, fake, epsilon, kind)  # noqa: E731
    weights = {name: p for name, p in nets.critic.named_parameters() if p.ndim > 1}
    if kind == "squared":  # the slope by the image does not change with the latent's weights, nor with biases
        weights = {name: p for name, p in weights.items() if not name.startswith("latent")}
    found = dict(zip(weights, torch.autograd.grad(penalty(), list(weights.values())), strict=True))
    for name, weight in weights.items():
        assert found[name].abs().max() > 0, name
        direction = found[name] / found[name].norm()
        with torch.no_grad():
            weight.add_(1e-6 * direction)
        after = penalty().item()
        with torch.no_grad():
            weight.sub_(2e-6 * direction)
        slope = (after - penalty().item()) / 2e-6
        with torch.no_grad():
            weight.add_(1e-6 * direction)
        assert slope == pytest.approx(found[name].norm().item(), rel=1e-3), name


def test_the_penalty_is_float32_under_autocast():
    nets = cbigan.build(channels=1, width=1, latent=3, size=32)
    x, z, epsilon = (given.float() for given in inputs(nets))
    plain = cbigan.gradient_penalty(nets.critic, (x, z), (1 - x, -z), epsilon, "matched")
    with torch.autocast("cpu", torch.bfloat16):
        assert nets.critic(x, z).dtype == torch.bfloat16
        under = cbigan.gradient_penalty(nets.critic, (x, z), (1 - x, -z), epsilon, "matched")
        made = (1 - x).bfloat16()  # as a generator under autocast gives it
        assert cbigan.gradient_penalty(nets.critic, (x, z), (made, -z), epsilon, "matched").dtype == torch.float32
        assert cbigan.critic_terms(nets.critic, (x, z), (1 - x, -z), epsilon, TEXT)["loss"].dtype == torch.float32
        assert {v.dtype for v in cbigan.generator_terms(nets, x, z, TEXT).values()} == {torch.float32}
    assert torch.equal(plain, under)


class Given(nn.Module):
    """A critic that answers with the first pixel, whatever the latent."""

    def forward(self, x, z):
        return x[:, 0, 0, 0] + 0 * z[:, 0]


def test_wasserstein_and_hinge_by_hand():
    # D on the real pairs 3 and 0, on the fake ones -2 and 0.5; its gradient has norm 1 at every point
    real, fake = ((torch.tensor(d).view(2, 1, 1, 1), torch.zeros(2, 1)) for d in ([3.0, 0.0], [-2.0, 0.5]))
    epsilon = torch.tensor([0.3, 0.6])
    found = cbigan.critic_terms(Given(), real, fake, epsilon, TEXT)
    assert {name: v.item() for name, v in found.items()} == {"loss": -0.75 - 1.5, "estimate": 2.25, "penalty": 0}
    found = cbigan.critic_terms(Given(), real, fake, None, cbigan.PRESETS["tables"])
    # (0 + 1) / 2 + (0 + 1.5) / 2, and 2.5 times a squared gradient of 1
    assert {name: v.item() for name, v in found.items()} == {"loss": 0.5 + 0.75 + 2.5, "estimate": 2.25, "penalty": 1}


def test_distance_by_hand():
    a, b = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[0.0, -4.0]], [[1.0, 1.0]]])
    assert cbigan.distance(a, b).tolist() == [7, 0]


@pytest.mark.parametrize("over_batch", ["mean", "sum"])
def test_consistency_is_reduced_as_the_settings_say(over_batch):
    nets = small()
    x, z, _ = inputs(nets)
    found = cbigan.generator_terms(nets, x, z, TEXT | {"over_batch": over_batch, "alpha": 0.25})
    image, latent = (x - nets.generator(nets.encoder(x))).abs(), (z - nets.encoder(nets.generator(z))).abs()
    times_n = len(x) if over_batch == "sum" else 1
    expected = [times_n * one.sum() / len(x) for one in (image, latent)]
    torch.testing.assert_close(found["image"], expected[0])
    torch.testing.assert_close(found["latent"], expected[1])
    torch.testing.assert_close(found["loss"], 0.75 * found["game"] + 0.25 * (expected[0] + expected[1]))


@pytest.mark.parametrize("preset", cbigan.PRESETS)
def test_alpha_0_is_egbad_and_alpha_1_a_double_autoencoder(preset):
    nets = small()
    x, z, _ = inputs(nets)
    game = nets.critic(x, nets.encoder(x)).mean() - nets.critic(nets.generator(z), z).mean()
    egbad = cbigan.generator_terms(nets, x, z, cbigan.PRESETS[preset] | {"alpha": 0})
    assert list(egbad) == ["loss", "game"] and torch.equal(egbad["loss"], game)
    autoencoder = cbigan.generator_terms(nets, x, z, cbigan.PRESETS[preset] | {"alpha": 1})
    assert torch.equal(autoencoder["loss"], autoencoder["image"] + autoencoder["latent"])


@pytest.mark.parametrize("preset", cbigan.PRESETS)
def test_egbads_step_is_to_the_bit_that_which_computes_consistency_too_and_weighs_it_by_0(preset):
    settings = cbigan.PRESETS[preset] | {"alpha": 0.0, "lr": 0.01}
    nets = small(width=2).float()
    other = copy.deepcopy(nets)
    x, z, _ = (given.float() for given in inputs(nets))
    cbigan.generator_step(nets, cbigan.optimizers(nets, settings)[1], x, z, settings)
    optimizer = cbigan.optimizers(other, settings)[1]
    encoded, made = other.encoder(x), other.generator(z)
    game = other.critic(x, encoded).mean() - other.critic(made, z).mean()
    consistency = cbigan.distance(x, other.generator(encoded)).mean() + cbigan.distance(z, other.encoder(made)).mean()
    ((1 - 0.0) * game + 0.0 * consistency.detach()).backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(nets.parameters(), other.parameters(), strict=True))


def test_consistency_reaches_both_encoder_and_generator():
    nets = small()
    x, z, _ = inputs(nets)
    found = cbigan.generator_terms(nets, x, z, TEXT | {"alpha": 1.0})
    for term in ("image", "latent"):
        for part in (nets.encoder, nets.generator):
            gradients = torch.autograd.grad(found[term], list(part.parameters()), retain_graph=True)
            assert all(g.abs().max() > 0 for g in gradients), term


@pytest.mark.parametrize("preset", cbigan.PRESETS)
def test_each_step_moves_its_own_player_alone_and_leaves_no_gradient_behind(preset):
    settings = cbigan.PRESETS[preset] | {"lr": 0.01}
    nets = small()
    of_critic, of_generator = cbigan.optimizers(nets, settings)
    x, z, epsilon = inputs(nets)
    before = state(nets)
    cbigan.critic_step(nets, of_critic, x, z, epsilon, settings)
    between = state(nets)
    assert [not torch.equal(before[part], between[part]) for part in PARTS] == [False, False, True]
    cbigan.generator_step(nets, of_generator, x, z, settings)
    after = state(nets)
    assert [not torch.equal(between[part], after[part]) for part in PARTS] == [True, True, False]
    assert all(p.grad is None for p in nets.parameters())


def test_gradients_left_over_from_elsewhere_change_nothing():
    nets = small()
    clean = copy.deepcopy(nets)
    for p in nets.parameters():
        p.grad = torch.full_like(p, 1e6)
    for one in (nets, clean):
        optimizers = cbigan.optimizers(one, TEXT)
        x, z, epsilon = inputs(one)
        cbigan.critic_step(one, optimizers[0], x, z, epsilon, TEXT)
        cbigan.generator_step(one, optimizers[1], x, z, TEXT)
    assert all(torch.equal(p, q) for p, q in zip(nets.parameters(), clean.parameters(), strict=True))


@pytest.mark.parametrize("preset", cbigan.PRESETS)
def test_steps_do_the_same_to_weights_in_channels_last(preset):
    """Gradients come in another layout then, which fused Adam does not see."""
    settings = cbigan.PRESETS[preset] | {"lr": 0.01}
    plain = small(width=2, channels=3)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for nets in (plain, other):
        of_critic, of_generator = cbigan.optimizers(nets, settings)
        x, z, epsilon = inputs(nets, channels=3)
        for _ in range(2):
            cbigan.critic_step(nets, of_critic, x, z, epsilon, settings)
            cbigan.generator_step(nets, of_generator, x, z, settings)
    for (name, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        # but where a gradient is of the size of rounding, of which Adam makes a whole step
        assert ((p - q).abs() < 1e-6).double().mean() > 0.9, name


def test_steps_return_detached_scalars():
    nets = small()
    x, z, epsilon = inputs(nets)
    of_critic, of_generator = cbigan.optimizers(nets, TEXT)
    curves = cbigan.critic_step(nets, of_critic, x, z, epsilon, TEXT)
    assert list(curves) == ["loss", "estimate", "penalty"]
    more = cbigan.generator_step(nets, of_generator, x, z, TEXT)
    assert list(more) == ["loss", "game", "image", "latent"]
    for value in (*curves.values(), *more.values()):
        assert value.shape == () and not value.requires_grad


class NoReading(TorchDispatchMode):
    """Fails where the value of a tensor is asked for, as .item() or an `if` does it: on a GPU the host would wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function != torch.ops.aten._local_scalar_dense.default, "the value of a tensor was read"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", cbigan.PRESETS)
def test_steps_read_no_value_back(preset):
    settings = cbigan.PRESETS[preset]
    nets = small()
    x, z, epsilon = inputs(nets)
    of_critic, of_generator = cbigan.optimizers(nets, settings)
    averaged = copy.deepcopy(nets).requires_grad_(False)
    with pytest.raises(AssertionError, match="was read"), NoReading():
        z.sum().item()
    with NoReading():
        cbigan.critic_step(nets, of_critic, x, z, epsilon, settings)
        cbigan.generator_step(nets, of_generator, x, z, settings)
        cbigan.average(averaged, nets, 0.9)


class Toy(nn.Module):
    """Networks that fit a page: E(x) = W x, G(z) = U z, D(x, z) = v . leaky(A x + B z); images of two pixels."""

    class Map(nn.Module):
        def __init__(self, weight, shape):
            super().__init__()
            self.weight, self.shape = nn.Parameter(weight), shape

        def forward(self, given):
            return (given.flatten(1) @ self.weight.T).view(-1, *self.shape)

    class D(nn.Module):
        def __init__(self, a, b, v):
            super().__init__()
            self.a, self.b, self.v = nn.Parameter(a), nn.Parameter(b), nn.Parameter(v)

        def forward(self, x, z):
            return nn.functional.leaky_relu(x.flatten(1) @ self.a.T + z @ self.b.T, 0.2) @ self.v

    def __init__(self):
        super().__init__()
        w, u, a, b, v = (
            rand(*shape, seed=seed) - 0.5 for seed, shape in enumerate([(3, 2), (2, 3), (4, 2), (4, 3), (4,)])
        )
        self.encoder, self.generator, self.critic = Toy.Map(w, (3,)), Toy.Map(u, (1, 1, 2)), Toy.D(a, b, v)


def by_hand(toy, x, z, epsilon, alpha):
    """Both losses of preset `text` on a Toy, its gradient with respect to x and z written out: no double backward."""
    w, u = toy.encoder.weight, toy.generator.weight
    a, b, v = toy.critic.a, toy.critic.b, toy.critic.v
    pixels = x.flatten(1)
    leaky = lambda h: torch.where(h > 0, h, 0.2 * h)  # noqa: E731
    d = lambda x, z: leaky(x @ a.T + z @ b.T) @ v  # noqa: E731
    encoded, made = pixels @ w.T, z @ u.T
    e = epsilon[:, None]
    x_hat, z_hat = (e * pixels + (1 - e) * made).detach(), (e * encoded + (1 - e) * z).detach()
    slope = torch.where(x_hat @ a.T + z_hat @ b.T > 0, 1.0, 0.2) * v  # dD / d(hidden), (N, 4)
    norm = ((slope @ a).square().sum(1) + (slope @ b).square().sum(1)).sqrt()
    of_critic = (d(made.detach(), z) - d(pixels, encoded.detach())).sum() / 5 + 10 * ((norm - 1) ** 2).sum() / 5
    image = (pixels - encoded @ u.T).abs().sum() / 5
    latent = (z - made @ w.T).abs().sum() / 5
    game = (d(pixels, encoded) - d(made, z)).sum() / 5
    return of_critic, (1 - alpha) * game + alpha * (image + latent)


def test_one_step_of_the_text_is_the_one_computed_by_hand():
    """Adam's first step with beta1 0 goes by lr * g / (|g| + eps); the second is compared by way of its losses."""
    x, z, epsilon = rand(5, 1, 1, 2, seed=10), rand(5, 3, seed=11) * 4 - 2, rand(5, seed=12)
    settings = TEXT | {"alpha": 0.3}
    toy = Toy()
    of_critic, of_generator = cbigan.optimizers(toy, settings)
    hand = copy.deepcopy(toy)
    for player, step in (
        ("critic", lambda: cbigan.critic_step(toy, of_critic, x, z, epsilon, settings)),
        ("generator", lambda: cbigan.generator_step(toy, of_generator, x, z, settings)),
    ):
        loss = by_hand(hand, x, z, epsilon, 0.3)[player == "generator"]
        moved = list(hand.critic.parameters())
        moved = moved if player == "critic" else [hand.encoder.weight, hand.generator.weight]
        gradients = torch.autograd.grad(loss, moved)
        with torch.no_grad():
            for p, g in zip(moved, gradients, strict=True):
                p -= 1e-4 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(step()["loss"], loss.detach())
        for (name, p), q in zip(toy.named_parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_an_average_follows_all_three_networks():
    nets = small()
    averaged = copy.deepcopy(nets).requires_grad_(False)
    before = state(nets)
    with torch.no_grad():
        for p in nets.parameters():
            p.add_(1)
    cbigan.average(averaged, nets, 0.75)
    for part, values in state(averaged).items():
        torch.testing.assert_close(values, before[part] + 0.25)
    cbigan.average(averaged, nets, 0.0)
    assert all(torch.equal(state(averaged)[part], values) for part, values in state(nets).items())


def test_a_batch_follows_its_generator():
    images = torch.randint(256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    settings = TEXT | {"batch": 1000, "latent": 2}
    first, again = (cbigan.batch(images, 32, (0, 0), settings, torch.Generator().manual_seed(0)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    _, z, epsilon = first
    assert z.shape == (1000, 2) and abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1
    assert epsilon.shape == (1000,) and 0 <= epsilon.min() < 0.1 and 0.9 < epsilon.max() <= 1


def score(nets, x, **settings):
    """Eq. (7) of images in the networks' range."""
    how = TEXT | settings
    return cbigan.equation_7(cbigan.terms(nets, x, (how["feature"],)), how["lam"], how["feature"])


class Maps(nn.Module):
    """x -> scale * x[:, :3] of a flat image, or z -> that, as an image of 32 px filled up with `rest`."""

    def __init__(self, scale, rest=None):
        super().__init__()
        self.scale, self.rest = scale, rest

    def forward(self, given):
        made = self.scale * given.flatten(1)[:, :3]
        if self.rest is None:
            return made
        rest = torch.full((len(given), 32 * 32 - 3), self.rest, dtype=made.dtype)
        return torch.cat([made, rest], 1).view(-1, 1, 32, 32)


def test_adequacy_by_hand():
    """The first three pixels are the latent, doubled; all others are 51 / 255."""
    nets = small()
    nets.encoder, nets.generator = Maps(2.0), Maps(0.5, rest=0.2)  # G(E(x)) is x
    train = torch.full((2, 1, 32, 32), 51, dtype=torch.uint8)
    train[1, 0, 0, :3] = 153  # the mean image has 0.4 there, and a variance of 0.08
    held_out = torch.full((3, 1, 32, 32), 51, dtype=torch.uint8)
    held_out[:, 0, 1, 0] = torch.tensor([51, 102, 153])  # rebuilt 0, 0.2, 0.4 off; the mean image 0.6 more
    z = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, -3.0]], dtype=torch.float64)
    found = cbigan.adequacy(nets, train, held_out, z)
    assert found["image_ratio"] == pytest.approx(0.2 / 0.8, rel=1e-6)
    assert (found["latent_error"], found["latent_zero"]) == (0, 6)
    # G(z) is z / 2: variances 2 * (1 / 4 + 1 + 9 / 4), the images' 3 * 0.08
    assert found["variance_ratio"] == pytest.approx(7 / 0.24, rel=1e-6)
    nets.encoder = Maps(0.0)  # every image is given the latent 0
    found = cbigan.adequacy(nets, train, held_out, z)
    assert found["image_ratio"] == pytest.approx((0.2 + 0.6) / 0.8, rel=1e-6)
    assert found["latent_error"] == found["latent_zero"] == 6


def test_larger_images_are_compared_patch_by_patch():
    nets = small().float()
    images = torch.randint(256, (4, 1, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    found = cbigan.adequacy(nets, images[:2], images[2:], z)
    assert found == cbigan.adequacy(nets, cut_patches(images[:2], 32), cut_patches(images[2:], 32), z)


@pytest.mark.parametrize("feature", ["dense", "conv1"])
def test_a_perfect_reconstruction_scores_zero(feature):
    nets = small(latent=32 * 32)
    nets.encoder, nets.generator = nn.Flatten(), nn.Unflatten(1, (1, 32, 32))
    x = rand(2, 1, 64, 32)
    assert score(nets, x, feature=feature).tolist() == [0, 0]
    assert torch.equal(cbigan.reconstruct(nets, x), x)


def test_the_map_is_the_error_at_each_pixel_and_sums_to_the_score_of_the_image():
    nets = small(channels=2)
    x = rand(3, 2, 64, 32)
    found = cbigan.terms(nets, x)
    torch.testing.assert_close(found["map"], (x - cbigan.reconstruct(nets, x)).abs().mean(1))
    torch.testing.assert_close(2 * found["map"].sum((1, 2)), found["image"].sum(1))


def test_training_sees_images_turned_or_crops_of_them():
    rng = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    settings = TEXT | {"batch": 40}
    images = torch.randint(256, (5, 3, 32, 32), generator=rng(), dtype=torch.uint8)
    plain, _, _ = cbigan.batch(images, 32, (0, 0), settings, rng())
    index = torch.randint(5, (40,), generator=rng())
    assert torch.equal(plain, images[index] / 255) and index.unique().tolist() == list(range(5))
    turned, _, _ = cbigan.batch(images, 32, (-45, 45), settings, rng())
    assert turned.shape == plain.shape and (turned != plain).any((1, 2, 3)).all()
    in_range, _, _ = cbigan.batch(images, 32, (0, 0), settings | {"output": "tanh"}, rng())
    torch.testing.assert_close(in_range, 2 * plain - 1)
    crops, _, _ = cbigan.batch(images[:, :, :, :24] // 2 + 100, 16, (0, 20), settings, rng())
    assert crops.shape == (40, 3, 16, 16) and crops.min() >= 100 / 255  # nothing from beyond the images


class Nothing(nn.Module):
    """A generator of black images."""

    def forward(self, z):
        return torch.zeros(len(z), 1, 32, 32, dtype=z.dtype)


def test_the_score_by_hand():
    nets = small()
    nets.generator = Nothing()
    conv = nets.critic.image[0].first
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 1, 1] = 2  # conv1 gives twice the image
        conv.bias.fill_(7)
    x = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
    x[0, 0, 5, 5], x[1, 0, 3:5, 3:5] = -3, 1
    found = cbigan.terms(nets, x)
    assert found["image"].tolist() == [[3], [4]] and found["conv1"].tolist() == [[6], [8]]
    assert torch.equal(found["map"], x.abs()[:, 0])
    assert score(nets, x, feature="conv1").tolist() == pytest.approx([0.9 * 3 + 0.6, 0.9 * 4 + 0.8])
    assert list(cbigan.terms(nets, x, ("conv1",))) == ["image", "conv1", "map"]
    with pytest.raises(ValueError, match="unknown feature 'last': choose dense, conv1"):
        cbigan.terms(nets, x, ("last",))


def test_the_dense_feature_is_that_before_the_critics_last_activation():
    nets = small()
    x, z, _ = inputs(nets)
    linear = nets.critic.joint(torch.cat([nets.critic.image(x), nets.critic.latent(z)], 1))
    assert (linear < 0).any() and torch.equal(nets.critic.features(x, z), linear)
    torch.testing.assert_close(nets.critic.last(torch.where(linear < 0, 0.2 * linear, linear))[:, 0], nets.critic(x, z))
    latent = nets.encoder(x)
    differences = nets.critic.features(x, latent) - nets.critic.features(nets.generator(latent), latent)
    torch.testing.assert_close(cbigan.terms(nets, x)["dense"][:, 0], differences.abs().sum(1))


def test_an_image_of_many_patches_scores_as_its_worst():
    nets = small()
    x = rand(3, 1, 64, 96)
    alone = score(nets, cut_patches(x, 32)).view(3, 6)
    torch.testing.assert_close(score(nets, x), alone.amax(1))
    # both terms are mixed before the largest is taken
    mixed = cbigan.equation_7({"image": torch.tensor([[1.0, 0.0]]), "dense": torch.tensor([[0.0, 2.0]])}, 0.5)
    assert mixed.tolist() == [1.0]
    with pytest.raises(ValueError, match="images of 40 x 40 px cannot be cut into patches of 32 px"):
        score(nets, rand(1, 1, 40, 40))


@pytest.mark.parametrize("side", [32, 64])
def test_scores_depend_on_their_own_image_alone_and_leave_the_networks_as_they_are(side):
    nets = small(width=2).float()
    images = torch.randint(256, (7, 1, side, side), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    before = copy.deepcopy(nets.state_dict())
    whole = cbigan.evaluate(nets, images, batch=3)
    assert whole["image"].shape == whole["dense"].shape == (7, (side // 32) ** 2) and not nets.training
    assert whole["map"].shape == (7, side, side)
    order = torch.tensor([6, 0, 3, 3, 1])
    part = cbigan.evaluate(nets, images[order], batch=64)
    for name, values in part.items():
        torch.testing.assert_close(values, whole[name][order])
    alone = torch.cat([cbigan.score(nets, images[i : i + 1], TEXT) for i in range(7)])
    torch.testing.assert_close(alone, cbigan.equation_7(whole, 0.1))
    assert all(torch.equal(value, before[name]) for name, value in nets.state_dict().items())


# ---- the notebook -------------------------------------------------------------------------------------------------


def notebook():
    return json.loads((register.CHECKOUT / "notebooks" / "cbigan.ipynb").read_text())


def test_the_losses_that_the_notebook_quotes_are_those_of_the_module():
    module = Path(cbigan.__file__).read_text()
    text = "\n".join("".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "markdown")
    quoted = re.findall(r"(?ms)^```python\n(.*?)^```", text)
    assert len(quoted) == 3
    for block in quoted:
        assert textwrap.indent(block, "    ") in module, block


def test_the_notebooks_arithmetic_of_alpha_is_the_modules():
    text = "\n".join("".join(cell["source"]) for cell in notebook()["cells"])
    said = text.partition("**How $\\alpha$ is carried over.**")[2].partition("**How long.**")[0]
    for preset, factor in (("text", 2), ("tables", 4), ("october", 4)):
        settings = cbigan.PRESETS[preset] | {"batch": 16}
        assert cbigan.scaled_alpha(settings, 64) == pytest.approx(factor * 1e-4)
        assert f"`{preset}`" in said and f"{factor} \\cdot 10^{{-4}}$" in said
    assert "0.022" in said and 1e-4 * (3 * 128**2) ** 0.5 == pytest.approx(0.022, abs=5e-4)


def test_rows_of_networks_that_are_not_trained_decide_nothing(tmp_path):
    """R above 1, latents worse than 0, or no number: not trained, and so is a row that does not say."""

    def leave(method, name, auroc, diagnostics):
        place = {"paper": "cbigan", "dataset": "mvtec", "protocol": "official", "seed": 0, "profile": "quick"}
        merge(
            tmp_path / "cbigan.csv",
            [row(**place, method=method, class_=name, auroc=auroc, job=method + name, diagnostics=diagnostics)],
        )

    def verdict():
        test = {"better": ["cbigan", "egbad"], "where": ["mvtec official"], "answers": True}
        printed = {"printed": "auroc", "where": ["mvtec official"]}
        checked = claims.check([{"paper": "cbigan", "place": "", "says": "", "tests": [test, printed]}], tmp_path)
        return [*checked["verdict"], claims.answer(checked, "cbigan")]

    good = {"image_ratio": 0.9, "latent_error": 50.0, "latent_zero": 51.0}
    for worse in ({"image_ratio": 1.1}, {"latent_error": 52.0}, {"image_ratio": math.nan}, None):
        leave("egbad", "bottle", 0.9, good)
        leave("cbigan", "bottle", 0.5, worse and good | worse)
        assert verdict() == ["not trained", "not trained", "**Cannot say** (cbigan minus egbad, AUROC, not trained)"]
    for text in ("", "{}", '{"rotation_accuracy":0.5}'):  # another paper's row
        assert not is_untrained({"paper": "two_stage", "diagnostics": text})
    leave("egbad", "pill", 0.9, good)
    leave("cbigan", "pill", 0.8, good)
    assert verdict()[0] == "indicative: undecided; 1 of 15 classes, quick, 1 seed"  # by the pair that was trained
    leave("cbigan", "bottle", 0.5, good)
    assert verdict()[0] == "indicative: does not hold; 2 of 15 classes, quick, 1 seed"


# ---- the notebook, killed in the middle ----------------------------------------------------------------------------

DIE_AFTER_FIVE = """
import os, signal, time
whole, left = rows.write_whole, []
def write_and_die(path, content, **options):
    whole(path, content, **options)
    left.extend([path] if Path(path).name == "checkpoint.pt" else [])
    if len(left) == 5 and not Path({mark!r}).exists():  # of three to a method: in the midst of the second
        Path({mark!r}).touch()
        while not any(kept.read_bytes() == content for kept in Path({out!r}).rglob("*.pt")):
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
rows.write_whole = write_and_die
"""


def test_a_killed_job_goes_on_where_it_was_and_gives_the_same_to_the_bit(tmp_path):
    """One run starts with a damaged checkpoint next to it and finishes; one is killed with its worker and goes on."""
    source = notebook()
    saves = next(i for i, cell in enumerate(source["cells"]) if "rows.keep(" in "".join(cell["source"]))
    del source["cells"][saves + 1 :]  # pictures and tables
    small = {"presets": ["rewrite"], "width": 1, "batch": 2, "steps": 5, "checkpoint_steps": 2, "n_train": 8}
    job = register.job("cbigan", "textures", "weave", "official", 0, "demo", small)
    rows, scores, said = [], [], []
    for run in ("through", "killed"):
        out = tmp_path / run
        cells = copy.deepcopy(source["cells"])
        kept = sweep.checkpoint_path(out, job)
        if run == "killed":
            code = DIE_AFTER_FIVE.format(mark=str(tmp_path / "mark"), out=str(out))
            cells.insert(5, {**cells[1], "id": "die", "source": code})
        else:
            write_whole(kept, b"what a full disk leaves")
        (tmp_path / f"notebooks-{run}").mkdir()
        (tmp_path / f"notebooks-{run}" / "cbigan.ipynb").write_text(json.dumps(source | {"cells": cells}))
        assert sweep.reproduce([job], out, n_jobs=1, notebooks=tmp_path / f"notebooks-{run}")["ok"] == [job]
        assert not list(out.rglob("*.pt*"))
        names = (*KEY, *METRICS, "n_train", "steps", "n_parameters", "job")
        rows.append([{name: row[name] for name in names} for row in read(out / "cbigan.csv")])
        scores.append(sweep.scores_path(out, job).read_bytes())
        said.append(sweep.notebook_path(out, job).read_text())
    assert (tmp_path / "mark").exists()
    assert [row["method"] for row in rows[0]] == ["cbigan_rewrite", "egbad_rewrite"]
    assert rows[0] == rows[1] and scores[0] == scores[1]
    assert "but it is damaged or cut off: training starts from the beginning" in said[0]
    assert "egbad_rewrite goes on after step 5" in said[1] and "cbigan_rewrite goes on after step 4" in said[1]
