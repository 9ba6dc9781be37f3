"""COIL-100: views in a folder, in the official archive and in an npz file, and every way they can be wrong."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repro import data
from repro.data import coil100


# ---- a small COIL-100: pixel (0, 0) of a view is its object, pixel (0, 1) its angle in steps of 5 degrees

OBJECTS = ("obj2", "obj10", "obj100")


def view(name, step, size=4):
    array = np.zeros((size, size, 3), np.uint8)
    array[0, 0], array[0, 1] = int(name[3:]), step
    array[1, 1, 0] = 255  # or it would be grey
    return array


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def views(names=OBJECTS, **more):
    """{file name: content}, last view first."""
    return {f"{name}__{5 * step}.png": png(view(name, step, **more)) for name in names for step in reversed(range(72))}


def write_folder(folder, files=None):
    folder.mkdir()
    for name, content in (files or views()).items():
        (folder / name).write_bytes(content)


def write_archive(path, files=None, top="coil-100/", extra=()):
    """Stored, not packed, like PNG that is packed already; extra: (name, content) of other members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [*((top + name, content) for name, content in (files or views()).items()), *extra]:
            archive.writestr(name, content)


def write_npz(path, names=OBJECTS, n=72, **changes):
    arrays = {
        "train_images": np.stack([view(name, step) for name in names for step in range(n)]),
        "train_labels": np.repeat([int(name[3:]) for name in names], n),
        "test_images": np.zeros((0, 4, 4, 3), np.uint8),
        "test_labels": np.zeros(0, np.uint8),
        "class_names": np.array([f"obj{number}" for number in range(101)]),
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder that ADLIB_DATA names, empty."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write_as(form, root):
    if form == "zip":
        write_archive(root / "coil-100.zip")
    elif form == "npz":
        write_npz(root / "coil100.npz")
    else:
        write_folder(root / form)


FORMS = ["coil-100", "coil100", "zip", "npz"]


# ---- what is read


@pytest.mark.parametrize("form", FORMS)
def test_objects_and_views_are_in_order_whatever_holds_them(root, form):
    write_as(form, root)
    for _ in range(2):  # prepared, and read from the cache
        train, test = data.load("coil100", "train"), data.load("coil100", "test")
        assert train.images.shape == (3 * 72, 3, 4, 4) and test.images.shape == (0, 3, 4, 4)
        assert train.images[:, 0, 0, 0].tolist() == [number for number in (2, 10, 100) for _ in range(72)]
        assert train.images[:, 0, 0, 1].tolist() == list(range(72)) * 3
        assert train.labels.tolist() == [label for label in (1, 9, 99) for _ in range(72)]
        assert train.kinds == [name for name in OBJECTS for _ in range(72)] and test.kinds == []
        assert len(train.class_names) == 100
        source = {"zip": "zip", "npz": "npz"}.get(form, "folder")
        assert re.fullmatch(rf"{source}:[0-9a-f]{{8}} \(3 of 100 classes\)", train.source)
    assert (
        train.files is None
        if form == "npz"
        else train.files[70:73] == ["obj2__350.png", "obj2__355.png", "obj10__0.png"]
    )


@pytest.mark.parametrize("form", FORMS)
def test_80_20_trains_on_57_views_and_tests_on_15_and_15(root, form):
    write_as(form, root)
    split = data.one_class("coil100", 10, protocol="80-20", size=8)
    assert split.train.shape == (57, 3, 8, 8) and split.test.shape == (30, 3, 8, 8) and split.n_train_available == 57
    assert int(split.is_anomalous.sum()) == 15 and split.kind.count("obj10") == 15 and len(set(split.kind)) == 3
    held_out = data.one_class("coil100", "obj10", protocol="80-20", size=8, validation=0.2)
    assert len(held_out.train) == 46 and held_out.validation_is_anomalous.tolist().count(True) == 11
    assert torch.equal(held_out.test, split.test)


def test_80_20_draws_the_anomalies_from_the_others_20_percent(root):
    write_as("coil100", root)
    splits = [data.one_class("coil100", name, "80-20", seed=3, size=None, validation=0.2) for name in OBJECTS]

    def numbers(images):
        return {(image[0, 0, 0].item(), image[0, 0, 1].item()) for image in images}

    tested = set().union(*(numbers(split.test) for split in splits))
    assert not tested & set().union(*(numbers(split.train) | numbers(split.validation) for split in splits))
    assert len(tested) == 3 * 15 and all(len(split.test) == 30 for split in splits)


def test_80_20_takes_all_anomalies_where_there_are_fewer_than_normals(root):
    images = {"test_images": np.stack([view("obj3", step) for step in range(72)]), "test_labels": np.full(72, 3)}
    write_npz(root / "coil100.npz", ["obj2"], **images)
    split = data.one_class("coil100", "obj2", protocol="80-20")
    assert int(split.is_anomalous.sum()) == int((~split.is_anomalous).sum()) == 15  # one other object is enough
    write_npz(root / "own.npz", ["obj2"], test_images=images["test_images"][:20], test_labels=np.full(20, 3))
    split = data.one_class(f"npz:{root / 'own.npz'}", "obj2", protocol="80-20")
    assert int(split.is_anomalous.sum()) == 4 and int((~split.is_anomalous).sum()) == 15


def test_official_is_an_error_that_leads_to_80_20(root):
    write_as("coil100", root)
    with pytest.raises(ValueError, match="coil100 has no .* test images where obj2 is normal; protocol 80-20 splits"):
        data.one_class("coil100", "obj2")


def test_a_whole_set_of_objects_has_a_plain_source(root):
    write_npz(root / "coil100.npz", coil100.NAMES)
    assert re.fullmatch("npz:[0-9a-f]{8}", data.load("coil100", "train").source)


def test_an_absent_object_is_an_error_that_lists_those_there(root):
    write_as("zip", root)
    with pytest.raises(ValueError, match="no training images of class obj3.*choose obj2, obj10, obj100"):
        data.one_class("coil100", "3", protocol="80-20")


def test_a_folder_goes_before_the_archive_and_that_before_an_npz(root):
    found = []
    for form in ("npz", "zip", "coil100", "coil-100"):
        write_as(form, root)
        for path in Path(os.environ["ADLIB_CACHE"]).glob("*.bin"):
            path.unlink()
        found.append(data.load("coil100", "train").source)
    assert [source.split(":")[0] for source in found] == ["npz", "zip", "folder", "folder"] and found[2] == found[3]


def test_the_prepared_cache_goes_before_all_of_them(root):
    write_as("zip", root)
    before = data.load("coil100", "train", size=8)
    (root / "coil-100.zip").unlink()
    assert torch.equal(data.load("coil100", "train", size=8).images, before.images)


def test_other_files_are_not_looked_at(root):
    names = ("convertGroupppm2png.pl", "obj101__0.png", "obj2__7.png", "obj02__0.png", "._obj2__0.png")
    stray = dict.fromkeys(names, b"#!/usr/bin/perl")
    write_folder(root / "coil-100", {**views(), **stray})
    whole = data.load("coil100", "train")
    assert len(whole.images) == 3 * 72
    (root / "other").mkdir()
    write_archive(
        root / "other" / "coil-100.zip",
        {**views(), **stray},
        extra=[("__MACOSX/coil-100/obj2__0.png", b"x"), ("coil-100/deeper/obj3__0.png", b"x")],
    )
    train, _ = coil100.read("coil100", root / "other", None, None, "antialias")
    assert torch.equal(train.images, whole.images)


def test_an_empty_folder_is_passed_over(root):
    (root / "coil-100").mkdir()
    write_as("npz", root)
    assert data.load("coil100", "train").source.startswith("npz:")


def test_grey_views_have_three_channels(root):
    files = {name: png(np.full((4, 4), 7, np.uint8)) for name in views(["obj2"])}
    write_folder(root / "coil100", {**files, **views(["obj3"])})
    assert data.load("coil100", "train").images.shape == (144, 3, 4, 4)


def test_without_the_images_the_error_says_where_they_are_and_where_to_put_them(root, monkeypatch):
    for offline in "10":  # nothing is downloaded, whatever is allowed
        monkeypatch.setenv("ADLIB_OFFLINE", offline)
        with pytest.raises(FileNotFoundError) as error:
            data.one_class("coil100", "1", protocol="80-20")
        for part in ("coil-100.zip", coil100.PAGE, "coil-100/", "coil100.npz", f"ADLIB_DATA names (now {root})"):
            assert part in str(error.value)
    monkeypatch.delenv("ADLIB_DATA")
    with pytest.raises(FileNotFoundError, match="coil100 is not on this machine.*now not set"):
        data.load("coil100", "train")


# ---- what is wrong


@pytest.mark.parametrize("form", ["coil-100", "zip"])
def test_an_object_of_which_views_are_missing_is_named(root, form):
    files = views()
    del files["obj10__85.png"], files["obj10__350.png"]
    write_archive(root / "coil-100.zip", files) if form == "zip" else write_folder(root / form, files)
    with pytest.raises(
        ValueError, match="coil-100.* holds 70 views of obj10, not 72: only whole objects may be absent"
    ):
        data.load("coil100", "train")


@pytest.mark.parametrize("n", [71, 73])
def test_an_npz_with_more_or_fewer_views_of_an_object_is_an_error_that_names_it(root, n):
    write_npz(root / "coil100.npz", n=n)
    with pytest.raises(ValueError, match=f"coil100.npz holds {n} views of obj2, not 72"):
        data.load("coil100", "train")


def test_an_npz_with_an_image_of_no_object_is_an_error(root):
    write_npz(root / "coil100.npz", ["obj0"])
    with pytest.raises(ValueError, match="unknown class 'obj0' of coil100"):
        data.load("coil100", "train")


def test_an_npz_without_names_counts_the_objects_from_0(root):
    write_npz(root / "coil100.npz", ["obj2"], class_names=None)
    assert set(data.load("coil100", "train").kinds) == {"obj3"}  # label 2 is the third


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
@pytest.mark.parametrize("form", ["coil-100", "zip"])
def test_an_unreadable_view_is_named(root, form, content):
    files = views()
    files["obj10__85.png"] = files["obj10__85.png"][:-40] if content is None else content
    write_archive(root / "coil-100.zip", files) if form == "zip" else write_folder(root / form, files)
    with pytest.raises(ValueError, match="coil-100.*/obj10__85.png cannot be read as an image"):
        data.load("coil100", "train")


def test_a_folder_in_place_of_a_view_is_named(root):
    write_as("coil-100", root)
    (root / "coil-100" / "obj2__0.png").unlink()
    (root / "coil-100" / "obj2__0.png").mkdir()
    with pytest.raises(ValueError, match="obj2__0.png cannot be read"):
        data.load("coil100", "train")


def test_views_of_two_sizes_are_an_error(root):
    write_folder(root / "coil-100", {**views(["obj2"]), **views(["obj3"], size=5)})
    with pytest.raises(ValueError, match="coil-100/obj3__0.png is not of the size of the images before it"):
        data.load("coil100", "train", size=8)


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_truncated_archive_is_named(root, keep):
    write_as("zip", root)
    (root / "coil-100.zip").write_bytes((root / "coil-100.zip").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"coil-100.zip is truncated or damaged: "):
        data.load("coil100", "train")
    assert list(Path(os.environ["ADLIB_CACHE"]).glob("*.bin")) == []


def test_flipped_bits_in_an_archive_are_one_clear_error_or_change_nothing(root):
    write_archive(root / "coil-100.zip", views(["obj2"]))
    whole, (before, _) = (root / "coil-100.zip").read_bytes(), coil100.read("coil100", root, None, None, "antialias")
    n_errors = 0
    for position in np.random.default_rng(0).integers(0, len(whole), 150):
        content = bytearray(whole)
        content[position] ^= 1 << int(position) % 8
        (root / "coil-100.zip").write_bytes(content)
        try:
            train, _ = coil100.read("coil100", root, None, None, "antialias")
            assert torch.equal(train.images, before.images)  # what differs is a date, or the like
        except ValueError as error:
            assert "coil-100.zip" in str(error) and "\n" not in str(error)
            n_errors += 1
    assert n_errors > 75


def test_an_archive_without_views_is_an_error(root):
    write_archive(root / "coil-100.zip", {"readme.txt": b"coil-20"})
    with pytest.raises(ValueError, match="coil-100.zip holds no views of COIL-100"):
        data.load("coil100", "train")


def test_members_outside_and_links_write_nothing_and_are_no_views(root, tmp_path):
    link = zipfile.ZipInfo("coil-100/obj2__0.png")
    link.external_attr = 0o120777 << 16
    files = views()
    del files["obj2__0.png"]
    write_archive(
        root / "coil-100.zip",
        files,
        extra=[("../obj2__0.png", b"x"), ("/tmp/adlib-outside", b"x"), (link, b"/etc/hostname")],
    )
    with pytest.raises(ValueError, match="coil-100.zip/obj2__0.png cannot be read as an image"):
        data.load("coil100", "train")
    assert [path.name for path in root.iterdir()] == ["coil-100.zip"]
    assert not list(tmp_path.rglob("obj2__0.png")) and not Path("/tmp/adlib-outside").exists()


# ---- real images, where there are any


def test_the_real_objects_have_72_views_each():
    real = os.environ.get("ADLIB_DATA")
    if not real or not any(
        (Path(real) / name).exists() for name in ("coil-100", "coil100", "coil-100.zip", "coil100.npz")
    ):
        pytest.skip("needs COIL-100 under ADLIB_DATA")
    images = data.load("coil100", "train", size=32)
    there = sorted(set(images.kinds), key=coil100.NAMES.index)
    assert len(images.images) == 72 * len(there) and images.images.shape[1:] == (3, 32, 32)
    assert images.source.endswith(f" ({len(there)} of 100 classes)") == (len(there) < 100)
    for name in there[:3]:
        split = data.one_class("coil100", name, protocol="80-20")
        assert len(split.train) == 57 and len(split.test) == 30 and int(split.is_anomalous.sum()) == 15
