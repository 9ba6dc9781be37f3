"""What `make` calls, and a user too: python -m repro plan, reproduce, verify, rehearse, summary, ... (see USAGE)."""

import ast
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path


USAGE = """\
usage: python -m repro plan [KEY=VALUE ...]        what reproduce would run: jobs, hours, missing data; runs nothing
       python -m repro reproduce [KEY=VALUE ...]   run the jobs of experiments.toml that have no rows yet
       python -m repro verify KEY=VALUE ...        run jobs again that have rows, and set old beside new
       python -m repro rehearse [KEY=VALUE ...]    every job, as small as can be, on stand-ins, into build/rehearsal
       python -m repro summary [OUT=FOLDER]        set the rows beside what the papers print: FOLDER/summary.md
       python -m repro gallery [PAPERS=...]        results/gallery: one executed notebook of each paper
       python -m repro report [OUT=FILE]           all of it as one HTML page (build/report.html)
       python -m repro demo                        every notebook on embedded data, into build/demo
       python -m repro data NAME ...               prepare datasets: mnist, mvtec, folder:PATH, npz:PATH, ...
       python -m repro score DETECTOR IMAGES ...   judge image files and folders: a CSV (OVERLAYS=FOLDER: pictures too)

keys, all optional (verify wants at least one of the first three); several values are separated by commas:
  PAPERS=two_stage,baselines   DATASETS=mnist,folder:PATH   CLASSES=8,plane   SEEDS=0,1   PROTOCOLS=official
  CROSS=1                      every method on every dataset: two classes of each, its first protocol, seed 0
  PROFILE=demo|quick|paper     (paper; verify: whatever has rows)             BACKBONES=resnet18
  SET="n_train=500,lr=0.1"     other settings of the notebooks
  JOBS=2                       jobs at once (two, or two for each GPU)
  DEVICE=auto|cpu|cuda|cuda:1  (auto)
  GPUS=0,1                     spread the jobs over these GPUs, each sees one (all there are)
  SCHEDULER=tcp://host:port    run them on the workers of a Dask cluster
  RESOURCES=GPU=1              what a job takes of a worker there
  OUT=FOLDER                   (results; build/trial for what experiments.toml does not hold, and for PROFILE=demo)
  FORCE=1                      run also what has its rows already"""

CHOICE = ["PAPERS", "DATASETS", "CLASSES", "SEEDS", "PROTOCOLS", "BACKBONES", "CROSS", "PROFILE"]  # which jobs
PLACES = ["JOBS", "DEVICE", "GPUS"]  # where they run
KEYS = {
    "plan": [*CHOICE, "SET", *PLACES, "SCHEDULER", "RESOURCES", "OUT", "FORCE"],
    "reproduce": [*CHOICE, "SET", *PLACES, "SCHEDULER", "RESOURCES", "OUT", "FORCE"],
    "verify": [*CHOICE, *PLACES],
    "rehearse": ["PAPERS", "DATASETS", *PLACES],
    "summary": ["OUT"],
    "report": ["OUT"],
    "gallery": ["PAPERS", *PLACES],
    "demo": PLACES,
}


def main(words):
    """Run one command; returns the exit code: 1 where a job failed, 2 for a wrong word, 130 after Ctrl-C."""
    if not words or words[0] in ("-h", "--help", "help") or "--help" in words:
        print(USAGE)
        return 0 if words else 2
    command, words = words[0], words[1:]
    try:
        if command == "data":
            return prepare(words)
        if command == "score":
            return score(words)
        if command not in KEYS:
            known = ", ".join([*KEYS, "data", "score"])
            raise ValueError(f"unknown command {command!r}; commands: {known} (see --help)")
        return globals()[command](given(words, KEYS[command]))
    except (ValueError, OSError) as error:  # among these: no such file, no room on the disk, no right to write
        print(f"adlib: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"adlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def given(words, keys):
    """KEY=VALUE words as a dict; an empty value counts as not given, as make hands it on."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys:
            raise ValueError(f"unknown word {word!r}; choose from {', '.join(f'{key}=' for key in keys)}")
        if value.strip():
            found[key] = value.strip()
    return found


def names(words, key):
    """The values of a key, separated by commas, or None."""
    return [value.strip() for value in words[key].split(",") if value.strip()] if key in words else None


def is_set(words, key):
    """Whether a key that is 1 or 0 is given as 1."""
    if words.get(key, "0") not in ("0", "1"):
        raise ValueError(f"{key} is 1 or 0, not {words[key]!r}")
    return words.get(key) == "1"


def number(text, key):
    """A whole number from 0."""
    if not text.isdecimal():
        raise ValueError(f"{key} takes whole numbers, not {text!r}")
    return int(text)


def settings(text):
    """'a=1,b=x' -> {"a": 1, "b": "x"}: Python literals, true and false, and else text."""
    found = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text or ""):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"SET takes name=value, separated by commas, not {part!r}")
        try:
            found[name] = {"true": True, "false": False}[value.lower()]
        except KeyError:
            try:
                found[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                found[name] = value
    return found


def device(words):
    """The device asked for; the notebook finds out whether it is there."""
    name = words.get("DEVICE", "auto")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"unknown DEVICE {name!r}; choices: auto, cpu, cuda, cuda:N, mps")
    return name


def places(words):
    """What JOBS, DEVICE and GPUS mean for `sweep.reproduce`, as keyword arguments."""
    from repro import worker

    n_jobs = number(words["JOBS"], "JOBS") if "JOBS" in words else None
    if n_jobs == 0:
        raise ValueError("JOBS is at least 1")
    chosen, wanted = device(words), names(words, "GPUS")
    if wanted is not None and chosen not in ("auto", "cuda"):
        raise ValueError(f"GPUS spreads jobs over GPUs, DEVICE={chosen} is one device: give one of the two")
    gpus = worker.gpus() if chosen in ("auto", "cuda") else []
    strangers = [name for name in wanted or [] if name.isdecimal() and name not in gpus]
    if strangers:
        raise ValueError(f"there is no GPU {strangers[0]}; there are: {', '.join(gpus) or 'none'}")
    return {"n_jobs": n_jobs, "device": chosen, "gpus": gpus if wanted is None else wanted}


def resources(words):
    """RESOURCES=GPU=1,MEM=2 -> {"GPU": 1.0, "MEM": 2.0}."""
    if "RESOURCES" in words and "SCHEDULER" not in words:
        raise ValueError("RESOURCES are those of a cluster's workers: give SCHEDULER too")
    found = {}
    for word in names(words, "RESOURCES") or []:
        if not re.fullmatch(r"\w+=\d+(\.\d+)?", word):
            raise ValueError(f"RESOURCES takes NAME=AMOUNT, separated by commas, not {word!r}")
        name, _, amount = word.partition("=")
        found[name] = float(amount)
    return found


# ---- the commands --------------------------------------------------------------------------------------------------


def plan(words):
    """What `reproduce` with the same words would run."""
    from repro import plan as plans

    _, jobs, out = chosen(words)
    places(words)  # says what is wrong with them
    given = " ".join(f"{key}={value}" for key, value in words.items())
    print(plans.text(jobs, out, force=is_set(words, "FORCE"), words=given))
    return 0


def reproduce(words):
    """The sweep."""
    from repro import plan as plans
    from repro import sweep
    from repro.register import CHECKOUT

    book, jobs, out = chosen(words)
    drawn = plans.stand_ins(jobs) if out == CHECKOUT / "results" and "SCHEDULER" not in words else []
    if drawn:
        raise ValueError(
            f"results/ holds no rows of stand-ins, and {drawn[0]} is one here: name another OUT=, or have "
            "ADLIB_DATA name the real data"
        )
    how = {**places(words), "force": is_set(words, "FORCE")}
    if "SCHEDULER" not in words:
        return close(sweep.reproduce(jobs, out, **how), out)
    from repro import cluster

    if how.pop("gpus") and "GPUS" in words:
        raise ValueError("GPUS are those of this machine: with SCHEDULER, workers have their own")
    with cluster.connect(words["SCHEDULER"], jobs, resources(words)) as (n_now, submit):
        print(f"{words['SCHEDULER']}: workers for {n_now} jobs at once now; those that join later get theirs too")
        how["n_jobs"] = how["n_jobs"] or len(jobs)
        return close(sweep.reproduce(jobs, out, submit=submit, **how), out)


def chosen(words):
    """(register, jobs, folder for their rows), as the words of plan and reproduce choose them."""
    from repro import register

    is_set(words, "FORCE")
    resources(words)
    book = register.load()
    jobs = register.jobs(
        book, profile=words.get("PROFILE", "paper"), settings=settings(words.get("SET")), **choice(words)
    )
    return book, jobs, choose_out(words.get("OUT"), jobs, register.all_ids(book))


def choice(words):
    """What the words of CHOICE but PROFILE choose, as keyword arguments of `register.jobs`."""
    seeds = [number(seed, "SEEDS") for seed in names(words, "SEEDS")] if "SEEDS" in words else None
    lists = {key.lower(): names(words, key) for key in CHOICE if key not in ("SEEDS", "CROSS", "PROFILE")}
    return {**lists, "seeds": seeds, "cross": is_set(words, "CROSS")}


def verify(words):
    """Jobs again, old rows beside new ones."""
    from repro import register, sweep
    from repro import verify as verification

    if not {"PAPERS", "DATASETS", "CLASSES"} & set(words):
        raise ValueError("verify runs jobs again, hours of them: say which by PAPERS, DATASETS or CLASSES")
    book, results, out = register.load(), register.CHECKOUT / "results", register.CHECKOUT / "build" / "verify"
    again, said = [], None  # jobs that have rows
    for profile in [words["PROFILE"]] if "PROFILE" in words else ["quick", "paper"]:
        try:
            again += verification.committed(register.jobs(book, profile=profile, **choice(words)), results)
        except ValueError as error:  # one of the profiles may lack what the other has
            said = error
    if not again:
        raise said or ValueError("none of these jobs has rows in results/ that the register's settings gave")
    how = places(words)
    shutil.rmtree(out, ignore_errors=True)  # rows of an earlier call are no proof of this one
    close(sweep.reproduce(again, out, **how), out)
    records = verification.compare(again, results, out)
    print(verification.table(records))
    return 1 if any(record["verdict"] in ("outside", "missing") for record in records) else 0


def rehearse(words):
    """Every job of the register, small, on stand-ins."""
    from repro import register, rehearsal

    jobs, n = rehearsal.jobs(register.load(), names(words, "PAPERS"), names(words, "DATASETS"))
    print(f"{n} jobs of the register (seed 0, profiles quick and paper), {len(jobs)} of them different when cut down")
    folder = register.CHECKOUT / "build" / "rehearsal"
    return close(rehearsal.rehearse(jobs, folder, **places(words)), folder)


def choose_out(wanted, jobs, ids):
    """The folder for rows: results/ holds jobs of the register only, and no demo."""
    from repro.register import CHECKOUT, describe

    trials = [job for job in jobs if job["id"] not in ids or job["profile"] == "demo"]
    if wanted is None and trials:
        print(f"a trial, written under build/trial: {describe(trials[0])} is not for results/")
        return CHECKOUT / "build" / "trial"
    out = CHECKOUT / "results" if wanted is None else Path(wanted).expanduser().resolve()
    if trials and out == CHECKOUT / "results":
        raise ValueError(
            f"results/ holds only what experiments.toml holds, and no demo; {describe(trials[0])} is "
            "something else: leave OUT= away, or name another folder"
        )
    return out


def close(report, out):
    """The last lines of a sweep; its exit code."""
    from repro.register import describe

    if report["ok"] or report["failed"]:
        print(
            f"{len(report['ok'])} jobs done, {len(report['failed'])} failed in {report['seconds']:.0f} s, "
            f"{100 * report['outside']:.0f} % of it outside the notebooks' cells"
        )
        print(f"rows: {shown(out)}/*.csv   notebooks: {shown(out)}/notebooks/")
    for job in report["failed"]:
        print(f"failed: {describe(job)} (its notebook, as far as it came: *.failed.ipynb)")
    return 1 if report["failed"] else 0


def summary(words):
    """Run summary.ipynb, which writes summary.md, and print its first tables."""
    from repro.register import CHECKOUT

    out = Path(words.get("OUT", CHECKOUT / "results")).expanduser().resolve()
    if not out.is_dir():
        raise FileNotFoundError(f"no folder {out}: run reproduce first")
    run_summary(out)
    if out == CHECKOUT / "results":
        from repro import pages, results

        pages.write_readme(CHECKOUT / "README.md", pages.readme_tables())
        results.write_whole(out / "gaps.md", pages.gaps().encode())
        records = results.compare()
        results.write_whole(out / "classes.md", pages.classes(records, results.ours_alone(records)).encode())
    print(first_tables((out / "summary.md").read_text(encoding="utf-8")))
    print(f"\nall of it: {shown(out / 'summary.md')}, with pictures: {shown(out / 'notebooks' / 'summary.ipynb')}")
    return 0


def run_summary(out):
    """Execute summary.ipynb for the rows under `out`, into out/notebooks/summary.ipynb."""
    from repro import results, worker
    from repro.register import CHECKOUT

    notebook = CHECKOUT / "notebooks" / "summary.ipynb"
    parameters = {"results_dir": str(out), "out_dir": str(out)}
    worker.check_parameters(parameters, notebook)
    worker.set_environment(worker.environment(worker.cores()))
    with tempfile.TemporaryDirectory(prefix="adlib-", ignore_cleanup_errors=True) as folder:
        executed = Path(folder, "summary.ipynb")
        try:
            worker.execute(notebook, executed, parameters)
        except Exception as error:  # of whatever kind: the notebook, as far as it came, tells more
            kept = out / "notebooks" / "summary.failed.ipynb"
            if executed.is_file():
                results.write_whole(kept, executed.read_bytes())
            raise RuntimeError(f"summary.ipynb failed: {worker.last_line(error)} (see {shown(kept)})") from None
        results.write_whole(out / "notebooks" / "summary.ipynb", executed.read_bytes())
    (out / "notebooks" / "summary.failed.ipynb").unlink(missing_ok=True)


def demo(words):
    """Every paper's notebook on embedded data, the comparison, and where the pictures are."""
    from repro import gallery as rooms
    from repro import register, sweep

    started = time.monotonic()
    out = register.CHECKOUT / "build" / "demo"
    jobs = register.jobs(register.load(), profile="demo")
    report = sweep.reproduce(jobs, out, force=True, **places(words))
    code = close(report, out)
    summary({"OUT": str(out)})
    shutil.rmtree(out / "pictures", ignore_errors=True)
    counts = {}
    notebooks = [(job["paper"], sweep.notebook_path(out, job)) for job in report["ok"]]
    for name, path in [*notebooks, ("summary", out / "notebooks" / "summary.ipynb")]:
        for picture in rooms.pictures(path):
            counts[name] = counts.get(name, 0) + 1
            sweep.rows.write_whole(out / "pictures" / f"{name}-{counts[name]:02d}.png", picture, durable=False)
    print(f"pictures: {shown(out / 'pictures')} ({sum(counts.values())})")
    print(f"demo: {time.monotonic() - started:.0f} s")
    return code


def gallery(words):
    """One executed notebook of each paper, and the summary, cleaned, under results/gallery."""
    from repro import gallery as rooms
    from repro import register, sweep

    book = register.load()
    chosen = names(words, "PAPERS") or [paper for paper in book if "gallery" in book[paper]]
    jobs = {paper: rooms.choose(book, paper) for paper in chosen}
    missing = [job for job in jobs.values() if not rooms.is_there(job)]
    if missing:
        report = sweep.reproduce(missing, rooms.RESULTS, force=True, **places(words))
        if close(report, rooms.RESULTS):
            return 1
    run_summary(rooms.RESULTS)
    for job in jobs.values():
        print(shown(rooms.hang(job, book[job["paper"]]["gallery"].get("licence", ""))))
    print(shown(rooms.hang_summary()))
    return 0


def report(words):
    """The summary, the gallery and the pages beside them as one HTML file."""
    from repro import report as pages
    from repro.register import CHECKOUT

    path = pages.write(Path(words.get("OUT", CHECKOUT / "build" / "report.html")).expanduser())
    print(f"{shown(path)}, {path.stat().st_size / 1e6:.1f} MB: open it in any browser")
    return 0


def prepare(words):
    """Read, resize and cache datasets, before jobs do it."""
    from repro import data

    if not words:
        raise ValueError("data takes names of datasets: mnist, cifar10, folder:PATH, npz:PATH, ...")
    for name in words:
        for split in ("train", "test"):
            images = data.load(name, split, size=32)
            print(f"{name} {split}: {len(images.labels)} images, {tuple(images.images.shape[1:])}, {images.source}")
    return 0


def score(words):
    """A saved detector on image files: a CSV of scores, and pictures with their anomaly maps where asked for."""
    import csv

    options = given([word for word in words if re.match("(OVERLAYS|DEVICE)=", word)], ["OVERLAYS", "DEVICE"])
    words = [word for word in words if not re.match("(OVERLAYS|DEVICE)=", word)]
    if len(words) < 2:
        raise ValueError("score takes a detector and image files or folders: python -m repro score detector.pt photos/")
    from adlib import detectors

    detector = detectors.load(words[0], device(options))
    files, failed = detectors.find(words[1:]), []
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["file", "score", "threshold", "is_anomalous"])
    threshold = detector.about.get("threshold")
    for number, (path, value, anomaly_map) in enumerate(detectors.judge(detector, files, failed=failed)):
        judged = detectors.is_anomalous(detector, value)
        lines.writerow(
            [
                path,
                f"{value:.6g}",
                "" if threshold is None else f"{threshold:.6g}",
                "" if judged is None else int(judged),
            ]
        )
        if "OVERLAYS" in options:  # numbered: two folders may hold files of one name
            target = Path(options["OVERLAYS"], f"{number:05d}-{path.stem}.png")
            detectors.write_overlay(detector, path, anomaly_map, target)
    for sentence in failed:
        print(f"adlib: {sentence}", file=sys.stderr)
    return 1 if failed else 0


# ---- what they print -----------------------------------------------------------------------------------------------


def first_tables(markdown):
    """The tables of the first section that has any, each below its heading; all of the text where there is none."""
    for section in re.split(r"(?m)^## ", markdown):
        kept = [line.lstrip("# ") for line in section.splitlines()[1:] if line.startswith(("|", "#"))]
        if any(line.startswith("|") for line in kept):
            return "\n".join([section.splitlines()[0], *kept])
    return markdown.strip()


def shown(path):
    """A path as short as it can be written from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
