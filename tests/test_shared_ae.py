"""Equations (1) to (8) against cases computed by hand, and above all: which parameters receive which gradient."""

import copy
import math

import pytest
import torch
from torch import nn

from adlib import detectors, shared_ae


PARTS = ("e1", "d1", "e2", "d2")


@pytest.fixture
def nets():
    """Double precision, so that gradients can be compared to the last digits."""
    torch.manual_seed(0)
    return shared_ae.build(channels=1, width=2, latent=3).double()


@pytest.fixture
def x():
    return torch.rand(5, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_part(nets, gradients, parameters):
    """The gradients of one player as one vector for each network it moves."""
    names = {id(p): name.split(".")[0] for name, p in nets.named_parameters()}
    found = {}
    for p, gradient in zip(parameters, gradients, strict=True):
        found.setdefault(names[id(p)], []).append(gradient.flatten())
    return {part: torch.cat(some) for part, some in found.items()}


def gradient_of(nets, x, loss):
    """part -> gradient of `loss(terms)`, by a pass and a backward of their own on a copy; zero where none arrives."""
    own = copy.deepcopy(nets)
    loss(shared_ae.terms(x, shared_ae.forward(own, x), "mean_l1")).backward()
    return {
        part: torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in getattr(own, part).parameters()]
        )
        for part in PARTS
    }


def first(t):
    return (2 * t["image_1"] + 3 * t["latent_1"]).mean()


def second(t):
    return (2 * t["image_2"] + 3 * t["latent_2"]).mean()


def game(t):
    return (2 * t["image_adv"] + 3 * t["latent_adv"]).mean()


def players(nets, x, n, routing):
    """What `gradients` hands to each optimiser, by part."""
    found, _ = shared_ae.gradients(nets, x, n, routing, "mean_l1", alpha=2.0, beta=3.0)
    moved = [o.param_groups[0]["params"] for o in shared_ae.optimizers(nets, routing, 0.1)]
    return [by_part(nets, some, parameters) for some, parameters in zip(found, moved, strict=True)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for part in found:
        torch.testing.assert_close(found[part], expected[part], msg=lambda m, part=part: f"{part}: {m}")


def test_shapes_and_ranges(nets, x):
    made = shared_ae.forward(nets, x)
    assert list(made) == ["z", "x1", "z1", "x2", "z2", "x2_adv", "z2_adv"]
    for name, value in made.items():
        assert value.shape == ((5, 3) if name.startswith("z") else x.shape)
        assert value.abs().max() < 1
    assert shared_ae.build(channels=3).d1(torch.zeros(2, 64)).shape == (2, 3, 32, 32)


def test_each_network_has_the_four_layers_of_figure_3():
    nets = shared_ae.build()
    kinds = [
        [type(layer).__name__ for layer in part if not isinstance(layer, nn.Flatten | nn.Unflatten)]
        for part in (nets.e1, nets.d2)
    ]
    encoder = [
        "Conv2d",
        "LeakyReLU",
        "Conv2d",
        "BatchNorm2d",
        "LeakyReLU",
        "Conv2d",
        "BatchNorm2d",
        "LeakyReLU",
        "Conv2d",
        "Tanh",
    ]
    assert kinds == [encoder, ["ConvTranspose2d", "BatchNorm2d", "LeakyReLU"] * 3 + ["ConvTranspose2d", "Tanh"]]


class Scale(nn.Module):
    """A stand-in for a network: times a number, so that what passed through which can be read off the result."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_what_goes_through_which_network():
    nets = shared_ae.build(width=1, latent=1)
    nets.e1, nets.e2, nets.d1, nets.d2 = Scale(2.0), Scale(3.0), Scale(5.0), Scale(7.0)
    made = shared_ae.forward(nets, torch.ones(1))
    assert {name: value.item() for name, value in made.items()} == {
        "z": 2,
        "x1": 2 * 5,
        "x2": 2 * 7,
        "z1": 2 * 5 * 3,
        "z2": 2 * 7 * 3,
        "x2_adv": 2 * 7 * 3 * 5,
        "z2_adv": 2 * 7 * 3 * 5 * 3,
    }
    # x = 1, z = 2, z2 = 42, z2' = 630
    score = shared_ae.score(nets, torch.ones(1, 1), "mean_l1", omega=0.25)
    assert score.tolist() == [0.25 * (42 - 2) + 0.75 * (630 - 2)]
    found = shared_ae.terms(torch.ones(1, 1), {name: v[None] for name, v in made.items()}, "mean_l1")
    assert {name: v.item() for name, v in found.items()} == {
        "image_1": 9,
        "latent_1": 28,
        "image_2": 13,
        "latent_2": 40,
        "image_adv": 209,
        "latent_adv": 628,
    }


def test_losses_by_hand():
    values = {
        "image_1": [1.0, 3.0],
        "latent_1": [2.0, 2.0],
        "image_2": [4.0, 4.0],
        "latent_2": [1.0, 3.0],
        "image_adv": [8.0, 8.0],
        "latent_adv": [2.0, 4.0],
    }
    terms = {name: torch.tensor(two) for name, two in values.items()}
    # alpha 1, beta 10: (1) 2 + 20, (2) 4 + 20, (3) 8 + 30; n = 4: a quarter and three quarters
    loss_1, loss_2 = shared_ae.losses(terms, n=4, alpha=1, beta=10)
    assert (loss_1.item(), loss_2.item()) == (22 / 4 - 38 * 3 / 4, 24 / 4 + 38 * 3 / 4)
    assert [value.item() for value in shared_ae.losses(terms, n=1, alpha=1, beta=10)] == [22, 24]
    assert shared_ae.equation_8(terms, 0.25).tolist() == [0.25 * 1 + 0.75 * 2, 0.25 * 3 + 0.75 * 4]


def test_separate_gives_each_ede_the_gradient_of_its_own_loss(nets, x):
    """Against passes and backward calls of their own: (6) reaches E1, D1, E2 alone, (7) reaches E1, D2, E2 alone."""
    n = 4
    six = gradient_of(nets, x, lambda t: first(t) / n - (1 - 1 / n) * game(t))
    seven = gradient_of(nets, x, lambda t: second(t) / n + (1 - 1 / n) * game(t))
    one, two = players(nets, x, n, "separate")
    assert_same(one, {part: six[part] for part in ("e1", "d1", "e2")})
    assert_same(two, {part: seven[part] for part in ("e1", "d2", "e2")})


def test_the_sum_of_both_losses_is_no_game_at_all(nets, x):
    n = 4
    whole = gradient_of(nets, x, lambda t: (first(t) + second(t)) / n)
    (one,) = players(nets, x, n, "sum")
    assert_same(one, {part: whole[part] for part in ("e1", "e2", "d1", "d2")})
    assert players(nets, x, n, "separate")[0]["d1"].sub(whole["d1"]).abs().max() > 0.01 * whole["d1"].abs().max()


def test_both_optimisers_step_on_gradients_of_the_same_pass(nets, x):
    """The step against the plain one: a pass and a backward for each loss, all cleared between them, then both move."""
    reference = copy.deepcopy(nets)
    optimizers = shared_ae.optimizers(nets, "separate", lr=0.01)
    plain = shared_ae.optimizers(reference, "separate", lr=0.01)
    for n in (1, 2, 3):
        shared_ae.step(nets, optimizers, x, n, alpha=2.0, beta=3.0)
        taken = []
        for index, optimizer in enumerate(plain):
            reference.zero_grad()
            terms = shared_ae.terms(x, shared_ae.forward(reference, x, adversarial=n > 1), "mean_l1")
            shared_ae.losses(terms, n, alpha=2.0, beta=3.0)[index].backward()
            taken.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]])
        for optimizer, some in zip(plain, taken, strict=True):
            for p, gradient in zip(optimizer.param_groups[0]["params"], some, strict=True):
                p.grad = gradient
            optimizer.step()
        for (name, p), q in zip(nets.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(p, q, msg=lambda m, name=name, n=n: f"epoch {n}, {name}: {m}")


def test_a_step_moves_the_right_weights_however_gradients_lie_in_memory(monkeypatch):
    """Fused Adam pairs weight and gradient as they lie in memory: one of them channels_last would go wrong silently."""
    torch.manual_seed(0)
    nets = shared_ae.build(channels=3, width=4, latent=8)
    reference, x = copy.deepcopy(nets), torch.rand(4, 3, 32, 32)
    shared_ae.step(reference, shared_ae.optimizers(reference, "separate", 0.01), x, 2)
    nets = nets.to(memory_format=torch.channels_last)
    lying_otherwise = shared_ae.gradients

    def gradients(*arguments, **settings):
        found, terms = lying_otherwise(*arguments, **settings)
        return [[gradient.contiguous() for gradient in some] for some in found], terms

    monkeypatch.setattr(shared_ae, "gradients", gradients)
    shared_ae.step(nets, shared_ae.optimizers(nets, "separate", 0.01), x, 2)
    pairs = zip(nets.parameters(), reference.parameters(), strict=True)
    apart = torch.cat([((p - q).abs() > 1e-4).flatten() for p, q in pairs if p.dim() == 4])
    assert apart.float().mean() < 0.05  # Adam starts with signs: those of tiny gradients may differ


@pytest.mark.parametrize("routing", shared_ae.ROUTINGS)
def test_gradients_left_over_from_elsewhere_change_nothing(nets, x, routing):
    clean = copy.deepcopy(nets)
    for p in nets.parameters():
        p.grad = torch.full_like(p, 1e6)
    for one in (nets, clean):
        shared_ae.step(one, shared_ae.optimizers(one, routing, 0.01), x, 3, routing=routing)
    for p, q in zip(nets.parameters(), clean.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_first_epoch_plays_no_game(nets, x):
    assert set(shared_ae.gradients(nets, x, 1)[1]) == {"image_1", "latent_1", "image_2", "latent_2"}
    one, two = players(nets, x, 1, "separate")
    assert_same(one, {part: v for part, v in gradient_of(nets, x, first).items() if part in ("e1", "d1", "e2")})
    assert_same(two, {part: v for part, v in gradient_of(nets, x, second).items() if part in ("e1", "d2", "e2")})


def test_the_ablations_are_the_same_networks_with_parts_left_out(x):
    plain, single = (shared_ae.build(width=2, latent=3, parts=parts).double() for parts in ("e1 d1", "e1 d1 e2"))
    assert plain.e2 is None and plain.d2 is None and single.d2 is None
    for nets, names in ((plain, {"image_1"}), (single, {"image_1", "latent_1"})):
        (optimizer,) = shared_ae.optimizers(nets, "separate", lr=0.01)
        before = [p.detach().clone() for p in nets.parameters()]
        terms = shared_ae.step(nets, [optimizer], x, 5, alpha=2.0, beta=3.0)
        assert set(terms) == names
        assert all(not torch.equal(p, q) for p, q in zip(nets.parameters(), before, strict=True))
    (found,), _ = shared_ae.gradients(single, x, 5, alpha=2.0, beta=3.0)
    own = copy.deepcopy(single)
    first(shared_ae.terms(x, shared_ae.forward(own, x), "mean_l1")).backward()
    for gradient, p in zip(found, shared_ae.players(own, "separate")[0], strict=True):
        torch.testing.assert_close(gradient, p.grad)
    images = (x.float() * 127.5 + 127.5).to(torch.uint8)
    for nets, name in ((plain, "image_1"), (single, "latent_1")):  # of (8) there is nothing: the score is what there is
        found = shared_ae.evaluate(nets.float(), images, "mean_l1")
        assert torch.equal(shared_ae.anomaly_score(found, 0.3), found[name])


def test_an_unknown_routing_is_named(nets, x):
    for call in (lambda: shared_ae.optimizers(nets, "both", 0.1), lambda: shared_ae.gradients(nets, x, 1, "both")):
        with pytest.raises(ValueError, match="unknown routing 'both': choose separate, sum"):
            call()


def test_scores_depend_on_their_own_image_alone_and_leave_the_networks_as_they_are():
    torch.manual_seed(0)
    nets = shared_ae.build(width=2, latent=3)
    images = torch.randint(256, (7, 1, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    shared_ae.step(nets, shared_ae.optimizers(nets, "separate", 0.01), images / 127.5 - 1, 1)  # statistics of its own
    before = copy.deepcopy(nets.state_dict())
    whole = shared_ae.evaluate(nets, images, "mean_l1", batch=3)
    order = torch.tensor([6, 0, 3, 3, 1])
    part = shared_ae.evaluate(nets, images[order], "mean_l1", batch=2)
    assert whole["z"].shape == (7, 3) and not nets.training
    for name, values in part.items():
        torch.testing.assert_close(values, whole[name][order])
    with torch.no_grad():
        alone = shared_ae.score(nets, images / 127.5 - 1, "mean_l1", omega=0.3)
    torch.testing.assert_close(alone, shared_ae.equation_8(whole, 0.3))
    assert all(torch.equal(value, before[name]) for name, value in nets.state_dict().items())


def test_spread_is_zero_where_all_latents_are_one():
    assert shared_ae.spread(torch.ones(4, 2)).item() == 0
    assert shared_ae.spread(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item() == pytest.approx(math.sqrt(2) / 2)


def test_training_brings_the_images_back():
    torch.manual_seed(0)
    nets = shared_ae.build(width=4, latent=8)
    optimizers = shared_ae.optimizers(nets, "separate", lr=0.01)
    x = torch.zeros(8, 1, 32, 32)
    x[:4, :, 8:24, 8:24] = 1
    losses = [shared_ae.step(nets, optimizers, x, n=1)["image_2"].mean().item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_mean_distances_by_hand():
    a, b = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])
    assert shared_ae.distance(a, b, "mean_l1").tolist() == [3.5, 0]
    torch.testing.assert_close(shared_ae.distance(a, b, "mean_l2"), torch.tensor([math.sqrt(12.5), 0]))
    a.requires_grad_()
    shared_ae.distance(a, b, "mean_l2").sum().backward()
    assert a.grad.isfinite().all()  # also where the two are one
    with pytest.raises(ValueError, match="unknown distance 'l1': choose mean_l1, mean_l2"):
        shared_ae.distance(a, b, "l1")


def test_an_epoch_is_a_number_of_steps():
    assert [shared_ae.epoch(step) for step in (0, 31, 32, 64)] == [1, 1, 2, 3]
    assert [shared_ae.epoch(step, steps=2) for step in range(4)] == [1, 1, 2, 2]


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("routing", shared_ae.ROUTINGS)
def test_a_stopped_gradient_keeps_the_latent_terms_from_e1_and_changes_nothing_else(nets, x, routing, n):
    def gradients(alpha, beta, stop_gradient):
        found, _ = shared_ae.gradients(nets, x, n, routing, "mean_l1", alpha, beta, stop_gradient=stop_gradient)
        moved = [o.param_groups[0]["params"] for o in shared_ae.optimizers(nets, routing, 0.1)]
        return [by_part(nets, some, parameters) for some, parameters in zip(found, moved, strict=True)]

    asked = (2, 3, True), (2, 3, False), (2, 0, False)
    for stopped, free, image in zip(*(gradients(*one) for one in asked), strict=True):
        torch.testing.assert_close(stopped["e1"], image["e1"])
        assert (stopped["e1"] - free["e1"]).abs().max() > 0
        assert_same({p: g for p, g in stopped.items() if p != "e1"}, {p: g for p, g in free.items() if p != "e1"})
    for of_latent in gradients(0, 3, True):
        assert of_latent["e1"].abs().max() == 0 and of_latent["e2"].abs().max() > 0


def pictures(count, seed):
    return torch.randint(256, (count, 1, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_statistics_per_use_are_the_running_ones_where_a_network_is_used_once():
    torch.manual_seed(0)
    nets, train = shared_ae.build(width=2, latent=3, parts="e1 d1"), pictures(40, 1)
    found = shared_ae.per_use(nets, train)
    assert set(found) == {"z", "x1"}
    with torch.no_grad():
        for _ in range(200):
            nets.e1.train()(shared_ae.to_float(train))
            nets.d1.train()(nets.e1.eval()(shared_ae.to_float(train)))
    for use, network in (("z", nets.e1), ("x1", nets.d1)):
        for (name, own), running in zip(found[use].named_buffers(), network.buffers(), strict=True):
            if "batches" not in name:
                torch.testing.assert_close(own, running, rtol=1e-4, atol=1e-6)


def test_statistics_per_use_differ_by_use_repeat_themselves_and_leave_the_networks_as_they_are():
    torch.manual_seed(0)
    nets, train, test = shared_ae.build(width=2, latent=3), pictures(40, 1), pictures(7, 2)
    before = copy.deepcopy(nets.state_dict())
    found, again = (shared_ae.per_use(nets, train, batch=16) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in nets.state_dict().items())
    assert list(found) == list(shared_ae.USES) and not any(network.training for network in found.values())
    for use in ("z1", "x2_adv"):
        other = {"z1": "z2", "x2_adv": "x1"}[use]
        assert not torch.equal(next(found[use].buffers()), next(found[other].buffers()))
        assert all(torch.equal(p, q) for p, q in zip(found[use].parameters(), found[other].parameters(), strict=True))
    whole, order = shared_ae.evaluate(found, test, "mean_l1", batch=3), torch.tensor([6, 0, 3, 1])
    for name, values in shared_ae.evaluate(again, test[order], "mean_l1", batch=2).items():
        torch.testing.assert_close(values, whole[name][order])
    with torch.no_grad():
        alone = shared_ae.score(found, shared_ae.to_float(test), "mean_l1", omega=0.3)
    torch.testing.assert_close(alone, shared_ae.equation_8(whole, 0.3))
    detector = detectors.assemble(
        "shared_ae",
        {"width": 2, "latent": 3, "omega": 0.3, "batch_norm": "per_use"},
        {"nets": found},
        image_size=32,
        channels=1,
    )
    scores, maps = detectors.apply(detector, test)
    torch.testing.assert_close(scores, alone)
    assert maps.shape == (7, 32, 32)
    with pytest.raises(ValueError, match="unknown distance 'l2': choose mean_l1, mean_l2"):
        shared_ae.Detector(distance="l2")
