"""A user's own npz files and folders, and every way they can be wrong."""

import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from trees import Exploit, cache_files, pixels, real, save_image, write_category, write_classes, write_npz

from repro import data


@pytest.fixture
def class_folders(tmp_path):
    return write_classes(tmp_path / "pets")


@pytest.fixture
def mvtec_folders(tmp_path):
    return write_category(tmp_path / "screw")


# ---- npz


def test_npz_takes_labels_of_either_shape_and_grey_images(tmp_path):
    name = write_npz(
        tmp_path / "grey.npz",
        train_images=pixels(10, 8, 8),
        test_images=pixels(10, 8, 8),
        test_labels=np.arange(10) % 2,
    )
    split = data.one_class(name, "1", size=None)
    assert split.train.shape == (5, 1, 8, 8) and int(split.is_anomalous.sum()) == 5
    assert re.fullmatch("npz:[0-9a-f]{8}", split.source) and split.class_names == ["0", "1"]


def test_npz_of_a_known_dataset_may_name_and_order_its_classes_otherwise(tmp_path, monkeypatch):
    write_npz(tmp_path / "cifar10.npz", class_names=np.array(["automobile", "airplane"]))
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    test = data.load("cifar10", "test")
    assert test.kinds[:2] == ["car", "plane"] and test.labels[:2].tolist() == [1, 0]
    assert len(test.class_names) == 10 and re.fullmatch(r"npz:[0-9a-f]{8} \(2 of 10 classes\)", test.source)


def test_npz_of_a_known_dataset_may_name_classes_that_nothing_is_of(tmp_path, monkeypatch):
    write_npz(
        tmp_path / "cifar10.npz",
        train_labels=np.full(10, 2),
        test_labels=np.full(10, 1),
        class_names=np.array(["background", "ship", "frog"]),
    )
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    assert set(data.load("cifar10", "train").kinds) == {"frog"} and set(data.load("cifar10", "test").kinds) == {"ship"}
    write_npz(tmp_path / "cifar10.npz", class_names=np.array(["background", "ship"]))
    with pytest.raises(ValueError, match="unknown class 'background' of cifar10"):
        data.load("cifar10", "train", size=8)


@pytest.mark.parametrize("key", ["train_images", "test_labels", "class_names"])
def test_npz_with_a_pickled_object_is_refused_and_not_executed(tmp_path, key):
    name = write_npz(tmp_path / "evil.npz", **{key: np.array([Exploit(tmp_path / "executed")] * 10, dtype=object)})
    with pytest.raises(ValueError, match="evil.npz cannot be read as npz: it holds pickled objects, or is no npz$"):
        data.load(name, "test")
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_an_npz_is_refused_and_not_executed(tmp_path):
    (tmp_path / "evil.npz").write_bytes(pickle.dumps(Exploit(tmp_path / "executed")))
    with pytest.raises(ValueError, match="evil.npz cannot be read as npz: it holds pickled objects, or is no npz$"):
        data.load(f"npz:{tmp_path / 'evil.npz'}", "test")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 100, 2000, -1])
def test_a_truncated_npz_is_named(tmp_path, keep):
    name = write_npz(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:keep])
    with pytest.raises(ValueError, match="cut.npz cannot be read as npz"):
        data.load(name, "test")


def test_a_single_array_in_place_of_an_npz_is_named(tmp_path):
    np.save(tmp_path / "array.npy", pixels(10, 8, 8))
    with pytest.raises(ValueError, match="array.npy cannot be read as npz"):
        data.load(f"npz:{tmp_path / 'array.npy'}", "test")


def test_an_npz_with_a_flipped_bit_is_named(tmp_path):
    name = write_npz(tmp_path / "flip.npz")
    content = bytearray((tmp_path / "flip.npz").read_bytes())
    content[600] ^= 1
    (tmp_path / "flip.npz").write_bytes(content)
    with pytest.raises(ValueError, match="flip.npz cannot be read as npz"):
        data.load(name, "test")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test_labels": None}, "it lacks test_labels; it holds"),
        ({"train_images": np.zeros((10, 8, 8, 3))}, "train_images is float64"),
        ({"train_images": pixels(10, 8, 8, 2)}, "with 1 or 3 channels"),
        ({"test_images": pixels(9, 8, 8, 3)}, "9 test_images but 10 test_labels"),
        ({"test_images": pixels(10, 9, 9, 3)}, "differ in size or channels"),
        ({"train_labels": np.zeros((10, 14), int)}, "train_labels is int64 .10, 14., not whole numbers"),
        ({"train_labels": np.zeros(10)}, "train_labels is float64"),
        ({"train_labels": np.full(10, -1)}, "not whole numbers from 0 to 65535"),
        ({"test_labels": np.full(10, 1 << 40)}, "not whole numbers from 0 to 65535"),
        ({"class_names": np.array(["a"])}, "labels up to 1 but 1 different class names"),
        ({"class_names": np.array(["a", "a"])}, "labels up to 1 but 1 different class names"),
    ],
)
def test_an_npz_of_the_wrong_kind_is_an_error_that_says_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(write_npz(tmp_path / "wrong.npz", **changes), "test")


def test_a_changed_npz_is_read_anew(tmp_path):
    name = write_npz(tmp_path / "x.npz")
    before = data.load(name, "test").source
    write_npz(tmp_path / "x.npz", n=12)
    assert len(data.load(name, "test").images) == 12 and data.load(name, "test").source != before


# ---- folders


def test_class_folders_are_classes(class_folders):
    split = data.one_class(f"folder:{class_folders}", "dog", size=None)
    assert split.train.shape == (4, 3, 8, 8) and split.kind == ["cat", "cat", "dog", "dog"]
    assert split.is_anomalous.tolist() == [True, True, False, False] and split.masks is None
    assert split.files[0] == "test/cat/0.png" and re.fullmatch("folder:[0-9a-f]{8}", split.source)
    assert data.class_names(f"folder:{class_folders}") == ["cat", "dog"]


def test_a_relative_path_is_the_same_dataset(class_folders, monkeypatch):
    data.load(f"folder:{class_folders}", "test")
    monkeypatch.chdir(class_folders.parent)
    data.load("folder:pets", "test")
    assert len(cache_files()) == 1


def test_mvtec_folders_have_masks_of_both_names(mvtec_folders):
    split = data.one_class(f"folder:{mvtec_folders}", "good", size=None)
    assert split.kind == ["bent", "cut", "good"] and split.is_anomalous.tolist() == [True, True, False]
    assert split.masks.flatten(1).sum(1).tolist() == [6, 6, 0] and split.masks[0, 2:4, 3:6].all()
    assert data.class_names(f"folder:{mvtec_folders}") == ["good"]


def test_masks_are_resized_by_nearest_neighbor(mvtec_folders):
    small = data.load(f"folder:{mvtec_folders}", "test", size=16)
    assert small.masks.dtype == torch.bool and small.masks.flatten(1).sum(1).tolist() == [24, 24, 0]


def test_a_missing_mask_is_an_error_that_names_it(mvtec_folders):
    (mvtec_folders / "ground_truth" / "cut" / "0_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="test/cut/0.png has no mask .*ground_truth/cut/0_mask.png"):
        data.load(f"folder:{mvtec_folders}", "test")


def test_a_mask_of_another_size_is_an_error_that_names_it(mvtec_folders):
    save_image(mvtec_folders / "ground_truth" / "cut" / "0_mask.png", (9, 9), 255)
    with pytest.raises(ValueError, match="0_mask.png is not of the size of its image"):
        data.load(f"folder:{mvtec_folders}", "test")


def test_a_changed_mask_is_read_anew(mvtec_folders):
    name, path = f"folder:{mvtec_folders}", mvtec_folders / "ground_truth" / "cut" / "0_mask.png"
    before = data.load(name, "test").source
    save_image(path, (8, 8), 255)
    assert data.load(name, "test").masks[1].all() and data.load(name, "test").source != before


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_unreadable_image_is_an_error_that_names_it(class_folders, content):
    path = class_folders / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    with pytest.raises(ValueError, match="train/cat/1.png cannot be read as an image"):
        data.load(f"folder:{class_folders}", "test")


def test_images_of_16_bit_among_others_are_refused_and_not_clipped(class_folders):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(class_folders / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="cat/1.png cannot be read as an image: it has 16 bits a pixel, and others 8"):
        data.load(f"folder:{class_folders}", "test")


def test_mixed_sizes_need_a_size(class_folders):
    save_image(class_folders / "test" / "dog" / "wide.jpg", (10, 30, 3))
    name = f"folder:{class_folders}"
    assert data.load(name, "test", size=16).images.shape == (5, 3, 16, 16)
    with pytest.raises(ValueError, match="wide.jpg is not of the size of the images before it: give a size"):
        data.load(name, "test")


def test_grey_images_have_one_channel_and_mixed_ones_three(class_folders):
    for path in class_folders.rglob("*.png"):
        save_image(path, (8, 8))
    save_image(class_folders / "train" / "cat" / "as_color.bmp", (8, 8, 3), 90)
    assert data.load(f"folder:{class_folders}", "train").images.shape == (5 + 4, 1, 8, 8)
    save_image(class_folders / "train" / "cat" / "color.webp", (8, 8, 3))
    assert data.load(f"folder:{class_folders}", "train").images.shape == (6 + 4, 3, 8, 8)


def test_other_files_and_hidden_ones_are_no_images(class_folders):
    (class_folders / "train" / "cat" / "notes.txt").write_text("not an image")
    (class_folders / "train" / "cat" / "._0.png").write_text("a shadow of a Mac")
    assert len(data.load(f"folder:{class_folders}", "train").images) == 8


def test_a_folder_without_images_is_an_error_that_says_the_layout(tmp_path):
    with pytest.raises(ValueError, match="holds no images under train/<class>/ .*png"):
        data.load(f"folder:{tmp_path}", "test")


def test_an_image_outside_a_class_folder_is_an_error_that_names_it(class_folders):
    save_image(class_folders / "test" / "loose.png")
    with pytest.raises(ValueError, match="test/loose.png lies in no class folder"):
        data.load(f"folder:{class_folders}", "test")


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_path_that_is_not_there_is_named(tmp_path, kind):
    for call in (data.class_names, lambda name: data.load(name, "test")):
        with pytest.raises(FileNotFoundError, match=f"there is no .*{tmp_path / 'nowhere'}"):
            call(f"{kind}:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("category, n_train, n_good, n_bad", [("bottle", 209, 20, 63), ("screw", 320, 41, 119)])
def test_a_category_of_mvtec_is_read_as_a_folder(category, n_train, n_good, n_bad):
    split = data.one_class(f"folder:{real(f'mvtec/{category}')}", "good", size=64)
    assert len(split.train) == n_train and len(split.test) == n_good + n_bad
    assert int(split.is_anomalous.sum()) == n_bad and split.test.shape[1] == (1 if category == "screw" else 3)
    assert (~split.masks[~split.is_anomalous]).all() and split.masks[split.is_anomalous].flatten(1).any(1).any()
