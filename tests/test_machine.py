import pytest
import torch

from adlib import machine


def test_an_unknown_device_is_one_sentence():
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here .* try 'auto' or 'cpu'"):
        machine.pick("abacus")


def test_one_seed_repeats_weights_and_draws():
    def draw():
        generator = machine.seed_everything(3, torch.device("cpu"))
        return torch.nn.Linear(4, 4).weight, torch.rand(3, generator=generator)

    for first, second in zip(draw(), draw(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("n", [10, 64, 100, 1000])
def test_milliseconds_are_measured_on_batches_of_at_most_64_images_whatever_their_number(n):
    sizes = []
    assert machine.ms_per_image(lambda x: sizes.append(len(x)), torch.zeros(n, 1)) > 0
    assert set(sizes) == {min(n, 64)} and len(sizes) <= 5


def test_no_autocast_on_a_cpu():
    with machine.autocast(torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
