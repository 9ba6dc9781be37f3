"""One training step of the shared autoencoders: what does the game cost, as two losses and as adlib does it?

    python benchmarks/shared_step.py [--width 16] [--batch 64] [--steps 20] [--device auto] [--compile]

All ways run the same step in epoch 3, with routing "separate", and change the networks in the same way. They take turns
in one run. The times are medians over the steps.
two passes  for each loss a pass through all seven networks and a whole backward(), with all gradients cleared in
            between, then both optimisers. This is the plain loop, and the reference
one pass    both losses from one pass, torch.autograd.grad for the parameters of each EDE alone
adlib       the same on channels_last weights (the notebook's step)
compiled    adlib's step with each network through torch.compile (only with --compile: it takes a minute to start)
"""

import argparse
import statistics
import time

import torch

from adlib import images, machine, shared_ae


HOW = {"distance": "mean_l1", "alpha": 1.0, "beta": 1.0}


def two_passes(nets, optimizers, x):
    taken = []
    for index, optimizer in enumerate(optimizers):
        nets.zero_grad()
        terms = shared_ae.terms(x, shared_ae.forward(nets, x), HOW["distance"])
        shared_ae.losses(terms, 3, HOW["alpha"], HOW["beta"])[index].backward()
        taken.append([p.grad for p in optimizer.param_groups[0]["params"]])
    for optimizer, gradients in zip(optimizers, taken, strict=True):
        for p, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            p.grad = gradient
        optimizer.step()


def one_pass(nets, optimizers, x):
    shared_ae.step(nets, optimizers, x, 3, **HOW)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    device = machine.pick(options.device)
    generator = machine.seed_everything(0, device)
    train = torch.randint(256, (1024, 1, 32, 32), dtype=torch.uint8, generator=generator, device=device)
    steps = {"two passes": two_passes, "one pass": one_pass, "adlib": one_pass}
    steps |= {"compiled": one_pass} if options.compile else {}

    players = {}
    for name in steps:
        machine.seed_everything(0, device)
        nets = shared_ae.build(1, options.width).to(device)
        if name in ("adlib", "compiled"):
            nets = nets.to(memory_format=torch.channels_last)
        optimizers = shared_ae.optimizers(nets, "separate", lr=0.001)
        if name == "compiled":
            for part in ("e1", "e2", "d1", "d2"):
                getattr(nets, part).compile()
        players[name] = (nets, optimizers)

    seconds = {name: [] for name in steps}
    for count in range(options.steps + 3):  # the first three warm up
        rows = torch.randint(len(train), (options.batch,), generator=generator, device=device)
        for name, step in steps.items():
            with machine.Stopwatch(device) as watch:
                step(*players[name], images.to_float(train[rows]))
            if count >= 3:
                seconds[name].append(watch.seconds)

    reference = torch.cat([p.detach().flatten() for p in players["two passes"][0].parameters()])
    print(
        f"{machine.name(device)}, torch {torch.__version__}, width {options.width}, batch {options.batch}, "
        f"{options.steps} steps, {time.strftime('%Y-%m-%d')}"
    )
    slowest = statistics.median(seconds["two passes"])
    for name, rounds in seconds.items():
        median = statistics.median(rounds)
        own = torch.cat([p.detach().flatten() for p in players[name][0].parameters()])
        print(
            f"{name:12} {1000 * median:8.1f} ms a step, {1 / median:7.2f} steps a second, {slowest / median:5.2f} x, "
            f"weights differ by at most {(own - reference).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
