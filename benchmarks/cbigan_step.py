"""One round of CBiGAN, one step of the critic and one of the generator: what do data handling and the plain loop cost?

    python benchmarks/cbigan_step.py [--size 64] [--width 8] [--batch 16] [--steps 10] [--device auto]
                                     [--compile] [--capture]

All ways run the same round of preset "text", with images turned by up to 45 degrees. They take turns in one run. The
times are medians over the steps.
DataLoader  PIL images, torchvision's transforms, one worker process, and the plain loop: one pass of the critic for the
            real pairs and one for the fake pairs, loss.backward() into all networks, weights in the default layout
plain       the plain loop, fed from bytes on the device
adlib       bytes on the device, one pass of the critic for both, gradients for the player alone, channels_last weights
            (the notebook's round; it changes the weights in the same way as the plain loop)
watched     adlib's round of EGBAD (alpha 0), with (11) and (12) computed although its loss does not need them
egbad       adlib's round of EGBAD without (11) and (12); it changes the weights in the same way
compiled    adlib's round, with encoder and generator through torch.compile (only with --compile: it takes a minute to
            start). The critic is not compiled, because its penalty is differentiated twice, which compiled code does
            not allow
captured    adlib's round, with each player's step as one CUDA graph (only with --capture, on CUDA; written without a
            GPU at hand and NOT TRIED)
"""

import argparse
import statistics
import time

import torch

from adlib import cbigan, machine
from adlib._torchvision import import_torchvision


ANGLES = (-45, 45)


class Pictures(torch.utils.data.Dataset):
    """Item i: image i, turned, as a float tensor (3, H, W) in [0, 1], made by PIL and torchvision."""

    def __init__(self, pictures, transforms):
        self.pictures = [transforms.ToPILImage()(picture) for picture in pictures]
        bilinear = transforms.InterpolationMode.BILINEAR
        self.transform = transforms.Compose([transforms.RandomRotation(ANGLES, bilinear), transforms.ToTensor()])

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index])


def forever(loader):
    while True:
        yield from loader


def plain_critic_step(nets, optimizer, x, z, epsilon, settings):
    nets.zero_grad()
    real, fake = (x, nets.encoder(x).detach()), (nets.generator(z).detach(), z)
    estimate = nets.critic(*real).mean() - nets.critic(*fake).mean()
    penalty = cbigan.gradient_penalty(nets.critic, real, fake, epsilon, settings["penalty"])
    (settings["penalty_weight"] * penalty - estimate).backward()
    optimizer.step()


def plain_generator_step(nets, optimizer, x, z, settings):
    nets.zero_grad()
    cbigan.generator_terms(nets, x, z, settings)["loss"].backward()
    optimizer.step()


def watched_generator_step(nets, optimizer, x, z, settings):
    with torch.no_grad():
        cbigan.distance(x, nets.generator(nets.encoder(x)))
        cbigan.distance(z, nets.encoder(nets.generator(z)))
    cbigan.generator_step(nets, optimizer, x, z, settings)


def captured(step, *given):
    """A function that copies its tensors into a CUDA graph of step(*given) and replays the graph."""
    held = [x.clone() for x in given]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*held)

    def replay(*given):
        for old, new in zip(held, given, strict=True):
            old.copy_(new)
        graph.replay()

    return replay


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    options = parser.parse_args()
    device = machine.pick(options.device)
    if options.capture and device.type != "cuda":
        parser.error("--capture needs a CUDA device")
    generator = machine.seed_everything(0, device)
    shape = (200, 3, options.size, options.size)
    train = torch.randint(256, shape, dtype=torch.uint8, generator=generator, device=device)
    settings = cbigan.PRESETS["text"] | {"width": options.width, "batch": options.batch}
    transforms = import_torchvision().transforms
    batches = forever(
        torch.utils.data.DataLoader(
            Pictures(train.cpu(), transforms),
            options.batch,
            shuffle=True,
            num_workers=1,
            drop_last=True,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
    )

    names = (
        ["DataLoader", "plain", "adlib", "watched", "egbad"]
        + ["compiled"] * options.compile
        + ["captured"] * options.capture
    )
    players = {}
    for name in names:
        machine.seed_everything(0, device)
        nets = cbigan.build(3, **{**settings, "size": options.size}).to(device)
        if name not in ("DataLoader", "plain"):
            nets = nets.to(memory_format=torch.channels_last)
        of_critic, of_generator = cbigan.optimizers(nets, settings)
        if name == "compiled":
            nets.encoder.compile()
            nets.generator.compile()
        is_plain = name in ("DataLoader", "plain")
        critic = plain_critic_step if is_plain else cbigan.critic_step
        other = plain_generator_step if is_plain else cbigan.generator_step
        other = watched_generator_step if name == "watched" else other
        how = settings | {"alpha": 0.0} if name in ("watched", "egbad") else settings
        steps = (
            lambda *given, step=critic, nets=nets, of=of_critic, how=how: step(nets, of, *given, how),
            lambda *given, step=other, nets=nets, of=of_generator, how=how: step(nets, of, *given, how),
        )
        if name == "captured":
            x, z, epsilon = cbigan.batch(train, options.size, ANGLES, settings, generator)
            steps = captured(steps[0], x, z, epsilon), captured(steps[1], x, z)
        players[name] = (nets, steps)

    def draw(name, rng):
        if name == "DataLoader":
            x = next(batches).to(device, non_blocking=True)
            place = {"generator": rng, "device": device}
            return x, torch.randn(len(x), settings["latent"], **place), torch.rand(len(x), **place)
        return cbigan.batch(train, options.size, ANGLES, settings, rng)

    seconds = {name: [] for name in names}
    for count in range(options.steps + 2):  # the first two warm up
        for name, (_, (critic_step, generator_step)) in players.items():
            rng = torch.Generator(device).manual_seed(count)
            with machine.Stopwatch(device) as watch:
                critic_step(*draw(name, rng))
                x, z, _ = draw(name, rng)
                generator_step(x, z)
            if count >= 2:
                seconds[name].append(watch.seconds)

    print(
        f"{machine.name(device)}, torch {torch.__version__}, {options.size} px, width {options.width}, batch "
        f"{options.batch}, {options.steps} steps, {time.strftime('%Y-%m-%d')}"
    )
    weights = {name: torch.cat([p.detach().flatten() for p in of[0].parameters()]) for name, of in players.items()}
    assert torch.equal(weights["watched"], weights["egbad"])
    for name, rounds in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["DataLoader"], rounds, strict=True))
        text = f"{name:12} {1000 * statistics.median(rounds):8.1f} ms a round, {ratio:5.2f} x as fast as DataLoader"
        if name in ("adlib", "compiled"):
            text += f", weights differ from plain's by {(weights[name] - weights['plain']).abs().mean():.1e} on average"
        print(text)


if __name__ == "__main__":
    main()
