"""Apply a trained detector to image files: python -m adlib score DETECTOR IMAGES... [--overlays FOLDER]

Prints a CSV, a line for each image: file, score (high = anomalous), threshold, is_anomalous.
"""

import argparse
import csv
import sys
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """argparse, but for its errors: a ValueError of one sentence."""

    def error(self, message: str) -> None:
        raise ValueError(message.removeprefix("argument "))


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code: 1 where an image could not be read, 2 for a wrong word or file."""
    parser = Parser(prog="python -m adlib", description="Apply a trained detector to image files.")
    text = "judge image files and folders: a CSV of file, score, threshold, is_anomalous"
    command = parser.add_subparsers(metavar="COMMAND", required=True).add_parser("score", help=text, allow_abbrev=False)
    command.add_argument("detector", metavar="DETECTOR", help="a detector.pt, as a paper's notebook leaves it")
    command.add_argument("images", metavar="IMAGES", nargs="+", help="image files, and folders with all below")
    command.add_argument("--overlays", metavar="FOLDER", help="write pictures with their anomaly maps there")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    try:
        args = parser.parse_args(argv or ["--help"])
        return score(args.detector, args.images, args.overlays, args.device)
    except (ValueError, OSError) as error:
        print(f"adlib: {error}", file=sys.stderr)
        return 2


def score(path: str, images: list[str], overlays: str | None = None, device: str = "auto") -> int:
    """Print the scores of image files and folders by the detector in a file; returns the exit code."""
    from adlib import detectors  # imports torch

    detector = detectors.load(path, device)
    files, failed = detectors.find(images), []
    threshold = detector.about.get("threshold")
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["file", "score", "threshold", "is_anomalous"])
    for number, (file, value, anomaly_map) in enumerate(detectors.judge(detector, files, failed=failed)):
        verdict = ["", ""] if threshold is None else [f"{threshold:.6g}", int(detectors.is_anomalous(detector, value))]
        lines.writerow([file, f"{value:.6g}", *verdict])
        if overlays:  # numbered: two folders may hold files of one name
            detectors.write_overlay(detector, file, anomaly_map, Path(overlays, f"{number:05d}-{file.stem}.png"))
    for sentence in failed:
        print(f"adlib: {sentence}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
