"""Where images are found, what is said where they are not, and the cache of prepared ones."""

import functools
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import cache_files, pixels, write_category, write_classes, write_mnist, write_npz

from adlib._torchvision import import_torchvision
from repro import data
from repro.data import cache, coil100, mvtec, sources


@pytest.fixture
def mnist_tree(tmp_path, monkeypatch):
    """MNIST/raw with 40 train and 20 test images under ADLIB_DATA, whose checksums torchvision is made to expect."""
    raw = tmp_path / "tree" / "MNIST" / "raw"
    write_mnist(raw, monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "tree"))
    return raw


@pytest.fixture
def class_folders(tmp_path):
    return write_classes(tmp_path / "pets")


@pytest.fixture
def mvtec_folders(tmp_path):
    return write_category(tmp_path / "screw")


# ---- the cache


def test_the_cache_gives_what_was_prepared(mvtec_folders):
    name = f"folder:{mvtec_folders}"
    prepared, read = data.load(name, "test", size=5), data.load(name, "test", size=5)
    assert torch.equal(prepared.images, read.images) and torch.equal(prepared.masks, read.masks)
    assert torch.equal(prepared.labels, read.labels) and read.labels.dtype == torch.int64
    assert (prepared.kinds, prepared.files, prepared.source, prepared.class_names) == (
        read.kinds,
        read.files,
        read.source,
        read.class_names,
    )


def test_the_cache_is_read_in_place_of_the_source(mnist_tree):
    before = data.load("mnist", "test", size=32)
    shutil.rmtree(mnist_tree)
    assert torch.equal(data.load("mnist", "test", size=32).images, before.images)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: b"",
        lambda content: content[:30],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: b"adlib-cache 1 " + content,
    ],
)
def test_a_damaged_cache_is_named_and_prepared_again(damage, capfd):
    before = data.load("digits", "test", size=16)
    [file] = cache_files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(data.load("digits", "test", size=16).images, before.images)
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and str(file) in message and "preparing it again" in message
    assert file.read_bytes() == whole


def test_a_damaged_cache_without_a_source_names_both(mnist_tree, capfd):
    data.load("mnist", "test")
    [file] = cache_files()
    file.write_bytes(file.read_bytes()[:-1])
    shutil.rmtree(mnist_tree)
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist", "test")
    assert str(file) in capfd.readouterr().err and "MNIST/raw" in str(error.value)


def test_two_processes_that_find_a_damaged_cache_prepare_it_once():
    before = data.load("textures", "train", size=16, of="weave")
    [file] = cache_files()
    file.write_bytes(b"damaged")
    code = "from repro import data; print(data.load('textures', 'train', size=16, of='weave').images.sum().item())"
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [job.communicate(timeout=120) for job in jobs]
    assert [out for out, _ in outputs] == [f"{before.images.sum().item()}\n"] * 2
    assert "".join(err for _, err in outputs).count("preparing it again") == 1
    assert [path.name for path in file.parent.iterdir() if path.suffix not in (".bin", ".lock")] == []


def test_a_job_that_reads_the_cache_imports_no_reader_library(class_folders):
    names = ["digits", f"folder:{class_folders}"]
    for name in names:
        data.load(name, "train", size=16)
    code = (
        f"import sys; from repro import data\nfor name in {names}: data.load(name, 'train', size=16)\n"
        "print([m for m in ('torchvision', 'sklearn', 'PIL', 'pandas', 'scipy', 'filelock') if m in sys.modules])"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (job.stdout, job.stderr) == ("[]\n", "")


# ---- no data: what to put where, and downloads


def test_offline_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"put cifar-10-batches-py/ or cifar10.npz into.*{tmp_path}"):
        data.load("cifar10", "test")


def test_a_data_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="ADLIB_DATA names .*nowhere, which is no folder"):
        data.load("mnist", "test")


def test_a_download_lands_in_the_cache_and_is_read_from_there(monkeypatch):
    def download(self):
        write_mnist(Path(self.raw_folder), monkeypatch)
        for path in list(Path(self.raw_folder).iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))

    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    assert len(data.load("mnist", "train").images) == 40
    assert (Path(os.environ["ADLIB_CACHE"]) / "downloads" / "MNIST" / "raw").is_dir()


def test_a_download_that_fails_is_one_sentence_with_the_way_out(monkeypatch):
    def download(self):
        raise OSError("no route to host")

    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    with pytest.raises(
        FileNotFoundError,
        match="mnist is not on this machine, and could not be downloaded .no route to host.: put MNIST/raw/ or",
    ):
        data.load("mnist", "train")


def test_what_was_prepared_by_an_earlier_version_is_prepared_again(mnist_tree, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "VERSION", cache.VERSION - 1)
        before = data.load("mnist", "test", size=8)
    assert torch.equal(data.load("mnist", "test", size=8).images, before.images)
    assert "of another version; preparing it again" in capfd.readouterr().err


# ---- what is there and what is missing


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder that ADLIB_DATA names."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_embedded_images_are_never_missing(root, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", str(root / "nowhere"))
    for name in ("digits", "textures"):
        assert data.there(name) == data.CLASS_NAMES[name]
        assert data.missing(name, data.CLASS_NAMES[name][0], 32) is None
        assert len(data.load(name, "test", of="weave").images)


@pytest.mark.parametrize(
    "name, normal, what, part",
    [
        ("mnist", "8", "mnist", "put MNIST/raw/ or mnist.npz into"),
        ("cifar100", "bee", "cifar100", "put cifar-100-python/ or cifar100.npz into"),
        ("coil100", "obj7", "coil100", coil100.PAGE),
        ("mvtec", "bottle", "mvtec bottle", mvtec.ARCHIVE),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(root, monkeypatch, name, normal, what, part):
    for offline in (True, False):
        monkeypatch.setenv("ADLIB_OFFLINE", str(int(offline)))
        said, how, is_downloaded = data.missing(name, normal, 32)
        assert said == what and part in how and str(root) in how
        assert is_downloaded == (not offline and name != "coil100")
    assert not any(root.iterdir()) and not cache.folder().exists(), "nothing is written"
    monkeypatch.setenv("ADLIB_DATA", str(root / "nowhere"))
    assert data.missing(name, normal, 32) == (name, f"ADLIB_DATA names {root / 'nowhere'}, which is no folder", False)


def test_a_class_that_a_copy_lacks_is_missing_and_is_not_downloaded(root, monkeypatch):
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    labels = np.array([data.CLASS_NAMES["cifar100"].index(name) for name in ("bee", "cup")])
    write_npz(root / "cifar100.npz", n=2, train_labels=labels, test_labels=labels)
    asked = []

    def there(name, size):
        asked.append(name)
        return data.there(name, size)

    assert [data.missing("cifar100", name, 32, functools.cache(there)) for name in ("bee", "cup")] == [None, None]
    what, how, is_downloaded = data.missing("cifar100", "wolf", 32)
    assert what == "cifar100 wolf" and "cifar-100-python" in how and "delete cifar100-*.bin" in how
    assert not is_downloaded and asked == ["cifar100"] * 2
    (root / "cifar100.npz").write_bytes(b"no npz")
    assert data.missing("cifar100", "wolf", 32) is None, "the job will say that it is damaged"


def test_a_prepared_file_counts_at_its_size_only(root):
    write_category(root / "mvtec" / "pill")
    data.one_class("mvtec", "pill", size=16)
    write_npz(root / "mnist.npz", train_images=pixels(10, 8, 8), test_images=pixels(10, 8, 8))
    data.load("mnist", "test", size=16)
    assert data.there("mnist") == ["0", "1"], "of a copy its own classes"
    shutil.rmtree(root / "mvtec")
    (root / "mnist.npz").unlink()
    assert data.there("mvtec", 16) == ["pill"] and data.there("mvtec", 32) == data.there("mvtec") == []
    assert data.there("mnist", 16) == data.CLASS_NAMES["mnist"] and data.there("mnist", 32) == []


def test_own_images_are_there_where_their_path_is(tmp_path):
    (tmp_path / "a.npz").touch()
    assert data.missing(f"npz:{tmp_path / 'a.npz'}", "good", 32) is None
    for kind in ("npz", "folder"):
        name = f"{kind}:{tmp_path / 'nothing here'}"
        assert data.missing(name, "good", 32) == (name, f"there is no {kind} {tmp_path / 'nothing here'}", False)
    with pytest.raises(ValueError, match="unknown dataset 'minst'"):
        data.missing("minst", "8", 32)


# ---- preparing for jobs


def job(dataset, normal, **settings):
    return {"dataset": dataset, "class": normal, "settings": settings}


def test_what_jobs_will_read_is_prepared_once_and_what_is_not_there_is_a_sentence(mnist_tree, capsys):
    jobs = [job("mnist", "8"), job("mnist", "3"), job("mnist", "3", image_size=16), job("textures", "weave")]
    jobs += [job("digits", "1", resample="bilinear"), job("mvtec", "screw"), job("mvtec", "screw", image_size=64)]
    assert data.prepare(jobs) == 4
    printed = capsys.readouterr()
    [line] = printed.out.splitlines()
    assert line.startswith("mvtec's screw is not on this machine (there is no category): put mvtec/screw/")
    assert [re.sub("[0-9a-f]{12}", "#", path.name) for path in cache_files()] == [
        "digits-#-32-bilinear.bin",
        "mnist-16-antialias.bin",
        "mnist-32-antialias.bin",
        "textures-#-weave-32-antialias.bin",
    ]
    before = {path: path.stat().st_mtime_ns for path in cache_files()}
    assert data.prepare(jobs[:5]) == 4 and capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in cache_files()} == before
    assert data.prepare([]) == 0


# ---- the guard: images that were drawn to try jobs


def test_what_lies_beside_the_mark_is_a_stand_in_and_is_cached_apart(root):
    write_npz(root / "mnist.npz", train_images=pixels(10, 8, 8), test_images=pixels(10, 8, 8))
    assert re.fullmatch(r"npz:[0-9a-f]{8} \(2 of 10 classes\)", data.load("mnist", "test", size=8).source)
    write_category(root / "mvtec" / "pill")
    (root / sources.STAND_IN).touch()
    for _ in range(2):  # prepared, and read from the cache
        source = data.load("mnist", "test", size=8).source
        assert re.fullmatch(r"stand-in:[0-9a-f]{8} \(2 of 10 classes\)", source)
        assert re.fullmatch("stand-in:[0-9a-f]{8}", data.one_class("mvtec", "pill", size=8).source)
    names = [path.name for path in cache_files()]
    assert names == ["mnist-8-antialias.bin", "mnist-stand-in-8-antialias.bin", "mvtec-pill-stand-in-8-antialias.bin"]
    assert data.load("digits", "test").source == "embedded" and not data.is_stand_in("digits")
    assert data.load(f"npz:{root / 'mnist.npz'}", "test").source.startswith("npz:")
    (root / sources.STAND_IN).unlink()
    assert data.load("mnist", "test", size=8).source.startswith("npz:")
    assert data.one_class("mvtec", "pill", size=8).source.startswith("folder:")


# ---- what kind of copy it is, in words


def test_a_file_beside_the_images_says_in_rows_what_kind_of_copy_they_are(root):
    write_category(root / "mvtec" / "pill")
    own = write_category(root / "screws")
    names = [("mvtec", "pill"), (f"folder:{own}", "good")]

    def sources_now():
        return [data.one_class(*name, size=8).source for name in names]

    plain = sources_now()
    assert all(re.fullmatch("folder:[0-9a-f]{8}", source) for source in plain)
    (root / "mvtec" / sources.COPY).write_text(" copy,\t320 px JPEG \nmade in May\n")
    (own / sources.COPY).write_text("scans")
    # of what lies prepared too, whose cache and checksum stay as they are
    assert sources_now() == [f"{plain[0]} (copy, 320 px JPEG)", f"{plain[1]} (scans)"]
    assert data.load("mvtec", "test", size=8, of="pill").source == f"{plain[0]} (copy, 320 px JPEG)"
    assert len(cache_files()) == 2 and data.source(names[1][0]) == plain[1]
    (own / sources.COPY).write_text("\n")
    assert sources_now()[1] == plain[1]
    (root / sources.STAND_IN).touch()  # what was drawn is no copy
    assert re.fullmatch("stand-in:[0-9a-f]{8}", data.one_class("mvtec", "pill", size=8).source)


# ---- a new dataset


TOY = '''"""Two classes of flat images: root/toy.txt holds the grey values of each."""

import torch

from repro.data.splits import plain


CLASSES = {"toy": ["dark", "light"]}


def put(name):
    return "toy.txt"


def here(name, folder):
    return CLASSES[name] if (folder / "toy.txt").is_file() else []


def read(name, folder, category, size, resample):
    grey = torch.tensor([int(word) for word in (folder / "toy.txt").read_text().split()], dtype=torch.uint8)
    images, labels = grey.repeat(8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), torch.tensor([0, 1] * 8)
    return tuple(plain(images.contiguous(), labels, CLASSES[name], "official") for _ in range(2))
'''
TRY = """
from repro import data
try:
    data.one_class("toy", "dark", size=16)
except FileNotFoundError as error:
    print(error)
print(data.missing("toy", "dark", 16))
open("data/toy.txt", "w").write("10 200")
for protocol in data.PROTOCOLS:
    split = data.one_class("toy", "Dark", protocol, size=16, validation=0.25)
    print(protocol, tuple(split.train.shape), len(split.test), int(split.is_anomalous.sum()), split.source)
print(data.there("toy"), data.missing("toy", "light", 16), data.class_index("toy", "light"))
"""


def test_a_new_dataset_costs_a_module_and_a_line(tmp_path):
    """In a copy of the packages, in a process of its own."""
    for package in ("adlib", "repro"):
        shutil.copytree(Path(__file__).parents[1] / package, tmp_path / package, ignore=lambda *_: ["__pycache__"])
    (tmp_path / "data").mkdir()
    (tmp_path / "repro" / "data" / "toy.py").write_text(TOY)
    table = tmp_path / "repro" / "data" / "names.py"
    text = table.read_text()
    line = '    "mvtec": "mvtec",\n'
    assert text.count(line) == 1
    table.write_text(text.replace(line, f'{line}    "toy": "toy",\n'))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ADLIB_DATA": str(tmp_path / "data")}
    done = subprocess.run([sys.executable, "-c", TRY], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    put = f"put toy.txt into the folder that ADLIB_DATA names (now {tmp_path / 'data'})"
    assert done.stdout.splitlines() == [
        f"toy is not on this machine: {put}",
        repr(("toy", put, False)),
        "official (6, 1, 16, 16) 16 8 official",
        "80-20 (9, 1, 16, 16) 8 4 official",
        "['dark', 'light'] None 1",
    ]
