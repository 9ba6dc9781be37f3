import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from faults import wait_for

from adlib import __main__ as apply
from repro import __main__ as program
from repro import data, register


CHECKOUT = Path(__file__).resolve().parents[1]
REGISTER = """
[toy]
seeds = [0]
[[toy.runs]]
datasets = ["digits"]
protocols = ["official"]
classes = ["7", "8"]
[[toy.runs]]
profiles = ["demo"]
datasets = ["digits"]
protocols = ["official"]
classes = ["8"]
settings = { log = "" }
[toy.gallery]
dataset = "digits"
class = "8"
licence = "Digits: public."
"""
PICTURE = """\
from IPython.display import Image, display
import base64
display(Image(data=base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="),
              format="png"))
print("a path of this machine:", os.getcwd())
"""
SUMMARY = """\
import pathlib
from IPython.display import Markdown, display
from repro.rows import read
rows = read(pathlib.Path(results_dir, "toy.csv"))
display(Markdown(f"# All\\n\\n## Ours\\n\\n| method | n |\\n|---|---|\\n| toy | {len(rows)} |"))
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the toy paper alone."""
    for name in ("adlib", "repro"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    toy.write_notebook(tmp_path / "notebooks")
    (tmp_path / "notebooks" / "toy.ipynb").write_text(
        toy.notebook(toy.PARAMETERS, toy.BODY, toy.TROUBLE, PICTURE, toy.SAVE)
    )
    (tmp_path / "notebooks" / "summary.ipynb").write_text(toy.notebook("results_dir = None\nout_dir = None", SUMMARY))
    (tmp_path / "experiments.toml").write_text(REGISTER)
    return tmp_path


def run(checkout, *words):
    return subprocess.run([sys.executable, "-m", "repro", *words], cwd=checkout, capture_output=True, text=True)


def error_of(words, capsys, prefix="adlib: "):
    """The one sentence with which a command ends, and its exit code is 2."""
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(prefix) and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "words, said",
    [
        ("run --paper two_stage", "unknown word --paper (did you mean --papers ?); run takes --papers, --datasets"),
        ("run PAPERS=two_stage", "did you mean --papers"),
        ("run two_stage", "unknown word two_stage; run takes --papers"),
        ("summary --papers two_stage", "summary takes --out"),
        ("run --papers three_stage", "choices: two_stage"),
        ("run --papers=", "unknown paper: ''; choices: two_stage"),
        ("run --papers", "--papers: expected one argument"),
        ("run --profile slow", "choices: demo, quick, paper"),
        ("run --datasets svhn", "choices: mnist"),
        ("run --datasets mnist --classes cat", "'cat'"),
        ("run --protocols 70-30", "choices: official, 80-20"),
        ("run --seeds one", "--seeds: takes whole numbers, not 'one'"),
        ("run --jobs 0", "--jobs is at least 1"),
        ("run --jobs many", "--jobs: invalid int value: 'many'"),
        ("run --device gpu", "choices: auto, cpu, cuda"),
        ("run --force=perhaps", "--force: invalid choice: 'perhaps'"),
        ("run --set 0.3", "--set: takes name=value"),
        ("run --papers two_stage --set no_such_setting=1", "no parameter 'no_such_setting'"),
        ("plan --papers two_stage --set no_such_setting=1", "no parameter 'no_such_setting'"),
        ("plan --papers two_stage --set rotation_epochs=many", "'rotation_epochs' of two_stage.ipynb is of type"),
        ("plan --device gpu", "choices: auto, cpu, cuda"),
        (f"run --papers two_stage --seeds 99 --out {CHECKOUT / 'results'}", "results/ holds only"),
        (f"run --profile demo --out {CHECKOUT / 'results'}", "no demo"),
        ("gallery --papers three_stage", "three_stage"),
        ("summary --out /no/such/folder", "run reproduce first"),
        ("data svhn", "svhn"),
        ("replicate", "choose from"),
        ("plan --papers three_stage", "choices: two_stage"),
        ("verify", "say which by --papers"),
        ("verify --papers three_stage", "choices: two_stage"),
        ("verify --papers cbigan --classes screw", "none of these jobs has rows"),
        ("run --gpus 0 --device cpu", "one of the two"),
        ("run --papers two_stage --gpus 99", "there is no GPU 99"),
        ("run --resources GPU=1", "give --scheduler too"),
        ("plan --resources GPU=1", "give --scheduler too"),
        ("run --scheduler tcp://127.0.0.1:9 --resources GPU", "--resources: takes name=value"),
        ("run --scheduler tcp://127.0.0.1:9 --resources GPU=all", "--resources takes NAME=AMOUNT"),
        ("run --scheduler tcp://127.0.0.1:9 --gpus 0", "workers have their own"),
    ],
)
def test_a_bad_word_is_one_sentence_and_exit_code_2(words, said, capsys):
    assert said in error_of(words.split(), capsys)


@pytest.mark.parametrize(
    "words, said",
    [
        ("score", "the following arguments are required: DETECTOR, IMAGES"),
        ("score /no/such.pt photos", "there is no detector /no/such.pt"),
        ("score a.pt photos --overlay x", "unrecognized arguments: --overlay x"),
        ("scores a.pt photos", "choose from"),
    ],
)
def test_a_bad_word_to_adlib_is_one_sentence_too(words, said, capsys):
    assert apply.main(words.split()) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("adlib: ") and error.count("\n") == 1


@pytest.mark.parametrize("command", [None, *program.COMMANDS])
def test_each_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        program.main([command, "--help"] if command else [])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"--{option}" in shown for option in program.COMMANDS[command][1]) if command else "gallery" in shown


def words_of(*argv):
    return program.build_parser().parse_args(argv)


def test_several_values_are_separated_by_commas_or_given_one_after_the_other():
    args = words_of(
        "run", "--papers", "two_stage, cbigan", "--papers", "patch_ae", "--seeds", "0,2", "--set", "a=1,b=x"
    )
    assert args.papers == ["two_stage", "cbigan", "patch_ae"] and args.seeds == [0, 2]
    assert args.set == [("a", 1), ("b", "x")] and args.force == "0" and args.classes is None


@pytest.mark.parametrize(
    "text, names",
    [
        ("mnist,cifar10", ["mnist", "cifar10"]),
        ("folder:/x/a,b", ["folder:/x/a,b"]),
        ("mnist,folder:/x/it's, mine", ["mnist", "folder:/x/it's, mine"]),
        ("npz:/a,b.npz,folder:/c", ["npz:/a,b.npz", "folder:/c"]),
    ],
)
def test_a_comma_in_a_path_stays_in_it(text, names):
    assert words_of("run", "--datasets", text).datasets == names


def test_settings_are_literals_or_text():
    text = "a=1, b=0.5,c=x,d=true,e=[1,2],f='y,z',g=None"
    assert dict(program.settings(text)) == {"a": 1, "b": 0.5, "c": "x", "d": True, "e": [1, 2], "f": "y,z", "g": None}


# ---- make ----------------------------------------------------------------------------------------------------------


def test_words_of_make_become_options_and_empty_ones_count_as_not_given():
    environment = {"ADLIB_MAKE_SEEDS": "0,1", "ADLIB_MAKE_FORCE": "1", "ADLIB_MAKE_JOBS": " ", "PROFILE": "quick"}
    options, again = program.from_make("reproduce", environment)
    assert options == ["run", "--force=1", "--seeds=0,1"] and again == "make reproduce FORCE=1 SEEDS=0,1"
    assert words_of(*options).force == "1" and words_of("run", "--force").force == "1"
    assert program.from_make("summary", {}) == (["summary"], "make reproduce")


def test_errors_speak_of_words_of_make_to_those_who_use_them(monkeypatch, capsys):
    monkeypatch.setenv("ADLIB_MAKE_SEEDS", "one")
    assert "adlib: SEEDS: takes whole numbers" in error_of(["make", "reproduce"], capsys)
    assert "unknown word SEEDS=one; summary takes OUT" in error_of(["make", "summary"], capsys)


STUB = r"""#!/bin/sh
printf '%s\n' "$@"
env | grep -E '^(ADLIB_MAKE_|JOBS|PROFILE)' | sort
"""


@pytest.fixture
def made(tmp_path):
    """Runs make in a folder of its own, where Python only says what it was called with."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB)
    python.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()

    def make(*words, **more):
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "--no-print-directory", *words]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, errors="replace"
        )

    return make


@pytest.mark.parametrize(
    "word, near",
    [("PAPER=two_stage", "PAPERS"), ("CLASS=8", "CLASSES"), ("SEED=0", "SEEDS"), ("papers=x", "PAPERS"), ("q'w=1", "")],
)
@pytest.mark.parametrize("target", ["reproduce", "setup"])
def test_make_refuses_a_word_that_it_does_not_know(made, target, word, near):
    said = made(target, word)
    assert said.returncode == 2 and said.stdout == ""
    assert f"unknown word {word.partition('=')[0]} (did you mean {near}" in said.stderr
    assert "make knows PAPERS DATASETS" in said.stderr and said.stderr.count("\n") == 1


def test_make_refuses_a_target_that_it_does_not_know_before_it_runs_another(made):
    said = made("reproduce", "two_stage")
    assert said.returncode == 2 and said.stdout == "" and "unknown target two_stage; there are help" in said.stderr


@pytest.mark.parametrize(
    "value", ["folder:/x/it's", 'a "b", c', "$HOME $(shell touch pwned) $$ ${x", "`touch pwned`;#\\ &", "--x"]
)
def test_words_reach_python_as_they_were_typed(made, tmp_path, value):
    said = made("plan", f"DATASETS={value}", "JOBS=2")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        "-m",
        "repro",
        "make",
        "plan",
        f"ADLIB_MAKE_DATASETS={value}",
        "ADLIB_MAKE_JOBS=2",
    ]
    assert not (tmp_path / "pwned").exists()
    if value != "--x":
        options, _ = program.from_make("plan", {"ADLIB_MAKE_SET": f"a={value}"})
        assert words_of(*options).set[0][0] == "a"


def test_what_stands_in_the_environment_is_no_word(made):
    said = made("summary", JOBS="many", PROFILE="x", PAPER="y")
    assert said.returncode == 0 and said.stdout.splitlines() == ["-m", "repro", "make", "summary"]


def test_rehearse_hands_its_words_on(made):
    said = made("rehearse", "PAPERS=a b'c", "JOBS=1")
    assert said.stdout.splitlines()[:4] == ["-m", "tests.rehearsal", "--papers=a b'c", "--jobs=1"]


@pytest.fixture
def bare(made, tmp_path):
    """As `made`, without a .venv, and a PATH with make's tools and such Pythons as a test names."""
    shutil.rmtree(tmp_path / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "rm", "touch", "mkdir", "cat", "chmod", "make"):
        (tools / name).symlink_to(shutil.which(name))

    def setup(*words, **versions):
        for name, version in versions.items():
            (tools / name).write_text(PYTHON.replace("VERSION", version))
            (tools / name).chmod(0o755)
        return made("setup", *words, PATH=str(tools))

    return setup


# a Python that says it is of a version, and fills a virtual environment with itself; without a network its pip fails
PYTHON = r"""#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cat "$0" > .venv/bin/python; chmod +x .venv/bin/python;;
"-m pip") echo "VERSION: $*" >> log; [ ! -e no-network ];;
*) exec EXECUTABLE -c "import sys; sys.version_info = VERSION; $2";;
esac
""".replace("EXECUTABLE", sys.executable)


def test_setup_takes_the_newest_python_that_will_do(bare, tmp_path):
    assert bare(python3="(3, 10)", **{"python3.11": "(3, 11)", "python3.12": "(3, 12)"}).returncode == 0
    assert (tmp_path / ".venv" / ".ready").exists()
    log = (tmp_path / "log").read_text()
    assert "(3, 12): -m pip install" in log and "-c requirements.lock -e .[lab,dev,cluster]" in log
    shutil.rmtree(tmp_path / ".venv")
    assert bare(f"PYTHON={tmp_path / 'tools' / 'python3.11'}").returncode == 0
    assert "(3, 11): -m pip install" in (tmp_path / "log").read_text()


def test_setup_says_what_it_needs_and_leaves_nothing_behind(bare, tmp_path):
    said = bare(python3="(3, 10)")
    assert said.returncode == 2 and not (tmp_path / ".venv").exists()
    assert said.stderr.startswith("adlib: setup needs Python 3.11, 3.12 or 3.13, and finds none: install one")
    said = bare(f"PYTHON={tmp_path / 'tools' / 'python3'}")
    assert said.returncode == 2 and "finds none in" in said.stderr and not (tmp_path / ".venv").exists()
    (tmp_path / "no-network").touch()
    assert bare(**{"python3.13": "(3, 13)"}).returncode == 2 and not (tmp_path / ".venv").exists()


def test_a_failed_update_leaves_the_environment_that_was_there(bare, tmp_path):
    assert bare(**{"python3.13": "(3, 13)"}).returncode == 0
    os.utime(tmp_path / ".venv" / ".ready", (0, 0))  # as after a change of requirements.lock
    (tmp_path / "no-network").touch()
    assert bare().returncode == 2 and (tmp_path / ".venv" / "bin" / "python").exists()
    assert (tmp_path / ".venv" / ".ready").stat().st_mtime == 0


# ---- the commands --------------------------------------------------------------------------------------------------


def test_trials_go_to_build_and_register_jobs_to_results(capsys):
    job, demo = toy.toy_job(), register.job("toy", "digits", "8", "official", 0, "demo", {})
    ids = {job["id"], demo["id"]}
    assert program.choose_out(None, [job], ids) == CHECKOUT / "results"
    assert capsys.readouterr().out == ""
    for jobs in ([job, toy.toy_job(rate=1.0)], [demo]):
        assert program.choose_out(None, jobs, ids) == CHECKOUT / "build" / "trial"
        assert capsys.readouterr().out.startswith("a trial, written under build/trial")


def test_demo_and_gallery_from_end_to_end(checkout):
    said = run(checkout, "demo", "--jobs", "1")
    assert said.returncode == 0, said.stderr
    assert "\nOurs\n| method | n |\n|---|---|\n| toy | 2 |\n\nall of it: build/demo/summary.md" in said.stdout
    pictures = checkout / "build" / "demo" / "pictures"
    assert [path.name for path in pictures.iterdir()] == ["01-toy.png"]
    assert (pictures / "01-toy.png").read_bytes().startswith(b"\x89PNG")
    assert not (checkout / "results").exists()

    said = run(checkout, "gallery")
    assert said.returncode == 0, said.stderr
    gallery = checkout / "results" / "gallery"
    assert sorted(path.name for path in gallery.iterdir()) == ["summary.ipynb", "toy.ipynb", "toy.scores.csv.gz"]
    text = (gallery / "toy.ipynb").read_text()
    assert "Profile **quick**" in text and "Digits: public." in text and "out_dir = None" in text
    assert "a path of this machine: ./notebooks" in text and str(checkout) not in text
    before = (gallery / "toy.ipynb").read_bytes()
    (gallery / "toy.ipynb").unlink()
    assert run(checkout, "gallery").returncode == 0  # from the notebook that is there: nothing runs again
    assert (gallery / "toy.ipynb").read_bytes() == before


def test_plan_reproduce_and_verify_from_end_to_end(checkout):
    said = run(checkout, "plan", "--profile", "quick")
    assert said.returncode == 0, said.stderr
    assert "to run these 2: python -m repro run --profile quick" in said.stdout and not (checkout / "results").exists()

    assert run(checkout, "run", "--profile", "quick", "--classes", "8").returncode == 0
    before = (checkout / "results" / "toy.csv").read_bytes()
    said = run(checkout, "verify", "--papers", "toy")
    assert said.returncode == 0, said.stderr
    assert "toy digits 8 seed 0 quick\n  old: cpu" in said.stdout and said.stdout.endswith("\n2 same\n")
    assert (checkout / "results" / "toy.csv").read_bytes() == before
    notebook = checkout / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("auroc=0.75", "auroc=0.85"))
    said = run(checkout, "verify", "--papers", "toy")
    assert said.returncode == 1 and said.stdout.endswith("\n2 outside\n")
    notebook.write_text(notebook.read_text().replace("auroc=0.85", "auroc=[]"))
    said = run(checkout, "verify", "--papers", "toy")  # the rows of the call before do not stand in for it
    assert said.returncode == 1 and said.stdout.endswith("\n2 missing\n")
    said = run(checkout, "plan", "--profile", "quick")
    assert "to run it: python -m repro run --profile quick" in said.stdout


def test_data_prepares_all_sizes_of_the_jobs_of_the_register(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "prepare", lambda jobs: asked.append(jobs) or 1, raising=False)
    assert program.main(["data", "cifar100", "mvtec"]) == 0
    assert {(job["dataset"], job["settings"].get("image_size", 32)) for job in asked[0]} >= {
        ("cifar100", 32),
        ("cifar100", 64),
        ("mvtec", 128),
        ("mvtec", 256),
    }
    assert {job["dataset"] for job in asked[0]} == {"cifar100", "mvtec"}
    monkeypatch.setattr(data, "prepare", lambda jobs: asked.append(jobs) or 0, raising=False)
    assert program.main(["data", "--profile", "quick"]) == 1, "nothing is to be had"
    assert {job["profile"] for job in asked[1]} == {"quick"} and len({job["dataset"] for job in asked[1]}) == 7


def test_a_full_disk_is_a_sentence(monkeypatch, capsys):
    def full(args):
        """a full disk"""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/toy.csv.tmp")

    monkeypatch.setitem(program.COMMANDS, "summary", (full, ["out"]))
    assert program.main(["summary"]) == 2
    assert capsys.readouterr().err == "adlib: [Errno 28] No space left on device: 'results/toy.csv.tmp'\n"


def test_a_failing_job_makes_exit_code_1_and_ctrl_c_130_without_traceback(checkout):
    words = [sys.executable, "-m", "repro", "run", "--profile", "quick", "--jobs", "1", "--out", "out"]
    log = checkout / "log"
    failed = subprocess.run(
        [*words, "--set", "trouble=cell", "--classes", "8"], cwd=checkout, capture_output=True, text=True
    )
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "failed: toy digits 8 seed 0 quick" in failed.stdout
    command = [*words, "--set", f"trouble='until told',log={log}", "--classes", "7"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=checkout, **pipes) as parent:
        try:
            wait_for(lambda: parent.poll() is not None or (log.exists() and len(log.read_text().split()) == 4))
            parent.send_signal(signal.SIGINT)
            _, error = parent.communicate()
        finally:
            parent.kill()
    assert parent.returncode == 130 and "stopped" in error and "Traceback" not in error
    kernel, process = (int(pid) for pid in log.read_text().split()[2:])
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in (kernel, process)))
