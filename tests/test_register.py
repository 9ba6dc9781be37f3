import copy
import json
import subprocess
import sys

import pytest

from repro import register


TEXT = """
[alpha]
title = "A paper"
seeds = [0, 1]
[alpha.profiles.quick]
epochs = 2
[alpha.profiles.paper]
epochs = 50
[[alpha.runs]]
datasets = ["mnist", "fashion_mnist"]
protocols = ["official", "80-20"]
classes = "all"
[[alpha.runs]]
datasets = ["cifar10"]
protocols = ["official"]
classes = ["plane", "car"]
settings = { augment = true }
[[alpha.runs]]
profiles = ["demo"]
datasets = ["digits"]
protocols = ["official"]
classes = ["8"]
seeds = [0]

[beta]
seeds = [0]
[[beta.runs]]
datasets = ["mnist"]
protocols = ["official"]
classes = ["8"]
"""


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "experiments.toml"
    path.write_text(TEXT)
    return register.load(path)


def test_a_profile_runs_its_datasets_protocols_classes_and_seeds(book):
    jobs = register.jobs(book, ["alpha"], profile="quick")
    assert len(jobs) == 2 * (2 * 2 * 10 + 2)
    assert {job["profile"] for job in jobs} == {"quick"}


def test_the_first_seed_of_everything_comes_first(book):
    seeds = [job["seed"] for job in register.jobs(book, ["alpha"])]
    assert seeds == sorted(seeds)


def test_a_run_with_profiles_belongs_to_those_alone(book):
    (job,) = register.jobs(book, ["alpha"], profile="demo")
    assert (job["dataset"], job["class"], job["seed"], job["settings"]) == ("digits", "8", 0, {})


def test_settings_go_from_profile_to_run_to_override(book):
    (job,) = register.jobs(book, ["alpha"], ["cifar10"], ["car"], [0], "quick", {"epochs": 3})
    assert job["settings"] == {"epochs": 3, "augment": True}


def test_the_id_depends_on_every_other_value_and_on_nothing_else(book):
    job = register.jobs(book, ["beta"], profile="quick")[0]
    same = register.job("beta", "mnist", "8", "official", 0, "quick", {})
    assert same == job and len(job["id"]) == 12 and set(job["id"]) <= set("0123456789abcdef")
    others = [
        ("gamma", "mnist", "8", "official", 0, "quick", {}),
        ("beta", "mnist", "8", "official", 1, "quick", {}),
        ("beta", "mnist", "8", "official", 0, "quick", {"a": 1}),
    ]
    assert len({job["id"], *(register.job(*other)["id"] for other in others)}) == 4


def test_the_id_does_not_depend_on_the_order_of_settings():
    one = register.job("beta", "mnist", "8", "official", 0, "quick", {"a": 1, "b": 2})
    other = register.job("beta", "mnist", "8", "official", 0, "quick", {"b": 2, "a": 1})
    assert one["id"] == other["id"]


def test_a_job_is_plain_json(book):
    job = register.jobs(book)[0]
    assert json.loads(json.dumps(job)) == job


def test_classes_are_found_by_their_official_names(book):
    (job,) = register.jobs(book, ["alpha"], ["cifar10"], ["airplane"], [0])
    assert job["class"] == "plane"


def test_a_class_is_run_where_it_exists(book):
    jobs = register.jobs(book, ["alpha"], ["mnist", "cifar10"], ["8"], [0], protocols=["official"])
    assert [(job["dataset"], job["class"]) for job in jobs] == [("mnist", "8")]


def test_a_seed_runs_where_the_register_has_it_and_else_everywhere(book):
    def papers(seed):
        return [job["paper"] for job in register.jobs(book, None, ["mnist"], ["8"], [seed], protocols=["official"])]

    assert papers(0) == ["alpha", "beta"]
    assert papers(1) == ["alpha"]
    assert papers(7) == ["alpha", "beta"]


def test_register_jobs_are_told_from_trials(book):
    ids = register.all_ids(book)
    assert all(job["id"] in ids for job in register.jobs(book, profile="quick", seeds=[0]))
    for other in ({"seeds": [7]}, {"settings": {"epochs": 3}}, {"datasets": ["cifar10"], "classes": ["cat"]}):
        assert not any(job["id"] in ids for job in register.jobs(book, ["alpha"], profile="quick", **other))


def test_own_images_are_trials_with_absolute_paths_and_the_profiles_settings(book, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for folder in ("train/good", "train/other", "test/good", "test/bad"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "images" / folder / "0.png")
    jobs = register.jobs(book, ["beta"], ["folder:images"])
    assert [job["class"] for job in jobs] == ["good", "other"]
    assert {job["dataset"] for job in jobs} == {f"folder:{tmp_path / 'images'}"}
    assert {job["protocol"] for job in jobs} == {"official"}
    assert not {job["id"] for job in jobs} & register.all_ids(book)
    (job,) = register.jobs(book, ["alpha"], ["folder:images"], ["good"], [0], "quick", protocols=["80-20"])
    assert (job["protocol"], job["settings"]) == ("80-20", {"epochs": 2})


@pytest.mark.parametrize(
    "wanted, choices",
    [
        ({"papers": ["gamma"]}, "alpha, beta"),
        ({"datasets": ["svhn"]}, "mnist, fashion_mnist, cifar10"),
        ({"classes": ["zebra"]}, "plane, car"),
        ({"profile": "slow"}, "demo, quick, paper"),
        ({"protocols": ["70-30"]}, "official, 80-20"),
        ({"papers": ["beta"], "protocols": ["80-20"]}, "official"),
        ({"papers": ["beta"], "profile": "demo"}, "none"),
        ({"seeds": [-1]}, "from 0"),
        ({"seeds": [True]}, "from 0"),
    ],
)
def test_a_bad_name_is_an_error_with_the_choices(book, wanted, choices):
    wanted = {"datasets": ["cifar10"], **wanted} if "classes" in wanted else wanted
    with pytest.raises(ValueError, match=choices):
        register.jobs(book, **wanted)


def test_a_protocol_that_a_dataset_does_not_have_is_an_error_before_any_job(book, tmp_path):
    (tmp_path / "wrong.toml").write_text(TEXT.replace('["official", "80-20"]', '["official", "superclass"]'))
    with pytest.raises(ValueError, match="unknown protocol 'superclass' for mnist: choose official or 80-20$"):
        register.jobs(register.load(tmp_path / "wrong.toml"), ["alpha"])
    with pytest.raises(ValueError, match="unknown protocol 'superclass' for npz:.*: choose official or 80-20$"):
        register.jobs(book, ["beta"], ["npz:own.npz"], protocols=["superclass"])


OBJECTS = """
[gamma]
[[gamma.runs]]
datasets = ["coil100"]
protocols = ["80-20"]
classes = ["79", "48", "obj8"]
[[gamma.runs]]
datasets = ["cifar100"]
protocols = ["superclass"]
classes = ["cups", "bee"]
[[gamma.runs]]
datasets = ["mnist"]
"""


def test_objects_of_coil100_go_by_their_numbers_unless_another_dataset_has_such_a_class(tmp_path):
    (tmp_path / "objects.toml").write_text(OBJECTS)
    book = register.load(tmp_path / "objects.toml")

    def found(**wanted):
        return [(job["dataset"], job["class"]) for job in register.jobs(book, **wanted)]

    assert found(datasets=["coil100"]) == [("coil100", name) for name in ("obj79", "obj48", "obj8")]
    assert found(datasets=["coil100"], classes=["8", "48"]) == [("coil100", "obj8"), ("coil100", "obj48")]
    assert found(classes=["8"]) == [("mnist", "8")] and found(classes=["48"]) == [("coil100", "obj48")]
    assert found(classes=["obj8"]) == [("coil100", "obj8")]
    assert found(protocols=["superclass"]) == [("cifar100", "cup"), ("cifar100", "bee")]


@pytest.mark.parametrize(
    "old, new, named",
    [
        ("title", "titel", "titel"),
        ("[alpha.profiles.quick]", "[alpha.profiles.quik]", "quik"),
        ('profiles = ["demo"]', 'profiles = ["dmo"]', "dmo"),
        ("seeds = [0]", "cross = true", "cross"),
        ('protocols = ["official", "80-20"]', 'protocols = ["70-30"]', "70-30"),
        ('datasets = ["digits"]', "", "names no datasets"),
        ("[alpha]", "[alpha", "not valid TOML"),
        ("[alpha]", "stray = 1\n[alpha]", "stray"),
    ],
)
def test_a_mistake_in_the_register_is_named(tmp_path, old, new, named):
    path = tmp_path / "experiments.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=named):
        register.load(path)


def test_the_register_holds_every_method_on_every_dataset():
    book = register.load()
    six = {"mnist", "fashion_mnist", "cifar10", "cifar100", "coil100", "mvtec"}
    for paper in book:
        assert {job["dataset"] for job in register.jobs(book, [paper], seeds=[0], profile="quick")} >= six, paper


def test_a_missing_register_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.toml"):
        register.load(tmp_path / "nothing.toml")


def test_one_job_with_two_sets_of_settings_is_an_error(book):
    book = copy.deepcopy(book)
    book["beta"]["runs"].append({**book["beta"]["runs"][0], "settings": {"epochs": 1}})
    with pytest.raises(ValueError, match="beta mnist 8 seed 0 quick twice"):
        register.all_ids(book)


def test_the_real_register_is_whole():
    book = register.load()
    assert register.all_ids(book)
    for paper, table in book.items():
        assert register.jobs(book, [paper], profile="demo"), paper
        if "gallery" in table:
            assert table["gallery"].get("licence"), paper


def test_importing_the_register_imports_no_torch():
    code = "import sys, repro.register; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


TWO_BACKBONES = """
[gamma.profiles.paper]
backbone = "small"
[[gamma.runs]]
datasets = ["mnist"]
classes = ["8"]
seeds = [0, 1]
[[gamma.runs]]
datasets = ["mnist"]
classes = ["8"]
seeds = [0]
settings = { backbone = "large", epochs = 3 }
"""


def test_a_paper_may_run_the_same_class_on_two_backbones_and_each_can_be_chosen(tmp_path):
    (tmp_path / "two.toml").write_text(TWO_BACKBONES)
    book = register.load(tmp_path / "two.toml")
    assert len(register.all_ids(book)) == 3 + 3  # paper and quick, and no complaint of two sets of settings
    large, *others = register.jobs(book, backbones=["large"])
    assert not others and large["settings"] == {"backbone": "large", "epochs": 3}
    assert [job["seed"] for job in register.jobs(book, backbones=["small"])] == [0, 1]
    assert "gamma large mnist 8" in register.describe(large)
    with pytest.raises(ValueError, match="unknown backbone of gamma in profile paper: 'huge'; choices: small, large"):
        register.jobs(book, backbones=["huge"])


def test_the_place_of_a_row_is_that_of_its_job(tmp_path):
    (tmp_path / "two.toml").write_text(TWO_BACKBONES)
    jobs = register.jobs(register.load(tmp_path / "two.toml"))
    assert len({register.place(job) for job in jobs}) == len(jobs) == 3
    for job in jobs:
        row = {**{name: str(job[name]) for name in job}, "settings": json.dumps(job["settings"])}
        assert register.place(row) == register.place(job)
    assert register.place({**row, "settings": ""})[-1] == ""


def test_a_job_that_leaves_the_backbone_to_its_notebook_has_the_place_of_its_rows():
    """Rows name every setting, the backbone too; a job has what the register gives."""
    job = register.jobs(register.load(), ["two_stage"], ["mnist"], ["8"], [0], "quick")[0]
    assert "backbone" not in job["settings"]
    rows = [{**job, "settings": json.dumps({**job["settings"], "backbone": name})} for name in ("resnet18", "other")]
    assert [register.place(row) == register.place(job) for row in rows] == [True, False]
