"""CIFAR's batches: pickles of Python 2 and of later ones are read, and whatever is more than arrays is refused."""

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from adlib._torchvision import import_torchvision
from repro import standins
from repro.data import cifar


NAMES = [str(i) for i in range(10)]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)

# The beginning and the end of a batch as Python 2 wrote it, with its memo; between them stand the bytes of two images.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\x09e"
    b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
    b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00",
    b"tbU\x09filenamesq\x0c]q\x0d(U\x19leptodactylus_pentadactylq\x0eU\x05b.pngq\x0feu.",
)


def batch(**changes):
    return {"data": IMAGES, "labels": [3, 0, 9], **changes}


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return cifar._read_batch(path, 10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data_batch_1"


# ---- what is read


def test_a_batch_of_python_2_is_read(path):
    pixels = IMAGES[:2].tobytes()
    images, labels = read(path, PYTHON_2[0] + pixels + PYTHON_2[1])
    assert np.array_equal(images, IMAGES[:2].reshape(2, 3, 32, 32)) and labels.tolist() == [6, 9]
    assert images.dtype == np.uint8 and labels.dtype == np.int64


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("as_key", [str, str.encode])
def test_a_batch_of_python_3_is_read_by_either_name_of_numpy(path, protocol, module, as_key):
    content = {as_key(key): value for key, value in batch(filenames=["a.png"], batch_label=b"train").items()}
    pickled = pickle.dumps(content, protocol=protocol)
    there = b"numpy._core.multiarray" if b"numpy._core.multiarray" in pickled else b"numpy.core.multiarray"
    if protocol < 4:  # later, names carry their length, and a frame its own
        pickled = pickled.replace(there, module)
    images, labels = read(path, pickled)
    assert np.array_equal(images.reshape(3, -1), IMAGES) and labels.tolist() == [3, 0, 9]


def test_an_array_in_fortran_order_is_read_by_rows(path):
    images, _ = read(path, batch(data=np.asfortranarray(IMAGES)))
    assert np.array_equal(images.reshape(3, -1), IMAGES)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_torchvision_reads_the_same_from_the_batches_that_stand_in_for_it(tmp_path, monkeypatch, name):
    [folder] = standins.write(tmp_path, [name.lower()], per_class=5)
    dataset = getattr(import_torchvision().datasets, name)

    def true(listed):
        return [[file, hashlib.md5((folder / file).read_bytes()).hexdigest()] for file, _ in listed]

    meta = hashlib.md5((folder / dataset.meta["filename"]).read_bytes()).hexdigest()
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": meta})
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, listed, true(getattr(dataset, listed)))
    ours = cifar.read(folder, dataset, [str(i) for i in range(100)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old name of numpy, which real batches have too
        theirs = [dataset(tmp_path, train=train) for train in (True, False)]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, torch.from_numpy(other.data).permute(0, 3, 1, 2)) and one.source == "official"
        assert one.labels.tolist() == other.targets
    assert {"plane": "airplane", "apple": "apple"}[["apple", "plane"][name == "CIFAR10"]] == theirs[0].classes[0]


# ---- what is refused


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.system, ("touch executed",), "(posix|nt).system"),
        (open, ("executed", "w"), "(__builtin__|_?io).open"),
        (eval, ("open('executed', 'w')",), "__builtin__.eval"),
        (exec, ("open('executed', 'w')",), "__builtin__.exec"),
        (getattr, ("", "join"), "__builtin__.getattr"),
        (np.load, ("executed",), "numpy.load"),
        (np.save, ("executed", 1), "numpy.save"),
        (Path, ("executed",), r"pathlib\S*.Path"),
        (bytearray, (9,), "bytearray"),
        (np.float64, (1.0,), "numpy.float64"),
    ],
)
def test_what_a_pickle_asks_for_is_named_and_does_not_run(path, monkeypatch, function, arguments, name):
    monkeypatch.chdir(path.parent)
    for content in (Call(function, *arguments), batch(labels=Call(function, *arguments))):
        with pytest.raises(ValueError, match=rf"data_batch_1 cannot be read.*it asks for .*{name}, which is refused"):
            read(path, content)
    assert [file.name for file in path.parent.iterdir()] == ["data_batch_1"]


def test_the_same_pickle_would_run_in_pickles_own_reader(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    pickle.loads(pickle.dumps(Call(os.system, "touch executed"), protocol=2))
    assert (path.parent / "executed").exists()


def raw(array=b"", arguments=b"U\x02u1K\x00K\x01\x87"):
    """A pickle of one array of 8 bytes, or of what comes in place of its state or of its dtype's arguments."""
    dtype = b"cnumpy\ndtype\n" + arguments + b"R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = array or b"(K\x01K\x08\x85" + dtype + b"\x89U\x08" + bytes(8) + b"tb"
    return b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + array + b"."


@pytest.mark.parametrize(
    "content",
    [
        raw(arguments=b"U\x02O8K\x00K\x01\x87"),  # objects: 8 bytes would be an address
        raw(arguments=b"U\x02V8K\x00K\x01\x87"),
        raw(arguments=b")"),
        raw(array=b"(K\x01J\x00\x00\x00\x7f\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x08" + bytes(8) + b"tb"),
        raw(
            array=b"(K\x01J\xff\xff\xff\xffJ\xf8\xff\xff\xff\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x08"
            + bytes(8)
            + b"tb"
        ),  # a shape of negative numbers
        raw(array=b"(K\x01K\x08\x85cnumpy\nndarray\n\x89U\x08" + bytes(8) + b"tb"),
        raw(array=b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89]K\x07atb"),  # a list for its contents
        b"\x80\x02c_codecs\nencode\nU\x01xU\x03zip\x86R.",
        b"\x80\x02c_codecs\nencode\n}U\x01xU\x01ysb.",
        b"\x80\x02cnumpy\ndtype\nN}U\x01xU\x01ys\x86b.",
        b"\x80\x02cnumpy\nndarray\nK\x08\x85R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"(inumpy\nload\n.",
        b"\x80\x02U\x04nameQ.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_what_is_made_of_the_names_of_numpy_is_an_array_of_uint8_or_an_error(path, content):
    with pytest.raises(ValueError, match="data_batch_1 cannot be read as a batch of CIFAR: ") as error:
        read(path, content)
    # where it was made, it would be no dict
    assert "it is no dict" not in str(error.value) and "\n" not in str(error.value)


def test_the_pickle_that_these_are_changes_of_is_read():
    assert cifar._Unpickler(io.BytesIO(raw()), encoding="latin1").load().array.tolist() == [0] * 8


def test_no_attribute_of_what_stands_for_numpy_can_be_set():
    piece = cifar._Piece("dtype")
    with pytest.raises(AttributeError):
        piece.other = 1
    with pytest.raises(pickle.UnpicklingError, match="dtype is given a state"):
        piece.__setstate__((None, {"name": "uint8"}))


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "it is no dict"),
        (batch(data=None), "no array of uint8, .N, 3072"),
        (batch(data=[1]), "no array"),
        (batch(data=IMAGES[:, :100]), "no array"),
        (batch(data=IMAGES[0]), "no array"),
        (batch(labels=[1, 2]), "no list of 3 numbers from 0 to 9"),
        (batch(labels=[1, 2, 10]), "no list of 3"),
        (batch(labels=[1, 2, -1]), "no list of 3"),
        (batch(labels=[1, 2, True]), "no list of 3"),
        (batch(labels=(1, 2, 3)), "no list of 3"),
        ({"data": IMAGES}, "no list of 3"),
        ({}, "no array"),
    ],
)
def test_a_pickle_that_is_no_batch_is_an_error_that_says_what_it_lacks(path, content, message):
    with pytest.raises(
        ValueError,
        match=f"data_batch_1 cannot be read as a batch of CIFAR: it.* {message}"
        if message != "it is no dict"
        else message,
    ):
        read(path, content)


def test_a_batch_cut_off_anywhere_is_an_error_that_names_it(path):
    whole = PYTHON_2[0] + bytes(6144) + PYTHON_2[1]
    for stop in [*range(0, 260, 7), 5000, *range(len(whole) - 60, len(whole))]:
        with pytest.raises(ValueError, match="data_batch_1 cannot be read as a batch of CIFAR"):
            read(path, whole[:stop])
    assert len(read(path, whole)[1]) == 2


def test_bytes_that_are_no_pickle_are_an_error_that_names_the_file(path):
    for content in (b"no pickle at all", bytes(100), b"\x1f\x8b\x08 packed"):
        with pytest.raises(ValueError, match="data_batch_1 cannot be read as a batch of CIFAR"):
            read(path, content)
