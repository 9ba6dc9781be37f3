"""Backbones: the maps of torchvision's networks, weights from files that are read without executing them."""

import hashlib
import os
import pickle

import pytest
import torch

from adlib import backbones
from adlib._torchvision import import_torchvision


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Neither weights on this machine nor a way to get them."""
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADLIB_OFFLINE", "1")
    (tmp_path / "data" / "weights").mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    model = import_torchvision().models.resnet18().eval()
    for module in model.modules():  # statistics that a mistake in their use would show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def saved(resnet, tmp_path_factory):
    """The network's file as torchvision's come, with layer4 and fc."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(resnet.state_dict(), path)
    return path


def test_the_maps_are_torchvisions_after_imagenets_normalisation(resnet, saved):
    encoder, _ = backbones.load("resnet18", str(saved))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    found = encoder(x)
    z = import_torchvision().transforms.functional.normalize((x + 1) / 2, backbones.MEAN, backbones.STD)
    with torch.no_grad():
        z = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(z))))
        for layer, maps in zip([resnet.layer1, resnet.layer2, resnet.layer3], found, strict=True):
            z = layer(z)
            torch.testing.assert_close(maps, z, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", backbones.CHANNELS)
def test_levels_have_the_channels_and_strides_that_are_promised(name):
    encoder, label = backbones.load(name, "random")
    with torch.no_grad():
        shapes = [tuple(maps.shape) for maps in encoder(torch.zeros(1, 1, 64, 64))]
    assert shapes == [(1, c, 64 // s, 64 // s) for c, s in zip(backbones.CHANNELS[name], (4, 8, 16), strict=True)]
    assert label == f"{name}/random"


def test_a_grey_image_gives_what_it_gives_as_three_equal_channels(saved):
    encoder, _ = backbones.load("resnet18", str(saved))
    grey = torch.rand(2, 1, 32, 32)
    for one, three in zip(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three)


def test_frozen_and_in_evaluation_mode_whatever_is_asked(saved):
    encoder, _ = backbones.load("resnet18", str(saved))
    x = torch.rand(4, 3, 32, 32)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = encoder.train()(x)
    alone = encoder.train()(x[2:3])
    for all_maps, maps in zip(first, alone, strict=True):  # training mode would see the rest of the batch
        torch.testing.assert_close(all_maps[2:3], maps, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in encoder.parameters()) and not first[-1].requires_grad
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_random_weights_follow_the_seed_and_leave_the_callers_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, same, other = (backbones.load("resnet18", "random", seed)[0].state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])


def test_a_file_up_to_layer3_is_enough_and_is_labelled_by_its_checksum(resnet, saved, tmp_path):
    short = tmp_path / "short.pth"
    torch.save(
        {k: v for k, v in resnet.state_dict().items() if not k.startswith(("layer4", "fc")) and "num_batches" not in k},
        short,
    )
    encoder, label = backbones.load("resnet18", str(short))
    whole, _ = backbones.load("resnet18", str(saved))
    assert label == "resnet18/local:" + hashlib.sha256(short.read_bytes()).hexdigest()[:8]
    x = torch.rand(1, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(encoder(x), whole(x), strict=True))


def test_a_known_checksum_makes_it_imagenet_wherever_the_file_lies(saved, empty, monkeypatch):
    sha256 = hashlib.sha256(saved.read_bytes()).hexdigest()
    monkeypatch.setitem(backbones.IMAGENET_SHA256, "resnet18", [sha256[:8]])
    assert backbones.load("resnet18", str(saved))[1] == "resnet18/imagenet"
    (empty / "data" / "weights" / "resnet18_any.pth").write_bytes(saved.read_bytes())
    assert backbones.load("resnet18", "imagenet")[1] == "resnet18/imagenet"  # found by its name


def test_a_file_of_unknown_content_is_never_taken_for_imagenets(saved, empty):
    (empty / "data" / "weights" / "resnet18.pth").write_bytes(saved.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"(?s)resnet18.*ADLIB_OFFLINE.*resnet18\.pth has another checksum"):
        backbones.load("resnet18", "imagenet")


def test_where_there_are_no_weights_one_sentence_says_what_to_get_and_where_to_put_it(empty):
    with pytest.raises(FileNotFoundError, match=r"wide_resnet50_2.*https://.*pth.*weights/ of the folder"):
        backbones.load("wide_resnet50_2", "imagenet")
    with pytest.raises(FileNotFoundError, match="no weight file .*nowhere.pth.*'imagenet', 'random' or a path"):
        backbones.load("resnet18", str(empty / "nowhere.pth"))
    with pytest.raises(ValueError, match="unknown backbone 'resnet50': choose resnet18, wide"):
        backbones.load("resnet50", "random")


def test_a_missing_tensor_and_one_of_another_shape_are_named(resnet, tmp_path):
    tensors = dict(resnet.state_dict())
    path = tmp_path / "damaged.pth"
    del tensors["layer2.0.downsample.0.weight"]
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"damaged.pth lacks layer2\.0\.downsample\.0\.weight, which resnet18 needs"):
        backbones.load("resnet18", str(path))
    tensors = resnet.state_dict() | {"layer1.1.bn2.bias": torch.zeros(5)}
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"layer1\.1\.bn2\.bias is \(5,\), resnet18 needs \(64,\)"):
        backbones.load("resnet18", str(path))


class Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("as_torch", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, as_torch):
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pth"
    trap = {"conv1.weight": Trap(f"touch {sprung}")}
    if as_torch:
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))  # that of torch.save
    with pytest.raises(ValueError, match="trap.pth cannot be read as a file of plain tensors"):
        backbones.load("resnet18", str(path))
    assert not sprung.exists()
    torch.load(path, weights_only=False) if as_torch else pickle.loads(path.read_bytes())
    assert sprung.exists()  # it would have: the trap is a real one


@pytest.mark.parametrize("content", [b"", b"not a weight file", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pth cannot be read"):
        backbones.load("resnet18", str(path))
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="damaged.pth is no dict of tensors"):
        backbones.load("resnet18", str(path))
