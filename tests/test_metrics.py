"""AUROC and balanced accuracy: hand-computed cases, scikit-learn's values, what must not change them, and errors."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adlib.metrics import auroc, balanced_accuracy, roc_curve


tried = settings(deadline=None, derandomize=True, max_examples=60)  # the same cases in every run, at any speed
# few distinct scores, so that most cases have ties between and within the classes
cases = (
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60)
    .filter(lambda pairs: len({anomalous for _, anomalous in pairs}) == 2)
    .map(lambda pairs: (np.array([score / 4 for score, _ in pairs]), np.array([label for _, label in pairs])))
)


def test_auroc_counts_the_pairs_in_right_order_and_a_tie_as_half():
    # of the four pairs three are in order and one is tied
    assert auroc([1, 2, 2, 3], [False, False, True, True]) == 3.5 / 4


def test_auroc_is_one_when_separated_zero_when_reversed_and_half_when_all_scores_are_equal():
    labels = [False, False, True]
    assert [auroc(scores, labels) for scores in ([1, 2, 3], [3, 2, 1], [5, 5, 5])] == [1, 0, 0.5]


def test_balanced_accuracy_takes_the_best_threshold():
    # at score 2 and above: all three anomalous ones and one of the four normal ones
    assert balanced_accuracy([0, 0, 1, 2, 2, 3, 3], [0, 0, 0, 0, 1, 1, 1]) == (1 + 3 / 4) / 2
    assert balanced_accuracy([3, 2, 1], [False, False, True]) == 0.5  # calling none anomalous is always possible


def test_the_roc_curve_has_one_point_per_distinct_score_and_both_ends():
    fpr, tpr = roc_curve([1, 2, 2, 3], [False, False, True, True])
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 1, 1]


@tried
@given(cases)
def test_auroc_and_curve_are_those_of_scikit_learn(case):
    import sklearn.metrics

    scores, labels = case
    assert auroc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(scores, labels), (fpr, tpr), atol=1e-12)


@tried
@given(cases)
def test_auroc_is_the_share_of_pairs_counted_one_by_one(case):
    scores, labels = case
    difference = scores[labels][:, None] - scores[~labels]
    assert auroc(scores, labels) == pytest.approx(((difference > 0) + (difference == 0) / 2).mean(), abs=1e-12)


@tried
@given(cases)
def test_balanced_accuracy_is_the_best_of_all_thresholds_tried_one_by_one(case):
    scores, labels = case
    means = [((scores[labels] >= t).mean() + (scores[~labels] < t).mean()) / 2 for t in [*scores, np.inf]]
    assert balanced_accuracy(scores, labels) == pytest.approx(max(means), abs=1e-12)


@tried
@given(cases)
def test_balanced_accuracy_bounds_auroc_from_both_sides(case):
    best, area = balanced_accuracy(*case), auroc(*case)
    assert 2 * best - 1 - 1e-12 <= area <= 1 - 2 * (1 - best) ** 2 + 1e-12


@tried
@given(cases, st.randoms())
def test_the_order_of_the_images_changes_nothing_at_all(case, random):
    scores, labels = case
    order = random.sample(range(len(scores)), len(scores))
    assert auroc(scores, labels) == auroc(scores[order], labels[order])
    assert balanced_accuracy(scores, labels) == balanced_accuracy(scores[order], labels[order])


@tried
@given(cases)
def test_exchanging_the_classes_and_the_sign_changes_nothing(case):
    scores, labels = case
    assert auroc(-scores, ~labels) == pytest.approx(auroc(scores, labels), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_of_every_number_type_are_taken(dtype):
    scores = torch.tensor([1, 2, 2, 3], dtype=dtype)
    assert auroc(scores, torch.tensor([0, 0, 1, 1])) == 3.5 / 4


def test_a_tensor_that_still_has_a_gradient_is_taken():
    assert auroc(torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([False, True])) == 1


def test_results_are_plain_floats():
    assert type(auroc([1, 2], [0, 1])) is float
    assert type(balanced_accuracy([1, 2], [0, 1])) is float


def test_pairs_of_more_images_than_32_bits_count_do_not_overflow():
    scores = np.arange(200_000)
    assert auroc(scores, scores >= 100_000) == 1


@pytest.mark.parametrize("metric", [auroc, balanced_accuracy, roc_curve])
@pytest.mark.parametrize("scores, labels, message", [
    ([1, 2, 3], [True, False], r"one length, not \(3,\) and \(2,\)"),
    ([[1, 2]], [[True, False]], "one length"),
    ([1.0, float("nan")], [True, False], "1 of 2 scores are not finite"),
    ([1.0, float("inf")], [True, False], "1 of 2 scores are not finite"),
    ([1.0, 2.0], [True, True], "no normal image among the 2"),
    ([1.0, 2.0], [False, False], "no anomalous image among the 2"),
    ([], [], "no anomalous image among the 0"),
    ([1.0, 2.0], [0, 2], "is_anomalous must hold booleans"),
    (["a", "b"], [True, False], "scores must be real numbers"),
])  # fmt: skip
def test_what_is_wrong_with_the_input_is_said(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)
