"""The register, experiments.toml: which paper runs on which datasets, classes and seeds, with which settings.

    register = load()
    for job in jobs(register, papers=["two_stage"], datasets=["mnist"], classes=["8"], profile="quick"):
        print(job["id"], job["dataset"], job["class"], job["seed"], job["settings"])

A job is a plain dict: paper, dataset, class, protocol, seed, profile, settings, id. Its id is a hash of all the others,
so that other settings make another job. What the register does not hold (other settings, seeds or classes, a user's
own images) is a trial: it may run, but not into results/.
"""

import hashlib
import json
import tomllib
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
PROFILES = ["demo", "quick", "paper"]
PROTOCOLS = ["official", "80-20", "superclass"]

_PAPER_KEYS = ["title", "asks", "seeds", "profiles", "runs", "gallery", "rehearsal", "own"]
# The cross matrix, every method on every dataset: each dataset's first protocol, and two classes of it, for time
# (of CIFAR-100, COIL-100 and MVTec AD such as the copies at hand hold). A run with `cross = true` is over these.
CROSS = {
    "mnist": ("official", ["8", "2"]),
    "fashion_mnist": ("official", ["sandal", "shirt"]),
    "cifar10": ("official", ["plane", "car"]),
    "cifar100": ("superclass", ["cup", "apple"]),
    "coil100": ("80-20", ["obj7", "obj28"]),
    "mvtec": ("official", ["bottle", "pill"]),
}
_RUN_KEYS = ["datasets", "protocols", "classes", "cross", "seeds", "profiles", "settings"]
_GALLERY_KEYS = ["dataset", "class", "protocol", "seed", "licence"]
_OWN_KEYS = ["like", "settings"]
_OWN_IMAGES = ("folder:", "npz:")


def load(path=None):
    """The register as a dict, paper -> table; `path` None: experiments.toml of the checkout.

    Raises FileNotFoundError, and ValueError for a file that is no TOML or holds an unknown key, profile or protocol.
    """
    path = CHECKOUT / "experiments.toml" if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no register {path}")
    try:
        register = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    for paper, table in register.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {paper} stands outside of a paper's table")
        _choose(table, _PAPER_KEYS, f"{path}: key of [{paper}]")
        _choose(table.get("profiles", {}), PROFILES, f"{path}: profile of [{paper}]")
        _choose(table.get("gallery", {}), _GALLERY_KEYS, f"{path}: key of [{paper}.gallery]")
        _choose(table.get("own", {}), _OWN_KEYS, f"{path}: key of [{paper}.own]")
        for run in table.get("runs", []):
            _choose(run, _RUN_KEYS, f"{path}: key of [[{paper}.runs]]")
            _choose(run.get("profiles", []), PROFILES, f"{path}: profile of [[{paper}.runs]]")
            _choose(run.get("protocols", []), PROTOCOLS, f"{path}: protocol of [[{paper}.runs]]")
            if not run.get("datasets"):
                raise ValueError(f"{path}: a run of [[{paper}.runs]] names no datasets")
            if run.get("cross"):
                _choose(run["datasets"], CROSS, f"{path}: dataset of a run of [[{paper}.runs]] with cross")
    return register


def jobs(
    register,
    papers=None,
    datasets=None,
    classes=None,
    seeds=None,
    profile="paper",
    settings=None,
    protocols=None,
    backbones=None,
    cross=False,
):
    """The jobs of one profile, first all of the first seed: a list of dicts (see the top of this file).

    papers, datasets, protocols, backbones, classes and seeds choose from the register (None: all of it); a job without
    a backbone is not chosen by one. A class or seed that none
    of the chosen runs holds makes trials of all of them. settings, a dict, goes over those of profile and run. datasets
    may hold folder:PATH and npz:PATH: all their classes, protocol official unless `protocols` says otherwise, settings
    those that the profile gives the dataset which [paper.own] names, and its own over them. Classes
    go by any name that `data.class_index` knows. cross: of what is chosen only the fields of the cross matrix, CROSS,
    and the first seed, unless seeds are given. Raises ValueError with the choices for whatever is not there, and for
    a protocol that a dataset does not have.
    """
    papers = _choose(papers, register, "paper") if papers else list(register)
    _choose([profile], PROFILES, "profile")
    protocols = _choose(protocols, PROTOCOLS, "protocol") if protocols else None
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds or []):
        raise ValueError(f"seeds are whole numbers from 0, not {seeds}")
    own = [_absolute(name) for name in datasets or [] if name.startswith(_OWN_IMAGES)]
    named = None if datasets is None else [name for name in datasets if not name.startswith(_OWN_IMAGES)]

    runs = [
        (paper, run)
        for paper in papers
        for run in register[paper].get("runs", [])
        if profile in run.get("profiles", ["quick", "paper"])
    ]
    there = {name: None for _, run in runs for name in run["datasets"]}
    if named:
        _choose(named, there, f"dataset of {', '.join(papers)} in profile {profile}")
    cells = [
        (paper, name, protocol, run)
        for paper, run in runs
        for name in run["datasets"]
        for protocol in _run_protocols(name, run)
        if (named is None or name in named) and (protocols is None or protocol in protocols)
    ]
    if not cells and not own:
        held = {protocol: None for _, run in runs for name in run["datasets"] for protocol in _run_protocols(name, run)}
        raise ValueError(
            f"the register holds no job of {', '.join(papers)} for profile {profile} and protocol "
            f"{', '.join(protocols or ['any'])}; its protocols there: {', '.join(held) or 'none'}"
        )
    cells += [
        (paper, name, protocol, _own_run(register[paper], profile))
        for paper in papers
        for name in own
        for protocol in protocols or ["official"]
    ]

    def settings_of(paper, run):
        return {**register[paper].get("profiles", {}).get(profile, {}), **run.get("settings", {}), **(settings or {})}

    if backbones:
        there = {backbone: None for paper, _, _, run in cells if (backbone := settings_of(paper, run).get("backbone"))}
        _choose(backbones, there, f"backbone of {', '.join(papers)} in profile {profile}")
        cells = [cell for cell in cells if settings_of(cell[0], cell[3]).get("backbone") in backbones]

    from repro import data  # imports torch: not before it is known that there is something to run

    for _, name, protocol, _ in cells:
        data.check_protocol(name, protocol)
    held = [_run_classes(name, run) for _, name, _, run in cells]
    wanted = {name: _named_classes(name, cells, classes) for _, name, _, _ in cells} if classes else {}
    held_seeds = [run.get("seeds") or register[paper].get("seeds") or [0] for paper, _, _, run in cells]
    found = []
    for (paper, name, protocol, run), normals, run_seeds in zip(cells, held, held_seeds, strict=True):
        if classes:
            others = {one for cell, there in zip(cells, held, strict=True) if cell[1] == name for one in there}
            normals = [one for one in wanted[name] if one in normals or one not in others]
        if seeds:
            run_seeds = [seed for seed in seeds if seed in run_seeds or not any(seed in there for there in held_seeds)]
        given = settings_of(paper, run)
        found += [job(paper, name, normal, protocol, seed, profile, given) for seed in run_seeds for normal in normals]
    if cross:
        fields = {(name, protocol, normal) for name, (protocol, normals) in CROSS.items() for normal in normals}
        found = [
            one
            for one in found
            if (one["dataset"], one["protocol"], one["class"]) in fields and (seeds or one["seed"] == 0)
        ]
        if not found:
            raise ValueError(f"the cross matrix is over {', '.join(CROSS)}: none of its fields is chosen")
    by_id = {one["id"]: one for one in found}  # two runs may hold the same job
    return sorted(by_id.values(), key=lambda one: (papers.index(one["paper"]), one["seed"]))  # else as they stand


def job(paper, dataset, normal, protocol, seed, profile, settings):
    """One job with its id, the first 12 hex digits of the SHA-256 of the others as compact, sorted JSON."""
    one = {
        "paper": paper,
        "dataset": dataset,
        "class": normal,
        "protocol": protocol,
        "seed": seed,
        "profile": profile,
        "settings": dict(settings),
    }
    text = json.dumps(one, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**one, "id": hashlib.sha256(text.encode()).hexdigest()[:12]}


def all_ids(register):
    """The ids of all jobs of the register, in every profile: a set. Whatever is not in it is a trial, or stale.

    Raises ValueError where two runs give one job two sets of settings.
    """
    seen = {}
    for paper in register:
        for profile in PROFILES:
            if not any(profile in run.get("profiles", ["quick", "paper"]) for run in register[paper].get("runs", [])):
                continue
            for one in jobs(register, papers=[paper], profile=profile):
                if seen.setdefault(place(one), one["id"]) != one["id"]:
                    raise ValueError(f"the register gives {describe(one)} twice, with different settings")
    return set(seen.values())


def place(one):
    """What tells a job, or a result row, from the others beside which its rows stand, as a tuple of text.

    Of its settings that is the backbone alone, which the rows keep apart: other settings make the same row anew.
    """
    settings = one["settings"]
    backbone = (json.loads(settings or "{}") if isinstance(settings, str) else settings).get("backbone", "")
    return *(str(one[name]) for name in ("paper", "dataset", "protocol", "class", "seed", "profile")), str(backbone)


def describe(one):
    """A job in a few words: 'two_stage mnist 8 seed 0 quick' (and backbone and protocol, unless it is official)."""
    protocol = "" if one["protocol"] == "official" else f" {one['protocol']}"
    backbone = f" {one['settings']['backbone']}" if "backbone" in one["settings"] else ""
    return f"{one['paper']}{backbone} {one['dataset']}{protocol} {one['class']} seed {one['seed']} {one['profile']}"


def fingerprint():
    """The first 12 hex digits of the SHA-256 of all that decides what a job gives: adlib/, notebooks/, the register."""
    digest = hashlib.sha256()
    for path in sorted(
        [
            *CHECKOUT.glob("adlib/*.py"),
            *CHECKOUT.glob("repro/**/*.py"),
            *CHECKOUT.glob("notebooks/*.ipynb"),
            CHECKOUT / "experiments.toml",
        ]
    ):
        digest.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _choose(wanted, choices, what):
    """The wanted names, each once, or a ValueError that lists the choices."""
    for name in wanted:
        if name not in choices:
            raise ValueError(f"unknown {what}: {name!r}; choices: {', '.join(map(str, choices)) or 'none'}")
    return list(dict.fromkeys(wanted))


def _absolute(name):
    """folder:PATH with an absolute PATH: kernels run elsewhere."""
    kind, path = name.split(":", 1)
    return f"{kind}:{Path(path).expanduser().resolve()}"


def _own_run(table, profile):
    """A run for a user's images: with the settings of the first run on the dataset that they are most like."""
    own = table.get("own", {})
    alike = [
        run
        for run in table.get("runs", [])
        if own.get("like") in run["datasets"]
        and not run.get("cross")
        and profile in run.get("profiles", ["quick", "paper"])
    ]
    return {"settings": {**(alike[0].get("settings", {}) if alike else {}), **own.get("settings", {})}}


def _run_protocols(name, run):
    """The protocols of a run for one of its datasets."""
    return [CROSS[name][0]] if run.get("cross") else run.get("protocols", ["official"])


def _run_classes(name, run):
    """The classes of a run, by the names of `data`."""
    from repro import data

    wanted = CROSS[name][1] if run.get("cross") else run.get("classes", "all")
    names = data.class_names(name)
    return names if wanted == "all" else [names[data.class_index(name, normal)] for normal in wanted]


def _named_classes(name, cells, classes):
    """The wanted classes that dataset `name` has; a class that none of the datasets of `cells` has is a ValueError."""
    from repro import data

    found = []
    for wanted in classes:
        # Beside MNIST 8 is a digit and not an object too: that would be a trial, for which nobody asked.
        if name == "coil100" and any(
            str(wanted) in data.class_names(other) for _, other, _, _ in cells if other != name
        ):
            continue
        try:
            found.append(data.class_names(name)[data.class_index(name, wanted)])
        except ValueError:
            for other in {other for _, other, _, _ in cells} - {name}:
                try:
                    data.class_index(other, wanted)
                    break
                except ValueError:
                    continue
            else:
                raise
    return list(dict.fromkeys(found))
