"""One training step of the rotation network: what do data handling and small convolutions cost?

    python benchmarks/rotation_step.py [--batch 32] [--steps 20] [--device auto]

Four ways do the same step. They take turns in one run. The times are medians over the steps.
bare        the four rotations are ready as floats: no data handling at all
nn.Conv2d   the same, with PyTorch's own convolution on maps that lead to one position
adlib       images are on the device as bytes; each step indexes, converts to float, and makes four rotations (the
            notebook's step)
DataLoader  what users would choose: PIL images, torchvision's transforms, one worker process, rotations by PIL
"""

import argparse
import statistics
import time

import torch

from adlib import images, machine, two_stage
from adlib._torchvision import import_torchvision


class Rotated(torch.utils.data.Dataset):
    """Item i: the four rotations of image i as a float tensor (4, 1, 32, 32), made by PIL and torchvision."""

    def __init__(self, pictures, transforms):
        self.pictures = [transforms.ToPILImage()(picture) for picture in pictures]
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return torch.stack([self.transform(self.pictures[index].rotate(90 * k)) for k in range(4)])


def forever(loader):
    while True:
        yield from loader


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stem", default="imagenet")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = machine.pick(options.device)
    generator = machine.seed_everything(0, device)
    train = torch.randint(256, (1000, 1, 32, 32), dtype=torch.uint8, generator=generator, device=device)
    encoder, head, _ = two_stage.build(1, options.stem)
    encoder, head = encoder.to(device, memory_format=torch.channels_last), head.to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.001, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)

    ready, turns = images.rotations(images.to_float(train[: options.batch]))
    transforms = import_torchvision().transforms
    loader = torch.utils.data.DataLoader(
        Rotated(train.cpu(), transforms),
        options.batch,
        shuffle=True,
        num_workers=1,
        drop_last=True,
        persistent_workers=True,
    )
    batches = forever(loader)

    def from_device():
        chosen = torch.randperm(len(train), generator=generator, device=device)[: options.batch]
        return images.rotations(images.to_float(train[chosen]))[0]

    feeds = {
        "bare": lambda: ready,
        "nn.Conv2d": lambda: ready,
        "adlib": from_device,
        "DataLoader": lambda: next(batches).transpose(0, 1).flatten(0, 1).to(device),
    }
    times, own = {name: [] for name in feeds}, two_stage.Conv2d.forward
    for step in range(options.steps + 2):
        for name, feed in feeds.items():
            two_stage.Conv2d.forward = torch.nn.Conv2d.forward if name == "nn.Conv2d" else own
            machine.synchronize(device)
            start = time.perf_counter()
            x4 = feed()
            with machine.autocast(device):
                logits = head(encoder(x4)).float()
            loss = two_stage.rotation_loss(logits, turns)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            machine.synchronize(device)
            if step >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    print(f"{machine.name(device)}, torch {torch.__version__}, {options.stem} stem, {options.batch} x 4 images a step")
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, times["bare"], strict=True)]
        print(f"{name:12}{1000 * statistics.median(values):9.2f} ms a step   {statistics.median(ratios):6.3f} x bare")


if __name__ == "__main__":
    main()
