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


def test_a_checkpoint_comes_back_as_it_was():
    nets, run = torch.nn.Linear(20, 20), {"steps": 3, "methods": {"egbad": {"lam": 0.1}}, "rotate": [0, 45]}
    rng = torch.Generator().manual_seed(0)
    state = {"nets": nets.state_dict(), "generator": rng.get_state(), "step": 7, "seconds": 0.1}
    content = machine.pack(run, state)
    again = machine.unpack(content, run)
    assert (again["step"], again["seconds"]) == (7, 0.1) and torch.equal(again["generator"], rng.get_state())
    assert all(torch.equal(value, state["nets"][name]) for name, value in again["nets"].items())
    for damaged in (b"", content[:20], content[:-1], content + b"x", content[:500] + b"\0\0" + content[502:]):
        with pytest.raises(ValueError, match="it is damaged or cut off"):
            machine.unpack(damaged, run)
    with pytest.raises(ValueError, match="it holds more than numbers and text"):
        machine.unpack(machine.pack(run, {"nets": nets}), run)
    with pytest.raises(ValueError, match="it is of another run: torch, steps, rotate differ"):
        machine.unpack(content, {"methods": run["methods"], "torch": "2", "steps": 4})
