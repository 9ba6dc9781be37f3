"""The command line, `python -m repro --help`. Make uses it too: `python -m repro make TARGET` reads make's words."""

import argparse
import ast
import contextlib
import difflib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from adlib.__main__ import Parser, check_folder
from adlib.words import NO, YES
from repro import cluster, register, rows, sweep
from repro import gallery as rooms
from repro import job as runner
from repro.register import CHECKOUT, describe


RESULTS, BUILD = CHECKOUT / "results", CHECKOUT / "build"
FROM_MAKE = "ADLIB_MAKE_"  # prefix of the names under which the Makefile exports the words of its command line


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code: 1 if a job failed, 2 for a wrong word, 130 after Ctrl-C."""
    is_make, again = argv[:1] == ["make"], f"python -m repro run {shlex.join(argv[1:])}".strip()
    try:
        if is_make:
            argv, again = from_make(argv[1], os.environ)
        args, strange = build_parser().parse_known_args(argv or ["--help"])
        if strange:
            known = [f"--{name}" for name in COMMANDS[args.command][1]]
            near = difflib.get_close_matches(f"--{strange[0].strip('-').partition('=')[0].lower()}", known, 1)
            hint = "".join(f" (did you mean {name} ?)" for name in near)
            raise ValueError(f"unknown word {strange[0]}{hint}; {args.command} takes {', '.join(known)}")
        args.again = again
        return args.function(args) or 0
    except (ValueError, OSError, RuntimeError) as error:  # OSError: no such file, disk full, no permission
        said = re.sub(r"(?<!\S)--([a-z]+)", lambda match: match[1].upper(), str(error)) if is_make else error
        print(f"adlib: {said}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def from_make(target: str, environment: Mapping[str, str]) -> tuple[list[str], str]:
    """(command and options for a make target and its non-empty words; the make command that runs it again)."""
    given = {name.removeprefix(FROM_MAKE): text for name, text in environment.items() if name.startswith(FROM_MAKE)}
    words = [(name, text.strip()) for name, text in sorted(given.items()) if text.strip()]
    again = shlex.join(["make", "reproduce", *map("=".join, words)])
    return ["run" if target == "reproduce" else target, *(f"--{name.lower()}={text}" for name, text in words)], again


def names(text: str) -> list[str]:
    """'a,b' -> ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()] or [text]


def dataset_names(text: str) -> list[str]:
    """'mnist,folder:/x/a,b' -> ["mnist", "folder:/x/a,b"]: see the help of --datasets."""
    parts = re.split(r",(?=folder:|npz:)", text)
    return [name for part in parts for name in ([part] if re.match("folder:|npz:", part) else names(part))]


def whole_numbers(text: str) -> list[int]:
    """'0,1' -> [0, 1]."""
    if not all(name.isdecimal() for name in names(text)):
        raise argparse.ArgumentTypeError(f"takes whole numbers, not {text!r}")
    return [int(name) for name in names(text)]


def settings(text: str) -> list[tuple[str, object]]:
    """'a=1,b=x' -> [("a", 1), ("b", "x")]: values are Python literals, true, false, none, or else text."""
    pairs = []
    for part in re.split(r",(?=\s*\w+\s*=)", text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier():
            raise argparse.ArgumentTypeError(f"takes name=value, separated by commas, not {part!r}")
        with contextlib.suppress(ValueError, SyntaxError):  # otherwise it is text
            value = ast.literal_eval(value.capitalize() if value.lower() in ("true", "false", "none") else value)
        pairs.append((name, value))
    return pairs


def plan(args: argparse.Namespace) -> None:
    """show what run would do with the same words: jobs, hours, missing data; run nothing"""
    from repro import plan as plans  # imports pandas, as the imports below do

    jobs, out, _ = _chosen(args)
    print(plans.text(jobs, out, force=args.force in YES, command=args.again))


def run(args: argparse.Namespace) -> int:
    """run the jobs of experiments.toml that have no rows yet"""
    jobs, out, options = _chosen(args)
    options["force"] = args.force in YES
    if not args.scheduler:
        return _close(sweep.reproduce(jobs, out, **options), out)
    options |= {"gpus": (), "n_jobs": args.jobs or len(jobs)}
    with cluster.connect(args.scheduler, jobs, dict(args.resources or [])) as (n_now, submit):
        print(f"{args.scheduler}: workers for {n_now} jobs at once now; those that join later get theirs too")
        return _close(sweep.reproduce(jobs, out, submit=submit, **options), out)


def verify(args: argparse.Namespace) -> int:
    """run jobs again that already have rows, and compare old rows with new; needs papers, datasets or classes"""
    from repro import verify as again

    if not (args.papers or args.datasets or args.classes):
        raise ValueError("verify runs jobs again, which takes hours: say which by --papers, --datasets or --classes")
    out, places = BUILD / "verify", _places(args)
    _, jobs, _ = sweep.outstanding(_of_profiles(args), RESULTS)
    if not jobs:
        raise ValueError("none of these jobs has rows in results/ with the settings of the register")
    shutil.rmtree(out, ignore_errors=True)  # rows of an earlier call prove nothing about this one
    _close(sweep.reproduce(jobs, out, **places), out)
    records = again.verify(jobs, RESULTS, out)
    print(again.verify_text(records, jobs))
    return 1 if records["verdict"].isin(["outside", "missing"]).any() else 0


def summary(args: argparse.Namespace) -> None:
    """compare the rows with the papers: write summary.md, for results/ also the other pages and the README's table"""
    from repro import tables

    out = Path(args.out or RESULTS).expanduser().resolve()
    if not out.is_dir():
        raise FileNotFoundError(f"no folder {out}: run reproduce first")
    _run_summary(out)
    if out == RESULTS:
        tables.write_readme(CHECKOUT / "README.md")
        tables.write_gaps(out)
        tables.write_classes(out)
        tables.write_costs(out)
    sections = (out / "summary.md").read_text(encoding="utf-8").split("\n## ")
    first = next((section for section in sections if "\n|" in section), sections[0]).splitlines()
    print("\n".join([first[0], *(line.lstrip("# ") for line in first[1:] if line.startswith(("|", "#")))]))
    print(f"\nall of it: {_shown(out / 'summary.md')}, with pictures: {_shown(out / 'notebooks' / 'summary.ipynb')}")


def gallery(args: argparse.Namespace) -> int | None:
    """put one executed notebook of each paper, and the summary, into results/gallery"""
    book = register.load()
    jobs = [rooms.choose(book, paper) for paper in args.papers or [name for name in book if "gallery" in book[name]]]
    missing = [job for job in jobs if not rooms.is_there(job)]
    if missing and _close(sweep.reproduce(missing, RESULTS, force=True, **_places(args)), RESULTS):
        return 1
    _run_summary(RESULTS)
    for job in jobs:
        print(_shown(rooms.hang(job, book[job["paper"]]["gallery"].get("licence", ""))))
    print(_shown(rooms.hang_summary()))


def report(args: argparse.Namespace) -> None:
    """write summary and gallery as HTML pages (build/report)"""
    from repro import report as pages

    print(f"{_shown(pages.write(Path(args.out or BUILD / 'report').expanduser()))}: open it in any browser")


def demo(args: argparse.Namespace) -> int:
    """run every notebook on embedded data, into build/demo, and summarize it"""
    started, out = time.monotonic(), BUILD / "demo"
    done = sweep.reproduce(register.jobs(register.load(), profile="demo"), out, force=True, **_places(args))
    code, _ = _close(done, out), summary(argparse.Namespace(out=out))
    notebooks = [("summary", out / "notebooks" / "summary.ipynb")]
    notebooks += [(job["paper"], sweep.notebook_path(out, job)) for job in done["ok"]]
    shutil.rmtree(out / "pictures", ignore_errors=True)
    pictures = [(name, picture) for name, path in notebooks for picture in rooms.pictures(path)]
    for number, (name, picture) in enumerate(pictures, 1):
        rows.write_whole(out / "pictures" / f"{number:02d}-{name}.png", picture, durable=False)
    print(f"pictures: {_shown(out / 'pictures')} ({len(pictures)})\ndemo: {time.monotonic() - started:.0f} s")
    return code


def prepare(args: argparse.Namespace) -> int:
    """prepare the images that the register's jobs need, in all sizes"""
    from repro import data

    return 0 if data.prepare(_of_profiles(args)) else 1


def _jobs(args, profile, **more):
    """The jobs that the words of a command choose, in one profile."""
    choice = {name: words or None for name, words in vars(args).items() if name in CHOICE and name != "profile"}
    return register.jobs(register.load(), profile=profile, **choice, **more)


def _of_profiles(args):
    """The jobs of the requested profile; by default the jobs of quick and paper, one of which may have none."""
    if args.profile:
        return _jobs(args, args.profile)
    try:
        quick = _jobs(args, "quick")
    except ValueError:
        return _jobs(args, "paper")
    with contextlib.suppress(ValueError):
        quick += _jobs(args, "paper")
    return quick


def _chosen(args):
    """(jobs, folder for their rows, `_places`), chosen by the words of plan and run; all words are checked."""
    if args.resources and not args.scheduler:
        raise ValueError("--resources is about the workers of a cluster: give --scheduler too")
    if args.scheduler and args.gpus:
        raise ValueError("--gpus is about the GPUs of this machine: with --scheduler, workers have their own")
    if not all(isinstance(amount, (int, float)) for _, amount in args.resources or []):
        raise ValueError("--resources takes NAME=AMOUNT, separated by commas")
    places, jobs = _places(args), _jobs(args, args.profile or "paper", settings=dict(args.set or []))
    for job in jobs:
        runner.job_parameters(job, args.device, None, CHECKOUT / "notebooks" / f"{job['paper']}.ipynb")
    return jobs, choose_out(args.out, jobs, register.all_ids(register.load())), places


def _places(args):
    """--jobs, --device and --gpus as keyword arguments of `sweep.reproduce`."""
    if args.jobs is not None and args.jobs < 1:
        raise ValueError("--jobs is at least 1")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", args.device):  # the notebook checks whether it exists
        raise ValueError(f"unknown --device {args.device!r}; choices: auto, cpu, cuda, cuda:N, mps")
    if args.gpus and args.device not in ("auto", "cuda"):
        raise ValueError(f"--gpus spreads jobs over GPUs, --device={args.device} is one device: give one of the two")
    gpus = runner.gpus() if args.device in ("auto", "cuda") else []
    strangers = [name for name in args.gpus or [] if name.isdecimal() and name not in gpus]
    if strangers:
        raise ValueError(f"there is no GPU {strangers[0]}; there are: {', '.join(gpus) or 'none'}")
    return {"n_jobs": args.jobs, "device": args.device, "gpus": args.gpus or gpus}


def choose_out(wanted: str | None, jobs: list[dict], ids: set[str]) -> Path:
    """The folder for the rows: results/ holds only jobs of the register, and no demo."""
    trial = next((describe(job) for job in jobs if job["id"] not in ids or job["profile"] == "demo"), None)
    if wanted is None and trial:
        print(f"a trial, written under build/trial: {trial} is not for results/")
    out = Path(wanted or (BUILD / "trial" if trial else RESULTS)).expanduser().resolve()
    check_folder(out)
    if trial and out == RESULTS:
        only = "results/ holds only what experiments.toml holds, and no demo"
        raise ValueError(f"{only}; {trial} is something else: omit --out, or name another folder")
    return out


def _close(done, out):
    """Print the last lines of a sweep; returns its exit code."""
    if done["ok"] or done["failed"]:
        counts = f"{len(done['ok'])} jobs done, {len(done['failed'])} failed in {done['seconds']:.0f} s"
        print(f"{counts}, {100 * done['outside']:.0f} % of the time outside the notebooks' cells")
        print(f"rows: {_shown(out)}/*.csv   notebooks: {_shown(out)}/notebooks/")
    for job in done["failed"]:
        print(f"failed: {describe(job)} (its notebook up to the error: *.failed.ipynb)")
    return 1 if done["failed"] else 0


def _run_summary(out):
    """Execute summary.ipynb for the rows under `out`, into out/notebooks, and write out/summary.md from it."""
    from repro import tables

    begun = out / "notebooks" / "summary.failed.ipynb"  # its name until it has run to the end
    begun.parent.mkdir(parents=True, exist_ok=True)
    runner.set_environment(runner.environment(runner.cores()))
    try:
        runner.execute(CHECKOUT / "notebooks" / "summary.ipynb", begun, {"results_dir": str(out)})
    except Exception as error:  # of any kind: the notebook, which ends at the error, shows more
        raise RuntimeError(f"summary.ipynb failed: {runner.last_line(error)} (see {_shown(begun)})") from None
    tables.write_summary(begun.replace(begun.with_name("summary.ipynb")), out)


def _shown(path):
    """A path relative to the current folder if it is inside that folder, else unchanged."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


SEVERAL = {"type": names, "action": "extend", "metavar": "A,B"}
OWN = "own images: folder:PATH or npz:PATH; a comma after it belongs to the path, unless folder: or npz: follows"
OPTIONS = {
    "papers": dict(**SEVERAL, help="papers of experiments.toml"),
    "datasets": SEVERAL | dict(type=dataset_names, help=f"mnist,cifar10; {OWN}"),
    "classes": dict(**SEVERAL, help="normal classes: 8,plane,bottle"),
    "seeds": SEVERAL | dict(type=whole_numbers, help="0,1,2"),
    "protocols": dict(**SEVERAL, help="official,80-20,superclass"),
    "backbones": dict(**SEVERAL, help="resnet18,wide_resnet50_2"),
    "profile": dict(help="demo, quick or paper (paper; verify and data: quick and paper)"),
    "jobs": dict(type=int, help="jobs at once (default: two, or two for each GPU)"),
    "device": dict(default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)"),
    "gpus": dict(**SEVERAL, help="spread jobs over these GPUs; each job sees one (default: all)"),
    "set": SEVERAL | dict(type=settings, help="other settings of the notebooks: n_train=500,lr=0.1"),
    "scheduler": dict(help="run them on the workers of a Dask cluster: tcp://HOST:PORT"),
    "resources": SEVERAL | dict(type=settings, help="what a job takes from a worker there: GPU=1"),
    "out": dict(help="folder for the rows (results; build/trial for demo and for jobs outside experiments.toml)"),
    "force": dict(nargs="?", const="1", default="0", type=str.lower, choices=[*YES, *NO], help="run done jobs again"),
}
CHOICE, PLACES = list(OPTIONS)[:7], list(OPTIONS)[7:10]
COMMANDS = {
    "plan": (plan, list(OPTIONS)),
    "run": (run, list(OPTIONS)),
    "verify": (verify, CHOICE + PLACES),
    "summary": (summary, ["out"]),
    "gallery": (gallery, ["papers", *PLACES]),
    "report": (report, ["out"]),
    "demo": (demo, PLACES),
    "data": (prepare, ["profile"]),
}


def build_parser() -> Parser:
    """The parser of all commands, from COMMANDS and OPTIONS."""
    parser = Parser(prog="python -m repro", description="Reproduce the papers; separate several values by commas.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (function, options) in COMMANDS.items():
        text = function.__doc__
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(function=function)
        for option in options:
            command.add_argument(f"--{option}", **OPTIONS[option])
        if name == "data":
            command.add_argument("datasets", nargs="*", metavar="DATASET", help="mnist folder:PATH ... (all)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
