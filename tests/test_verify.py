import pytest
import toy

from repro import results, verify


def leave(folder, *cells):
    """toy.csv of (job, method, auroc)."""
    names = ("paper", "dataset", "protocol", "class", "seed", "profile")
    other = {"settings": "{}", "device": "cpu (1 threads)", "commit": "abc"}
    rows = [
        results.row(method=method, auroc=auroc, job=job["id"], **other, **{name: job[name] for name in names})
        for job, method, auroc in cells
    ]
    results.merge(folder / "toy.csv", rows)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "old", tmp_path / "new"


def test_only_jobs_with_rows_of_these_settings_are_run_again(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    assert verify.committed([job, toy.toy_job("3")], folders[0]) == [job]
    assert verify.committed([toy.toy_job(rate=0.1)], folders[0]) == []  # its place holds rows of other settings


@pytest.mark.parametrize("new, verdict", [(0.75, "same"), (0.757, "within"), (0.743, "within"), (0.77, "outside")])
def test_with_one_seed_the_tolerance_of_a_verdict_decides(folders, new, verdict):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    leave(folders[1], (job, "toy", new))
    (record,) = verify.compare([job], *folders)
    assert (record["verdict"], record["spread"], record["n_seeds"]) == (verdict, None, 1)
    assert record["difference"] == pytest.approx(new - 0.75)
    assert record["old_run"].startswith("cpu (1 threads), torch ") and record["old_run"].endswith(", commit abc")


@pytest.mark.parametrize("new, verdict", [(0.80, "same"), (0.90, "within"), (0.70, "within"), (0.15, "outside")])
def test_with_more_seeds_their_spread_decides(folders, new, verdict):
    jobs = [toy.toy_job(seed=seed) for seed in range(3)]
    leave(folders[0], *((job, "toy", auroc) for job, auroc in zip(jobs, (0.7, 0.8, 0.9), strict=True)))
    leave(folders[1], (jobs[1], "toy", new))
    (record,) = verify.compare(jobs[1:2], *folders)
    assert record["spread"] == pytest.approx(4.302653 * 0.1 * 2**0.5, rel=1e-6) and record["n_seeds"] == 3
    assert record["verdict"] == verdict


def test_a_method_that_did_not_come_out_again_is_missing_and_the_table_tells_all(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75), (job, "mean", 0.5))
    leave(folders[1], (job, "toy", 0.76))
    records = verify.compare([job], *folders)
    assert [(one["method"], one["verdict"]) for one in records] == [("mean", "missing"), ("toy", "within")]
    shown = verify.table(records).splitlines()
    assert shown[1] == "toy digits 8 seed 0 quick" and shown[-1] == "1 missing, 1 within"
    (line,) = [line for line in shown if line.startswith("  toy ")]
    assert line.split() == ["toy", "auroc", "0.750000", "0.760000", "+0.010000", "one", "seed", "within"]
    assert verify.table([]).strip() == ""


def test_rows_of_another_job_under_the_new_folder_do_not_count(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    leave(folders[1], (toy.toy_job(rate=0.1), "toy", 0.75))
    assert [record["verdict"] for record in verify.compare([job], *folders)] == ["missing"]
