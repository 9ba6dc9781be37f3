"""MVTec AD: its categories in folders and in the official archive, and every way an archive can be wrong."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repro import data
from repro.data import mvtec


# Train good, test good, test defective, as the dataset's own paper counts them.
COUNTS = {"bottle": (209, 20, 63), "pill": (267, 26, 141), "screw": (320, 41, 119)}


# ---- a small MVTec: bottle in color, screw in grey, of different sizes and not square


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_category(folder, *shape, n=6):
    """n training images, 2 good and 2 defective test images; the defects are 2 x 3 pixels."""
    for i in range(n):
        save(folder / "train" / "good" / f"{i:03d}.png", pixels(*shape) // (i + 1))
    mask = np.zeros(shape[:2], np.uint8)
    mask[2:4, 3:6] = 255
    for i in range(2):
        save(folder / "test" / "good" / f"{i:03d}.png", pixels(*shape))
    for kind in ("bent", "cut"):
        save(folder / "test" / kind / "000.png", pixels(*shape))
        save(folder / "ground_truth" / kind / "000_mask.png", mask)


def write_tree(folder):
    write_category(folder / "bottle", 8, 12, 3)
    write_category(folder / "screw", 10, 10)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder that ADLIB_DATA names, empty."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tree(root):
    write_tree(root / "mvtec")
    return root / "mvtec"


def cache():
    return Path(os.environ["ADLIB_CACHE"])


def downloads():
    """What is in the cache's folder for downloads and unpacked archives."""
    return sorted(path.name for path in (cache() / "downloads").glob("*"))


# ---- folders


def test_all_categories_are_named_in_the_order_of_the_papers_without_any_data(monkeypatch):
    monkeypatch.delenv("ADLIB_DATA", raising=False)
    assert data.class_names("mvtec") == [
        "carpet",
        "grid",
        "leather",
        "tile",
        "wood",
        "bottle",
        "cable",
        "capsule",
        "hazelnut",
        "metal_nut",
        "pill",
        "screw",
        "toothbrush",
        "transistor",
        "zipper",
    ]
    assert data.class_index("mvtec", "Metal Nut") == 9


def test_a_category_is_tested_on_its_own_good_and_defective_images(tree):
    split = data.one_class("mvtec", "bottle", size=16)
    assert split.train.shape == (6, 3, 16, 16) and split.test.shape == (4, 3, 16, 16)
    assert split.kind == ["bent", "cut", "good", "good"] and split.is_anomalous.tolist() == [True, True, False, False]
    assert split.files[0] == "bottle/test/bent/000.png" and (tree / split.files[3]).is_file()
    assert torch.equal(split.masks.flatten(1).any(1), split.is_anomalous) and split.masks.shape == (4, 16, 16)
    assert split.normal_class == "bottle" and len(split.class_names) == 15 and split.n_train_available == 6
    assert split.source == data.one_class(f"folder:{tree / 'bottle'}", "good", size=16).source


def test_one_category_reads_and_caches_no_other(tree):
    (tree / "screw" / "train" / "good" / "000.png").write_bytes(b"damaged")
    data.one_class("mvtec", "bottle", size=16)
    assert [path.name for path in cache().glob("*.bin")] == ["mvtec-bottle-16-antialias.bin"]
    with pytest.raises(ValueError, match="screw/train/good/000.png cannot be read as an image"):
        data.one_class("mvtec", "screw", size=16)


def test_a_prepared_category_needs_no_source(tree):
    before = data.one_class("mvtec", "screw", size=16)
    shutil.rmtree(tree)
    after = data.one_class("mvtec", "screw", size=16)
    assert torch.equal(before.test, after.test) and torch.equal(before.masks, after.masks)
    assert (before.kind, before.files, before.source) == (after.kind, after.files, after.source)


def test_load_gives_one_category_and_lists_them_where_none_is_asked_for(tree):
    for of in ("screw", "Screw"):
        screw = data.load("mvtec", "test", size=16, of=of)
        assert screw.images.shape == (4, 1, 16, 16) and set(screw.labels.tolist()) == {11}
        assert torch.equal(screw.images, data.one_class("mvtec", "screw", size=16).test)
    with pytest.raises(ValueError, match="unknown class 'None' of mvtec: choose carpet, grid"):
        data.load("mvtec", "test", size=16)


def test_without_a_size_images_stay_as_they_are(tree):
    assert data.one_class("mvtec", "bottle", size=None).test.shape == (4, 3, 8, 12)


@pytest.mark.parametrize("arguments", [{"size": 0}, {"resample": "nearest"}])
def test_a_bad_argument_of_load_is_an_error_that_shows_it(tree, arguments):
    with pytest.raises(ValueError, match=repr(*arguments.values())):
        data.load("mvtec", "test", of="bottle", **arguments)


def test_a_missing_category_is_named_with_those_there_and_what_to_put_where(tree):
    for call in (lambda: data.one_class("mvtec", "cable"), lambda: data.load("mvtec", "test", 16, of="cable")):
        with pytest.raises(FileNotFoundError) as error:
            call()
        for part in (
            "mvtec/",
            "mvtec_anomaly_detection.tar.xz",
            "www.mvtec.com/company/research/datasets/mvtec-ad",
            "CC BY-NC-SA 4.0",
            f"ADLIB_DATA names (now {tree.parent})",
            "ADLIB_OFFLINE=0",
        ):
            assert part in str(error.value)
        shutil.rmtree(tree, ignore_errors=True)  # and once more, with nothing there at all
    assert "there is no category" in str(error.value)


def test_the_error_of_a_missing_category_lists_the_others(tree):
    with pytest.raises(FileNotFoundError, match="mvtec's cable is not on this machine .there is bottle, screw.: put"):
        data.one_class("mvtec", "cable")


def test_both_folder_names_are_found_and_mvtec_wins(root):
    write_category(root / "mvtec_anomaly_detection" / "bottle", 8, 8, 3)
    assert len(data.one_class("mvtec", "bottle", size=8).train) == 6
    write_category(root / "mvtec" / "bottle", 8, 8, 3, n=4)
    assert len(data.one_class("mvtec", "bottle", size=9).train) == 4


def test_a_missing_mask_is_an_error_that_names_it(tree):
    (tree / "bottle" / "ground_truth" / "cut" / "000_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="test/cut/000.png has no mask .*ground_truth/cut/000_mask.png"):
        data.one_class("mvtec", "bottle")


def test_a_category_without_ground_truth_is_an_error(tree):
    shutil.rmtree(tree / "bottle" / "ground_truth")
    with pytest.raises(FileNotFoundError, match="mvtec/bottle lacks ground_truth/"):
        data.one_class("mvtec", "bottle")


def test_a_training_folder_of_defects_is_an_error(tree):
    save(tree / "bottle" / "train" / "cut" / "000.png", pixels(8, 12, 3))
    with pytest.raises(ValueError, match="mvtec/bottle/train holds cut, good, not good alone"):
        data.one_class("mvtec", "bottle")


@pytest.mark.parametrize("missing, kinds", [("anomalous", ("bent", "cut")), ("normal", ("good",))])
def test_a_category_with_one_kind_of_test_images_is_an_error_that_names_no_other_protocol(tree, missing, kinds):
    for kind in kinds:
        shutil.rmtree(tree / "bottle" / "test" / kind)
        shutil.rmtree(tree / "bottle" / "ground_truth" / kind, ignore_errors=True)  # a mask without its image is named
    with pytest.raises(ValueError, match=f"no {missing} test images where bottle is normal$"):
        data.one_class("mvtec", "bottle")


def test_images_of_any_size_are_resized_with_their_masks(tree):
    wide, small = np.zeros((9, 40), np.uint8), np.zeros((50, 21), np.uint8)
    wide[:, 20:], small[30, 7] = 1, 255  # any value but 0 is defect, and one pixel may vanish
    for kind, mask in (("bent", wide), ("cut", small)):
        save(tree / "screw" / "test" / kind / "000.png", pixels(*mask.shape))
        save(tree / "screw" / "ground_truth" / kind / "000_mask.png", mask)
    split = data.one_class("mvtec", "screw", size=8)
    assert split.test.shape == (4, 1, 8, 8) and split.masks.shape == (4, 8, 8) and split.masks.dtype == torch.bool
    assert split.masks[0, :, 4:].all() and not split.masks[0, :, :4].any() and int(split.masks[1].sum()) <= 1
    assert not split.masks[~split.is_anomalous].any() and int(split.is_anomalous.sum()) == 2


def test_grey_images_saved_as_color_have_one_channel(tree):
    for path in (tree / "screw").glob("t*/*/*.png"):
        Image.open(path).convert("RGB").save(path)
    assert data.one_class("mvtec", "screw", size=8).train.shape == (6, 1, 8, 8)


def test_training_images_are_drawn_and_held_out_by_the_seed(tree):
    whole = data.one_class("mvtec", "bottle", size=8)
    first, again, other = (data.one_class("mvtec", "bottle", size=8, n_train=3, seed=seed) for seed in (0, 0, 3))
    assert torch.equal(first.train, again.train) and not torch.equal(first.train, other.train)
    assert len(first.train) == 3 and first.n_train_available == 6 and torch.equal(first.test, whole.test)
    split = data.one_class("mvtec", "bottle", size=8, validation=0.34)
    assert len(split.train) == 4 and len(split.validation) == 2 and not split.validation_is_anomalous.any()
    assert whole.validation is None


def test_no_other_protocol_is_known(tree):
    with pytest.raises(ValueError, match="unknown protocol '80-20' for mvtec: choose official"):
        data.one_class("mvtec", "bottle", protocol="80-20")


# ---- the official archive


def write_archive(path, monkeypatch, top="", extra=()):
    """The small MVTec as an archive whose checksum is made the official one; `extra` are members to add."""
    write_tree(path.parent / "packed")
    with tarfile.open(path, "w:xz", preset=0) as archive:
        for category in ("bottle", "screw"):
            for found in sorted((path.parent / "packed" / category).rglob("*")):
                member = archive.gettarinfo(found, top + found.relative_to(path.parent / "packed").as_posix())
                member.mode = 0o555 if member.isdir() else 0o444  # as in the official one
                archive.addfile(member, io.BytesIO(found.read_bytes()) if member.isreg() else None)
        for member in extra:
            archive.addfile(member, io.BytesIO(b"data") if member.isreg() else None)
    shutil.rmtree(path.parent / "packed")
    expect(path, monkeypatch)


def expect(path, monkeypatch):
    monkeypatch.setattr(mvtec, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def archive(root, monkeypatch):
    write_archive(root / mvtec.ARCHIVE, monkeypatch)
    return root / mvtec.ARCHIVE


@pytest.mark.parametrize("top", ["", "./", "mvtec_anomaly_detection/"])
def test_the_archive_is_unpacked_once_and_official(root, monkeypatch, top):
    write_archive(root / mvtec.ARCHIVE, monkeypatch, top)
    split = data.one_class("mvtec", "bottle", size=8)
    assert split.source == "official" and len(split.train) == 6 and split.files[0] == "bottle/test/bent/000.png"
    assert downloads() == ["mvtec"] and [path.name for path in root.iterdir()] == [mvtec.ARCHIVE]
    (root / mvtec.ARCHIVE).write_bytes(b"not looked at again")
    assert data.one_class("mvtec", "screw", size=8).source == "official"


def test_the_archive_is_unpacked_for_what_is_not_unpacked(archive):
    write_category(archive.parent / "mvtec" / "bottle", 8, 8, 3, n=4)
    assert data.one_class("mvtec", "bottle", size=8).source.startswith("folder:") and downloads() == []
    assert data.one_class("mvtec", "screw", size=8).source == "official" and downloads() == ["mvtec"]


def test_what_the_archive_makes_read_only_can_be_deleted_again(archive):
    data.one_class("mvtec", "bottle", size=8)
    folders = [path for path in (cache() / "downloads").rglob("*") if path.is_dir()]
    assert len(folders) > 10 and all(path.stat().st_mode & 0o700 == 0o700 for path in folders)


def test_a_category_that_was_deleted_is_unpacked_again(archive):
    data.one_class("mvtec", "bottle", size=8)
    shutil.rmtree(cache() / "downloads" / "mvtec" / "bottle")
    assert data.one_class("mvtec", "bottle", size=9).source == "official"


def test_a_category_that_the_archive_lacks_is_an_error(archive):
    with pytest.raises(ValueError, match="tar.xz holds no folder cable"):
        data.one_class("mvtec", "cable")


def test_an_altered_archive_is_named_and_not_unpacked(archive):
    archive.write_bytes(archive.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{archive} is truncated or altered: its sha256 is"):
        data.one_class("mvtec", "bottle")
    assert downloads() == []


def test_an_archive_with_the_right_checksum_that_does_not_unpack_is_named(archive, monkeypatch):
    for content in (archive.read_bytes()[:600], b"no archive"):
        archive.write_bytes(content)
        expect(archive, monkeypatch)
        with pytest.raises(ValueError, match=f"{archive} cannot be unpacked"):
            data.one_class("mvtec", "bottle")
        assert downloads() == []


def member(name, kind=tarfile.REGTYPE, to=""):
    one = tarfile.TarInfo(name)
    one.type, one.linkname, one.size = kind, to, 4 if kind == tarfile.REGTYPE else 0
    return one


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("bottle/../../../outside"),
        member("../outside", tarfile.DIRTYPE),
        member("bottle/link", tarfile.SYMTYPE, "../../../outside"),
        member("bottle/link", tarfile.SYMTYPE, "/tmp"),
        member("bottle/hard", tarfile.LNKTYPE, "../../outside"),
        member("bottle/device", tarfile.CHRTYPE),
        member("bottle/disk", tarfile.BLKTYPE),
        member("bottle/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda one: f"{one.name} {one.type.decode()} {one.linkname}",
)
def test_a_dangerous_member_is_named_and_nothing_is_kept(root, monkeypatch, tmp_path, bad):
    write_archive(root / mvtec.ARCHIVE, monkeypatch, extra=[bad])
    with pytest.raises(ValueError, match=f"tar.xz cannot be unpacked: '{bad.name}'"):
        data.one_class("mvtec", "bottle")
    assert downloads() == [] and [path.name for path in root.iterdir()] == [mvtec.ARCHIVE]
    assert not Path("/tmp/adlib-outside").exists() and not list(tmp_path.rglob("outside"))


def test_an_absolute_name_is_unpacked_inside(root, monkeypatch):
    write_archive(root / mvtec.ARCHIVE, monkeypatch, extra=[member("/tmp/adlib-outside")])
    assert data.one_class("mvtec", "bottle", size=8).source == "official"
    assert not Path("/tmp/adlib-outside").exists()


def test_an_unpacking_that_is_killed_leaves_no_category_with_missing_files(archive):
    code = (
        "import os, tarfile\nfrom repro import data\nfrom repro.data import mvtec\n"
        f"mvtec.SHA256, safe, seen = {mvtec.SHA256!r}, tarfile.data_filter, []\n"
        "def killed(member, folder):\n    seen.append(member.name)\n"
        "    return safe(member, folder) if len(seen) < 12 else os._exit(9)\n"
        "tarfile.data_filter = killed\ndata.one_class('mvtec', 'bottle', size=8)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 9
    assert downloads() == ["mvtec.unpacking"] and len(list((cache() / "downloads").rglob("*.png"))) > 0
    split = data.one_class("mvtec", "bottle", size=8)
    assert len(split.train) == 6 and len(split.test) == 4 and downloads() == ["mvtec"]


def test_a_python_that_cannot_unpack_safely_says_so(archive, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(ValueError, match="cannot unpack safely .3.11.4 can.: unpack .* by hand"):
        data.one_class("mvtec", "bottle")
    assert downloads() == []


# ---- downloads, from a file in place of MVTec's server


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The path whose file is served; ADLIB_DATA is not set."""
    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    (tmp_path / "server").mkdir()
    path = tmp_path / "server" / mvtec.ARCHIVE
    monkeypatch.setattr(mvtec, "URL", path.as_uri())
    return path


def test_a_download_is_checked_unpacked_and_not_kept(server, monkeypatch, capfd):
    write_archive(server, monkeypatch)
    assert data.one_class("mvtec", "bottle", size=8).source == "official"
    assert downloads() == ["mvtec"] and f"downloading {mvtec.URL}" in capfd.readouterr().err
    server.unlink()
    assert data.one_class("mvtec", "screw", size=8).source == "official"


def test_a_download_that_was_not_unpacked_is_not_downloaded_again(server, monkeypatch):
    write_archive(server, monkeypatch)
    (cache() / "downloads").mkdir(parents=True)
    server.rename(cache() / "downloads" / mvtec.ARCHIVE)
    assert data.one_class("mvtec", "bottle", size=8).source == "official" and downloads() == ["mvtec"]


def test_a_download_of_something_else_is_thrown_away(server, monkeypatch):
    server.write_text("<html>moved</html>")
    with pytest.raises(
        FileNotFoundError, match="could not be downloaded .invalid hash value .*: put mvtec/bottle/, or "
    ):
        data.one_class("mvtec", "bottle")
    assert downloads() == []


def test_a_download_that_fails_is_one_sentence_with_the_way_out(server):
    with pytest.raises(FileNotFoundError) as error:
        data.one_class("mvtec", "bottle")
    message = str(error.value)
    assert "mvtec's bottle is not on this machine (there is no category), and could not be downloaded" in message
    assert mvtec.PAGE in message and "now not set" in message and "\n" not in message
    assert downloads() == []


def test_offline_nothing_is_downloaded(server, monkeypatch):
    write_archive(server, monkeypatch)
    monkeypatch.setenv("ADLIB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="mvtec's bottle is not on this machine"):
        data.one_class("mvtec", "bottle")
    assert not (cache() / "downloads").exists()


# ---- real images, where there are any


@pytest.mark.parametrize("category", COUNTS)
def test_a_category_has_the_official_numbers_of_images(category):
    real = os.environ.get("ADLIB_DATA")
    if not real or not (Path(real) / "mvtec" / category).is_dir():
        pytest.skip(f"needs mvtec/{category} under ADLIB_DATA")
    n_train, n_good, n_bad = COUNTS[category]
    split = data.one_class("mvtec", category, size=64)
    assert len(split.train) == split.n_train_available == n_train and len(split.test) == n_good + n_bad
    assert split.kind.count("good") == n_good and int(split.is_anomalous.sum()) == n_bad
    assert split.masks.shape == (n_good + n_bad, 64, 64) and split.test.shape[1] == (1 if category == "screw" else 3)
    has_region = split.masks.flatten(1).any(1)
    assert not has_region[~split.is_anomalous].any() and int(has_region[split.is_anomalous].sum()) > 0.9 * n_bad
