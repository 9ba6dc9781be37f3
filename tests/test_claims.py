import numpy as np
import pandas as pd
import pytest

from repro import claims, compare, register, rows


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
    made = [
        rows.row(**place, method=method, class_=name, auroc=auroc, job=f"{method}{name}{seed}", **other)
        for name, auroc in values.items()
    ]
    rows.merge(folder / f"{paper}.csv", made)


@pytest.fixture
def check(tmp_path):
    """check(test): the one record of a claim with this test, by the rows left in check.folder."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "toy.csv").write_text(PUBLISHED)

    def check(**test):
        tests = [{"where": ["mnist official"], **test}]
        claim = {"paper": "toy", "place": "Table 1", "says": "It is good", "tests": tests}
        (record,) = claims.check([claim], tmp_path / "results", tmp_path / "published").to_dict("records")
        return record

    check.folder = tmp_path / "results"
    return check


def by_class(*points, base=0.5):
    """{digit: AUROC}, so many points above `base`."""
    return {str(digit): base + value / 100 for digit, value in enumerate(points)}


def test_a_difference_is_taken_class_by_class_and_seed_by_seed_and_decided_by_its_interval(check):
    for seed, (ours, theirs) in enumerate([(0.90, 0.86), (0.80, 0.78), (0.95, 0.92)]):  # +4, +2, +3 points
        leave(check.folder, "toy", ours, seed=seed)
        leave(check.folder, "rival", theirs, seed=seed)
    record = check(better=["toy", "rival"])
    assert record["ours"].startswith("+3.0 [+2.") and record["ours"].endswith("] points; above in 10 of 10")
    assert record["verdict"] == "holds" and check(better=["toy", "rival"]) == record  # the same interval each time
    assert check(better=["rival", "toy"])["verdict"] == "does not hold"
    assert check(better=["toy", "rival"], least=10)["verdict"] == "does not hold"
    assert check(better=["toy", "rival"], least=3)["verdict"] == "undecided"


def test_classes_that_disagree_leave_a_claim_undecided_whatever_the_sign_of_the_mean(check):
    for seed in (0, 1):
        leave(check.folder, "toy", by_class(9, -7, 8, -6, 5, -4, 6, -5, 2, 1), seed=seed)
        leave(check.folder, "rival", by_class(*[0] * 10), seed=seed)
    record = check(better=["toy", "rival"])
    assert record["ours"].startswith("+0.9 [-") and record["verdict"] == "undecided"
    assert record["ours"].endswith("above in 6 of 10")


def test_one_class_alone_decides_nothing(check):
    for method, auroc in (("toy", 0.9), ("rival", 0.5)):
        leave(check.folder, method, {"1": auroc}, profile="quick")
    record = check(better=["toy", "rival"])
    assert record["ours"] == "+40.0 points; above in 1 of 1"
    assert record["verdict"] == "indicative: undecided; 1 of 10 classes, quick, 1 seed"


def test_a_difference_of_nothing_is_undecided(check):
    for method in ("toy", "rival"):
        leave(check.folder, method, {"1": 1.0, "2": 1.0})
    assert check(better=["toy", "rival"])["verdict"].startswith("indicative: undecided")


def test_the_interval_is_that_of_a_bootstrap_over_classes_and_seeds_within_them():
    random = np.random.default_rng(1)
    points = random.normal(2, 3, (10, 1)) + random.normal(0, 4, (10, 3))
    low, high = claims.interval(points)
    assert claims.interval(points) == (low, high)
    means = []
    for _ in range(20000):
        drawn = points[random.integers(10, size=10)]
        means.append(np.mean([values[random.integers(3, size=3)] for values in drawn]))
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.15)
    of_one_seed = claims.interval(points[:, :1])  # classes alone
    assert of_one_seed[0] < points[:, 0].mean() < of_one_seed[1]


def test_leads_are_counted_by_class_and_classes_that_did_not_run_may_yet_be_above(check):
    for seed in (0, 1):
        leave(check.folder, "toy", by_class(9, 7, 8, 6, 5, -4, -6), seed=seed)
        leave(check.folder, "rival", by_class(*[0] * 7), seed=seed)
    verdicts = [check(better=["toy", "rival"], above=n)["verdict"].split("; ")[0] for n in (5, 8, 9)]
    assert verdicts == ["indicative: holds", "indicative: undecided", "indicative: does not hold"]
    assert check(better=["toy", "rival"], above=8)["test"] == "toy minus rival, AUROC, above in at least 8 classes"


def test_stability_is_the_spread_over_seeds_class_by_class(check):
    for seed, (ours, theirs) in enumerate([(0.90, 0.80), (0.91, 0.90), (0.92, 0.70)]):  # spreads of 1 and 10 points
        leave(check.folder, "toy", ours, seed=seed)
        if seed == 0:
            assert check(steadier=["toy", "rival"])["verdict"] == "not run"
        leave(check.folder, "rival", theirs, seed=seed)
    record = check(steadier=["toy", "rival"])
    assert record["ours"].startswith("+9.0 [+9.0, +9.0] points") and record["verdict"] == "holds"
    assert check(steadier=["rival", "toy"])["verdict"] == "does not hold"


def test_less_than_all_classes_and_seeds_of_profile_paper_is_indicative(check):
    leave(check.folder, "toy", {"1": 0.9, "2": 0.96}, profile="quick")
    leave(check.folder, "rival", {"1": 0.8, "2": 0.95}, profile="quick")
    record = check(better=["toy", "rival"])
    assert record["verdict"] == "indicative: holds; 2 of 10 classes, quick, 1 seed"
    assert record["ours"] == "+5.5 [+1.0, +10.0] points; above in 2 of 2"


def test_only_runs_that_share_class_seed_profile_size_and_weights_are_paired_and_what_differs_is_said(check):
    one = {"weights": "resnet18/imagenet", "seed": 1, "image_size": 256, "profile": "paper"}
    leave(check.folder, "toy", {"1": 0.9, "2": 0.8}, **one)
    assert check(better=["toy", "rival"])["verdict"] == "not run"
    for number, (name, value, said) in enumerate(
        [
            ("seed", 0, "seed 1 against 0"),
            ("profile", "quick", "profile paper against quick"),
            ("image_size", 128, "image size 256 against 128"),
            ("weights", "resnet50/imagenet", "weights resnet18/imagenet against resnet50/imagenet"),
        ]
    ):
        method = f"rival{number}"
        leave(check.folder, method, {"1": 0.8, "2": 0.7}, **one | {name: value})
        record = check(better=["toy", method])
        assert (record["ours"], record["verdict"]) == ("", f"not comparable: {said}")
    leave(check.folder, "rival", {"2": 0.7, "3": 0.1}, **one)  # class 2 is in both
    assert check(better=["toy", "rival"])["ours"] == "+10.0 points; above in 1 of 1"


def test_a_baseline_pairs_with_every_seed_but_not_with_another_profile_or_size(check):
    leave(check.folder, "toy", {"1": 0.9, "2": 0.9}, weights="resnet18/imagenet", seed=1, image_size=32)
    leave(check.folder, "knn", {"1": 0.7, "2": 0.7}, paper="baselines", profile="quick", image_size=32)
    assert check(better=["toy", "knn"])["verdict"] == "not comparable: profile paper against quick"
    for seed, auroc in enumerate([0.8, 0.9]):
        leave(check.folder, "knn", {"1": auroc, "2": 0.85}, paper="baselines", seed=seed, image_size=32)
    assert check(better=["toy", "knn"])["ours"] == "+5.0 [+5.0, +5.0] points; above in 2 of 2"


def test_profile_paper_comes_before_quick_and_quick_where_only_that_pairs(check):
    for profile, theirs in (("quick", 0.7), ("paper", 0.8)):
        leave(check.folder, "toy", {"1": 0.9, "2": 0.9}, profile=profile)
        leave(check.folder, "rival", {"1": theirs, "2": theirs}, profile=profile)
    leave(check.folder, "knn", {"1": 0.6, "2": 0.6}, paper="baselines", profile="quick")
    assert check(better=["toy", "rival"])["ours"].startswith("+10.0 ")
    assert "quick" in check(better=["toy", "knn"])["verdict"]


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
    assert check(in_print="auroc", beside=["third"], least=10)["verdict"] == "holds in its own table"
    assert check(in_print="auroc", beside=["third"], least=10.1)["verdict"] == "does not hold in its own table"


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


def test_costs_are_compared_at_equal_image_size(check):
    for size, ms in ((64, 1.0), (256, 9.0)):
        leave(check.folder, "toy", {"1": 0.9}, ms_per_image=ms, image_size=size)
    leave(check.folder, "rival", {"1": 0.9}, ms_per_image=1.0, image_size=64)
    assert check(cheaper=["toy", "rival"])["ours"] == "1.00 times, median of 1 run"


def test_what_cannot_be_tested_says_why(check):
    assert check(cannot="private images")["ours"] == "private images"


def test_the_claims_name_papers_datasets_and_methods_that_exist():
    book = register.load()
    methods = set(compare.read_all()["method"])
    for claim in claims.load():
        assert claim["paper"] in book
        for test in claim["tests"]:
            for where in test.get("where", []):
                assert where.split()[1] in register.PROTOCOLS and (
                    compare.class_names(*where.split()) or "fastener" in where or "superclass" in where
                )
            for method in [*test.get("better", []), *test.get("cheaper", []), *test.get("steadier", [])]:
                notebook = (register.CHECKOUT / "notebooks" / f"{claim['paper']}.ipynb").read_text()
                assert method in methods or method in notebook or claim["paper"] == "patch_ae", method
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
    record = {"paper": "toy", "place": "Table 1", "says": "It is good", "where": "", "ours": "", "test": "t"}
    table = claims.shown(pd.DataFrame([record, record, record | {"paper": "other"}]).assign(verdict="v"))
    named = ["It is good (Table 1)", "", "It is good (Table 1)"]
    assert table["claim"].tolist() == named and table["paper"].tolist() == ["`toy`", "", "`other`"]


def test_an_answer_is_yes_no_mixed_or_cannot_say_with_a_figure_of_each_kind():
    def told(verdict, where="mnist, official", ours="+1.0 [+0.6, +1.4] points; above in 9 of 10", **other):
        shared = {"paper": "p", "test": "a minus b, AUROC", "answers": True}
        return {**shared, "where": where, "ours": ours, "verdict": verdict, **other}

    def answer(*records):
        return claims.answer(pd.DataFrame(records), "p")

    assert answer(told("holds")) == "**Yes**: a minus b +1.0 [+0.6, +1.4] on mnist"
    no = [
        told("indicative: does not hold; quick", ours="-2.0 [-3.0, -1.0] points; above in 1 of 10"),
        told("not run", ours=""),
        told("not comparable: profile paper against quick", ours=""),
        told("holds", answers=False),
        told("holds", paper="q"),
        told("does not hold", "coil100, 80-20", "-3.0 [-4.0, -2.0] points; above in 0 of 3"),
    ]
    assert answer(*no) == "**So far no**: a minus b -2.0 [-3.0, -1.0] on mnist"  # the first of a kind is enough
    both = answer(told("holds"), told("does not hold", "coil100, 80-20", "-3.0 [-4.0, -2.0] points"))
    assert both == "**Mixed**: a minus b +1.0 [+0.6, +1.4] on mnist, -3.0 [-4.0, -2.0] on coil100 80-20"
    assert answer(told("holds"), told("undecided")).startswith("**Mixed**")
    assert answer(told("undecided"), told("does not hold")).startswith("**No or cannot say**")  # nowhere holds
    assert answer(told("undecided")).startswith("**Cannot say**")
    assert answer(told("not run", ours="")) == ""
    differs = told("not comparable: image size 256 against 128", ours="")
    assert answer(differs) == "**Cannot say** (a minus b, AUROC, not comparable: image size 256 against 128)"


def test_gains_stand_beside_each_other_wherever_both_methods_ran(check):
    for method, auroc in (("toy", 0.9), ("toy_less", 0.8), ("other", 0.7)):
        leave(check.folder, method, {"1": auroc, "2": auroc}, aupro=auroc - 0.5)
    table = claims.gains("toy", "toy", ("auroc", "aupro"), check.folder)
    assert table["points"].tolist() == ["other minus toy", "toy_less minus toy"]
    assert table["AUPRO"].tolist() == ["-20.0 [-20.0, -20.0]; above in 0 of 2", "-10.0 [-10.0, -10.0]; above in 0 of 2"]
    assert claims.gains("toy", [("toy", "none")], results_dir=check.folder).empty
    assert claims.gains("toy", "toy", results_dir=check.folder / "empty").empty


def test_each_paper_has_its_question_answered_by_some_test():
    asked = {paper for paper, table in register.load().items() if "asks" in table}
    assert asked == {one["paper"] for one in claims.load() for test in one["tests"] if test.get("answers")}
