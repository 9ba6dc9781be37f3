"""One training step of the feature decoder: what do its parts cost, as the paper writes it and as adlib does?

    python benchmarks/feature_step.py [--size 256] [--batch 32] [--steps 10] [--device auto]

All ways run the same step and give the same loss. They take turns in one run. The times are medians over the steps.
as written  the frozen encoder runs in the loop, each level is upsampled before its first block, and features are
            divided by their norms (eq. 6) before they are subtracted (eq. 5)
cached      the same, but the features are computed only once
adlib       cached; the first block comes before the upsampling; eq. (5) is one minus a scalar product (the notebook's
            step)
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from adlib import backbones, feature_ae, images, machine


def decoded_as_written(decoder, deepest):
    f, decoded = deepest, []
    for index, level in enumerate(decoder.levels):
        f = F.interpolate(f, scale_factor=2, mode="nearest") if index else f
        f = level.last(level.third(level.second(level.first(f))))
        decoded.append(f)
    return decoded[::-1]


def residuals_as_written(encoded, decoded):
    return [
        (F.normalize(e, dim=1) - F.normalize(d, dim=1)).square().sum(1) / 2
        for e, d in zip(encoded, decoded, strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = machine.pick(options.device)
    generator = machine.seed_everything(0, device)
    shape = (2 * options.batch, 3, options.size, options.size)
    train = torch.randint(256, shape, dtype=torch.uint8, generator=generator, device=device)
    encoder = backbones.load("resnet18", "random")[0].to(device)
    with torch.no_grad():
        parts = [encoder(images.to_float(part)) for part in train.split(32)]
        features = [torch.cat(level) for level in zip(*parts, strict=True)]

    def naive_step(rows):
        with torch.no_grad():
            encoded = encoder(images.to_float(train[rows]))
        return residuals_as_written(encoded, decoded_as_written(decoders["as written"], encoded[-1]))

    def cached_step(rows):
        encoded = [level[rows] for level in features]
        return residuals_as_written(encoded, decoded_as_written(decoders["cached"], encoded[-1]))

    def our_step(rows):
        encoded = [level[rows] for level in features]
        return feature_ae.residuals(encoded, decoders["adlib"](encoded[-1]))

    ways = {"as written": naive_step, "cached": cached_step, "adlib": our_step}
    decoders, optimizers = {}, {}
    for name in ways:
        torch.manual_seed(0)
        decoders[name] = feature_ae.build().to(device, memory_format=torch.channels_last)
        optimizers[name] = torch.optim.SGD(decoders[name].parameters(), lr=0.1, momentum=0.9, fused=True)
    times, losses = {name: [] for name in ways}, {}
    for step in range(options.steps + 2):
        rows = torch.randperm(len(train), generator=generator, device=device)[: options.batch]
        for name, way in ways.items():
            machine.synchronize(device)
            start = time.perf_counter()
            with machine.autocast(device):
                maps = way(rows)
            losses[name] = feature_ae.loss([phi.float() for phi in maps])
            optimizers[name].zero_grad()
            losses[name].backward()
            optimizers[name].step()
            machine.synchronize(device)
            if step >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    print(f"{machine.name(device)}, torch {torch.__version__}, {options.size} px, {options.batch} images a step")
    for name, values in times.items():
        ratios = [other / value for value, other in zip(values, times["as written"], strict=True)]
        print(
            f"{name:12}{1000 * statistics.median(values):9.1f} ms a step   {statistics.median(ratios):6.2f} times as "
            f"fast   last loss {losses[name].item():.5f}"
        )


if __name__ == "__main__":
    main()
