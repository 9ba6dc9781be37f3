"""The register, experiments.toml: which paper runs on which datasets, classes and seeds, with which settings.

A job is a plain dict: paper, dataset, class, protocol, seed, profile, settings, id. Its id is a hash of all the other
keys. A job outside the register (other settings, seeds, classes, images) is a trial: it may run, but not into results/.
"""

import collections
import functools
import hashlib
import itertools
import json
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
PROFILES = ["demo", "quick", "paper"]
PROTOCOLS = ["official", "80-20", "superclass"]

_PAPER_KEYS = ["title", "asks", "seeds", "profiles", "runs", "gallery", "rehearsal", "own"]
_RUN_KEYS = ["datasets", "protocols", "classes", "seeds", "profiles", "settings"]
_GALLERY_KEYS = ["dataset", "class", "protocol", "seed", "licence"]
_KEYS = {"profiles": PROFILES, "gallery": _GALLERY_KEYS, "own": ["like", "settings"]}  # of a paper's subtables
# classes and seeds of a paper on a dataset, split by a protocol
Cell = collections.namedtuple("Cell", "paper dataset protocol classes seeds settings")


def load(path: str | Path | None = None) -> dict:
    """The register as a dict, paper -> table (None: experiments.toml). FileNotFoundError; ValueError for a bad key."""
    path = CHECKOUT / "experiments.toml" if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no register {path}")
    try:
        register = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    for paper, table in register.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {paper} is outside of a paper's table")
        _choose(table, _PAPER_KEYS, f"{path}: key of [{paper}]")
        for part, keys in _KEYS.items():
            _choose(table.get(part, {}), keys, f"{path}: key of [{paper}.{part}]")
        for run in table.get("runs", []):
            _choose(run, _RUN_KEYS, f"{path}: key of [[{paper}.runs]]")
            _choose(run.get("profiles", []), PROFILES, f"{path}: profile of [[{paper}.runs]]")
            _choose(run.get("protocols", []), PROTOCOLS, f"{path}: protocol of [[{paper}.runs]]")
            if not run.get("datasets"):
                raise ValueError(f"{path}: a run of [[{paper}.runs]] names no datasets")
    return register


def jobs(
    register: dict,
    papers: list[str] | None = None,
    datasets: list[str] | None = None,
    classes: list[str] | None = None,
    seeds: list[int] | None = None,
    profile: str = "paper",
    settings: dict | None = None,
    protocols: list[str] | None = None,
    backbones: list[str] | None = None,
) -> list[dict]:
    """The jobs of one profile, sorted by paper and then by seed: a list of dicts (see the top of this file).

    papers, datasets, protocols, backbones, classes and seeds choose from the register (None: all). A class or seed that
    none of the chosen runs holds gives trials in all of these runs. settings override those of profile and run.
    datasets may hold folder:PATH and npz:PATH. They have all their classes, protocol official unless `protocols`
    differs, and the settings of the first run on the dataset that [paper.own] names, overridden by its own. Classes
    have any name that `data.class_index` knows. Raises ValueError with the choices for anything unknown.
    """
    papers = _choose(papers, register, "paper") if papers else list(register)
    _choose([profile], PROFILES, "profile")
    protocols = _choose(protocols, PROTOCOLS, "protocol") if protocols else None
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds or []):
        raise ValueError(f"seeds are whole numbers from 0, not {seeds}")
    own = [name for name in datasets or [] if name.startswith(("folder:", "npz:"))]
    named = None if datasets is None else [name for name in datasets if name not in own]

    def cells_of(paper, run):
        table = register[paper]
        given = {**table.get("profiles", {}).get(profile, {}), **run.get("settings", {}), **(settings or {})}
        rest = (run.get("classes", "all"), run.get("seeds") or table.get("seeds") or [0], given)
        fields = itertools.product(run["datasets"], run.get("protocols", ["official"]))
        return [Cell(paper, name, protocol, *rest) for name, protocol in fields]

    held = [cell for paper in papers for run in _runs(register[paper], profile) for cell in cells_of(paper, run)]
    where = f"of {', '.join(papers)} in profile {profile}"
    for name in named or []:
        if "/" in name or name.endswith(".npz"):
            kind = "npz" if name.endswith(".npz") else "folder"
            raise ValueError(f"unknown dataset {name!r}: your own images are called {kind}:{name}")
    _choose(named or [], dict.fromkeys(cell.dataset for cell in held), f"dataset {where}")
    cells = [cell for cell in held if named is None or cell.dataset in named]
    cells = [cell for cell in cells if protocols is None or cell.protocol in protocols]
    if not cells and not own:
        there = ", ".join(dict.fromkeys(cell.protocol for cell in held)) or "none"
        by = ", ".join(protocols or ["any"])
        raise ValueError(f"the register holds no job {where} and protocol {by}; its protocols there: {there}")
    paths = [name.partition(":") for name in own]  # made absolute: kernels run elsewhere
    run = {"datasets": [f"{kind}:{Path(path).expanduser().resolve()}" for kind, _, path in paths]}
    run["protocols"] = protocols or ["official"]
    for paper in papers if own else []:
        table = register[paper].get("own", {})
        alike = (run for run in _runs(register[paper], profile) if table.get("like") in run["datasets"])
        given = {**next(alike, {}).get("settings", {}), **table.get("settings", {})}
        cells += cells_of(paper, {**run, "settings": given})
    if backbones:
        there = dict.fromkeys(cell.settings["backbone"] for cell in cells if "backbone" in cell.settings)
        _choose(backbones, there, f"backbone {where}")
        cells = [cell for cell in cells if cell.settings.get("backbone") in backbones]

    from repro import data  # imports torch, so only when there is something to run

    for number, (_, name, protocol, normals, *_) in enumerate(cells):
        data.check_protocol(name, protocol)
        names = data.class_names(name)
        normals = names if normals == "all" else [names[data.class_index(name, normal)] for normal in normals]
        cells[number] = cells[number]._replace(classes=normals)
    wanted = _named_classes(list(dict.fromkeys(cell.dataset for cell in cells)), classes or [])
    held_classes = {(cell.dataset, normal) for cell in cells for normal in cell.classes}
    held_seeds = {seed for cell in cells for seed in cell.seeds}
    made = {}  # by id: two runs may hold the same job
    for paper, name, protocol, normals, of_run, given in cells:
        if classes:
            normals = [one for one in wanted[name] if one in normals or (name, one) not in held_classes]
        of_run = [seed for seed in seeds if seed in of_run or seed not in held_seeds] if seeds else of_run
        for seed, normal in itertools.product(of_run, normals):
            content = job(paper, name, normal, protocol, seed, profile, given)
            made[content["id"]] = content
    return sorted(made.values(), key=lambda job: (papers.index(job["paper"]), job["seed"]))  # else in given order


def job(paper: str, dataset: str, normal: str, protocol: str, seed: int, profile: str, settings: dict) -> dict:
    """One job with its id, the first 12 hex digits of the SHA-256 of its other keys as compact, sorted JSON."""
    content = {"paper": paper, "dataset": dataset, "class": normal, "protocol": protocol, "seed": seed}
    content |= {"profile": profile, "settings": dict(settings)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**content, "id": hashlib.sha256(text.encode()).hexdigest()[:12]}


def all_ids(register: dict) -> set[str]:
    """The ids of the register's jobs in every profile; ValueError if two runs give one job different settings."""
    seen = {}
    for paper, profile in itertools.product(register, PROFILES):
        for made in jobs(register, [paper], profile=profile) if _runs(register[paper], profile) else []:
            if seen.setdefault(place(made), made["id"]) != made["id"]:
                raise ValueError(f"the register gives {describe(made)} twice, with different settings")
    return set(seen.values())


def place(entry: dict) -> tuple[str, ...]:
    """The labels and backbone that identify a job or a result row among its neighbours."""
    settings = entry["settings"]
    settings = json.loads(settings or "{}") if isinstance(settings, str) else settings
    backbone = settings.get("backbone") or _usual_backbone(entry["paper"])  # a row names it, a job need not
    return *(str(entry[name]) for name in ("paper", "dataset", "protocol", "class", "seed", "profile")), str(backbone)


@functools.cache
def _usual_backbone(paper):
    """The default backbone of a paper's notebook; '' if it has none."""
    from repro.job import parameters_of  # here, because that module imports this one

    notebook = CHECKOUT / "notebooks" / f"{paper}.ipynb"
    return parameters_of(notebook).get("backbone", "") if notebook.is_file() else ""


def describe(job: dict) -> str:
    """A job in a few words: 'two_stage mnist 8 seed 0 quick', with any backbone, and the protocol unless official."""
    protocol = "" if job["protocol"] == "official" else f" {job['protocol']}"
    backbone = f" {job['settings']['backbone']}" if "backbone" in job["settings"] else ""
    return f"{job['paper']}{backbone} {job['dataset']}{protocol} {job['class']} seed {job['seed']} {job['profile']}"


def fingerprint() -> str:
    """The first 12 hex digits of the SHA-256 of all that determines results: code, notebooks and the register."""
    digest = hashlib.sha256()
    patterns = ("adlib/*.py", "repro/**/*.py", "notebooks/*.ipynb", "experiments.toml")
    for path in sorted(path for pattern in patterns for path in CHECKOUT.glob(pattern)):
        digest.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _choose(wanted: Iterable[str], choices: Collection[str], what: str) -> list[str]:
    """The wanted names, each once, or a ValueError that lists the choices."""
    for name in wanted:
        if name not in choices:
            raise ValueError(f"unknown {what}: {name!r}; choices: {', '.join(map(str, choices)) or 'none'}")
    return list(dict.fromkeys(wanted))


def _runs(table, profile):
    """The runs of a paper in a profile."""
    return [run for run in table.get("runs", []) if profile in run.get("profiles", ["quick", "paper"])]


def _named_classes(datasets, classes):
    """dataset -> its wanted classes, each once; ValueError for a class that no dataset has."""
    from repro import data

    named = {name: {} for name in datasets}
    for wanted in classes:
        errors = []
        for name in datasets:
            # Next to MNIST, 8 is only a digit, not also an object: nobody asked for that trial.
            if name == "coil100" and any(wanted in data.class_names(other) for other in datasets if other != name):
                continue
            try:
                named[name][data.class_names(name)[data.class_index(name, wanted)]] = None
            except ValueError as error:
                errors.append(error)
        if len(errors) == len(datasets):
            raise errors[0]
    return named
