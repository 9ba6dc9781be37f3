import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.overrides import TorchFunctionMode

from adlib import neighbours


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Largest(TorchFunctionMode):
    """Bytes of the largest tensor that a call of torch in its `with` block returned, in `.bytes`."""

    bytes = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return result


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("settings", [{"chunk": 1}, {"chunk": 7}, {"chunk": 1000}, {}, {"megabytes": 0}])
def test_neighbours_and_distances_are_scikit_learns_whatever_the_chunk(k, settings):
    generator = seeded()
    bank, queries = torch.randn(50, 6, generator=generator), torch.randn(20, 6, generator=generator)
    distances, indices = neighbours.nearest(queries, bank, k=k, **settings)
    expected_distances, expected = NearestNeighbors(n_neighbors=k).fit(bank.numpy()).kneighbors(queries.numpy())
    assert np.array_equal(indices.numpy(), expected) and indices.dtype == torch.int64
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_far_from_the_origin_are_those_of_float64(k):
    generator = seeded()
    bank, queries = 1000 + torch.randn(200, 16, generator=generator), 1000 + torch.randn(50, 16, generator=generator)
    distances, indices = neighbours.nearest(queries, bank, k)
    expected = torch.cdist(queries.double(), bank.double()).topk(k, largest=False)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances, expected.values.float(), rtol=1e-5, atol=0)


def test_distances_of_near_coincident_rows_far_from_the_origin_are_exact():
    bank = torch.tensor([[1000.0, 1000.0], [1000.0, 1001.0]])
    distances, indices = neighbours.nearest(bank + torch.tensor([0.0, 0.25]), bank)
    assert indices.flatten().tolist() == [0, 1] and distances.flatten().tolist() == [0.25, 0.25]


def test_no_queries_have_no_neighbours_and_gradients_do_not_matter():
    bank = torch.randn(5, 3, generator=seeded(), requires_grad=True)
    assert [tuple(one.shape) for one in neighbours.nearest(torch.zeros(0, 3), bank, k=2)] == [(0, 2), (0, 2)]
    assert neighbours.nearest(bank, bank)[1].flatten().tolist() == [0, 1, 2, 3, 4]
    assert neighbours.coreset(bank, 5, seeded(), dims=2).sort().values.tolist() == [0, 1, 2, 3, 4]


def test_more_neighbours_than_there_are_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="k = 3 neighbours asked of a bank of 2 rows"):
        neighbours.nearest(torch.zeros(1, 2), torch.zeros(2, 2), k=3)


@pytest.mark.parametrize("k", [1, 5])
def test_the_search_holds_no_tensor_above_its_setting(k):
    queries, bank = torch.randn(2000, 8, generator=seeded(1)), torch.randn(300, 8, generator=seeded(2))
    with Largest() as largest:
        found = neighbours.nearest(queries, bank, k, megabytes=0.1)  # all distances at once: 2.4 MB
    assert 0.05e6 < largest.bytes <= 0.1e6
    assert torch.equal(found[1], neighbours.nearest(queries, bank, k)[1])


def naive(points, n, start):
    """Greedy k-center selection as the definition says it, in float64."""
    points, nearest, picks = points.double(), torch.full((len(points),), torch.inf, dtype=torch.float64), [start]
    while len(picks) < n:
        nearest = torch.minimum(nearest, (points - points[picks[-1]]).square().sum(1))
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))  # the first of equals
    return picks


def drawn(kind, count=150, width=12):
    generator = seeded(3)
    noise = torch.randn(count, width, generator=generator)
    which = torch.randint(9, (count,), generator=generator)
    if kind == "clusters":
        return 5 * noise[:9][which] + 0.01 * noise
    if kind == "few":  # nine distinct vectors, many times each
        return noise[:9][which]
    if kind == "lattice":  # many equal distances
        return torch.cartesian_prod(*[torch.arange(float(side)) for side in (5, 6, 5)])
    return {
        "normal": noise,
        "far": noise + 1000,
        "float64": noise.double(),
        "equal": torch.ones(count, width),
        "equally far": torch.eye(60),
    }[kind]


KINDS = ["normal", "clusters", "few", "lattice", "far", "float64", "equal", "equally far"]


@pytest.mark.parametrize("megabytes", [0, 0.02, 64])  # one vector at a time; a few; all
@pytest.mark.parametrize("kind", KINDS)
def test_a_coreset_is_that_of_the_definition(kind, megabytes):
    vectors = drawn(kind)
    before = vectors.clone()
    picks = neighbours.coreset(vectors, 50, seeded(), dims=None, start=5, megabytes=megabytes)
    assert picks.tolist() == naive(vectors, 50, 5) and picks.dtype == torch.int64
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("kind", ["normal", "clusters", "few", "far"])
def test_a_coreset_of_projected_vectors_is_that_of_their_projection(kind):
    vectors = drawn(kind)
    projected = neighbours.project(vectors, 4, seeded())
    assert projected.shape == (150, 4)
    picks = neighbours.coreset(vectors, 50, seeded(), dims=4, start=5)
    assert picks.tolist() == naive(projected, 50, 5)


@pytest.mark.parametrize("kind", ["normal", "few", "equal"])
def test_a_coreset_of_all_vectors_names_each_once(kind):
    picks = neighbours.coreset(drawn(kind), 150, seeded())
    assert picks.sort().values.tolist() == list(range(150))


def test_where_all_that_are_left_repeat_picks_the_first_follow():
    vectors = torch.tensor([[1.0], [1.0], [1.0], [3.0], [3.0], [2.0]])
    assert neighbours.coreset(vectors, 6, seeded(), start=4).tolist() == [4, 0, 5, 1, 2, 3]


def test_the_generator_decides_projection_and_start():
    vectors = drawn("normal")
    first, again, other = (neighbours.coreset(vectors, 20, seeded(seed), dims=4).tolist() for seed in (0, 0, 1))
    assert first == again and first != other and first[0] != other[0]
    starts = {int(neighbours.coreset(vectors[:4], 1, seeded(seed))) for seed in range(30)}
    assert starts == {0, 1, 2, 3}


def test_a_projection_nearly_keeps_distances_also_far_from_the_origin():
    vectors = torch.randn(40, 300, generator=seeded())
    near, far = (neighbours.project(one, 200, seeded()) for one in (vectors, vectors + 1000))
    ratio = torch.pdist(near) / torch.pdist(vectors)
    assert 0.75 < ratio.min() and ratio.max() < 1.25 and abs(ratio.mean() - 1) < 0.02
    torch.testing.assert_close(far, near, rtol=0, atol=1e-2)
    assert neighbours.project(vectors, None, seeded()) is neighbours.project(vectors, 300, seeded()) is vectors


def test_a_coreset_tells_how_far_it_is():
    done = []
    picks = neighbours.coreset(drawn("clusters"), 100, seeded(), progress=done.append, megabytes=0.1)
    assert done == sorted(done) and done[-1] == len(picks) == 100 and len(set(done)) > 2


def test_a_coreset_holds_no_tensor_of_all_pairs_nor_above_its_setting():
    vectors = torch.randn(3000, 16, generator=seeded())
    with Largest() as largest:
        picks = neighbours.coreset(vectors, 50, seeded(), dims=8, megabytes=0.1, start=0)
    assert largest.bytes <= 0.1e6  # of which 96 kB are the projected vectors; one row of distances would be 12 kB
    assert picks.tolist() == naive(neighbours.project(vectors, 8, seeded()), 50, 0)


def test_not_even_where_half_of_all_are_equally_far():
    vectors = torch.arange(3000)[:, None].remainder(2).float().repeat(1, 16)
    with Largest() as largest:
        picks = neighbours.coreset(vectors, 4, seeded(), dims=None, megabytes=0.05, start=2)
    assert largest.bytes <= 0.05e6 and picks.tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "a coreset of 0 asked of 5 vectors"),
        ({"n": 6}, "a coreset of 6 asked of 5 vectors"),
        ({"n": 2, "start": 5}, "start = 5 is none of 5 vectors"),
        ({"n": 2, "start": -1}, "start = -1 is none of 5 vectors"),
    ],
)
def test_a_coreset_that_cannot_be_is_an_error_that_says_so(settings, message):
    with pytest.raises(ValueError, match=message):
        neighbours.coreset(torch.zeros(5, 2), generator=seeded(), **settings)


def test_vectors_that_are_not_finite_or_not_floating_are_refused():
    vectors = torch.zeros(5, 2)
    vectors[3, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        neighbours.coreset(vectors, 2, seeded())
    with pytest.raises(ValueError, match="torch.uint8 cannot be projected"):
        neighbours.coreset(torch.zeros(5, 2, dtype=torch.uint8), 2, seeded())
