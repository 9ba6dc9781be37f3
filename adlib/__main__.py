"""Train a detector on a folder of normal images, and judge image files with it.

    python -m adlib train FOLDER --out detector.pt
    python -m adlib score detector.pt IMAGES... [--ranked] [--overlays FOLDER] [--maps maps.npz] > scores.csv

`score` prints a CSV with one line per image: file, score (high = anomalous), threshold, is_anomalous.
"""

import argparse
import csv
import os
import shlex
import sys
import time
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """argparse, except that an error raises a ValueError of one sentence."""

    def error(self, message: str) -> None:
        raise ValueError(message.removeprefix("argument "))


def check_folder(folder: Path) -> None:
    """ValueError unless `folder` can be written into, or can be created."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"nothing can be written under {folder}: {there} is no folder, or it is read-only")


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code: 1 if an image could not be read, 2 for a wrong word or file."""
    parser = Parser(prog="python -m adlib", description="Train a detector on normal images; judge images with it.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    text = "train on a folder of normal images"
    command = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    command.set_defaults(function=train)
    command.add_argument("normal", metavar="FOLDER", nargs="+", help="normal images: files, or folders and subfolders")
    for name, default, meaning in (
        ("out", "detector.pt", "file for the detector"),
        ("method", "patchcore", "the only one here; notebooks/own_data.ipynb trains the papers' methods"),
        ("image-size", 256, "side in pixels of the square that images are resized to"),
        ("backbone", "resnet18", "network whose features are compared; also wide_resnet50_2, wide_resnet101_2"),
        ("weights", "auto", "imagenet, random or a file; auto: imagenet, or random if there are none, with a warning"),
        ("coreset", 0.01, "share of the features that the detector keeps"),
        ("held-out", 0.3, "share of the images that is kept from training, to set and check the threshold"),
        ("quantile", 0.95, "share of normal images that should be below the threshold"),
        ("seed", 0, "seed of the random choices"),
    ):
        command.add_argument(f"--{name}", type=type(default), default=default, help=f"{meaning} ({default})")
    text = "judge image files and folders: a CSV of file, score, threshold, is_anomalous"
    judge = commands.add_parser("score", help=text, description=text, allow_abbrev=False)
    judge.set_defaults(function=score)
    judge.add_argument("detector", metavar="DETECTOR", help="a detector.pt from train or from a paper's notebook")
    judge.add_argument("images", metavar="IMAGES", nargs="+", help="image files, and folders with all subfolders")
    judge.add_argument("--ranked", action="store_true", help="the most anomalous first")
    judge.add_argument("--overlays", metavar="FOLDER", help="write pictures with their anomaly maps there")
    judge.add_argument("--maps", metavar="FILE", help="write the anomaly maps, files and scores there, as npz")
    for each in (command, judge):
        each.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    try:
        args = vars(parser.parse_args(argv or ["--help"]))
        code = args.pop("function")(**args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"adlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("adlib: stopped", file=sys.stderr)
        return 130


def train(normal: list[str], out: str, **settings: object) -> int:
    """Train a detector on image files and folders, and write it; returns the exit code."""
    from adlib import detectors, own, pictures  # imports torch

    started, target = time.monotonic(), Path(out).expanduser()
    if target.is_dir():
        raise ValueError(f"{target} is a folder: give the detector a file name, {target / 'detector.pt'}")
    check_folder(target.parent)
    files = pictures.find(normal)
    sizes = list(pictures.sizes(files).items())
    more = f" and {len(sizes) - 3} sizes more" * (len(sizes) > 3)
    print(f"{len(files)} images, {', '.join(f'{n} of {w} x {h} px' for (w, h), n in sizes[:3])}{more}", flush=True)
    detector = own.train(files, **settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    detectors.save(detector, target)
    print(own.describe(detector))
    name, megabytes, seconds = pictures.shown(target), target.stat().st_size / 1e6, time.monotonic() - started
    print(f"{name}, {megabytes:.1f} MB, in {seconds:.0f} s. Judge images with it:")
    print(f"python -m adlib score {shlex.quote(name)} FOLDER --ranked --overlays pictures > scores.csv")
    return 0


def score(
    detector: str,
    images: list[str],
    ranked: bool = False,
    overlays: str | None = None,
    maps: str | None = None,
    device: str = "auto",
) -> int:
    """Print the scores of image files and folders by the detector in a file; returns the exit code."""
    import numpy as np

    from adlib import detectors, pictures

    detector = detectors.load(detector, device)
    files, failed, kept, started = pictures.find(images), [], [], time.monotonic()
    if maps and Path(maps).is_dir():
        raise ValueError(f"{maps} is a folder: give the maps a file name, {Path(maps) / 'maps.npz'}")
    for place in filter(None, (maps and Path(maps).parent, overlays)):
        check_folder(Path(place))
        Path(place).mkdir(parents=True, exist_ok=True)
    if overlays:
        from adlib import overlays as drawings  # imports matplotlib
    threshold = detector.about.get("threshold")
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["file", "score", "threshold", "is_anomalous"])
    judged = detectors.judge(detector, files, failed=failed)
    if ranked:  # maps that nobody asked for would fill the memory
        judged = ((file, value, found if overlays or maps else None) for file, value, found in judged)
        judged = sorted(judged, key=lambda judgement: -judgement[1])
    for number, (file, value, anomaly_map) in enumerate(judged):
        verdict = ["", ""] if threshold is None else [f"{threshold:.6g}", int(detectors.is_anomalous(detector, value))]
        lines.writerow([pictures.shown(file), f"{value:.6g}", *verdict])
        if overlays:
            drawings.write(detector, file, anomaly_map, value, Path(overlays, drawings.name(number, file)))
        if maps:
            kept.append((pictures.shown(file), value, anomaly_map.numpy()))
    if kept:
        names, scores, arrays = zip(*kept, strict=True)
        about = {name: detector.about[name] for name in ("threshold", "pixel_threshold") if name in detector.about}
        with open(maps, "wb") as file:
            np.savez(file, files=names, scores=np.float32(scores), maps=np.stack(arrays), **about)
    for sentence in failed:
        print(f"adlib: {sentence}", file=sys.stderr)
    seconds = max(1e-9, time.monotonic() - started)
    print(f"adlib: {len(files)} images in {seconds:.1f} s, {len(files) / seconds:.1f} a second", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
