from pathlib import Path

import pytest

from repro import register, rows, sweep
from tests import rehearsal


BOOK = register.load()


def test_a_number_is_a_bound_and_anything_else_is_taken():
    settings = {"epochs": 50, "n_train": None, "pixel_ae_epochs": 0, "methods": ["a", "b"]}
    caps = {"epochs": 1, "n_train": 16, "pixel_ae_epochs": 1, "methods": ["a"]}
    assert rehearsal.cut(settings, caps) == {"epochs": 1, "n_train": 16, "pixel_ae_epochs": 0, "methods": ["a"]}


def test_every_job_of_seed_0_is_rehearsed_with_its_own_backbone_and_methods():
    jobs, n = rehearsal.jobs(BOOK)
    held = [
        job
        for paper in BOOK
        for profile in ("quick", "paper")
        for job in register.jobs(BOOK, papers=[paper], seeds=[0], profile=profile)
    ]
    assert n == len(held)

    def task(job):
        settings = job["settings"]
        kept = [str(settings.get(name)) for name in ("backbone", "methods", "presets", "ablations", "augment", "stem")]
        return job["paper"], job["dataset"], job["protocol"], job["class"], *kept

    assert {task(job) for job in jobs} == {task(job) for job in held}
    assert len({job["id"] for job in jobs}) == len(jobs) < n


def test_jobs_are_small_and_keep_what_is_smaller_still():
    jobs, _ = rehearsal.jobs(BOOK, ["baselines", "feature_ae"])
    for job in jobs:
        settings = job["settings"]
        assert settings["image_size"] == 32
        if job["paper"] == "baselines":  # on small images none of these is trained, and none shall be here
            assert settings["pixel_ae_epochs"] == (1 if job["dataset"] == "mvtec" else 0)
        else:
            assert (settings["epochs"], settings["n_train"]) == (1, 16)


def test_papers_and_datasets_choose_and_a_wrong_one_is_named():
    jobs, n = rehearsal.jobs(BOOK, ["two_stage", "cbigan"], ["textures"])
    assert {job["paper"] for job in jobs} == {"cbigan"} and n == 1
    with pytest.raises(ValueError, match="unknown dataset"):
        rehearsal.jobs(BOOK, ["two_stage"], ["textures"])


def test_each_paper_runs_by_each_protocol_of_its_own_and_each_dataset_is_read(tmp_path, monkeypatch):
    """A slice of `make rehearse`: the real notebooks, on stand-ins of every layout that the register names."""
    for name in ("ADLIB_DATA", "ADLIB_CACHE", "ADLIB_OFFLINE"):
        monkeypatch.setenv(name, "")  # so that what the rehearsal sets is undone
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    every = rehearsal.jobs(BOOK)[0]
    jobs = rehearsal.a_slice(every)
    places = {(job["paper"], job["dataset"], job["protocol"]) for job in jobs}
    assert len(places) == len(jobs)
    assert {(job["paper"], job["protocol"]) for job in jobs} == {(job["paper"], job["protocol"]) for job in every}
    assert {job["dataset"] for job in jobs} == {job["dataset"] for job in every}
    report = rehearsal.rehearse(jobs, tmp_path, n_jobs=2, device="cpu")
    out = next(path for path in Path(tmp_path).iterdir() if len(path.name) == 12)
    failed = {register.describe(job): sweep.log_path(out, job).read_text()[-2000:] for job in report["failed"]}
    assert not failed
    measured = [row for path in out.glob("*.csv") for row in rows.read(path)]
    assert {(row["paper"], row["dataset"], row["protocol"]) for row in measured} == places
    assert all(rows.of_stand_ins(row) for row in measured if row["dataset"] != "textures")
    assert {row["weights"].partition(":")[0] for row in measured} == {"", "resnet18/local"}
    again = rehearsal.rehearse(jobs, tmp_path, n_jobs=2, device="cpu")  # it goes on where it was
    assert len(again["done"]) == len(jobs) and not again["ok"]


def test_the_command_line_names_what_it_does_not_know(capsys):
    for words, said in ((["--papers", "three_stage"], "three_stage"), (["--datasets", "minst"], "minst")):
        with pytest.raises(SystemExit):
            rehearsal.main(words)
        assert said in capsys.readouterr().err


def test_jobs_take_drawn_weights_for_imagenets_and_keep_all_else(tmp_path):
    jobs, _ = rehearsal.jobs(BOOK, ["feature_ae"])
    for job, changed in zip(jobs, rehearsal.on_stand_ins(jobs, tmp_path), strict=True):
        path = str(tmp_path / "weights" / f"{job['settings']['backbone']}.pth")
        assert changed["settings"] == {**job["settings"], "weights": path}
        assert changed["class"] == job["class"]
