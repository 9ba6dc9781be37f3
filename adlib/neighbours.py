"""Exact nearest neighbours by matrix products, in bounded memory.

    distances, indices = neighbours.nearest(queries, bank, k=1)
"""
import torch


def squared_distances(a, b):
    """Squared Euclidean distances of all pairs: (N, D), (M, D) -> (N, M), never below 0.

    |a|^2 + |b|^2 - 2ab is one matrix product, but it cancels where a and b nearly coincide: good for ranking
    candidates, to be computed again for distances that matter.
    """
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2).clamp_(min=0)


def nearest(queries, bank, k=1, chunk=2048):
    """The k nearest rows of `bank` for each query, nearest first.

    queries (N, D), bank (M, D), both float on one device. Returns Euclidean distances (N, k), exact for the rows found,
    and their indices int64 (N, k). At most chunk x M distances are held at once. Raises ValueError if k > M.
    """
    if k > len(bank):
        raise ValueError(f"k = {k} neighbours asked of a bank of {len(bank)} rows")
    found = []
    for part in queries.split(chunk):
        indices = squared_distances(part, bank).topk(k, largest=False).indices
        exact = (part[:, None] - bank[indices]).square().sum(2).sqrt()  # computed again: see squared_distances
        exact, order = exact.sort(1)
        found.append((exact, indices.gather(1, order)))
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)
