import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from adlib import neighbours


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_neighbours_and_distances_are_scikit_learns_whatever_the_chunk(chunk):
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(50, 6, generator=generator), torch.randn(20, 6, generator=generator)
    distances, indices = neighbours.nearest(queries, bank, k=3, chunk=chunk)
    expected_distances, expected = NearestNeighbors(n_neighbors=3).fit(bank.numpy()).kneighbors(queries.numpy())
    assert np.array_equal(indices.numpy(), expected)
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-5)


def test_distances_of_near_coincident_rows_far_from_the_origin_are_exact():
    bank = torch.tensor([[1000.0, 1000.0], [1000.0, 1001.0]])
    distances, indices = neighbours.nearest(bank + torch.tensor([0.0, 0.25]), bank)
    assert indices.flatten().tolist() == [0, 1] and distances.flatten().tolist() == [0.25, 0.25]


def test_more_neighbours_than_there_are_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="k = 3 neighbours asked of a bank of 2 rows"):
        neighbours.nearest(torch.zeros(1, 2), torch.zeros(2, 2), k=3)
