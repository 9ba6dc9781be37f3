import contextlib
import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import psutil
import pytest
import toy
from faults import wait_for

from repro import job as runner
from repro import rows, sweep


TESTS = Path(__file__).parent


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs(log):
    """What ran: class, seed, pid of the kernel, pid of the job's process."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def instant(submitted, error=None):
    """A `submit` that runs nothing: it gives back what the toy notebook would."""

    def submit(job, options, variables):
        submitted.append(job["id"])
        names = ("paper", "dataset", "protocol", "class", "seed", "profile")
        row = rows.row(method="toy", auroc=0.5, job=job["id"], settings="{}", **{name: job[name] for name in names})
        outcome = {"rows": [] if error else [row], "scores": None, "notebook": '{"cells": []}'}
        return done(outcome | {"error": error, "log": "", "seconds": 1.0, "cell_seconds": 0.5})

    return submit


def done(outcome=None, error=None):
    """A future that is."""
    future = Future()
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
    return future


# ---- many jobs, many troubles: one sweep, looked at from several sides ---------------------------------------------

TROUBLES = ["none", "cell", "worker once", "kernel", "nothing", "crash"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    notebooks, log = toy.write_notebook(folder / "notebooks"), folder / "log"
    jobs = {trouble: toy.toy_job(str(number), trouble=trouble, log=str(log)) for number, trouble in enumerate(TROUBLES)}
    report = sweep.reproduce(list(jobs.values()), folder / "out", n_jobs=2, notebooks=notebooks, gpus=["5", "7"])
    return {
        "out": folder / "out",
        "notebooks": notebooks,
        "log": log,
        "jobs": jobs,
        "report": report,
        "rows": rows.read(folder / "out" / "toy.csv"),
    }


def row_of(swept, trouble):
    return [row for row in swept["rows"] if row["job"] == swept["jobs"][trouble]["id"]]


def test_a_job_leaves_rows_scores_and_notebook(swept):
    job = swept["jobs"]["none"]
    lines = row_of(swept, "none")
    assert [(row["method"], row["auroc"], row["status"]) for row in lines] == [
        ("mean", "0.750000", "ok"),
        ("toy", "0.750000", "ok"),
    ]
    defaults = {"rate": 0.5, "steps": 3, "sizes": [1, 2], "shown": True, "anything": None}
    assert json.loads(lines[0]["settings"]) == {
        **defaults,
        **job["settings"],
    }  # also what the job leaves to the notebook
    with gzip.open(sweep.scores_path(swept["out"], job), "rt") as file:
        assert list(csv.reader(file))[1] == ["0", "a", "0", "0.1"]
    cells = json.loads(sweep.notebook_path(swept["out"], job).read_text())["cells"]
    assert all(cell["execution_count"] for cell in cells)


def test_a_sweep_leaves_nothing_else(swept):
    found = {path.name for path in swept["out"].rglob("*") if path.is_file()}
    assert not [name for name in found if name.endswith(".tmp")]
    there = {path.name for path in swept["out"].iterdir() if path.suffix != ".lock"}
    assert there == {"toy.csv", "notebooks", "scores", "logs"}


def test_a_failing_cell_leaves_a_failed_row_and_its_half_run_notebook(swept):
    (row,) = row_of(swept, "cell")
    assert (row["status"], row["error"], row["auroc"]) == ("failed", "RuntimeError: this cell fails", "")
    path = sweep.notebook_path(swept["out"], swept["jobs"]["cell"])
    assert not path.exists()
    assert "this cell fails" in path.with_suffix(".failed.ipynb").read_text()


@pytest.mark.parametrize("trouble", ["kernel", "crash"])
def test_a_killed_kernel_fails_its_job(swept, trouble):
    (row,) = row_of(swept, trouble)
    assert row["status"] == "failed" and "DeadKernelError" in row["error"]


def log_of(swept, trouble):
    return sweep.log_path(swept["out"], swept["jobs"][trouble]).read_text()


def test_each_job_keeps_a_log_of_what_it_did_and_how_it_ended(swept):
    lines = [line for line in log_of(swept, "none").splitlines() if not line.endswith("Z starting, 0 of 1")]
    begun, done, *_, ended = lines
    time_of_day = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"{time_of_day} toy digits 0 seed 0 quick: attempt 1, worker \d, commit .*", begun)
    assert done.endswith("Z toying, 1 of 2, loss 0.25")
    assert re.search(r"Z toy digits 0 seed 0 quick: toy 0.7500, mean 0.7500 \(\d+ s\)$", ended)


def test_a_log_holds_the_traceback_of_a_cell_and_what_a_crashed_interpreter_said(swept):
    log = log_of(swept, "cell")
    assert "FAILED toy digits 1 seed 0 quick: RuntimeError: this cell fails" in log and "second line" in log
    assert "Traceback" in log and "\x1b[" not in log
    assert "Segmentation fault" in log_of(swept, "crash")


def test_a_log_tells_of_a_worker_that_died_and_of_the_next_attempt(swept):
    log = log_of(swept, "worker once")
    assert "Z the worker died" in log and "attempt 2" in log and "attempt 3" not in log


def test_each_job_sees_the_gpu_of_its_slot_and_no_other(swept):
    """A slot's GPU is what the log of the job says; which slot gets how many jobs is for the machine to decide."""
    slots = {trouble: re.findall(r", worker (\d),", log_of(swept, trouble)) for trouble in TROUBLES}
    assert {slot for numbers in slots.values() for slot in numbers} == {"0", "1"}
    gpus = {swept["jobs"][trouble]["id"]: ("5", "7")[int(numbers[-1])] for trouble, numbers in slots.items()}
    seen = {row["job"]: row["device"] for row in swept["rows"] if row["status"] == "ok"}
    assert len(seen) > 1 and seen == {job: gpus[job] for job in seen}


def test_a_job_whose_worker_was_killed_runs_again_and_the_others_run_once(swept):
    assert len(row_of(swept, "worker once")) == 2
    counts = [line[0] for line in runs(swept["log"])]
    twice = swept["jobs"]["worker once"]["class"]
    assert {normal: counts.count(normal) for normal in counts} == {
        str(number): 2 if str(number) == twice else 1 for number in range(len(TROUBLES))
    }


def test_the_report_says_what_failed(swept):
    good = {"none", "worker once", "nothing"}
    assert {job["settings"]["trouble"] for job in swept["report"]["ok"]} == good
    assert {job["settings"]["trouble"] for job in swept["report"]["failed"]} == set(TROUBLES) - good
    assert 0 < swept["report"]["outside"] < 1


def test_each_job_has_a_process_of_its_own_and_none_lives_on(swept):
    processes = [pid for line in runs(swept["log"]) for pid in line[2:]]
    assert len(set(processes)) == len(processes) == 2 * (len(TROUBLES) + 1)
    wait_for(lambda: all(gone(int(pid)) for pid in processes))


def test_rows_hold_the_seconds_of_the_whole_job_and_what_tells_whether_it_trained(swept):
    for row in row_of(swept, "none"):
        assert 0 < float(row["job_seconds"]) and json.loads(row["diagnostics"]) == {"loss": 0.25}


def test_the_next_call_runs_only_what_failed(swept):
    again, jobs = [], list(swept["jobs"].values())
    report = sweep.reproduce(
        jobs, swept["out"], n_jobs=1, notebooks=swept["notebooks"], submit=instant(again, "still failing")
    )
    assert again == [job["id"] for job in jobs if job in swept["report"]["failed"]]
    assert {job["id"] for job in report["done"]} == {job["id"] for job in swept["report"]["ok"]}
    assert len(rows.read(swept["out"] / "toy.csv")) == len(swept["rows"])


# ---- what is run and what not, without kernels ---------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    """reproduce(jobs, **options) on instant executors; .submitted tells what was run."""
    notebooks, submitted = toy.write_notebook(tmp_path / "notebooks"), []

    def reproduce(jobs, error=None, **options):
        submitted.clear()
        return sweep.reproduce(
            jobs, tmp_path / "out", 1, notebooks=notebooks, submit=instant(submitted, error), **options
        )

    reproduce.submitted, reproduce.out = submitted, tmp_path / "out"
    return reproduce


def test_a_second_call_runs_nothing(bench, capsys):
    jobs = [toy.toy_job(str(number)) for number in range(3)]
    bench(jobs)
    before = (bench.out / "toy.csv").read_bytes()
    bench(jobs)
    assert bench.submitted == [] and "nothing to run" in capsys.readouterr().out
    assert (bench.out / "toy.csv").read_bytes() == before


def test_force_runs_everything_again(bench):
    jobs = [toy.toy_job(str(number)) for number in range(3)]
    bench(jobs)
    bench(jobs, force=True)
    assert sorted(bench.submitted) == sorted(job["id"] for job in jobs)
    assert len(rows.read(bench.out / "toy.csv")) == 3


def test_rows_of_other_settings_are_stale_and_stay_unless_forced(bench, capsys):
    bench([toy.toy_job()])
    changed = toy.toy_job(rate=0.1)
    report = bench([changed])
    assert bench.submitted == [] and report["stale"] == [changed]
    assert "stale, not run: the rows of toy digits 8 seed 0 quick" in capsys.readouterr().out
    bench([changed], force=True)
    (row,) = rows.read(bench.out / "toy.csv")
    assert row["job"] == changed["id"]


def test_a_failure_loses_nothing_that_an_earlier_run_left(bench):
    job = toy.toy_job()
    bench([job])
    kept = sweep.notebook_path(bench.out, job)
    kept.write_text("from the good run")
    bench([job], error="ValueError: now it fails", force=True)
    assert kept.read_text() == "from the good run" and kept.with_suffix(".failed.ipynb").exists()
    lines = rows.read(bench.out / "toy.csv")
    assert [row["auroc"] for row in lines if row["status"] == "ok"] == ["0.500000"]


def test_success_clears_the_traces_of_a_failure(bench):
    job = toy.toy_job()
    bench([job], error="ValueError: no luck")
    assert [row["status"] for row in rows.read(bench.out / "toy.csv")] == ["failed"]
    bench([job])
    assert [row["status"] for row in rows.read(bench.out / "toy.csv")] == ["ok"]
    assert not sweep.notebook_path(bench.out, job).with_suffix(".failed.ipynb").exists()


def test_without_a_terminal_each_job_is_a_line(bench, capsys):
    bench([toy.toy_job("3")])
    said = capsys.readouterr()
    assert "[1 of 1] toy digits 3 seed 0 quick: toy 0.5000 (1 s)" in said.out.splitlines() and said.err == ""


@pytest.mark.parametrize("source, warned", [("random", True), ("imagenet", False)])
def test_the_line_of_a_job_with_random_weights_says_so(source, warned):
    row = {"method": "toy", "auroc": "0.750000", "weights": f"resnet18/{source}"}
    line = sweep._line(toy.toy_job("3"), {"error": None, "rows": [row], "seconds": 1.0})
    assert ("RANDOM" in line and "say nothing about the paper" in line) == warned


def test_a_damaged_result_file_is_named_before_anything_runs(bench):
    bench([toy.toy_job()])
    path = bench.out / "toy.csv"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="toy.csv"):
        bench([toy.toy_job("3")])
    assert bench.submitted == []


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"rat": 0.1}, "no parameter 'rat'; it has dataset"),
        ({"rate": "fast"}, "'rate' of toy.ipynb is of type float .* not str"),
        ({"rate": True}, "float .* not bool"),
        ({"steps": 2.5}, "int .* not float"),
        ({"steps": True}, "int .* not bool"),
        ({"steps": None}, "int .* not NoneType"),
        ({"shown": 1}, "bool .* not int"),
        ({"sizes": 3}, "list .* not int"),
        ({"sizes": []}, r"'sizes' of toy.ipynb is \[\]: at least one is needed"),
        ({"steps": 0}, "'steps' of toy.ipynb is 0: at least one is needed"),
        ({"trouble": 3}, "str .* not int"),
        ({"device": "cpu"}, "device is given by the job itself"),
    ],
)
def test_a_parameter_that_does_not_fit_is_an_error_before_anything_runs(bench, settings, said):
    with pytest.raises(ValueError, match=said):
        bench([toy.toy_job("1"), toy.toy_job(**settings)])
    assert bench.submitted == []
    notebook = bench.out.parent / "notebooks" / "toy.ipynb"
    with pytest.raises(ValueError, match=said):
        runner.run_job(toy.toy_job(**settings), {"notebooks": str(notebook.parent), "work": "nowhere"})


@pytest.mark.parametrize("settings", [{"rate": 1}, {"rate": 1e-3}, {"anything": 3}, {"anything": "x"}, {"sizes": [1]}])
def test_a_parameter_that_fits_is_taken(bench, settings):
    bench([toy.toy_job(**settings)])
    assert len(bench.submitted) == 1


def leave(lines, spoil=lambda folder: None):
    """A stand-in for `job.execute`, whose notebook leaves these rows."""

    def execute(notebook, output, parameters):
        folder = Path(parameters["out_dir"])
        Path(output).write_text('{"cells": []}')
        rows.save(folder, lines, {"index": [0]})
        spoil(folder)

    return execute


def cut(folder):
    path = folder / "rows.csv"
    path.write_bytes(path.read_bytes()[:-30])


def toy_row(**other):
    names = {
        "paper": "toy",
        "method": "toy",
        "dataset": "digits",
        "protocol": "official",
        "class": "8",
        "seed": 0,
        "profile": "quick",
        "auroc": 0.5,
    }
    return rows.row(**{**names, **other})


@pytest.mark.parametrize(
    "execute, said",
    [
        (leave([toy_row()], lambda folder: (folder / "rows.csv").unlink()), "left no rows.csv"),
        (leave([toy_row()], cut), "rows.csv, line"),
        (leave([]), "without rows"),
        (
            leave([toy_row(), toy_row(method="mean", seed=99)]),
            "says toy digits 8 seed 99 quick, the job is toy digits 8",
        ),
        (leave([toy_row(**{"class": "7"})]), "digits 7 seed 0"),
        (leave([toy_row(profile="paper")]), "seed 0 paper"),
        (leave([toy_row(), toy_row()]), "same key"),
    ],
)
def test_rows_that_are_missing_damaged_or_of_another_job_fail_it(tmp_path, monkeypatch, execute, said):
    monkeypatch.setattr(runner, "execute", execute)
    options = {"notebooks": str(toy.write_notebook(tmp_path)), "work": str(tmp_path / "work")}
    outcome = runner.run_job(toy.toy_job(), options)
    assert said in outcome["error"] and outcome["rows"] == [] and outcome["notebook"]


def test_scores_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "execute", leave([toy_row()], lambda folder: (folder / "scores.csv.gz").unlink()))
    options = {"notebooks": str(toy.write_notebook(tmp_path)), "work": str(tmp_path / "work"), "commit": "abc1234"}
    outcome = runner.run_job(toy.toy_job(), options)
    assert outcome["error"] is None and outcome["scores"] is None
    assert (outcome["rows"][0]["commit"], outcome["rows"][0]["job"]) == ("abc1234", toy.toy_job()["id"])


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_process_sends_is_nothing_and_what_it_leaves_is_all(tmp_path, monkeypatch, fails):
    """Half a message of a killed process would be waited for without end."""
    monkeypatch.setattr(runner, "execute", leave([toy_row(**({"class": "7"} if fails else {}))]))
    options = {"notebooks": str(toy.write_notebook(tmp_path)), "work": str(tmp_path / "work")}
    whole = runner.run_job(toy.toy_job(), options)
    assert runner.leave_outcome(toy.toy_job(), options) is None
    left = runner.left_outcome(options["work"])
    assert left.keys() == whole.keys() and bool(left["error"]) == fails and (left["scores"] is None) == fails
    for outcome in (left, whole):
        outcome["seconds"] = 0
        for row in outcome["rows"]:
            row["job_seconds"] = "0"
    assert left == whole


def test_a_job_whose_outcome_is_not_to_be_found_fails(tmp_path):
    notebooks = toy.write_notebook(tmp_path)
    report = sweep.reproduce([toy.toy_job()], tmp_path / "out", notebooks=notebooks, submit=lambda *_: done())
    assert len(report["failed"]) == 1
    assert "outcome.pickle" in rows.read(tmp_path / "out" / "toy.csv")[0]["error"]


@pytest.mark.parametrize("values", [{"data": "stand-in:0123abcd"}, {"weights": "resnet18/stand-in:0123abcd"}])
def test_rows_of_stand_ins_take_no_place_in_results(tmp_path, monkeypatch, values):
    monkeypatch.setattr(sweep, "CHECKOUT", tmp_path)
    job = toy.toy_job()
    for out, error in ((tmp_path / "results", "stand-ins, whose rows are not for"), (tmp_path / "build", None)):
        row = toy_row(job=job["id"], settings="{}", **values)
        outcome = {"rows": [row], "scores": None, "notebook": '{"cells": []}', "error": None}
        sweep.keep(out, job, outcome)
        [kept] = rows.read(out / "toy.csv")
        assert kept["status"] == ("failed" if error else "ok") and (error or "") in kept["error"]
        assert bool(sweep.outstanding([job], out)[0]) == bool(error)  # still to be run, where it failed
        assert bool(error) == bool(outcome["error"])


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="toy.ipynb; there are: none"):
        sweep.reproduce([toy.toy_job()], tmp_path / "out", notebooks=tmp_path)


@pytest.mark.parametrize("line", ["total = 2 * 3", "a, b = 1, 2", "import os", "steps += 1"])
def test_nothing_derived_may_stand_among_the_parameters(tmp_path, line):
    path = tmp_path / "toy.ipynb"
    path.write_text(toy.notebook(toy.PARAMETERS + line))
    with pytest.raises(ValueError, match="only name = literal"):
        runner.parameters_of(path)


def test_a_notebook_without_parameters_is_an_error(tmp_path):
    path = tmp_path / "toy.ipynb"
    path.write_text(toy.notebook(toy.PARAMETERS).replace('"parameters"', '"other"'))
    with pytest.raises(ValueError, match="no cell tagged 'parameters'"):
        runner.parameters_of(path)


def test_own_images_backbones_and_odd_names_make_distinct_file_names(tmp_path):
    job = ["toy", "folder:/a b/screws", "no/good", "official", 0, "quick", {}]
    others = [[1, "folder:/c/screws"], [6, {"backbone": "wide"}], [2, "a b"], [2, "a_b"], [2, "a+b"], [2, "é" * 300]]
    others += [[1, f"folder:/{'x' * 300}/{'y' * 300}"], [2, "z" * 300], [2, "z" * 301]]
    jobs = [toy.job(*job)] + [toy.job(*job[:place], value, *job[place + 1 :]) for place, value in others]
    paths = [sweep.notebook_path(tmp_path, job) for job in jobs]
    assert len(set(paths)) == len(jobs)
    for path, job in zip(paths, jobs, strict=True):
        assert path.parent == tmp_path / "notebooks" / "toy" and re.fullmatch(r"[\w.-]+", path.name)
        longest = max(sweep.checkpoint_path(tmp_path, job).name, f"{path.stem}.failed.ipynb", key=len)
        assert len(f"{longest}.tmp".encode()) < 200
    assert sweep.notebook_path(tmp_path, toy.toy_job("a_b")).name == "digits-official-a_b-seed0-quick.ipynb"


def test_a_very_long_name_costs_no_job(bench):
    job = toy.toy_job("n" * 500)
    for error in ("ValueError: no luck", None):
        assert bench([job], error=error)["failed" if error else "ok"] == [job]
    assert sweep.log_path(bench.out, job).exists() and bench([job])["done"] == [job]


def test_the_parent_imports_neither_papermill_nor_torch():
    code = "import sys, repro.sweep; sys.exit(bool({'papermill', 'torch', 'nbformat'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- processes that die --------------------------------------------------------------------------------------------


def test_a_job_whose_processes_always_die_is_given_up_and_the_others_go_on(tmp_path):
    notebooks, submitted = toy.write_notebook(tmp_path / "notebooks"), []
    jobs = [toy.toy_job(str(number)) for number in range(3)]

    def submit(job, *others):
        future = instant(submitted)(job, *others)
        return done(error=BrokenExecutor("gone")) if job == jobs[0] else future

    report = sweep.reproduce(jobs, tmp_path / "out", 1, notebooks=notebooks, submit=submit)
    assert report["failed"] == jobs[:1] and report["ok"] == jobs[1:]
    assert submitted == [jobs[0]["id"]] * sweep.ATTEMPTS + [job["id"] for job in jobs[1:]]
    (row,) = [row for row in rows.read(tmp_path / "out" / "toy.csv") if row["status"] == "failed"]
    assert row["error"] == "the worker died 3 times"


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import toy
from repro.sweep import reproduce
if __name__ == "__main__":
    folder, log = sys.argv[2], sys.argv[2] + "/log"
    jobs = [toy.toy_job("0", log=log), *(toy.toy_job(c, trouble="until told", log=log) for c in "123")]
    reproduce(jobs, folder + "/out", n_jobs=2, notebooks=folder + "/notebooks")
"""


def test_after_sigkill_of_the_parent_nothing_lives_on_and_the_next_call_goes_on(tmp_path):
    notebooks, log = toy.write_notebook(tmp_path / "notebooks"), tmp_path / "log"
    temporary = Path(tempfile.mkdtemp())  # not below tmp_path, which is too long for the names of sockets
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command, environment = [sys.executable, script, TESTS, tmp_path], {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as parent:
        try:
            wait_for(lambda: parent.poll() is not None or len(runs(log)) == 3)  # one job done, two in the midst
        finally:
            parent.kill()
    wait_for(lambda: all(gone(int(pid)) for line in runs(log) for pid in line[2:]))
    wait_for(lambda: not list(temporary.iterdir()))  # nor do their work folders
    temporary.rmdir()
    lines = rows.read(tmp_path / "out" / "toy.csv")
    assert [row["class"] for row in lines] == ["0", "0"]
    Path(f"{log}.go").touch()
    jobs = [toy.toy_job("0", log=str(log)), *(toy.toy_job(c, trouble="until told", log=str(log)) for c in "123")]
    report = sweep.reproduce(jobs, tmp_path / "out", n_jobs=2, notebooks=notebooks)
    assert report["done"] == jobs[:1] and report["failed"] == []
    lines = rows.read(tmp_path / "out" / "toy.csv")
    assert sorted((row["class"], row["method"]) for row in lines) == [(c, m) for c in "0123" for m in ("mean", "toy")]


CHECKPOINTS = """\
path, carried = pathlib.Path(out_dir, "checkpoint.pt"), pathlib.Path(log + ".out", "notebooks", "toy")
found = path.read_text() if path.exists() else "nothing"
with open(log + ".found", "a") as file:
    file.write(found + "\\n")
rows.write_whole(path, f"number {count}".encode())
while not any(other.read_text() == path.read_text() for other in carried.glob("*.pt")):
    time.sleep(0.05)
if count == 1:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if count == 2:
    raise RuntimeError("this cell fails")
"""


def test_a_job_finds_the_checkpoint_that_it_left_before_its_worker_died_or_it_failed(tmp_path):
    (tmp_path / "notebooks").mkdir()
    text = toy.notebook(toy.PARAMETERS, toy.BODY, CHECKPOINTS, toy.SAVE)
    (tmp_path / "notebooks" / "toy.ipynb").write_text(text)
    job, out = toy.toy_job(log=str(tmp_path / "log")), tmp_path / "log.out"
    other = sweep.checkpoint_path(out, toy.toy_job(log=str(tmp_path / "log"), steps=4))
    rows.write_whole(other, b"of other settings")
    options = {"n_jobs": 1, "notebooks": tmp_path / "notebooks"}
    assert sweep.reproduce([job], out, **options)["failed"] == [job]
    assert sweep.checkpoint_path(out, job).read_text() == "number 2"
    assert sweep.reproduce([job], out, **options)["ok"] == [job]
    assert (tmp_path / "log.found").read_text().split("\n") == ["nothing", "number 1", "number 2", ""]
    assert [path for path in out.rglob("*") if ".pt" in path.name] == [other]  # its own is gone with the last run


def test_where_no_checkpoint_can_be_carried_the_job_runs_all_the_same(tmp_path):
    (tmp_path / "file").touch()
    sweep._carry(tmp_path / "none", tmp_path / "x")
    sweep._carry(tmp_path / "file", tmp_path / "file" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_eight_kernels_starting_at_once_lose_no_job(tmp_path):
    notebooks = toy.write_notebook(tmp_path / "notebooks")
    jobs = [toy.toy_job(str(number)) for number in range(8)]
    report = sweep.reproduce(jobs, tmp_path / "out", n_jobs=8, notebooks=notebooks)
    assert len(report["ok"]) == 8 and len(rows.read(tmp_path / "out" / "toy.csv")) == 16


def test_all_libraries_of_a_job_get_the_same_number_of_threads(monkeypatch):
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert {runner.environment(2)[name] for name in counts} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's choice
    assert {runner.environment(2)[name] for name in counts} == {"3"}


# ---- GPUs ----------------------------------------------------------------------------------------------------------


def test_the_gpus_are_those_that_the_user_left_visible_or_nvidia_smi_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, MIG-1")
    assert runner.gpus() == ["2", "MIG-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runner.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runner.gpus() == []
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'GPU 0: A card (UUID: GPU-1)'\necho '  MIG 1g (UUID: MIG-1)'\n"
        "echo 'GPU 1: A card (UUID: GPU-2)'\n"
    )
    smi.chmod(0o755)
    assert runner.gpus() == ["0", "1"]
    smi.write_text("#!/bin/sh\necho 'GPU 0: no driver'\nexit 9\n")
    assert runner.gpus() == []


@pytest.mark.parametrize(
    "gpus, n_jobs, cores, expected",
    [
        ((), None, 16, [None, None]),
        (["0", "1", "3"], None, 16, ["0", "1", "3", "0", "1", "3"]),
        (["0", "1", "3"], None, 4, ["0", "1", "3", "0"]),
        (["0", "1"], 1, 16, ["0"]),
    ],
)
def test_jobs_are_spread_over_the_gpus_and_the_cores_divided(tmp_path, monkeypatch, gpus, n_jobs, cores, expected):
    made = []

    @contextlib.contextmanager
    def processes(root):
        yield lambda job, options, variables: made.append(variables) or instant([])(job, options, variables)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sweep, "cores", lambda: cores)
    monkeypatch.setattr(sweep, "processes", processes)
    jobs = [toy.toy_job(str(number)) for number in range(9)]
    sweep.reproduce(jobs, tmp_path / "out", n_jobs, notebooks=toy.write_notebook(tmp_path / "notebooks"), gpus=gpus)
    threads = {variables["OMP_NUM_THREADS"] for variables in made}
    first = [variables.get("CUDA_VISIBLE_DEVICES") for variables in made[: len(expected)]]
    assert len(made) == 9 and threads == {str(cores // len(expected))} and first == expected


def test_a_job_numbers_its_gpus_as_nvidia_smi_does():
    found = runner.environment(1, "3")
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("3", "PCI_BUS_ID")
    assert "CUDA_VISIBLE_DEVICES" not in runner.environment(1)


# ---- a process of its own ------------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_process_of_a_job_and_its_kernel(tmp_path):
    notebooks, log = toy.write_notebook(tmp_path / "notebooks"), tmp_path / "log"
    options = {"notebooks": str(notebooks), "work": str(tmp_path / "work")}
    with pytest.raises(KeyboardInterrupt):
        with runner.processes() as submit:
            future = submit(toy.toy_job(trouble="until told", log=str(log)), options)
            wait_for(lambda: future.done() or runs(log))
            raise KeyboardInterrupt
    assert isinstance(future.exception(), BrokenExecutor)
    wait_for(lambda: all(gone(int(pid)) for pid in runs(log)[0][2:]))


def test_what_a_process_finds_in_its_environment_is_its_own(tmp_path):
    options = {"notebooks": str(toy.write_notebook(tmp_path / "notebooks")), "work": str(tmp_path / "work")}
    with runner.processes() as submit:
        submit(toy.toy_job(), options, {"CUDA_VISIBLE_DEVICES": "no card"}).result()
    assert {row["device"] for row in runner.left_outcome(tmp_path / "work")["rows"]} == {"no card"}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "no card"


def test_a_kernel_in_a_folder_whose_path_is_too_long_for_sockets_has_them_elsewhere(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    notebooks = toy.write_notebook(tmp_path / "notebooks")
    given = runner.job_parameters(toy.toy_job(), "cpu", str(tmp_path), notebooks / "toy.ipynb")
    runner.execute(notebooks / "toy.ipynb", long / "executed.ipynb", given)
    assert len(rows.read(tmp_path / "rows.csv")) == 2
