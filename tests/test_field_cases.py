"""What people who do this job reported, each as the small input that it needs and the value or sentence that is right.

A healthy folder has train/good (8), test/good (4), test/bad (4) and ground_truth/bad/NNN_mask.png, 40 x 40 px, each
defect a red square of 10 x 10 px, so that a mask holds 100 px.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from adlib import backbones, baselines, detectors, machine, own, pictures
from adlib.__main__ import main as score
from repro import data, register, rows, sweep
from repro.__main__ import main


def picture(i, defect=False):
    y, x = np.mgrid[:40, :40]
    a = 128 + 60 * np.sin(x / 4 + 0.1 * i) + 20 * np.random.default_rng(i).standard_normal((40, 40))
    a = np.stack([a, a * 0.8 + 20, a * 0.6 + 30], 2)
    if defect:
        a[10:20, 10:20] = [250, 10, 10]
    return a.clip(0, 255).astype(np.uint8)


def square(white=255, black=0, side=10):
    mask = np.full((40, 40), black, np.uint8)
    mask[10 : 10 + side, 10 : 10 + side] = white
    return mask


def save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def healthy(root, n=8, masks=True):
    for i in range(n):
        save(picture(i), root / f"train/good/{i:03d}.png")
    for i in range(4):
        save(picture(50 + i), root / f"test/good/{i:03d}.png")
        save(picture(80 + i, defect=True), root / f"test/bad/{i:03d}.png")
        if masks:
            save(square(), root / f"ground_truth/bad/{i:03d}_mask.png")
    return root


@pytest.fixture
def folder(tmp_path):
    return healthy(tmp_path / "set")


def split(folder, normal="good", size=40):
    return data.one_class(f"folder:{folder}", normal, size=size)


def marked(folder, size=40):
    """Pixels in each mask of the anomalous test images."""
    found = split(folder, size=size)
    return found.masks[found.is_anomalous].flatten(1).sum(1).tolist()


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory):
    """A detector with drawn weights, of 32 px and color."""
    from test_detectors import small

    path = tmp_path_factory.mktemp("detector") / "detector.pt"
    detectors.save(small(), path)
    return path


def scored(capsys, *words):
    """(exit code, lines of the CSV, stderr) of the score command."""
    code = score(["score", *map(str, words), "--device", "cpu"])
    printed = capsys.readouterr()
    return code, list(csv.DictReader(io.StringIO(printed.out))), printed.err


# ---- rows and caches outlive no data


def a_row(folder, **cells):
    name = f"folder:{folder.resolve()}"
    [job] = register.jobs(register.load(), ["baselines"], [name], ["good"], [0], "demo")
    given = {name: job[name] for name in ("paper", "dataset", "protocol", "class", "seed", "profile")}
    made = rows.row(**given, method="pca", job=job["id"], settings="{}", data=data.source(name), **cells)
    return job, made


def test_data_grew(folder, tmp_path, capsys):
    job, row = a_row(folder)
    rows.merge(tmp_path / "out" / "baselines.csv", [row])
    assert sweep.outstanding([job], tmp_path / "out") == ([], [job], [])
    save(picture(90, defect=True), folder / "test/bad/004.png")
    save(square(), folder / "ground_truth/bad/004_mask.png")
    assert sweep.outstanding([job], tmp_path / "out") == ([job], [], [])
    assert "set have changed since its rows were measured: it is to run again" in capsys.readouterr().err
    shutil.rmtree(folder)  # gone is not changed: what was measured stands
    assert sweep.outstanding([job], tmp_path / "out") == ([], [job], [])


def test_words_on_a_copy_make_no_other_data_of_it(folder, tmp_path):
    job, row = a_row(folder)
    rows.merge(tmp_path / "out" / "baselines.csv", [row])
    (folder / "COPY.txt").write_text("copy, 320 px JPEG")
    assert sweep.outstanding([job], tmp_path / "out") == ([], [job], [])
    rows.merge(tmp_path / "out" / "baselines.csv", [{**row, "data": split(folder).source}])
    assert rows.read(tmp_path / "out" / "baselines.csv")[0]["data"].endswith(" (copy, 320 px JPEG)")
    assert sweep.outstanding([job], tmp_path / "out") == ([], [job], [])
    save(picture(90), folder / "train/good/090.png")
    assert sweep.outstanding([job], tmp_path / "out") == ([job], [], [])


def test_the_checksum_of_own_images_is_that_of_their_rows(folder):
    assert data.source(f"folder:{folder}") == split(folder).source


def test_masks_behind_a_link(folder, tmp_path):
    shutil.move(folder / "ground_truth/bad", tmp_path / "masks")
    os.symlink(tmp_path / "masks", folder / "ground_truth/bad")
    assert marked(folder) == [100] * 4
    for path in (tmp_path / "masks").iterdir():
        save(square(side=2), path)
    assert marked(folder) == [4] * 4


def test_a_file_that_changed_under_the_same_size_and_time(folder):
    path = folder / "train/good/000.png"
    save(picture(0), path, compress_level=0)  # so that all such pictures have one size
    before, stat = split(folder), path.stat()
    save(picture(7), path, compress_level=0)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = split(folder)
    assert not torch.equal(before.train[0], after.train[0]) and before.source != after.source


# ---- masks


def test_mask_inverted(folder):
    for path in (folder / "ground_truth").rglob("*.png"):
        save(255 - square(), path)
    with pytest.raises(ValueError, match=r"bad/000_mask.png marks 94% of the image .*is it inverted"):
        marked(folder)


def test_a_mask_may_mark_all_of_an_image_or_reach_its_edge(folder):
    save(np.full((40, 40), 255, np.uint8), folder / "ground_truth/bad/000_mask.png")
    half = np.zeros((40, 40), np.uint8)
    half[:, :20] = 255
    save(half, folder / "ground_truth/bad/001_mask.png")
    assert marked(folder) == [1600, 800, 100, 100]


def test_mask_with_jpeg_noise(folder, tmp_path):
    Image.fromarray(square()).save(tmp_path / "noise.jpg", quality=75)
    for path in (folder / "ground_truth").rglob("*.png"):
        save(np.asarray(Image.open(tmp_path / "noise.jpg")), path)
    assert all(abs(n - 100) <= 4 for n in marked(folder))


def test_a_mask_with_much_between_black_and_white_is_none(folder):
    save(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1)), folder / "ground_truth/bad/001_mask.png")
    with pytest.raises(ValueError, match="bad/001_mask.png is no mask: it has 40 levels up to 255, much of it between"):
        marked(folder)


def test_masks_with_alpha_palettes_labels_and_16_bits(folder):
    alpha = np.full((40, 40, 4), 255, np.uint8)
    alpha[..., 3] = square()  # white everywhere, and transparent but for the square
    save(alpha, folder / "ground_truth/bad/000_mask.png")
    palette = Image.fromarray(square(white=1)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(folder / "ground_truth/bad/001_mask.png")
    labels = square(white=1)
    labels[15:20] *= 3  # two kinds of defect in one mask
    save(labels, folder / "ground_truth/bad/002_mask.png")
    Image.fromarray(square().astype(np.uint16) * 257).save(folder / "ground_truth/bad/003_mask.png")
    assert marked(folder) == [100] * 4


@pytest.mark.parametrize("second", [50, 127, 200])
def test_two_kinds_of_defect_far_apart_in_grey_both_mark(folder, second):
    mask = square()
    mask[30:32, 30:32] = second
    save(mask, folder / "ground_truth/bad/000_mask.png")
    assert marked(folder) == [104, 100, 100, 100]


def test_mask_empty(folder):
    save(square(0), folder / "ground_truth/bad/002_mask.png")
    with pytest.raises(ValueError, match=r"bad/002_mask.png marks nothing, and its image .*bad/002.png is anomalous"):
        marked(folder)


@pytest.mark.parametrize(
    "name",
    ["{}.png", "{}.bmp", "{}_mask.PNG", "{}_gt.png", "{}/000.png", "{}_label.tif", "{}-mask.png", "{}_masks.png"]
    + ["{}_seg.png", "{}GT.png", "{} segmentation.png"],
)
def test_mask_names(tmp_path, name):
    folder = healthy(tmp_path, masks=False)
    for i in range(4):
        options = {"format": "PNG"} if name.endswith("PNG") else {}
        save(square(), folder / "ground_truth/bad" / name.format(f"{i:03d}"), **options)
    assert marked(folder) == [100] * 4


def test_a_mask_next_to_its_image_is_not_taken_for_an_image(folder):
    save(square(), folder / "test/bad/001_mask.png")
    with pytest.raises(ValueError, match="bad/001_mask.png looks like a mask .*: put it into ground_truth/"):
        split(folder)


def test_a_photo_of_a_label_is_an_image(folder):
    save(picture(3), folder / "train/good/001_label.png")
    assert len(split(folder).train) == 9


def test_folders_that_are_not_read_are_named(folder, capsys):
    shutil.move(folder / "ground_truth", folder / "masks")
    assert split(folder).masks is None
    assert "set holds folders that are not read: masks (read are train, test, ground_truth)" in capsys.readouterr().err


def test_several_masks_of_one_image_count_together(folder):
    save(square(side=2), folder / "ground_truth/bad/003/1.png")
    save(np.roll(square(side=2), 20, 0), folder / "ground_truth/bad/003/2.png")
    (folder / "ground_truth/bad/003_mask.png").unlink()
    assert marked(folder) == [100, 100, 100, 8]


def test_every_mask_is_used_or_named(folder):
    save(square(0), folder / "ground_truth/good/000_mask.png")  # an empty one of a normal image is none too much
    assert marked(folder) == [100] * 4
    save(square(), folder / "ground_truth/good/000_mask.png")
    with pytest.raises(ValueError, match="good/000_mask.png marks a defect in the normal image .*test/good/000.png"):
        marked(folder)
    (folder / "ground_truth/good/000_mask.png").unlink()
    save(square(), folder / "ground_truth/bad/007_mask.png")
    with pytest.raises(ValueError, match="bad/007_mask.png is the mask of no images under test/: .*<name>_gt.png"):
        marked(folder)
    shutil.move(folder / "ground_truth/bad/007_mask.png", folder / "ground_truth/bad/002_gt.png")
    save(picture(3), folder / "test/bad/002.bmp")
    with pytest.raises(ValueError, match="002_gt.png is the mask of 2 images under test"):
        marked(folder)


# ---- files


def test_link_in_a_circle(folder, detector_file, capsys):
    os.symlink(folder / "train/good", folder / "train/good/again")
    os.symlink(folder, folder / "test/good/up")
    found = split(folder)
    assert len(found.train) == 8 and len(found.test) == 8
    code, lines, _ = scored(capsys, detector_file, folder / "train")
    assert code == 0 and len({line["file"] for line in lines}) == len(lines) == 8


def test_suffixes_left_out(folder, detector_file, capsys):
    for i in range(3):
        for suffix in ("pgm", "gif", "jfif"):
            Image.fromarray(picture(i)[..., 0]).save(
                folder / f"train/good/more{i}.{suffix}", {"jfif": "JPEG", "pgm": "PPM"}.get(suffix, "GIF")
            )
        (folder / f"train/good/more{i}.heic").write_bytes(b"not read here")
    assert len(split(folder).train) == 8
    said = "train holds files that are not read: 3 .gif, 3 .heic, 3 .jfif, 3 .pgm (read are .png, "
    assert said in capsys.readouterr().err
    assert said.replace("train holds", "good holds") in scored(capsys, detector_file, folder / "train/good")[2]


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_sixteen_bits(tmp_path, bits, capsys):
    folder = healthy(tmp_path / "set", masks=False)
    highest = 2**bits - 1
    for path in folder.rglob("*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray((grey.astype(np.float64) * highest / 255).astype(np.uint16)).save(path)
    found = split(folder)
    assert found.train.shape == (8, 1, 40, 40) and len(found.train.unique()) > 100
    assert found.train.max() > 200  # the whole range is used
    said = f"0 to {highest} (training images have no more) is read as 0 to 255"
    assert said in capsys.readouterr().err
    value = int(np.asarray(Image.open(folder / "test/bad/000.png"))[0, 0])
    assert found.test[found.is_anomalous][0, 0, 0, 0] == round(value * 255 / highest)


def test_a_detector_of_16_bit_images_takes_such_files_and_arrays_and_no_others(tmp_path, capsys):
    for i in range(6):
        grey = picture(i)[..., 0].astype(np.uint16) * 16
        save(grey, tmp_path / f"{i}.png")
    detector = own.train(tmp_path, image_size=32, weights="random")
    assert detector.about["white"] == 4095
    scores, maps = detectors.score(detector, tmp_path)
    as_array, _ = detectors.score(detector, [np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(6)])
    np.testing.assert_allclose(scores, as_array, rtol=1e-5)
    save(picture(1)[..., 0], tmp_path / "eight.png")
    with pytest.raises(ValueError, match="eight.png cannot be read as an image: it has 8 bits a pixel, and others 16"):
        detectors.score(detector, tmp_path)


def test_several_pages(folder, detector_file, capsys):
    pages = [Image.fromarray(picture(i)) for i in range(3)]
    pages[0].save(folder / "train/good/008.tif", save_all=True, append_images=pages[1:])
    pages[0].save(folder / "train/good/009.webp", save_all=True, append_images=pages[1:])
    assert len(split(folder).train) == 10
    by_data = capsys.readouterr().err
    pictures.say.cache_clear()  # it is said once in a process
    for said in (by_data, scored(capsys, detector_file, folder / "train")[2]):
        [line] = [line for line in said.splitlines() if "several pictures" in line]
        assert "of which the first alone counts" in line and "008.tif" in line and "009.webp" in line


def test_name_in_latin_1(folder, detector_file, capsys, tmp_path):
    strange = os.fsencode(folder / "train/good") + b"/caf\xe9.png"
    try:
        os.rename(folder / "train/good/003.png", strange)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    assert len(split(folder).train) == 8
    code, lines, _ = scored(capsys, detector_file, folder / "train", "--overlays", tmp_path / "over")
    assert code == 0 and [line["file"] for line in lines if "caf" in line["file"]][0].endswith(r"caf\udce9.png")
    os.rename(folder / "train/good", os.fsencode(folder / "train") + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"the name of the folder .*train/caf\\udce9 is not UTF-8: rename it"):
        split(folder, 0)


def test_colors_hidden_under_alpha_are_not_seen(folder):
    hidden = np.dstack([picture(1), np.zeros((40, 40), np.uint8)])
    other = np.dstack([picture(2), np.zeros((40, 40), np.uint8)])
    save(hidden, folder / "train/good/000.png")
    save(other, folder / "train/good/001.png")
    found = split(folder).train
    assert (found[:2] == 0).all() and found[2].float().mean() > 50


def test_long_names(tmp_path):
    folder, name = tmp_path / ("f" * 120), "c" * 200
    [job] = [
        register.job("baselines", f"folder:{folder}", name, "official", 0, "demo", {"backbone": "b" * 60})
    ]  # the longest there are
    for path in (sweep.notebook_path, sweep.log_path, sweep.scores_path, sweep.checkpoint_path):
        assert len(path(tmp_path, job).name.encode()) <= 240


def test_what_a_jobs_notebook_says_of_files_reaches_the_terminal_of_the_sweep_once(capsys):
    texts = [{"output_type": "stream", "name": "stderr", "text": ["adlib: 3 .heic\n", "a library's advice\n"]}]
    notebook = json.dumps({"cells": [{"cell_type": "markdown"}, {"outputs": texts}, {"outputs": texts}]})
    pictures.say.cache_clear()
    for text in (notebook, None, notebook):
        sweep._say_again({"notebook": text})
    assert capsys.readouterr().err == "adlib: 3 .heic\n"


def test_a_notebook_read_by_hand_shows_how_far_it_is(monkeypatch):
    """A bar, which a library draws once five seconds are over; here what it is given."""
    made = []

    class Bar:
        def __init__(self, total, what, unit, file):
            assert file is sys.stdout  # which a notebook does not show as an error
            self.total, self.n, self.said, self.is_closed = total, 0, [what], False
            made.append(self)

        def update(self, n):
            self.n += n

        def set_description_str(self, what, refresh):
            self.said.append(what)

        def close(self):
            self.is_closed = True

    monkeypatch.setattr(machine, "progress", Bar)
    for done, what in ((1, "encoder"), (3, "decoder"), (4, "decoder"), (1, "encoder again")):
        rows.progress(None, done, 4, what)
    first, second = made
    assert (first.n, first.is_closed, first.said[-1]) == (4, True, "decoder") and (second.n, second.is_closed) == (
        1,
        False,
    )
    rows._bars.clear()


# ---- names


def test_classes_alike(tmp_path):
    jobs = [
        register.job("baselines", f"folder:{tmp_path}", name, "official", 0, "demo", {})
        for name in ("a b", "a_b", "a+b")
    ]
    for path in (sweep.notebook_path, sweep.log_path):
        assert len({path(tmp_path, job).name.lower() for job in jobs}) == 3


@pytest.mark.parametrize("name", ["it's", "a,b", "with space"])
def test_awkward_paths(tmp_path, name, capsys, monkeypatch):
    folder = healthy(tmp_path / name)
    assert main(["plan", f"--datasets=folder:{folder}", "--papers=baselines", "--profile=demo"]) == 0
    assert "to run it: python -m repro run" in capsys.readouterr().out
    assert len(split(folder).train) == 8


def test_a_bare_path_as_a_dataset_says_folder(folder, capsys):
    assert main(["plan", f"--datasets={folder}", "--profile=demo"]) == 2
    assert f"your own images are called folder:{folder}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"your own images are folder:{folder}"):
        data.one_class(str(folder), "good")


# ---- few images


def test_one_left_over():
    for n, size, lengths in ((33, 32, [33]), (65, 32, [32, 33]), (64, 32, [32, 32]), (1, 32, [1]), (3, 1, [1, 1, 1])):
        parts = machine.batches(torch.arange(n), size)
        assert [len(part) for part in parts] == lengths and torch.cat(parts).tolist() == list(range(n))


def test_few_images_train_a_detector_or_are_refused_by_number(tmp_path):
    for i in range(5):
        save(picture(i), tmp_path / f"{i}.png")
    detector = own.train(tmp_path, image_size=32, weights="random")
    assert detector.about["n_train"] == 3 and "images are too few for less" in own.describe(detector)
    with pytest.raises(ValueError, match="1 normal images, 2 of them held out .*at least 2 must be left"):
        own.train(tmp_path / "0.png", weights="random")
    for share in (0, 1, 1.5, float("nan"), "0.3", True):
        with pytest.raises(ValueError, match="held_out is .*: it is a share of the normal images"):
            own.train(tmp_path, weights="random", held_out=share)


@pytest.mark.parametrize(
    "array, said",
    [
        (np.full((40, 40), np.nan, np.float32), "image 0 is of float32 from nan to nan: pixels are uint8, floats in"),
        (np.full((40, 40, 3), 255.0), r"image 0 is of float64 from 255.0 to 255.0"),
        (np.full((40, 40), 7), "image 0 is of int64 from 7 to 7"),
        (np.full((40, 40), None), "image 0 is of object: pixels are uint8"),
        (np.zeros((0, 40, 3), np.uint8), r"image 0 is an array of \(0, 40, 3\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_what_they_hold(array, said, detector_file):
    detector = detectors.load(detector_file, "cpu")
    with pytest.raises(ValueError, match=said):
        detectors.score(detector, [array])


def test_constant_images_train_a_detector(tmp_path):
    for i in range(5):
        save(np.full((40, 40, 3), 90, np.uint8), tmp_path / f"{i}.png")
    detector = own.train(tmp_path, image_size=32, weights="random")
    scores, _ = detectors.score(detector, [np.full((40, 40), 90, np.uint8), picture(0, defect=True)])
    assert np.isfinite(scores).all() and scores[1] > scores[0]


def test_no_anomalies(folder):
    shutil.rmtree(folder / "test/bad")
    shutil.rmtree(folder / "ground_truth")
    with pytest.raises(ValueError, match="has no anomalous test images where good is normal$"):
        split(folder)


# ---- numbers and words


@pytest.mark.parametrize(
    "paper, words, said",
    [
        ("two_stage", "rotation_epochs=0", "'rotation_epochs' of two_stage.ipynb is 0: at least one is needed"),
        ("two_stage", "decoder_batch=-1", "'decoder_batch' of two_stage.ipynb is -1: at least one is needed"),
        ("baselines", "k=0", "'k' of baselines.ipynb is 0: at least one is needed"),
        ("cbigan", "steps=0", "'steps' of cbigan.ipynb is 0: at least one is needed"),
        ("patch_ae", "methods=[]", r"'methods' of patch_ae.ipynb is \[\]: at least one is needed"),
        ("feature_ae", "ablations=none", "'ablations' of feature_ae.ipynb is of type dict"),
    ],
)
def test_numbers_are_refused_before_anything_runs(paper, words, said, capsys):
    for command in ("plan", "run"):
        assert main([command, f"--papers={paper}", "--profile=demo", f"--set={words}"]) == 2
        assert re.search(said, capsys.readouterr().err)


def checks(notebook, **given):
    """Execute the parameters, the imports and the cell that checks them of a paper's notebook opened by hand."""
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names, [check] = {}, [text for text in texts if "machine.check_counts(" in text and "machine.pick(" in text]
    for line in texts[0].replace("\n\n", "\n").partition("\nprinted")[0].splitlines():
        if line.startswith(("import", "from")) and "studies" not in line:
            exec(line, names)
    exec(next(text for text in texts if text.startswith("dataset =")), names)
    names |= given | {"known": ["patch_ae", "patchcore"]}  # of patch_ae
    exec(check, names)
    if "one_class(" not in check:
        exec(next(text for text in texts if "data.one_class(" in text), names)


@pytest.mark.parametrize(
    "notebook, given, said",
    [
        ("two_stage", {"rotation_epochs": 0}, "rotation_epochs is 0: at least one is needed"),
        ("two_stage", {"shift": -1}, "shift is -1"),
        ("two_stage", {"backbone": "resnet50"}, "unknown backbone 'resnet50': choose resnet18, resnet18_cifar_stem"),
        ("feature_ae", {"batch": 0}, "batch is 0"),
        ("feature_ae", {"schedule": "linear"}, "unknown schedule 'linear': choose cosine, constant"),
        ("feature_ae", {"ablations": "none"}, "ablations is 'none': it is a dict"),
        ("feature_ae", {"ablations": {"narrow": {"widht": 1}}}, "unknown setting of narrow 'widht': choose width"),
        ("shared_ae", {"epoch_steps": 0}, "epoch_steps is 0"),
        ("cbigan", {"presets": ["text", "october_2020"]}, "unknown preset .october_2020.: choose text, tables"),
        ("cbigan", {"presets": []}, r"presets is \[\]"),
        ("cbigan", {"critic_steps": 0}, "critic_steps is 0"),
        ("patch_ae", {"methods": ["patch"]}, "unknown method 'patch': choose patch_ae, patchcore"),
        ("patch_ae", {"steps": 0}, "steps is 0"),
        ("baselines", {"k": 0}, "k is 0"),
        ("baselines", {"pixel_ae_epochs": -1, "dataset": "digits"}, "pixel_ae_epochs is -1"),
        ("baselines", {"oracle_nu": []}, r"oracle_nu is \[\]"),
    ],
)
def test_a_notebook_opened_by_hand_refuses_what_it_cannot_use_before_it_reads_data(notebook, given, said):
    with pytest.raises(ValueError, match=said):
        checks(notebook, **given)


@pytest.mark.parametrize(
    "notebook, n, said",
    [
        ("two_stage", 1, "1 training images, decoder_batch 32: batch norm needs two in a batch"),
        ("two_stage", 5, "every training image is of one color"),
        ("shared_ae", 5, "no other classes to train on, so no anomalies to hold out: give validation = 0"),
        ("baselines", 4, "k is 5, more neighbours than there are training images, 4"),
    ],
)
def test_a_notebook_says_of_few_or_flat_images_what_it_needs_before_it_trains(tmp_path, notebook, n, said):
    folder = healthy(tmp_path, n)
    if n == 5 and notebook == "two_stage":
        for path in (folder / "train").rglob("*.png"):
            save(np.full((40, 40, 3), 90, np.uint8), path)
    with pytest.raises(ValueError, match=said):
        checks(notebook, dataset=f"folder:{folder}", normal_class="good")


def test_settings_of_flat_images_are_finite():
    assert baselines.scale(torch.full((5, 16), 0.3)) == 1 and baselines.scale(torch.eye(2)) == 2


@pytest.mark.parametrize("words", [["--force"], ["--force=1"], ["--force=YES"], ["--force=true"], ["--force=on"]])
@pytest.mark.parametrize("no", ["0", "no", "False", "OFF"])
def test_force_takes_the_usual_words(folder, tmp_path, words, no, capsys):
    _, row = a_row(folder)
    rows.merge(tmp_path / "out" / "baselines.csv", [row])
    given = [f"--datasets=folder:{folder}", "--papers=baselines", "--profile=demo", f"--out={tmp_path / 'out'}"]
    for force, said in ((words, "to run it"), ([f"--force={no}"], "nothing to run")):
        assert main(["plan", *given, *force]) == 0
        assert said in capsys.readouterr().out
    assert main(["plan", *given, "--force=perhaps"]) == 2
    assert "--force: invalid choice: 'perhaps' (choose from '1', 'yes', 'true'" in capsys.readouterr().err


def test_counts_in_a_notebook_read_by_hand():
    machine.check_counts(epochs=1, methods=["cae"], batch=3)
    for given in ({"epochs": 0}, {"batch": True}, {"methods": []}, {"k": "5"}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} is .*: at least one is needed"):
            machine.check_counts(**given)


@pytest.mark.parametrize("yes, no", [("1", "0"), ("true", "False"), ("YES", "no"), ("on", "")])
def test_yes_and_no_have_their_usual_words(monkeypatch, yes, no):
    monkeypatch.setenv("ADLIB_OFFLINE", yes)
    assert not backbones.missing("resnet18", "imagenet")[2] if not backbones.there("resnet18") else True
    assert machine.says_yes("ADLIB_OFFLINE")
    monkeypatch.setenv("ADLIB_OFFLINE", no)
    assert not machine.says_yes("ADLIB_OFFLINE")
    monkeypatch.setenv("ADLIB_OFFLINE", "perhaps")
    with pytest.raises(ValueError, match="ADLIB_OFFLINE is 'perhaps': it is 1"):
        machine.says_yes("ADLIB_OFFLINE")


# ---- faults


def test_a_long_temporary_folder_leaves_room_for_sockets(tmp_path):
    """Their paths end at some 104 characters; the server from which jobs are forked has one there."""
    long = tmp_path / ("t" * 100)
    long.mkdir()
    code = "from repro.job import processes\nwith processes(): print('started')"
    environment = os.environ | {"TMPDIR": str(long), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("started\n", 0), done.stderr


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(folder, detector_file, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    words = [f"--datasets=folder:{folder}", "--papers=baselines", "--profile=demo"]
    for out in (file, file / "below"):
        for command in ("plan", "run"):
            assert main([command, *words, f"--out={out}"]) == 2
            assert (
                f"nothing can be written under {out}: {file} is no folder, or it is read-only"
                in capsys.readouterr().err
            )
        assert score(["train", str(folder / "train"), "--out", str(out / "detector.pt"), "--weights", "random"]) == 2
        assert f"nothing can be written under {out}" in capsys.readouterr().err
        for option in (["--overlays", out], ["--maps", out / "maps.npz"]):
            assert scored(capsys, detector_file, folder / "test", *option)[0] == 2


def test_a_reader_that_has_read_enough_of_the_table_is_no_fault(folder, detector_file):
    """python -m adlib score ... | head -1"""
    command = [sys.executable, "-m", "adlib", "score", detector_file, folder / "test", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0 and "Error" not in said


def test_no_space_left_names_the_place(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*out.csv") as error:
        rows.write_whole(tmp_path / "out.csv", b"text")
    assert error.value.errno == 28 and list(tmp_path.iterdir()) == []


def test_a_page_that_should_replace_a_folder_names_it(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OSError, match="index.html"):
        rows.write_whole(tmp_path / "index.html", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_mark_before_the_text_of_a_rows_file(folder, tmp_path):
    _, row = a_row(folder)
    path = tmp_path / "baselines.csv"
    rows.merge(path, [row])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert rows.read(path) == [row]


def test_a_results_folder_that_is_not_there_is_named_by_the_summary(tmp_path):
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "summary.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells}
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path / 'nowhere'}: make reproduce"):
        exec(code["summary-03"], {"results_dir": tmp_path / "nowhere"})


def test_rows_of_own_images_are_not_stale(folder, tmp_path):
    _, row = a_row(folder, auroc=0.9)
    rows.merge(tmp_path / "baselines.csv", [row])
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "summary.ipynb").read_text())["cells"]
    names = {"results_dir": tmp_path}
    exec("".join(next(cell["source"] for cell in cells if cell["id"] == "summary-03")), names)
    assert row["job"] in names["not_stale"] and row["job"] not in names["known_jobs"]


def test_a_librarys_advice_to_read_a_file_unsafely_reaches_nobody(tmp_path):
    torch.save({"x": Path("here")}, tmp_path / "odd.pt")
    with pytest.raises(
        ValueError, match="odd.pt cannot be read as a file of plain tensors: it holds more than"
    ) as error:
        machine.read_tensors(tmp_path / "odd.pt")
    assert "trust" not in str(error.value) and "weights_only" not in str(error.value)


# ---- what was drawn is not judged


def test_overlays_within_the_judged_folder_are_not_judged_next_time(folder, detector_file, capsys):
    judged = folder / "test/good"
    for _ in range(2):
        code, lines, said = scored(capsys, detector_file, judged, "--overlays", judged / "pictures")
        assert code == 0 and len(lines) == 4 and "not read" not in said
    assert len(list((judged / "pictures").iterdir())) == 4


def test_a_table_can_be_ranked_and_maps_kept(folder, detector_file, tmp_path, capsys):
    code, lines, said = scored(capsys, detector_file, folder / "test", "--ranked", "--maps", tmp_path / "new/maps.npz")
    values = [float(line["score"]) for line in lines]
    assert code == 0 and values == sorted(values, reverse=True) and "8 images in " in said
    with np.load(tmp_path / "new/maps.npz") as kept:
        assert kept["maps"].shape == (8, 32, 32) and kept["files"].tolist() == [line["file"] for line in lines]
        np.testing.assert_allclose(kept["scores"], values, rtol=1e-5)
    assert scored(capsys, detector_file, folder / "test", "--maps", tmp_path)[0] == 2


def test_an_overlay_that_is_named_is_not_judged(folder, detector_file, capsys):
    """python -m adlib score detector.pt photos/*.png, where the overlays lie next to the images."""
    good = folder / "test/good"
    assert scored(capsys, detector_file, good, "--overlays", good)[0] == 0
    code, lines, said = scored(capsys, detector_file, *sorted(good.iterdir()))
    assert code == 0 and len(lines) == 4 and "overlay.png is left out" in said


def test_settings_of_the_notebook_are_checked_before_training(folder, tmp_path):
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "own_data.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    places = {"normal": str(folder / "train"), "judged": str(folder / "test")}
    for given, said in (
        ({"method": "patchcor"}, "unknown method 'patchcor': choose patchcore, two_stage"),
        ({"quantile": 95}, "quantile is 95: it is a share"),
        ({"held_out": 0.9}, "at least 2 must be left"),
        ({"settings": '{"imagesize": 64}'}, "patchcore has no setting 'imagesize'; it has image_size"),
        ({"method": "two_stage", "settings": {"rotation_epochs": 0}}, "at least one is needed"),
        ({"method": "feature_ae", "profile": "fast"}, "unknown profile: 'fast'"),
        ({"detector_file": str(tmp_path)}, "is a folder"),
        ({"detector_file": str(folder / "test/bad/000.png/detector.pt")}, "nothing can be written under .*bad/000.png"),
        ({"overlays": str(folder / "test/bad/000.png")}, "000.png is no folder, or it is read-only"),
    ):
        names = {}
        exec(code["own-data-01"], names)
        names |= places | given
        exec(code["own-data-03"], names)
        with pytest.raises(ValueError, match=said):
            exec(code["own-data-checks"], names)


# ---- the stop button


def test_the_stop_button_ends_the_worker_of_own_data_and_its_folders(folder, tmp_path, request):
    """An interrupt while a paper's notebook trains: its kernel is gone once the cell ends."""
    from jupyter_client.manager import start_new_kernel

    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "own_data.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    scratch = Path(tempfile.mkdtemp(prefix="adlib-t", dir="/tmp"))  # short: sockets are put there
    request.addfinalizer(lambda: shutil.rmtree(scratch, ignore_errors=True))
    code["own-data-01"] += f"\nnormal, judged = {str(folder / 'train')!r}, {str(folder / 'test')!r}"
    code["own-data-01"] += "\nmethod, settings = 'two_stage', {'rotation_epochs': 100_000}"
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[1])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client, on its transport
        manager, client = start_new_kernel(kernel_name="python3", env=environment, cwd=tmp_path, startup_timeout=180)
    try:
        for cell in ("own-data-01", "own-data-03", "own-data-checks"):
            said = client.execute_interactive(code[cell], timeout=180, output_hook=lambda message: None)["content"]
            assert said["status"] == "ok", said
        kernel = psutil.Process(manager.provisioner.pid)
        asked = client.execute(code["own-data-07"])
        progress = "adlib-own-*/*/progress.json"
        while not any(b'"rotations"' in path.read_bytes() for path in scratch.glob(progress)):
            assert kernel.is_running()
            assert not client.shell_channel.msg_ready(), client.get_shell_msg(timeout=60)["content"]
            time.sleep(0.2)
        workers = [process for process in kernel.children(recursive=True) if "runpy" in " ".join(process.cmdline())]
        assert workers
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] == asked and reply["content"]["ename"] == "KeyboardInterrupt"
        assert psutil.wait_procs(workers, timeout=10)[1] == []
        assert list(scratch.glob("adlib-*")) == []
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
