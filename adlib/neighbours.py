"""Exact nearest neighbours, and a greedy coreset to search in, both in bounded memory."""

from collections.abc import Callable

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs: (N, D), (M, D) -> (N, M), never below 0.

    |a|^2 + |b|^2 - 2ab is one matrix product, but digits cancel if a and b nearly coincide: use it to rank candidates,
    and compute again the distances that matter.
    """
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2).clamp_(min=0)


@torch.no_grad()
def nearest(
    queries: Tensor, bank: Tensor, k: int = 1, chunk: int | None = None, megabytes: float = 16
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `bank` for each query, nearest first.

    queries (N, D), bank (M, D), both of one floating type on one device. Returns Euclidean distances (N, k), exact for
    the rows found, and their indices int64 (N, k). `chunk` queries are compared at a time: chunk x M products and
    chunk x k x D differences are held. None: as many as fit into `megabytes`. Raises ValueError if k > M.
    """
    if k > len(bank):
        raise ValueError(f"k = {k} neighbours asked of a bank of {len(bank)} rows")
    chunk = chunk or _rows(megabytes, (len(bank) + (k + 1) * bank.shape[1]) * bank.element_size())
    middle = bank.mean(0)
    norms = torch.cat([(part - middle).square_().sum(1) for part in bank.split(chunk)])
    products = queries.new_empty(min(chunk, len(queries)), len(bank))
    distances, indices = queries.new_empty(len(queries), k), queries.new_empty(len(queries), k, dtype=torch.int64)
    for part, distance, index in zip(*(x.split(chunk) for x in (queries, distances, indices)), strict=True):
        ranks = products[: len(part)]  # |b|^2 - 2ab, from the middle of the bank, so that few digits cancel
        torch.addmm(norms, part - middle, bank.T, alpha=-2, out=ranks)
        rows = ranks.min(1, keepdim=True).indices if k == 1 else ranks.topk(k, largest=False).indices  # min is faster
        exact, order = torch.linalg.vector_norm(bank[rows].sub_(part[:, None]), dim=2).sort(1)
        distance.copy_(exact)
        torch.gather(rows, 1, order, out=index)
    return distances, indices


@torch.no_grad()
def project(vectors: Tensor, dims: int | None, generator: torch.Generator, megabytes: float = 64) -> Tensor:
    """A random Gaussian projection, which nearly keeps distances (Johnson, Lindenstrauss 1984): (N, D) -> (N, dims).

    With dims None or dims >= D: the vectors themselves. The difference from the first vector is projected, which keeps
    digits far from the origin. Raises ValueError for vectors that are not floating.
    """
    if not vectors.is_floating_point():
        raise ValueError(f"vectors of {vectors.dtype} cannot be projected: make them float32")
    count, width = vectors.shape
    if dims is None or dims >= width:
        return vectors
    matrix = torch.randn(width, dims, generator=generator, device=generator.device).div_(dims**0.5).to(vectors)
    points, rows = vectors.new_empty(count, dims), _rows(megabytes, width * vectors.element_size())
    for part, out in zip(vectors.split(rows), points.split(rows), strict=True):
        torch.mm(part - vectors[:1], matrix, out=out)
    return points


@torch.no_grad()
def coreset(
    vectors: Tensor,
    n: int,
    generator: torch.Generator,
    dims: int | None = 128,
    start: int | None = None,
    progress: Callable[[int], object] | None = None,
    megabytes: float = 64,
) -> Tensor:
    """Greedy k-center selection: each pick is the vector that is farthest from all picks before it.

    vectors (N, D), floating; `project(vectors, dims, generator)` is compared, in float64 (on MPS in float32). The first
    pick is `start`, or drawn. Among equally far vectors the first is picked; none is picked twice, even if all
    remaining vectors repeat picks. progress: called now and then with the number of picks. Returns indices int64 (n,),
    in the order of the picks. Memory: the projected vectors, the picks, some 50 bytes a vector, and `megabytes`. Raises
    ValueError for n < 1 or n > N, a start outside the vectors, and vectors that are not finite.
    """
    count, device = len(vectors), vectors.device
    if not 1 <= n <= count:
        raise ValueError(f"a coreset of {n} asked of {count} vectors")
    if start is not None and not 0 <= start < count:
        raise ValueError(f"start = {start} is none of {count} vectors")
    points = project(vectors, dims, generator, megabytes)
    if not points.mean().isfinite():
        raise ValueError("some vectors are not finite")
    start = torch.randint(count, (), generator=generator, device=generator.device) if start is None else start
    exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    rows = min(2048, _rows(megabytes, 8 * (n + 3 * points.shape[1])))  # more do not fit into a processor's cache

    # The distance to the nearest pick only falls, so its value for the first seen[i] picks is an upper bound, and most
    # vectors need not be compared with most picks. The vectors with the largest bounds are updated by matrix products
    # with all picks that they have not seen, again and again until the `rows` largest bounds are distances; then picks
    # are made among these few, as long as no other vector can be farther.
    bounds = torch.full((count,), torch.inf, dtype=exact, device=device)  # -1: picked
    seen = torch.zeros(count, dtype=torch.int32, device=device)
    picks, norms = torch.empty(n, dtype=torch.int64, device=device), torch.empty(n, dtype=exact, device=device)
    centres, origin = norms.new_empty(n, points.shape[1]), points[start].to(exact)
    done = 0

    def add(indices):
        nonlocal done
        new = slice(done, done + len(indices))
        torch.sub(points[indices].to(exact), origin, out=centres[new])
        picks[new], norms[new], bounds[indices] = indices, centres[new].square().sum(1), -1
        done = new.stop

    def refresh(indices):
        for part in indices[seen[indices].argsort()].split(rows):
            unseen = slice(int(seen[part[0]]), done)
            own = points[part].to(exact).sub_(origin)
            which = torch.addmm(norms[unseen], own, centres[unseen].T, alpha=-2).argmin(1)
            own.sub_(centres[unseen][which])  # again from differences: equal vectors get equal distances, repeated 0
            bounds[part] = torch.minimum(bounds[part], torch.linalg.vector_norm(own, dim=1))
            seen[part] = done

    add(torch.as_tensor(start, device=device).view(1))
    while done < n:
        largest = bounds.topk(min(8 * rows, count)).values
        floor = largest[:rows][-1].clamp(min=torch.finfo(exact).tiny)
        chosen = (bounds >= floor).nonzero().flatten()
        if len(chosen) == 0:  # all remaining vectors repeat picks
            picks[done:], done = (bounds >= 0).nonzero().flatten()[: n - done], n
        elif (seen[chosen] < done).any():
            refresh(((bounds >= largest[-1]) & (bounds > 0) & (seen < done)).nonzero().flatten())
        else:
            if len(chosen) > rows:  # many equally far: the first of the farthest
                floor = bounds.max()
                chosen = (bounds == floor).nonzero().flatten()[:rows]
            add(chosen[_farthest(points[chosen].to(exact).sub_(origin), bounds[chosen], floor, n - done)])
        if progress is not None:
            progress(done)
    return picks


def _farthest(points, distances, floor, most):
    """Indices of up to `most` greedy picks among points (m, D), as long as the farthest is not nearer than `floor`.

    distances (m,), to the nearest earlier pick, change in place. On a GPU the host waits once per 16 picks.
    """
    difference, new = torch.empty_like(points), torch.empty_like(distances)
    order, heights = distances.new_empty(most, dtype=torch.int64), distances.new_empty(most)
    for i in range(most):
        best = order[i : i + 1]
        torch.max(distances, 0, keepdim=True, out=(heights[i : i + 1], best))  # the first of equals
        torch.sub(points, points.index_select(0, best), out=difference)
        torch.linalg.vector_norm(difference, dim=1, out=new)
        torch.minimum(distances, new, out=distances).index_fill_(0, best, -1)
        if i % 16 == 15 and heights[i] < floor:
            break
    return order[: int((heights[: i + 1] >= floor).sum())]  # heights never rise


def _rows(megabytes, bytes_each):
    return max(1, int(megabytes * 1e6 / bytes_each))
