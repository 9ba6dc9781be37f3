import json
import zipfile

import numpy as np
import pytest
import torch

from adlib import backbones
from repro import data, plan, register, results, standins
from repro.data import cache, coil100, mvtec, readers


CPU, GPU = "cpu (1 threads)", "NVIDIA H100"


def job(dataset="digits", normal="8", seed=0, paper="toy", protocol="official", profile="quick", **settings):
    return register.job(paper, dataset, normal, protocol, seed, profile, settings)


def row(of, method="toy", device=CPU, **values):
    """A row of a job, as the sweep writes it."""
    names = ("paper", "dataset", "protocol", "class", "seed", "profile")
    settings = json.dumps(of["settings"], sort_keys=True, separators=(",", ":"))
    return results.row(
        **{name: of[name] for name in names}, method=method, device=device, settings=settings, job=of["id"], **values
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder that ADLIB_DATA names."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def names(jobs):
    return [one["what"] for one in plan.missing(jobs)]


# ---- what is missing -----------------------------------------------------------------------------------------------

NEEDY = [
    job("digits"),
    job("textures", "weave"),
    job("mnist"),
    job("mnist", "3"),
    job("coil100", "obj7", protocol="80-20"),
    job("mvtec", "bottle", image_size=256),
    job("mvtec", "screw", backbone="resnet18", weights="imagenet"),
    job(backbone="resnet18", weights="random"),
    job(backbone="resnet18"),
]


def test_a_bare_machine_lacks_all_but_what_is_embedded_and_says_where_it_goes(root):
    found = {one["what"]: one for one in plan.missing(NEEDY)}
    assert list(found) == ["mnist", "coil100", "mvtec bottle", "mvtec screw", "weights of resnet18"]
    assert [one["n_jobs"] for one in found.values()] == [2, 1, 1, 1, 1]
    assert not any(one["is_downloaded"] for one in found.values()), "ADLIB_OFFLINE=1"
    for what, part in (
        ("mnist", "MNIST/raw/"),
        ("coil100", coil100.PAGE),
        ("mvtec screw", mvtec.ARCHIVE),
        ("weights of resnet18", "resnet18-f37072fd.pth"),
    ):
        assert part in found[what]["how"] and str(root) in found[what]["how"]
    assert not any(root.iterdir()), "nothing is written"


def test_what_a_job_downloads_by_itself(monkeypatch):
    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    found = {one["what"]: one["is_downloaded"] for one in plan.missing(NEEDY)}
    assert found.pop("coil100") is False and all(found.values()) and len(found) == 4


def test_where_adlib_data_names_no_folder_no_download_is_promised(root, monkeypatch):
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    root.rmdir()
    [found] = plan.missing([job("mnist")])
    assert not found["is_downloaded"] and "is no folder" in found["how"]
    with pytest.raises(FileNotFoundError, match="is no folder"):  # as the job itself
        data.load("mnist", "train")


def test_stand_ins_are_there_and_are_called_by_that_name(root):
    standins.write(root, names=["mnist"])
    (root / "weights").mkdir()
    (root / "weights" / "resnet18-stand-in.pth").touch()  # files of weights are not opened
    (root / "weights" / readers.STAND_IN).touch()
    jobs = [job("mnist"), job(backbone="resnet18", weights="imagenet")]
    assert plan.missing(jobs) == []
    assert plan.stand_ins([*jobs, job("digits")]) == ["mnist", "weights of resnet18"]
    assert "stand-ins, whose rows count for nothing: mnist, weights of resnet18" in plan.text(jobs, root / "out")


def test_a_prepared_file_counts_at_its_size_only(root):
    images = readers.Images(
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        ["0"],
        None,
        ["0"],
        None,
        "official",
    )
    cache.write(data._cache_path("mnist", 32, "antialias", None), (images, images))
    cache.write(data._cache_path("mvtec", 64, "antialias", "pill"), (images, images))
    assert names([job("mnist"), job("mnist", image_size=32), job("mvtec", "pill", image_size=64)]) == []
    assert names([job("mnist", image_size=64), job("mvtec", "pill", image_size=128)]) == ["mnist", "mvtec pill"]
    assert names([job("mvtec", "screw", image_size=64)]) == ["mvtec screw"]


def test_a_class_that_a_copy_lacks_is_missing_and_is_not_downloaded(root, monkeypatch):
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    labels = np.array([data.CLASS_NAMES["cifar100"].index(name) for name in ("bee", "cup")])
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.savez(root / "cifar100.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    [found] = plan.missing([job("cifar100", name) for name in ("bee", "cup", "wolf", "wolf")])
    assert found["what"] == "cifar100 wolf" and found["n_jobs"] == 2 and not found["is_downloaded"]
    assert "cifar-100-python" in found["how"]
    (root / "cifar100.npz").write_bytes(b"no npz")
    assert names([job("cifar100", "wolf")]) == [], "the job will say that it is damaged"


def test_categories_of_mvtec_are_there_each_on_its_own_or_all_in_the_archive(root):
    (root / "mvtec" / "pill").mkdir(parents=True)
    jobs = [job("mvtec", name) for name in ("pill", "wood")]
    assert names(jobs) == ["mvtec wood"]
    (root / mvtec.ARCHIVE).touch()
    assert names(jobs) == []


def test_objects_of_coil100_in_folder_or_archive(root):
    jobs = [job("coil100", name, protocol="80-20") for name in ("obj2", "obj10")]
    with zipfile.ZipFile(root / coil100.ARCHIVE, "w") as archive:
        archive.writestr("coil-100/obj2__0.png", b"")
    assert names(jobs) == ["coil100 obj10"]
    (root / "coil-100").mkdir()
    (root / "coil-100" / "obj10__5.png").touch()
    assert names(jobs) == ["coil100 obj2"], "the folder is read first"
    (root / "coil-100" / "obj10__5.png").rename(root / "coil-100" / "notes.txt")
    (root / coil100.ARCHIVE).write_bytes(b"no archive")
    assert names(jobs) == [], "the job will say that it is damaged"


def test_weights_are_known_by_the_digits_in_their_name_else_believed(root):
    (root / "weights").mkdir()
    needs = [job(backbone="wide_resnet50_2", weights="imagenet")]
    (root / "weights" / "wide_resnet50_2-9ba9bcbe.pth").touch()  # torchvision's second set
    assert names(needs) == ["weights of wide_resnet50_2"]
    (root / "weights" / "wide_resnet50_2_mine.pth").touch()
    assert names(needs) == []
    (root / "weights" / "wide_resnet50_2-95faca4d.pth").touch()
    assert backbones.there("wide_resnet50_2").name == "wide_resnet50_2-95faca4d.pth"
    assert names([job(backbone="resnet18", weights=str(root / "mine.pth"))]) == [f"weights {root / 'mine.pth'}"]
    with pytest.raises(ValueError, match="unknown backbone 'resnet9'"):
        plan.missing([job(backbone="resnet9", weights="imagenet")])


def test_downloaded_weights_are_there():
    folder = data._cache_folder() / "downloads"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    assert names([job(backbone="resnet18", weights="imagenet")]) == []


def test_own_images_are_there_where_their_path_is(tmp_path):
    (tmp_path / "a.npz").touch()
    jobs = [
        job(f"{kind}:{tmp_path / name}", "good")
        for kind, name in (("npz", "a.npz"), ("npz", "b.npz"), ("folder", "my screws"))
    ]
    assert names(jobs) == [f"npz:{tmp_path / 'b.npz'}", f"folder:{tmp_path / 'my screws'}"]


# ---- how long ------------------------------------------------------------------------------------------------------


def test_a_run_counts_a_training_once_for_all_methods_that_share_it():
    one = job()
    rows = [
        row(one, "a", train_seconds=100, ms_per_image=2, n_test=1000, n_parameters=5),
        row(one, "a_latent", train_seconds=100, ms_per_image=3, n_test=1000, n_parameters=5),
        row(one, "a_oracle", train_seconds=100, ms_per_image=3, n_test=1000, n_parameters=5),
        row(one, "b", train_seconds=50, ms_per_image=2, n_test=1000, n_parameters=5),
        row(one, "c", train_seconds=50, n_parameters=7),
    ]
    # trainings 100 + 50 + 50 (another network), scoring 2 + 3 + 2
    assert plan.seconds([one], rows) == {CPU: {one["id"]: (pytest.approx(207), True)}}


def test_two_stages_seconds_are_sums_already():
    one = job("mnist", paper="two_stage")
    train = {"two_stage": 180, "two_stage_mse": 140, "two_stage_ssim": 150, "rotnet": 100, "cae": 130}
    rows = [row(one, method, train_seconds=value) for method, value in train.items()]
    assert plan.seconds([one], rows)[CPU][one["id"]][0] == 310
    assert plan.seconds([one], rows[3:])[CPU][one["id"]][0] == 230, "alone, rotnet is a training of its own"


def test_runs_of_the_same_settings_come_first_then_those_of_the_same_class():
    rows = [
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
    found = plan.seconds(wanted, rows)[CPU]
    assert [found[one["id"]] for one in wanted] == [(15, True), (30, True), (1000, False), (618, False)]


def test_rows_of_anything_else_tell_nothing():
    one = job("mnist", backbone="resnet18")
    others = [
        job("fashion_mnist", backbone="resnet18"),
        job("mnist", backbone="resnet18", protocol="80-20"),
        job("mnist", backbone="resnet18", profile="paper"),
        job("mnist", backbone="wide_resnet50_2"),
        job("mnist", backbone="resnet18", paper="other"),
    ]
    rows = [row(other, train_seconds=9) for other in others]
    rows += [row(one, train_seconds=9, data="stand-in:12345678"), row(one, train_seconds=9, status="failed"), row(one)]
    assert plan.seconds([one], rows) == {}


def test_devices_apart_and_a_baseline_on_the_cpu_counts_to_the_gpus_run():
    jobs = [job(seed=seed) for seed in range(2)]
    rows = [
        row(jobs[0], train_seconds=100),
        row(jobs[1], device=GPU, train_seconds=10, n_parameters=1),
        row(jobs[1], "svm", train_seconds=2),
    ]
    assert plan.seconds(jobs, rows) == {
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
    results.merge(tmp_path / "toy.csv", [*good, row(jobs[2], status="failed", error="ValueError: no")])
    shown = plan.text(jobs, tmp_path, words="PAPERS=toy")
    assert line_of(shown, "toy", "digits") == ["official", "6", "1", "1", "4", "2.0", "h"]
    assert line_of(shown, "toy", "textures") == ["official", "1", "0", "0", "1", "1", "unknown"]
    assert line_of(shown, "all") == ["7", "1", "1", "5", "2.0", "h,", "1", "unknown"]
    assert CPU in shown.splitlines()[0] and "one job at a time" in shown
    assert "1 of 5 jobs have no row to estimate from" in shown
    assert "1 of the jobs to run failed" in shown
    assert "data and weights are all here" in shown
    assert "to run these 5: make reproduce PAPERS=toy\n" in shown and "1 stale" in shown


def test_force_runs_all_and_says_so(tmp_path):
    jobs = [job(normal=str(normal)) for normal in range(2)]
    results.merge(tmp_path / "toy.csv", [row(one, train_seconds=60) for one in jobs])
    assert plan.text(jobs, tmp_path).endswith("nothing to run")
    shown = plan.text(jobs, tmp_path, force=True)
    assert line_of(shown, "toy", "digits") == ["official", "2", "2", "0", "2", "<0.1", "h"]
    assert shown.endswith("to run these 2: make reproduce FORCE=1")


def test_an_estimate_from_other_settings_is_marked(tmp_path):
    results.merge(tmp_path / "toy.csv", [row(job(normal="1", steps=5), train_seconds=3600)])
    shown = plan.text([job(normal="2", steps=9)], tmp_path)
    assert line_of(shown, "toy", "digits")[-2:] == ["~1.0", "h"] and "rows of other settings" in shown


def test_what_is_missing_is_printed_a_dataset_at_a_time(root, tmp_path):
    jobs = [job("mvtec", name) for name in mvtec.NAMES]
    shown = " ".join(plan.text(jobs, tmp_path / "out").split())
    assert shown.count(str(root)) == 1
    assert "mvtec carpet, grid, leather, tile, wood, bottle, cable, capsule and 7 more, for 15 jobs: put" in shown


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_the_whole_register_is_planned_on_less_than_80_lines(root, tmp_path, profile):
    jobs = register.jobs(register.load(), profile=profile)
    shown = plan.text(jobs, register.CHECKOUT / "results").splitlines()
    assert len(shown) < 80 and max(map(len, shown)) <= 140
    assert not any(root.iterdir()) and not data._cache_folder().exists(), "nothing is written"
