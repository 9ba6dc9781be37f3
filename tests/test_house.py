"""What must agree across files, and what a reader of the repository relies on."""

import ast
import csv
import gzip
import importlib.metadata
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from adlib import metrics
from repro import __main__ as program
from repro import register, tables
from repro.rows import read


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    versions = {}
    for line in LOCK.splitlines():
        requirement, _, marker = line.partition(";")
        name, version = requirement.strip().split("==")
        versions.setdefault(plain(name), []).append(version)
    return versions


def asked_for():
    extras = PROJECT["optional-dependencies"].values()
    return [requirement for group in [PROJECT["dependencies"], *extras] for requirement in group]


def test_every_requirement_of_pyproject_is_pinned_within_its_range():
    versions = pins()
    for requirement in asked_for():
        name, least = requirement.split(">=")
        assert plain(name) in versions, f"{name} is not in requirements.lock"
        for version in versions[plain(name)]:
            numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (version, least)]
            assert numbers[0] >= numbers[1], f"{name}=={version} is older than pyproject asks"


def test_the_lock_is_names_and_versions_without_addresses_or_hashes():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line) for line in LOCK.splitlines())


def test_environment_yml_and_makefile_install_the_same_list():
    environment = (ROOT / "environment.yml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    extras = ",".join(PROJECT["optional-dependencies"])
    assert "-c requirements.lock" in environment and f"-e .[{extras}]" in environment
    assert f"-c requirements.lock -e '.[{extras}]'" in makefile
    assert PROJECT["requires-python"] in environment


def test_make_help_names_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"\.PHONY: (.+)", (ROOT / "Makefile").read_text()).group(1).split()
    assert [target for target in phony if not re.search(rf"^{target}\s", listed, re.M)] == []


def test_a_notebook_that_was_run_is_no_change_for_git():
    """The filter that `make lab` sets gives the stored notebook again, whatever JupyterLab wrote into it."""
    printed = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True).stdout
    words = shlex.split(shlex.split(re.search("git config filter.notebook.clean (.+) 2>", printed)[1])[0])
    path = ROOT / "notebooks" / "own_data.ipynb"
    stored = path.read_text()
    run = json.loads(stored)
    run["metadata"]["language_info"] |= {"version": "3.12.1", "mimetype": "text/x-python", "file_extension": ".py"}
    for number, cell in enumerate(cell for cell in run["cells"] if cell["cell_type"] == "code"):
        cell["execution_count"] = number + 1
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["here\n"]}]
        cell["metadata"]["execution"] = {"iopub.execute_input": "2026-11-27T00:00:00Z"}
    done = subprocess.run([sys.executable, *words[1:]], input=json.dumps(run), capture_output=True, text=True)
    assert done.stdout == stored, done.stderr
    attributes = subprocess.run(["git", "check-attr", "filter", path], cwd=ROOT, capture_output=True, text=True).stdout
    assert attributes.endswith("filter: notebook\n") or not (ROOT / ".git").exists()


def test_the_readme_and_the_docs_name_only_make_targets_and_files_that_exist():
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    phony = re.search(r"\.PHONY: (.+)", (ROOT / "Makefile").read_text()).group(1).split()
    blocks = re.findall(r"(?ms)^```.*?^```", text)
    code = "\n".join([*blocks, *re.findall(r"`[^`]+`", re.sub(r"(?ms)^```.*?^```", "", text))])
    targets = set(re.findall(r"\bmake ([a-z]+)", code))
    assert targets <= set(phony) and len(targets) > 8


def test_the_readmes_table_and_the_costs_are_what_the_rows_say(tmp_path):
    """After new rows: make summary."""
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(readme)
    tables.write_readme(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == readme
    assert tables.write_costs(tmp_path).read_text() == (ROOT / "results" / "costs.md").read_text()
    (tmp_path / "README.md").write_text(readme.replace(tables.END, ""))
    with pytest.raises(ValueError, match="has no place for the results"):
        tables.write_readme(tmp_path / "README.md")


def test_the_page_of_classes_is_what_the_rows_say_and_its_commands_are_words_of_the_program(tmp_path):
    page = (ROOT / "results" / "classes.md").read_text()
    assert tables.write_classes(tmp_path).read_text() == page
    commands = re.findall(r"^- `make reproduce (.+)`:", page, re.M)
    book = register.load()
    for command in commands:
        words = dict(word.split("=") for word in command.split())
        given = {program.FROM_MAKE + name: value for name, value in words.items()}
        args = program.build_parser().parse_args(program.from_make("reproduce", given)[0])
        choice = {name: getattr(args, name) for name in program.CHOICE if name != "profile"}
        assert register.jobs(book, profile=args.profile, **choice)
    assert len(commands) >= 10


def test_the_page_of_gaps_is_what_the_notebooks_say(tmp_path):
    page = (ROOT / "results" / "gaps.md").read_text()
    assert tables.write_gaps(tmp_path).read_text() == page
    for paper in tomllib.loads((ROOT / "experiments.toml").read_text()):
        section = page.partition(f"## `{paper}`")[2].partition("\n## ")[0]
        assert paper == "baselines" or sum(line.startswith("| ") for line in section.splitlines()) > 10, paper


def test_the_gallerys_scores_give_the_aurocs_of_a_job_again():
    """Without training: the per-image scores of the notebook shown, against the rows in results/."""
    for path in (ROOT / "results" / "gallery").glob("*.scores.csv.gz"):
        paper = path.name.partition(".")[0]
        with gzip.open(path, "rt", newline="") as file:
            images = list(csv.DictReader(file))
        is_anomalous = [image["is_anomalous"] == "1" for image in images]
        methods = [name for name in images[0] if name not in ("index", "file", "kind", "is_anomalous")]
        again = {name: f"{metrics.auroc([float(i[name]) for i in images], is_anomalous):.6f}" for name in methods}
        jobs = {}
        for row in read(ROOT / "results" / f"{paper}.csv"):
            jobs.setdefault(row["job"], {})[row["method"]] = row["auroc"]
        assert again in jobs.values()


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\n") if name]


def test_no_tracked_file_is_data_sized():
    assert [str(path) for path in tracked() if path.is_file() and path.stat().st_size > 2_000_000] == []


# ---- two rooms, and one rule between them ---------------------------------------------------------------------------

ROOMS = sorted([*(ROOT / "adlib").rglob("*.py"), *(ROOT / "repro").rglob("*.py")])
PAPERS = set(tomllib.loads((ROOT / "experiments.toml").read_text()))
ADLIB = {path.stem for path in (ROOT / "adlib").glob("*.py")}
TENSOR_TOOLS = {"backbones", "images", "neighbours", "cutpaste", "metrics", "machine", "_torchvision"}


def imports(source, package=""):
    """Every name that a module of `package` imports, from the top, those within functions too, whatever the form.

    "a.b" for `import a.b`, "a" and "a.b" for `from a import b`; what leaves the outermost package begins with a dot.
    """

    def resolved(name):
        try:
            return importlib.util.resolve_name(name, package or None)
        except ImportError:
            return name

    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolved("." * node.level + (node.module or ""))
            names |= {module, *(f"{module.rstrip('.')}.{alias.name}" for alias in node.names if alias.name != "*")}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            literals = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            inside = literals[1] if len(literals) > 1 and isinstance(literals[1], str) else package
            if literals:
                names.add(importlib.util.resolve_name(literals[0], inside) if inside else literals[0])
    return names


def against_the_rule(module, source):
    """The names that `adlib/<module>.py` must not import, of all those that its source does."""
    wrong = set()
    for name in imports(source, "adlib"):
        top, _, rest = name.partition(".")
        within = rest.partition(".")[0]
        if top == "adlib":
            allowed = TENSOR_TOOLS if module in PAPERS else ADLIB
            if within and within not in allowed:
                wrong.add(name)
        elif top == "" or (ROOT / top).is_dir():  # out of the package, or another room of the repository
            wrong.add(name)
    return wrong


@pytest.mark.parametrize(
    "line",
    [
        "from adlib.sweep import outstanding",
        "from adlib import sweep",
        "import adlib.sweep",
        "import repro",
        "import torch, repro.sweep as sweep",
        "from repro import sweep",
        "from repro.sweep import outstanding",
        "from repro.data import *",
        "from ..repro import sweep",
        "from ..repro.sweep import outstanding",
        "from .. import repro",
        "from . import sweep",
        "from .sweep import outstanding",
        "def late():\n    from repro.sweep import outstanding",
        "def late():\n    if True:\n        import repro.sweep",
        "import importlib\nimportlib.import_module('repro.sweep')",
        "from importlib import import_module\nimport_module('.sweep', 'repro')",
        "from importlib import import_module\nimport_module('.sweep', __package__)",
        "__import__('repro.sweep')",
        "from tests import toy",
    ],
)
def test_the_rule_sees_every_form_of_import(line):
    source = (ROOT / "adlib" / "metrics.py").read_text()
    assert against_the_rule("metrics", source) == set()
    assert against_the_rule("metrics", f"{source}\n{line}\n") != set()


def test_a_paper_takes_tensor_tools_and_no_other_paper():
    for line in ("from adlib import plots", "from adlib.detectors import load", "from adlib import baselines"):
        assert against_the_rule("two_stage", line) and not against_the_rule("plots", line)
    assert against_the_rule("two_stage", "from adlib.cbigan import build")
    assert not against_the_rule(
        "two_stage", "import torch\nfrom adlib import images\nfrom adlib.images import rotations"
    )
    assert not against_the_rule("two_stage", "from . import images\nfrom .images import rotations\nimport adlib")


def test_adlib_imports_nothing_of_repro():
    wrong = {path.stem: against_the_rule(path.stem, path.read_text()) for path in (ROOT / "adlib").glob("*.py")}
    assert {module: names for module, names in wrong.items() if names} == {}
    assert not any((ROOT / "adlib").glob("*/*.py"))  # flat: one folder deeper the rule would not look


def bare(source):
    """Public functions and methods that leave a parameter or what they return without annotation."""

    def look(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from look(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                given = node.args
                parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                is_method = prefix and not any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list)
                typed = [p.annotation for p in parameters[1 if is_method else 0 :] if p is not None]
                if node.returns is None or None in typed:
                    yield prefix + node.name

    return list(look(ast.parse(source).body, ""))


def test_public_functions_have_types():
    assert bare("def f(x): ...\ndef g(x: int): ...\ndef h(*x) -> None: ...\ndef _i(x): ...") == ["f", "g", "h"]
    assert bare("class A:\n    def f(self) -> int: ...\n    def g(self, x) -> int: ...\n    def _h(self): ...") == [
        "A.g"
    ]
    assert bare("def f(x: int = 0, *y: int, z: str, **rest: int) -> None: ...") == []
    without = {str(path.relative_to(ROOT)): bare(path.read_text()) for path in ROOMS}
    assert {path: names for path, names in without.items() if names} == {}


def test_no_module_is_long_and_both_rooms_are_small():
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in ROOMS}
    longer = {"adlib/cbigan.py": 430}
    assert {path: n for path, n in lines.items() if n > longer.get(path, 350)} == {}
    assert sum(lines.values()) <= 7895


def sources():
    """Path -> what each tracked module and notebook holds in Python."""
    for path in tracked():
        if path.suffix == ".py":
            yield path, path.read_text()
        elif path.suffix == ".ipynb" and path.parent.name == "notebooks" and "results" not in path.parts:
            cells = json.loads(path.read_text())["cells"]
            yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_what_is_imported_is_declared():
    """Rooms and notebooks by what `pip install` brings or a named extra adds, tests and benchmarks by an extra."""
    distributions = importlib.metadata.packages_distributions()
    declared = {plain(re.split(r"[<>=\[ ]", requirement)[0]) for requirement in asked_for()}
    here = {path.stem for path in (ROOT / "tests").glob("*.py")} | {path.name for path in ROOT.iterdir()}
    absent = {}
    for path, source in sources():
        for top in {name.partition(".")[0] for name in imports(source, "here")} - sys.stdlib_module_names - here:
            if not {plain(name) for name in distributions.get(top, [top])} & declared:
                absent.setdefault(top, []).append(str(path.relative_to(ROOT)))
    assert absent.pop("anomalib", None) in (None, ["benchmarks/coreset.py"])  # asked for before it is used
    assert absent == {}


def test_formatting_is_ruffs_own():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", "."], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()
    assert sum(source.count("# fmt" + ": skip") for _, source in sources()) <= 5
