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

from repro import __main__ as program
from repro import register, standins, sweep


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
from repro import results
rows = results.read(pathlib.Path(results_dir, "toy.csv"))
pathlib.Path(out_dir, "summary.md").write_text(f"# All\\n\\n## Ours\\n\\n| method | n |\\n|---|---|\\n| toy | {len(rows)} |\\n")
"""  # noqa: E501


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


@pytest.mark.parametrize(
    "words, said",
    [
        (["reproduce", "PAPER=two_stage"], "PAPERS="),
        (["reproduce", "two_stage"], "PAPERS="),
        (["reproduce", "PAPERS=three_stage"], "choices: two_stage"),
        (["reproduce", "PROFILE=slow"], "choices: demo, quick, paper"),
        (["reproduce", "DATASETS=svhn"], "choices: mnist"),
        (["reproduce", "DATASETS=mnist", "CLASSES=cat"], "'cat'"),
        (["reproduce", "PROTOCOLS=70-30"], "choices: official, 80-20"),
        (["reproduce", "SEEDS=one"], "SEEDS takes whole numbers"),
        (["reproduce", "JOBS=0"], "JOBS is at least 1"),
        (["reproduce", "JOBS=many"], "JOBS takes whole numbers"),
        (["reproduce", "DEVICE=gpu"], "choices: auto, cpu, cuda"),
        (["reproduce", "FORCE=yes"], "FORCE is 1 or 0"),
        (["plan", "CROSS=all"], "CROSS is 1 or 0"),
        (["reproduce", "SET=0.3"], "SET takes name=value"),
        (["reproduce", "PAPERS=two_stage", "SET=no_such_setting=1"], "no parameter 'no_such_setting'"),
        (["reproduce", "PAPERS=two_stage", "SEEDS=99", f"OUT={CHECKOUT / 'results'}"], "results/ holds only"),
        (["reproduce", "PROFILE=demo", f"OUT={CHECKOUT / 'results'}"], "no demo"),
        (["gallery", "PAPERS=three_stage"], "three_stage"),
        (["summary", "OUT=/no/such/folder"], "run reproduce first"),
        (["data"], "names of datasets"),
        (["data", "svhn"], "svhn"),
        (["replicate"], "commands: plan, reproduce"),
        (["score", "detector.pt"], "score takes a detector and image files"),
        (["score", "/no/such.pt", "photos"], "there is no detector /no/such.pt"),
        (["score", "a.pt", "photos", "DEVICE=gpu"], "choices: auto, cpu, cuda"),
        (["plan", "PAPERS=three_stage"], "choices: two_stage"),
        (["verify"], "say which by PAPERS"),
        (["verify", "PAPERS=three_stage"], "choices: two_stage"),
        (["verify", "PAPERS=cbigan", "CLASSES=screw"], "none of these jobs has rows"),
        (["rehearse", "PAPERS=three_stage"], "no notebook"),
        (["rehearse", "DATASETS=svhn"], "choices: mnist"),
        (["reproduce", "GPUS=0", "DEVICE=cpu"], "one of the two"),
        (["reproduce", "PAPERS=two_stage", "GPUS=99"], "there is no GPU 99"),
        (["reproduce", "RESOURCES=GPU=1"], "give SCHEDULER too"),
        (["reproduce", "SCHEDULER=tcp://127.0.0.1:9", "RESOURCES=GPU"], "NAME=AMOUNT"),
    ],
)
def test_a_bad_word_is_one_sentence_and_exit_code_2(words, said, capsys):
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("adlib: ") and error.count("\n") == 1


def test_help_shows_every_key(capsys):
    assert program.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{key}=" in shown for keys in program.KEYS.values() for key in keys)


def test_empty_values_count_as_not_given():
    assert program.given(["PAPERS=", "JOBS= ", "SEEDS=0,1"], ["PAPERS", "JOBS", "SEEDS"]) == {"SEEDS": "0,1"}


def test_settings_are_literals_or_text():
    text = "a=1, b=0.5,c=x,d=true,e=[1,2],f='y,z',g=None"
    assert program.settings(text) == {"a": 1, "b": 0.5, "c": "x", "d": True, "e": [1, 2], "f": "y,z", "g": None}
    assert program.settings(None) == {}


def test_trials_go_to_build_and_register_jobs_to_results(capsys):
    job, demo = toy.toy_job(), register.job("toy", "digits", "8", "official", 0, "demo", {})
    ids = {job["id"], demo["id"]}
    assert program.choose_out(None, [job], ids) == CHECKOUT / "results"
    assert capsys.readouterr().out == ""
    for jobs in ([job, toy.toy_job(rate=1.0)], [demo]):
        assert program.choose_out(None, jobs, ids) == CHECKOUT / "build" / "trial"
        assert capsys.readouterr().out.startswith("a trial, written under build/trial")


def test_the_first_tables_of_a_summary_are_shown_with_their_headings():
    text = "# All\n\nwords\n\n## None\n\nno\n\n## Ours\n\n### p\n\n| a |\n|---|\n| 1 |\n\n- note\n\n"
    text += "### q\n\n| b |\n\n## C\n\n| c |\n"
    assert program.first_tables(text) == "Ours\np\n| a |\n|---|\n| 1 |\nq\n| b |"
    assert program.first_tables("no table\n") == "no table"


def test_demo_and_gallery_from_end_to_end(checkout):
    said = run(checkout, "demo", "JOBS=1")
    assert said.returncode == 0, said.stderr
    assert "| toy | 2 |" in said.stdout
    pictures = checkout / "build" / "demo" / "pictures"
    assert [path.name for path in pictures.iterdir()] == ["toy-01.png"]
    assert (pictures / "toy-01.png").read_bytes().startswith(b"\x89PNG")
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
    said = run(checkout, "plan", "PROFILE=quick")
    assert said.returncode == 0, said.stderr
    assert "to run these 2: make reproduce PROFILE=quick" in said.stdout and not (checkout / "results").exists()

    assert run(checkout, "reproduce", "PROFILE=quick", "CLASSES=8").returncode == 0
    before = (checkout / "results" / "toy.csv").read_bytes()
    said = run(checkout, "verify", "PAPERS=toy")
    assert said.returncode == 0, said.stderr
    assert "toy digits 8 seed 0 quick\n  old: cpu" in said.stdout and said.stdout.endswith("\n2 same\n")
    assert (checkout / "results" / "toy.csv").read_bytes() == before
    notebook = checkout / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("auroc=0.75", "auroc=0.85"))
    said = run(checkout, "verify", "PAPERS=toy")
    assert said.returncode == 1 and said.stdout.endswith("\n2 outside\n")
    notebook.write_text(notebook.read_text().replace("auroc=0.85", "auroc=[]"))
    said = run(checkout, "verify", "PAPERS=toy")  # the rows of the call before do not stand in for it
    assert said.returncode == 1 and said.stdout.endswith("\n2 missing\n")
    said = run(checkout, "plan", "PROFILE=quick")
    assert "to run it: make reproduce PROFILE=quick" in said.stdout


def test_results_take_no_rows_of_stand_ins_and_that_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    standins.write(tmp_path, names=["mnist"])
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    monkeypatch.setattr(sweep, "reproduce", None)
    assert program.main(["reproduce", "PAPERS=two_stage", "DATASETS=mnist", "PROFILE=quick", "FORCE=1"]) == 2
    assert "results/ holds no rows of stand-ins, and mnist is one here" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(monkeypatch, capsys):
    def full(*words):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/toy.csv.tmp")

    monkeypatch.setattr(program, "summary", full)
    assert program.main(["summary"]) == 2
    assert capsys.readouterr().err == "adlib: [Errno 28] No space left on device: 'results/toy.csv.tmp'\n"


def test_a_failing_job_makes_exit_code_1_and_ctrl_c_130_without_traceback(checkout):
    words = [sys.executable, "-m", "repro", "reproduce", "PROFILE=quick", "JOBS=1", "OUT=out"]
    log = checkout / "log"
    failed = subprocess.run([*words, "SET=trouble=cell", "CLASSES=8"], cwd=checkout, capture_output=True, text=True)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "failed: toy digits 8 seed 0 quick" in failed.stdout
    command = [*words, f"SET=trouble='until told',log={log}", "CLASSES=7"]
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
