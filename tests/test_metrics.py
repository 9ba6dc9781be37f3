"""All metrics: hand-computed cases, values of other implementations, what must not change them, and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adlib.metrics import aupro, auroc, balanced_accuracy, localisation, pixel_auroc, roc_curve
from repro import rows


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
@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([1, 2, 3], [True, False], r"scores and is_anomalous must both be \(N,\), not \(3,\) and \(2,\)"),
        ([[1, 2]], [[True, False]], r"must both be \(N,\), not \(1, 2\)"),
        ([1.0, float("nan")], [True, False], "1 of 2 values in scores are not finite"),
        ([1.0, float("inf")], [True, False], "1 of 2 values in scores are not finite"),
        ([1.0, 2.0], [True, True], "no normal image among the 2"),
        ([1.0, 2.0], [False, False], "no anomalous image among the 2"),
        ([], [], "no anomalous image among the 0"),
        ([1.0, 2.0], [0, 2], "is_anomalous must hold booleans"),
        (["a", "b"], [True, False], "scores must be real numbers"),
    ],
)
def test_what_is_wrong_with_the_input_is_said(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


# pixels; images of one row are written as lists


def in_a_row(scores, defective):
    """One image of one row, as (1, 1, W) maps and masks."""
    return np.array(scores, float)[None, None], np.array(defective, bool)[None, None]


@st.composite
def pixel_cases(draw):
    """Two to four small images with few distinct scores, and masks that have defective and defect-free pixels."""
    shape = (draw(st.integers(2, 4)), draw(st.integers(1, 6)), draw(st.integers(2, 6)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = random.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.7]))
    masks[0, 0, :2] = True, False
    maps = random.integers(draw(st.sampled_from([2, 5, 1000])), size=shape) + draw(st.sampled_from([0, 1])) * masks
    return maps / 4, masks


def regions_of(mask):
    """The 8-connected regions of one mask as lists of (row, column), found by walking from pixel to pixel."""
    left, regions = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        region, border = [], [left.pop()]
        while border:
            row, column = border.pop()
            region.append((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            border += near
        regions.append(region)
    return regions


def aupro_by_all_thresholds(maps, masks, max_fpr):
    """AUPRO by its definition: every threshold is applied to every region and to the defect-free pixels."""
    regions = [[maps[(i, *pixel)] for pixel in region] for i in range(len(maps)) for region in regions_of(masks[i])]
    fpr, overlap = [0.0], [0.0]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        fpr.append((maps[~masks] >= threshold).mean())
        overlap.append(np.mean([np.mean([score >= threshold for score in region]) for region in regions]))
    return area_up_to(max_fpr, np.array(fpr), np.array(overlap))


def area_up_to(max_fpr, fpr, overlap):
    """The area under the straight lines between the points, up to max_fpr, divided by it."""
    n = (fpr <= max_fpr).sum()
    limit = np.interp(max_fpr, fpr[n - 1 : n + 1], overlap[n - 1 : n + 1])
    return np.trapezoid([*overlap[:n], limit], [*fpr[:n], max_fpr]) / max_fpr


def test_a_perfect_map_gives_one_and_a_constant_one_half_of_the_limit():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1:3, 1:4], masks[0, 6, 6] = True, True
    assert localisation(masks.astype(float), masks) == {"pixel_auroc": 1, "aupro": 1}
    constant = localisation(np.ones(masks.shape), masks)
    assert constant["pixel_auroc"] == 0.5 and constant["aupro"] == pytest.approx(0.15, abs=1e-15)


def test_a_region_of_one_pixel_weighs_as_much_as_one_of_nine():
    maps, masks = in_a_row([3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2], [True, False, *[True] * 9, False])
    # the single pixel is above both defect-free ones, the nine below both
    assert aupro(maps, masks) == 0.5
    assert pixel_auroc(maps, masks) == pytest.approx(1 / 10, abs=1e-15)


@pytest.mark.parametrize("max_fpr, expected", [(1, 1 / 2), (0.75, 1 / 3), (0.5, 1 / 8), (0.3, 1 / 120), (0.25, 0)])
def test_ties_are_passed_in_one_straight_step_that_is_cut_at_the_limit(max_fpr, expected):
    # the curve: (0, 0), (1/4, 0), then straight to (3/4, 1), for the defective pixel ties with two defect-free ones
    maps, masks = in_a_row([2, 1, 1, 0, 1], [False, False, False, False, True])
    assert aupro(maps, masks, max_fpr) == pytest.approx(expected, abs=1e-15)
    assert pixel_auroc(maps, masks) == 0.5


def test_between_two_thresholds_the_curve_is_interpolated_at_the_limit():
    # one of two defect-free pixels ties with the defective one: (0, 0) to (1/2, 1), which is 0.6 high at 0.3
    assert aupro(*in_a_row([1, 0, 1], [False, False, True])) == pytest.approx(0.3 * 0.6 / 2 / 0.3, abs=1e-15)


def test_pixels_that_touch_at_a_corner_are_one_region():
    masks = np.zeros((1, 5, 5), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 4, 4] = True
    maps = np.ones(masks.shape)
    maps[0, 0, 0] = maps[0, 4, 4] = 2
    maps[0, 1, 1] = 0
    assert aupro(maps, masks) == (0.5 + 1) / 2  # not 2/3, as for three regions


def test_the_same_place_in_two_images_is_two_regions():
    masks = np.zeros((3, 1, 4), bool)
    masks[0, 0, :2] = masks[1, 0, 1] = True
    maps = np.where(masks, 0.0, 1.0)
    maps[1, 0, 1] = 2
    assert aupro(maps, masks) == 0.5  # not 1/3, as for one region of three pixels


def test_the_pixels_of_good_images_count_as_defect_free():
    maps, masks = np.array([[[2.0, 1, 0]], [[0, 0, 0]]]), np.array([[[False, True, False]], [[False] * 3]])
    assert aupro(maps[:1], masks[:1]) == 0  # the only higher pixel is half of all
    more = np.concatenate([maps, maps[1:]]), np.concatenate([masks, masks[1:]])
    assert aupro(maps, masks) == pytest.approx((0.3 - 1 / 5) / 0.3)
    assert aupro(*more) == pytest.approx((0.3 - 1 / 8) / 0.3)


@tried
@given(pixel_cases(), st.sampled_from([0.01, 0.3, 0.5, 1]))
def test_aupro_is_the_area_over_all_thresholds_tried_one_by_one(case, max_fpr):
    assert aupro(*case, max_fpr) == pytest.approx(aupro_by_all_thresholds(*case, max_fpr), abs=1e-12)


@tried
@given(pixel_cases())
def test_pixel_auroc_is_the_auroc_of_all_pixels(case):
    maps, masks = case
    assert pixel_auroc(maps, masks) == auroc(maps.ravel(), masks.ravel())


@tried
@given(pixel_cases())
def test_a_strictly_monotone_change_of_the_maps_changes_nothing_at_all(case):
    maps, masks = case
    assert localisation(maps, masks) == localisation(np.exp(maps / 100) - 7, masks)


@tried
@given(pixel_cases(), st.randoms())
def test_the_order_of_the_images_changes_neither_pixel_metric(case, random):
    maps, masks = case
    order = random.sample(range(len(maps)), len(maps))
    assert localisation(maps, masks) == localisation(maps[order], masks[order])


@tried
@given(pixel_cases())
def test_mirrored_and_turned_images_have_the_same_regions(case):
    maps, masks = case
    assert localisation(maps, masks) == pytest.approx(
        localisation(np.rot90(maps[:, ::-1], axes=(1, 2)), np.rot90(masks[:, ::-1], axes=(1, 2))), abs=1e-12
    )


@pytest.fixture(scope="module")
def pyaupro():
    """The package pyaupro, whose dependency imports torchvision, which some builds of torch need help with."""
    from adlib._torchvision import import_torchvision

    import_torchvision()
    import pyaupro

    return pyaupro


def drawn_images(pyaupro, levels=None):
    """Images of 64 px drawn by pyaupro, clipped to [0, 1], so with many ties; `levels`: rounded to that many steps."""
    maps, masks = pyaupro.generate_random_data(6, 64, 64, num_objects=4, seed=0)
    masks[4:] = 0  # two good images
    return maps if levels is None else (maps * levels).round() / levels, masks


@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1])
def test_aupro_is_that_of_the_evaluation_script_of_mvtec_as_packaged_by_others(pyaupro, levels, max_fpr):
    maps, masks = drawn_images(pyaupro, levels)
    metric = pyaupro.PerRegionOverlap(reference_implementation=True)
    metric.update(maps, masks)
    fpr, overlap = (values.numpy().astype(float) for values in metric.compute())
    # the package's own area does not interpolate at the limit; the script keeps the FPR as float32
    assert aupro(maps, masks, max_fpr) == pytest.approx(area_up_to(max_fpr, fpr, overlap), abs=1e-6)


def test_aupro_is_that_of_pyaupro_where_the_curve_has_many_points(pyaupro):
    """Its own implementation does not merge ties and holds the last overlap up to the limit: small steps, no ties."""
    maps, masks = drawn_images(pyaupro)
    maps = maps + torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    metric = pyaupro.PerRegionOverlap()
    metric.update(maps, masks)
    area = pyaupro.auc_compute(*metric.compute(), limit=0.3).item()
    assert aupro(maps, masks) == pytest.approx(area, abs=1e-4)


@pytest.mark.parametrize("dtype", "float32 float64 float16 bfloat16 int64 uint8".split())
def test_maps_of_every_number_type_are_taken(dtype):
    maps = torch.tensor([[[2, 1, 1, 0, 1]]], dtype=getattr(torch, dtype))
    masks = torch.tensor([[[0, 0, 0, 0, 1]]])
    for some in (masks, masks.bool(), masks.float(), masks.tolist()):
        assert localisation(maps, some) == localisation(*in_a_row([2, 1, 1, 0, 1], [0, 0, 0, 0, 1]))


def test_close_float32_and_float64_scores_are_no_ties():
    for dtype in (np.float32, np.float64):
        high = np.nextafter(dtype(1), dtype(2))
        assert aupro(np.array([[[high, 1]]], dtype), [[[True, False]]]) == 1


def test_maps_stay_as_they_are_gradients_and_all():
    maps = torch.tensor([[[3.0, 1.0, 2.0]]], requires_grad=True)
    assert pixel_auroc(maps, torch.tensor([[[True, False, False]]])) == 1
    assert maps.tolist() == [[[3, 1, 2]]] and maps.requires_grad


def test_the_pixel_metrics_are_plain_floats_under_the_names_of_the_result_rows():
    found = localisation([[[1, 2]]], [[[0, 1]]])
    assert set(found) <= set(rows.COLUMNS) and [type(value) for value in found.values()] == [float, float]
    assert found == {"pixel_auroc": pixel_auroc([[[1, 2]]], [[[0, 1]]]), "aupro": aupro([[[1, 2]]], [[[0, 1]]], 0.3)}


@pytest.mark.parametrize("metric", [pixel_auroc, aupro, localisation])
@pytest.mark.parametrize(
    "maps, masks, message",
    [
        ([[[1, 2]]], [[[True]]], r"maps and masks must both be \(N, H, W\), not \(1, 1, 2\) and \(1, 1, 1\)"),
        ([[1, 2]], [[True, False]], r"maps and masks must both be \(N, H, W\), not \(1, 2\) and \(1, 2\)"),
        ([[[1.0, float("nan")]]], [[[True, False]]], "1 of 2 values in maps are not finite"),
        ([[[1.0, -float("inf")]]], [[[True, False]]], "1 of 2 values in maps are not finite"),
        ([[[1, 2]]], [[[0, 255]]], "masks must hold booleans"),
        ([[["a", "b"]]], [[[True, False]]], "maps must be real numbers"),
        ([[[1, 2]]], [[[False, False]]], "no defective pixel in the masks"),
        ([[[1, 2]]], [[[True, True]]], "no defect-free pixel in the masks"),
        (np.empty((0, 2, 2)), np.empty((0, 2, 2), bool), "no defective pixel in the masks"),
    ],
)
def test_what_is_wrong_with_maps_and_masks_is_said(metric, maps, masks, message):
    with pytest.raises(ValueError, match=message):
        metric(maps, masks)


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.5, 30, float("nan")])
def test_a_limit_that_is_no_false_positive_rate_is_refused(max_fpr):
    with pytest.raises(ValueError, match=f"0 < max_fpr <= 1, not {max_fpr}"):
        aupro([[[1, 2]]], [[[True, False]]], max_fpr)
