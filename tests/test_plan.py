import json

import pytest

from adlib import backbones
from repro import data, plan, register, rows


CPU, GPU = "cpu (1 threads)", "NVIDIA H100"


def job(dataset="digits", normal="8", seed=0, paper="toy", protocol="official", profile="quick", **settings):
    return register.job(paper, dataset, normal, protocol, seed, profile, settings)


def row(of, method="toy", device=CPU, **values):
    """A row of a job, as the sweep writes it."""
    names = ("paper", "dataset", "protocol", "class", "seed", "profile")
    settings = json.dumps(of["settings"], sort_keys=True, separators=(",", ":"))
    return rows.row(
        **{name: of[name] for name in names}, method=method, device=device, settings=settings, job=of["id"], **values
    )


@pytest.fixture(autouse=True)
def lacks(monkeypatch):
    """What this machine lacks, for tests to fill: {(dataset, class, size) or (backbone, weights): answer}.

    The answers themselves are those of `data.missing` and `backbones.missing`, and tested with them.
    """
    answers = {}
    monkeypatch.setattr(data, "missing", lambda *question: answers.get(question[:3]), raising=False)
    monkeypatch.setattr(backbones, "missing", lambda *question: answers.get(question), raising=False)
    return answers


# ---- what is missing -----------------------------------------------------------------------------------------------


def test_what_several_jobs_lack_is_said_once(lacks):
    lacks["mnist", "8", 32] = ("mnist", "put it there", True)
    lacks["mnist", "3", 32] = ("mnist", "put it there", True)
    lacks["mvtec", "pill", 256] = ("mvtec pill", "fetch it", False)
    lacks["resnet18", "imagenet"] = ("weights of resnet18", "fetch them", False)
    jobs = [
        job("digits"),
        job("mnist"),
        job("mnist", "3"),
        job("mnist", seed=1),
        job("mvtec", "pill", image_size=256, backbone="resnet18", weights="imagenet"),
        job(backbone="resnet18", weights="imagenet"),
        job(backbone="resnet18"),
    ]
    assert plan.missing(jobs) == [
        {"what": "mnist", "how": "put it there", "is_downloaded": True, "n_jobs": 3},
        {"what": "mvtec pill", "how": "fetch it", "is_downloaded": False, "n_jobs": 1},
        {"what": "weights of resnet18", "how": "fetch them", "is_downloaded": False, "n_jobs": 2},
    ]


# ---- how long ------------------------------------------------------------------------------------------------------


def estimates(jobs, told):
    """{device: {id: (seconds, is_alike)}}."""
    found = {}
    for line in plan.seconds(jobs, told).itertuples():
        found.setdefault(line.device, {})[line.job] = (pytest.approx(line.seconds), bool(line.is_alike))
    return found


def with_job_seconds(cells, seconds):
    return {**cells, "job_seconds": seconds}


def test_a_run_takes_its_job_seconds_and_rows_may_lack_the_column():
    new, old = job(), job("mnist")
    told = [
        with_job_seconds(row(new, "a", train_seconds=100), "400.0"),
        with_job_seconds(row(new, "b", train_seconds=50), "400.0"),
        with_job_seconds(row(old, "a", train_seconds=100), ""),
    ]
    assert estimates([new, old], told) == {CPU: {new["id"]: (400, True), old["id"]: (100, True)}}
    without = {name: text for name, text in told[2].items() if name != "job_seconds"}
    assert estimates([old], [without]) == {CPU: {old["id"]: (100, True)}}


def test_without_job_seconds_a_training_counts_once_for_all_methods_that_share_it():
    one = job()
    told = [
        row(one, "a", train_seconds=100, ms_per_image=2, n_test=1000, n_parameters=5),
        row(one, "a_latent", train_seconds=100, ms_per_image=3, n_test=1000, n_parameters=5),
        row(one, "a_oracle", train_seconds=100, ms_per_image=3, n_test=1000, n_parameters=5),
        row(one, "b", train_seconds=50, ms_per_image=2, n_test=1000, n_parameters=5),
        row(one, "c", train_seconds=50, n_parameters=7),
    ]
    # trainings 100 + 50 + 50 (another network), scoring 2 + 3 + 2
    assert estimates([one], told) == {CPU: {one["id"]: (207, True)}}


def test_runs_of_the_same_settings_come_first_then_those_of_the_same_class():
    told = [
        row(job("digits", normal, seed, steps=steps), train_seconds=value)
        for normal, seed, steps, value in (
            ("1", 0, 9, 10),
            ("1", 1, 9, 20),
            ("2", 0, 9, 60),
            ("3", 0, 5, 1000),
            ("1", 0, 5, 2000),
        )
    ]
    wanted = [
        job(normal="1", seed=2, steps=9),
        job(normal="3", seed=2, steps=9),
        job(normal="3", seed=2, steps=7),
        job(normal="8", steps=7),
    ]
    found = estimates(wanted, told)[CPU]
    assert [found[one["id"]] for one in wanted] == [(15, True), (30, True), (1000, False), (618, False)]


def test_settings_are_alike_by_the_job_whatever_else_the_row_says():
    """Rows name all settings of the notebook, jobs those of the register."""
    one, other = job(seed=1, steps=9), job(seed=1, steps=7)
    told = {**row(job(seed=0, steps=9), train_seconds=50), "settings": '{"rate":0.5,"steps":9}'}
    assert estimates([one, other], [told]) == {CPU: {one["id"]: (50, True), other["id"]: (50, False)}}


def test_rows_of_anything_else_tell_nothing():
    one = job("mnist", backbone="resnet18")
    others = [
        job("fashion_mnist", backbone="resnet18"),
        job("mnist", backbone="resnet18", protocol="80-20"),
        job("mnist", backbone="resnet18", profile="paper"),
        job("mnist", backbone="wide_resnet50_2"),
        job("mnist", backbone="resnet18", paper="other"),
    ]
    told = [row(other, train_seconds=9) for other in others]
    told += [row(one, train_seconds=9, data="stand-in:12345678"), row(one, train_seconds=9, status="failed"), row(one)]
    assert plan.seconds([one], told).empty and plan.seconds([one], []).empty


def test_devices_apart_and_a_baseline_on_the_cpu_counts_to_the_gpus_run():
    jobs = [job(seed=seed) for seed in range(2)]
    told = [
        row(jobs[0], train_seconds=100),
        row(jobs[1], device=GPU, train_seconds=10, n_parameters=1),
        row(jobs[1], "svm", train_seconds=2),
    ]
    assert estimates(jobs, told) == {
        CPU: {one["id"]: (100, True) for one in jobs},
        GPU: {one["id"]: (12, True) for one in jobs},
    }


# ---- what is printed -----------------------------------------------------------------------------------------------


def line_of(text, *words):
    [line] = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    return line.split()[len(words) :]


def test_the_table_counts_jobs_and_hours_left(tmp_path):
    jobs = [job(normal=str(normal), steps=9) for normal in range(6)] + [job("textures", "weave")]
    good = [row(jobs[0], train_seconds=1800), row(job(normal="1", steps=5), train_seconds=3600)]
    rows.merge(tmp_path / "toy.csv", [*good, row(jobs[2], status="failed", error="ValueError: no")])
    shown = plan.text(jobs, tmp_path, command="make reproduce PAPERS=toy")
    assert line_of(shown, "toy", "digits") == ["official", "6", "1", "1", "4", "2.0", "h"]
    assert line_of(shown, "toy", "textures") == ["official", "1", "0", "0", "1", "1", "unknown"]
    assert line_of(shown, "all") == ["7", "1", "1", "5", "2.0", "h", "for", "4,", "1", "unknown"]
    assert CPU in shown.splitlines()[0] and "one job at a time" in shown
    assert "1 of 5 jobs have no row to estimate from" in shown and "in no sum of hours" in " ".join(shown.split())
    assert "1 of the jobs to run failed" in shown
    assert "data and weights are all here" in shown
    assert "to run these 5: make reproduce PAPERS=toy\n" in shown and "1 stale" in shown


def test_each_device_has_a_column_the_best_known_first(tmp_path):
    jobs = [job(normal="0"), job("textures", "weave"), job("textures", "weave", seed=1)]
    told = [row(jobs[0], device=GPU, train_seconds=3600), row(job(normal="1"), train_seconds=36000)]
    told.append(row(job("textures", "weave", seed=2), train_seconds=7200))
    rows.merge(tmp_path / "toy.csv", told)
    shown = plan.text(jobs, tmp_path, force=True)
    assert shown.splitlines()[0].index(CPU) < shown.splitlines()[0].index(GPU)
    assert line_of(shown, "all")[-8:] == ["14.0", "h", "1.0", "h", "for", "1,", "2", "unknown"]


def test_own_images_stand_there_by_the_last_part_of_their_path(tmp_path):
    jobs = [job(f"folder:{tmp_path / 'my images' / 'screws'}", "good")]
    assert line_of(plan.text(jobs, tmp_path), "toy", "folder:screws") == ["official", "1", "0", "0", "1"]


def test_force_runs_all(tmp_path):
    jobs = [job(normal=str(normal)) for normal in range(2)]
    rows.merge(tmp_path / "toy.csv", [row(one, train_seconds=60) for one in jobs])
    assert plan.text(jobs, tmp_path).endswith("nothing to run")
    shown = plan.text(jobs, tmp_path, force=True, command="make reproduce FORCE=1")
    assert line_of(shown, "toy", "digits") == ["official", "2", "2", "0", "2", "<0.1", "h"]
    assert shown.endswith("to run these 2: make reproduce FORCE=1")


def test_an_estimate_from_other_settings_is_marked(tmp_path):
    rows.merge(tmp_path / "toy.csv", [row(job(normal="1", steps=5), train_seconds=3600)])
    shown = plan.text([job(normal="2", steps=9)], tmp_path)
    assert line_of(shown, "toy", "digits")[-2:] == ["~1.0", "h"] and "rows of other settings" in shown


def test_what_is_missing_is_printed_a_dataset_at_a_time(lacks, tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", "/data")
    names = data.CLASS_NAMES["mvtec"]
    lacks |= {("mvtec", name, 32): (f"mvtec {name}", "put it into $ADLIB_DATA (now /data)", False) for name in names}
    lacks["folder:/my screws", "good", 32] = ("folder:/my screws", "there is no folder /my screws", False)
    jobs = [*(job("mvtec", name) for name in names), job("folder:/my screws", "good")]
    shown = " ".join(plan.text(jobs, tmp_path / "out").split())
    assert shown.count("/data") == 1
    assert "mvtec carpet, grid, leather, tile, wood, bottle, cable, capsule and 7 more, for 15 jobs: put it" in shown
    assert "folder:/my screws, for 1 job: there is no folder /my screws" in shown


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_the_whole_register_is_planned_on_less_than_80_lines(tmp_path, profile):
    jobs = register.jobs(register.load(), profile=profile)
    shown = plan.text(jobs, register.CHECKOUT / "results").splitlines()
    assert len(shown) < 80 and max(map(len, shown)) <= 140
