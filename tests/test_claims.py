import pytest

from repro import claims, register, results


PUBLISHED = """\
paper,table,dataset,protocol,class,method,weights,metric,value,note
toy,1,mnist,official,mean,toy,,auroc,0.900,
toy,1,mnist,official,mean,other,,auroc,0.950,
toy,1,mnist,official,mean,third,,auroc,0.800,
"""
DIGITS = [str(digit) for digit in range(10)]


def leave(folder, method, values, profile="paper", paper="toy", seed=0, **other):
    """Rows of one method: `values`, {class: auroc} or one for all ten digits."""
    values = values if isinstance(values, dict) else dict.fromkeys(DIGITS, values)
    place = {"paper": paper, "dataset": "mnist", "protocol": "official", "seed": seed, "profile": profile}
    rows = [
        results.row(**place, method=method, class_=name, auroc=auroc, job=f"{method}{name}{seed}", **other)
        for name, auroc in values.items()
    ]
    results.merge(folder / f"{paper}.csv", rows)


@pytest.fixture
def check(tmp_path):
    """check(test): the one record of a claim with this test, by the rows left in check.folder."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "toy.csv").write_text(PUBLISHED)

    def check(**test):
        tests = [{"where": ["mnist official"], **test}]
        claim = {"paper": "toy", "place": "Table 1", "says": "It is good", "tests": tests}
        (record,) = claims.check([claim], tmp_path / "results", tmp_path / "published")
        return record

    check.folder = tmp_path / "results"
    return check


def test_a_difference_is_taken_class_by_class_and_seed_by_seed(check):
    for seed, (ours, theirs) in enumerate([(0.90, 0.86), (0.80, 0.78), (0.95, 0.92)]):  # +4, +2, +3 points
        leave(check.folder, "toy", ours, seed=seed)
        leave(check.folder, "rival", theirs, seed=seed)
    record = check(better=["toy", "rival"])
    assert record["ours"] == "+3.0 ± 1.0 points; above in 10 of 10" and record["verdict"] == "holds"
    assert check(better=["rival", "toy"])["verdict"] == "does not hold"
    assert check(better=["toy", "rival"], least=10)["verdict"] == "does not hold"
    assert check(better=["toy", "rival"], least=3)["verdict"] == "undecided"


def test_less_than_all_classes_and_seeds_of_profile_paper_is_indicative(check):
    leave(check.folder, "toy", {"1": 0.9, "2": 0.9}, profile="quick")
    leave(check.folder, "rival", {"1": 0.8, "2": 0.95}, profile="quick")
    record = check(better=["toy", "rival"])
    assert record["verdict"] == "indicative: holds; 2 of 10 classes, quick, 1 seed"
    assert record["ours"] == "+2.5 points; above in 1 of 2"


def test_only_runs_that_share_seed_profile_and_weights_are_paired_but_a_baseline_with_all(check):
    leave(check.folder, "toy", {"1": 0.9}, weights="resnet18/imagenet", seed=1)
    leave(check.folder, "rival", {"1": 0.8}, weights="resnet18/imagenet", seed=0)
    assert check(better=["toy", "rival"])["verdict"] == "not run"
    leave(check.folder, "knn", {"1": 0.7}, paper="baselines", profile="quick")
    leave(check.folder, "knn", {"1": 0.85}, paper="baselines")  # of profile paper
    assert check(better=["toy", "knn"])["ours"] == "+5.0 points; above in 1 of 1"


def test_random_weights_and_stand_ins_count_for_nothing(check):
    for how in ({"weights": "resnet18/random"}, {"data": "stand-in:01234567"}):
        leave(check.folder, "toy", 0.9, **how)
        leave(check.folder, "rival", 0.8, **how)
    assert check(better=["toy", "rival"])["verdict"] == "not run"


def test_a_papers_own_table_is_asked_without_any_rows(check):
    record = check(in_print="auroc")
    assert record["ours"] == "printed: 0.9, best of the others other 0.95"
    assert record["verdict"] == "does not hold in its own table"
    assert check(in_print="auroc", beside=["third"])["verdict"] == "holds in its own table"


def test_the_printed_mean_gets_the_summarys_verdict(check):
    assert check(printed="auroc")["verdict"] == "not run"
    leave(check.folder, "toy", 0.905)
    record = check(printed="auroc")
    assert (record["test"], record["ours"], record["verdict"]) == ("printed AUROC 0.900", "0.905", "reproduced")


@pytest.mark.parametrize("ms, verdict", [(1.05, "holds"), (1.2, "does not hold")])
def test_a_cost_may_differ_by_a_tenth(check, ms, verdict):
    leave(check.folder, "toy", {"1": 0.9}, ms_per_image=ms)
    leave(check.folder, "rival", {"1": 0.9}, ms_per_image=1.0)
    record = check(cheaper=["toy", "rival"])
    assert (record["ours"], record["verdict"]) == (f"{ms:.2f} times, median of 1 run", verdict)


def test_what_cannot_be_tested_says_why(check):
    assert check(cannot="private images")["ours"] == "private images"


def test_the_claims_name_papers_datasets_and_methods_that_exist():
    book = register.load()
    methods = {row["method"] for row in results.read_all()}
    for claim in claims.load():
        assert claim["paper"] in book
        for test in claim["tests"]:
            for where in test.get("where", []):
                assert where.split()[1] in register.PROTOCOLS and (
                    results.class_names(*where.split()) or "fastener" in where or "superclass" in where
                )
            for method in [*test.get("better", []), *test.get("cheaper", [])]:
                assert method in methods or claim["paper"] == "patch_ae", method
    assert {claim["paper"] for claim in claims.load()} == set(book) - {"baselines"}


@pytest.mark.parametrize(
    "text, said",
    [
        ('[[claim]]\npaper = "toy"\nsays = "x"\ntests = []', "a claim has paper, place, says and tests"),
        ('[[claim]]\npaper = "toy"\nplace = ""\nsays = "x"\ntests = [{ beter = ["a", "b"] }]', "a test that is none"),
        (
            '[[claim]]\npaper = "toy"\nplace = ""\nsays = "x"\ntests = [{ cannot = "", least = 1 }]',
            "a test that is none",
        ),
    ],
)
def test_a_claim_that_is_none_is_named(tmp_path, text, said):
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        claims.load(tmp_path / "claims.toml")


def test_the_table_names_a_claim_once():
    record = {
        "paper": "toy",
        "place": "Table 1",
        "says": "It is good",
        **dict.fromkeys(["where", "ours"], ""),
        "test": "t",
        "verdict": "v",
    }
    lines = claims.table([record, record]).splitlines()
    assert lines[2:] == ["| `toy` | It is good (Table 1) |  | t |  | v |", "|  |  |  | t |  | v |"]


def test_an_answer_is_yes_no_or_mixed_with_its_figures():
    def told(verdict, where="mnist, official", ours="+1.0 ± 0.2 points; above in 9 of 10", **other):
        return {
            "paper": "p",
            "test": "a less b, AUROC",
            "where": where,
            "ours": ours,
            "verdict": verdict,
            "answers": True,
            **other,
        }

    assert claims.answer([told("holds")], "p") == "**Yes** (a less b, points of AUROC: +1.0 ± 0.2 on mnist)"
    no = [
        told("indicative: does not hold; quick", ours="-2.0 points; above in 1 of 10"),
        told("not run", ours=""),
        told("holds", answers=False),
        told("holds", paper="q"),
        told("does not hold", "coil100, 80-20", "-3.0 points; above in 0 of 3"),
    ]
    assert claims.answer(no, "p") == "**So far no** (a less b, points of AUROC: -2.0 on mnist, -3.0 on coil100 80-20)"
    assert claims.answer([told("holds"), told("undecided")], "p").startswith("**Mixed**")
    assert claims.answer([told("not run", ours="")], "p") == ""


def test_each_paper_has_its_question_answered_by_some_test():
    asked = {paper for paper, table in register.load().items() if "asks" in table}
    assert asked == {one["paper"] for one in claims.load() for test in one["tests"] if test.get("answers")}
