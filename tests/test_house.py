"""What must agree across files, and what a reader of the repository relies on."""

import csv
import gzip
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from adlib import metrics
from repro import __main__ as program
from repro import pages, register, results


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    found = {}
    for line in LOCK.splitlines():
        requirement, _, marker = line.partition(";")
        name, version = requirement.strip().split("==")
        found.setdefault(plain(name), []).append(version)
    return found


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


def test_the_readme_names_only_make_targets_and_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    phony = re.search(r"\.PHONY: (.+)", (ROOT / "Makefile").read_text()).group(1).split()
    blocks = re.findall(r"(?ms)^```.*?^```", readme)
    code = "\n".join([*blocks, *re.findall(r"`[^`]+`", re.sub(r"(?ms)^```.*?^```", "", readme))])
    targets = set(re.findall(r"\bmake ([a-z]+)", code))
    assert targets <= set(phony) and len(targets) > 8


def test_the_readmes_tables_are_what_the_rows_say(tmp_path):
    """After new rows: make summary."""
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(readme)
    pages.write_readme(tmp_path / "README.md", pages.readme_tables())
    assert (tmp_path / "README.md").read_text() == readme
    (tmp_path / "README.md").write_text(readme.replace(pages.END.format("costs"), ""))
    with pytest.raises(ValueError, match="has no place for costs"):
        pages.write_readme(tmp_path / "README.md", {"costs": "nothing"})


def test_the_page_of_classes_is_what_the_rows_say_and_its_commands_are_words_of_the_program():
    page = (ROOT / "results" / "classes.md").read_text()
    records = results.compare()
    assert page == pages.classes(records, results.ours_alone(records))
    commands = re.findall(r"^- `make reproduce (.+)`:", page, re.M)
    book = register.load()
    for command in commands:
        words = program.given(command.split(), program.KEYS["reproduce"])
        assert register.jobs(book, profile=words["PROFILE"], **program.choice(words))
    assert len(commands) >= 10


def test_the_page_of_gaps_is_what_the_notebooks_say():
    page = (ROOT / "results" / "gaps.md").read_text()
    assert page == pages.gaps()
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
        for row in results.read(ROOT / "results" / f"{paper}.csv"):
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


def test_adlib_imports_point_one_way():
    above = {"sweep", "worker", "gallery", "plan", "rehearsal", "verify", "cluster", "pages", "__main__"}
    papers = set(tomllib.loads((ROOT / "experiments.toml").read_text()))
    for path in (ROOT / "adlib").glob("*.py"):
        imported = set(re.findall(r"^\s*from adlib import (.+)", path.read_text(), re.M))
        names = {name.split(" as ")[0].strip() for line in imported for name in line.split(",")}
        if path.stem not in above:
            assert not names & above, f"{path.name} imports {names & above}"
        if path.stem in papers:
            assert not names & {"data", "results", "plots", "register"}, f"{path.name} knows more than tensors"
