import csv
import importlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib import backbones, cbigan, detectors, overlays, own, pictures
from repro import register


CHANNELS = {"two_stage": 1, "shared_ae": 3, "feature_ae": 3, "cbigan": 1, "patch_ae": 3}
SIZES = {"feature_ae": 64, "cbigan": 64, "patch_ae": 64}
HOW = {
    "two_stage": {"channels": 1, "stem": "imagenet", "lam": 0.5},
    "shared_ae": {"channels": 3, "width": 4, "latent": 8, "distance": "mean_l2", "omega": 0.25},
    "feature_ae": {"backbone": "resnet18", "width": 0.25, "sigma": 2.0},
    "cbigan": {"channels": 1, "patch": 32, **cbigan.PRESETS["text"], "width": 2},
    "patch_ae": {"backbone": "resnet18", "channels": 16, "n_vectors": 50},
    "patch_ae plain": {"backbone": "resnet18", "n_vectors": 50, "reweight": True},
}


def small(which="shared_ae", seed=1):
    """A detector with drawn weights, as a notebook would assemble it."""
    paper, how = which.split()[0], dict(HOW[which])
    torch.manual_seed(seed)
    made = {**how, **({"backbone": backbones.load("resnet18", "random", seed)[0]} if "backbone" in how else {})}
    network = importlib.import_module(f"adlib.{paper}").Detector(**made)
    trained = dict(network.named_children())
    if "bank" in network.state_dict():
        trained["bank"] = torch.rand(network.bank.shape)
    return detectors.assemble(
        paper, how, trained, image_size=SIZES.get(paper, 32), channels=CHANNELS[paper], method=paper, n_train=3
    )


def noise(detector, n=7, seed=0):
    size = detector.about["image_size"]
    shape = (n, detector.about["channels"], size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven pictures of several sizes and formats, in folders, one of them grey."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(40, 60), (32, 32), (100, 50), (33, 31), (64, 64), (32, 48)]):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        place = folder / "below" if number > 3 else folder
        Image.fromarray(picture).save(place / f"{number}.{'png' if number else 'bmp'}")
    Image.fromarray(rng.integers(0, 256, (50, 50), dtype=np.uint8)).save(folder / "grey.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


@pytest.mark.parametrize("which", HOW)
def test_a_detector_gives_after_its_file_what_it_gave_before_whatever_the_batch_and_the_order(tmp_path, which):
    detector = small(which)
    images = noise(detector)
    scores, maps = detectors.apply(detector, images)
    assert scores.shape == (7,) and maps.shape[0] == 7 and maps.shape[1:] == images.shape[2:]
    assert len(scores.unique()) == 7 and scores.isfinite().all() and maps.isfinite().all()
    detectors.save(detector, tmp_path / "detector.pt")
    again = detectors.load(tmp_path / "detector.pt", "cpu")
    assert again.about == detector.about and again.about["n_train"] == 3 and not again.training
    torch.testing.assert_close(detectors.apply(again, images), (scores, maps), rtol=0, atol=0)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    shuffled, _ = detectors.apply(again, images[order], batch=2)
    torch.testing.assert_close(shuffled, scores[order], rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["detector.pt"]


def test_the_scores_are_those_of_the_papers():
    detector = small("feature_ae")
    from adlib import feature_ae, images

    x = images.to_float(noise(detector))
    with torch.no_grad():
        f = detector.encoder(x)
        maps = feature_ae.anomaly_map(feature_ae.residuals(f, detector.decoder(f[-1])), 64, 2.0)
    torch.testing.assert_close(detectors.apply(detector, noise(detector)), (feature_ae.score(maps), maps))


def test_two_stages_map_has_the_score_as_its_mean_but_for_the_edges():
    detector = small("two_stage")
    grey = torch.full((1, 1, 32, 32), 90, dtype=torch.uint8)
    score, maps = detectors.apply(detector, grey)
    assert maps.mean().item() == pytest.approx(score.item(), abs=0.05)


def test_a_part_that_is_missing_or_does_not_fit_is_said():
    detector = small()
    with pytest.raises(ValueError, match="does not fit its settings.*nets.e2"):
        detectors.assemble("shared_ae", HOW["shared_ae"], {"nets.e1": detector.nets.e1}, image_size=32, channels=3)
    with pytest.raises(ValueError, match="does not fit its settings.*depth"):
        detectors.assemble("shared_ae", {"depth": 3}, {"nets": detector.nets}, image_size=32, channels=3)


def test_files_that_are_no_detectors_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no detector .*nothing.pt"):
        detectors.load(tmp_path / "nothing.pt")
    path = tmp_path / "detector.pt"
    detectors.save(small(), path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:3000], whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="detector.pt cannot be read as a file of plain tensors"):
            detectors.load(path, "cpu")
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no detector of this kind"):
        detectors.load(path, "cpu")
    content = {"format": detectors.FORMAT, "about": small().about, "state": {}}
    for paper, said in (("os", "no detector for 'os'"), ("../x", "no name of a paper"), ("metrics", "no detector for")):
        torch.save({**content, "about": {**content["about"], "paper": paper}}, path)
        with pytest.raises(ValueError, match=said):
            detectors.load(path, "cpu")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"format": detectors.FORMAT, "about": Trap(), "state": {}}, tmp_path / "detector.pt")
    with pytest.raises(ValueError, match="cannot be read as a file of plain tensors"):
        detectors.load(tmp_path / "detector.pt", "cpu")
    assert not (tmp_path / "executed").exists()


def test_images_are_found_in_files_and_folders_each_once(photos, tmp_path):
    found = pictures.find([photos / "grey.png", photos])
    assert [path.name for path in found] == ["grey.png", "0.bmp", "1.png", "2.png", "3.png", "4.png", "5.png"]
    assert pictures.sizes(found)[(60, 40)] == 1
    with pytest.raises(FileNotFoundError, match="no file or folder .*absent"):
        pictures.find([photos, tmp_path / "absent"])
    with pytest.raises(ValueError, match="holds no images"):
        pictures.find([tmp_path])
    with pytest.raises(ValueError, match="notes.txt cannot be read as an image"):
        pictures.sizes([photos / "notes.txt"])


def test_an_image_is_brought_to_the_detectors_size_and_channels_or_refused(photos):
    about = {"image_size": 20, "channels": 3, "resample": "antialias"}
    assert detectors.read(about, photos / "2.png").shape == (3, 20, 20)
    grey = detectors.read(about, photos / "grey.png")
    assert grey.shape == (3, 20, 20) and (grey[0] == grey[2]).all()
    with pytest.raises(ValueError, match="2.png is in color, and the detector was trained on grey images"):
        detectors.read({**about, "channels": 1}, photos / "2.png")


def test_files_are_judged_in_order_a_few_at_a_time_and_bad_ones_are_told(photos, tmp_path):
    detector, files = small(), pictures.find([photos])
    together, _ = detectors.apply(detector, torch.stack([detectors.read(detector.about, path) for path in files]))
    bad = tmp_path / "bad.png"
    bad.write_bytes((photos / "1.png").read_bytes()[:60])
    failed = []
    judged = list(detectors.judge(detector, [*files[:2], bad, *files[2:]], batch=3, failed=failed))
    assert [path for path, _, _ in judged] == files
    assert [score for _, score, _ in judged] == pytest.approx(together.tolist(), rel=1e-4)
    assert len(failed) == 1 and "bad.png cannot be read as an image" in failed[0]
    with pytest.raises(ValueError, match="bad.png"):
        list(detectors.judge(detector, [bad]))


def test_the_threshold_is_a_score_of_a_normal_image_that_enough_of_them_do_not_exceed():
    detector = small()
    assert detectors.is_anomalous(detector, 1e9) is None
    maps = torch.tensor([1.0, 1.0, 1.0, 3.0]).expand(20, 4)[:, None]
    detectors.calibrate(detector, torch.arange(1.0, 21.0), maps, quantile=0.9)
    assert detector.about["threshold"] == 18.0  # 18 of 20 are no higher
    assert detector.about["n_normal"] == 20 and detector.about["map_range"] == [1.0, 3.0]
    assert [detectors.is_anomalous(detector, score) for score in (17.5, 18.0, 18.1)] == [False, False, True]
    detectors.calibrate(detector, np.array([2.0, 1.0]), maps, quantile=0.95)
    assert detector.about["threshold"] == 2.0
    for scores, quantile in ((np.zeros(0), 0.9), (np.ones(3), 0.0), (np.ones(3), 1.1), (np.ones(3), math.nan)):
        with pytest.raises(ValueError, match="a threshold needs scores"):
            detectors.calibrate(detector, scores, maps, quantile)


def test_an_overlay_has_color_outline_score_and_verdict(tmp_path):
    detector, dark = small(), tmp_path / "dark.png"
    Image.fromarray(np.full((400, 800, 3), 20, dtype=np.uint8)).save(dark)
    anomaly_map = torch.zeros(8, 8)
    anomaly_map[:, :2] = 1.0

    def drawn(score=1.0):
        overlays.write(detector, dark, anomaly_map, score, tmp_path / "new" / "over.png", longest=100)
        page = np.array(Image.open(tmp_path / "new" / "over.png")).astype(int)
        return page[: overlays.HEAD], page[overlays.HEAD :][:50, :100]

    head, picture = drawn()
    assert picture[:, :10].max() > 100 and np.abs(picture[:, -20:] - 20).max() <= 2 and head.min() < 200
    detector.about |= {"map_range": [0.0, 100.0], "threshold": 2.0, "pixel_threshold": 0.5}  # those of normal images
    (normal, picture), (anomalous, _) = drawn(1.5), drawn(2.5)
    outline = (picture == overlays.CONTOUR).all(2)
    assert 50 < outline.sum() < 200 and outline[:, :40].sum() == outline.sum()  # around the left part, edges too
    assert np.abs(picture[~outline] - 20).max() <= 6  # nothing, compared with what normal images had
    assert (normal != anomalous).any()
    detector.about["pixel_threshold"] = 85.0  # near the end of the bar: their numbers would cover each other
    drawn()
    bar = np.array(Image.open(tmp_path / "new" / "over.png"))[overlays.HEAD :, 124:174]
    assert 12 < (bar < 200).any((1, 2)).sum() < 20  # two numbers, each up to 9 px high


def test_settings_for_own_images_are_those_of_the_dataset_they_are_like(photos, tmp_path):
    files = pictures.find([photos])
    own.lay_out(files[:3], files[3:], [photos / "grey.png"], tmp_path / "set")
    book = register.load()

    def settings(profile, **given):
        [job] = register.jobs(book, ["feature_ae"], [f"folder:{tmp_path / 'set'}"], ["good"], [0], profile, given)
        return job["settings"]

    like = register.jobs(book, ["feature_ae"], ["mvtec"], ["bottle"], [0], "quick")[0]["settings"]
    assert settings("quick", epochs=3) == {**like, "ablations": {}, "epochs": 3}
    assert settings("demo") == {"backbone": "resnet18", "ablations": {}}


def test_the_command_prints_a_table_and_writes_pictures_and_tells_what_it_could_not_read(photos, tmp_path, capsys):
    main = pytest.importorskip("adlib.__main__").main
    detector, bad = small(), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    files = pictures.find([photos])
    judged = {path: score for path, score, _ in detectors.judge(detector, files)}
    detectors.calibrate(detector, np.sort(list(judged.values()))[:4], torch.rand(4, 8, 8), quantile=1)
    detectors.save(detector, tmp_path / "detector.pt")
    words = ["score", str(tmp_path / "detector.pt"), str(photos), str(bad), "--device", "cpu"]
    words += ["--overlays", str(tmp_path / "over")]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "bad.png cannot be read as an image" in printed.err and "Traceback" not in printed.err
    lines = list(csv.DictReader(io.StringIO(printed.out)))
    assert [line["file"] for line in lines] == [str(path) for path in files]
    assert [float(line["score"]) for line in lines] == pytest.approx(list(judged.values()), rel=1e-4)
    assert sum(int(line["is_anomalous"]) for line in lines) == len(files) - 4
    drawn = sorted(path.name for path in (tmp_path / "over").iterdir())
    assert drawn == [f"{number:05d}-{path.stem}.overlay.png" for number, path in enumerate(files)]
    assert f"{len(files) + 1} images in " in printed.err and "a second" in printed.err

    del detector.about["threshold"]
    detectors.save(detector, tmp_path / "detector.pt")
    assert main([*words[:2], str(photos / "1.png"), "--device", "cpu"]) == 0
    [line] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["threshold"], line["is_anomalous"]) == ("", "")


def test_the_notebook_wants_both_folders_or_neither_and_names_an_empty_one(photos, tmp_path):
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "own_data.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    for given, said in (
        ({"normal": str(photos)}, "give both folders"),
        ({"judged": str(photos)}, "give both folders"),
        ({"normal": str(photos), "judged": str(tmp_path)}, "holds no images"),
    ):
        names = {}
        exec(code["own-data-01"], names)
        names |= given
        with pytest.raises(ValueError, match=said):
            exec(code["own-data-03"], names)
        if "scratch" in names:
            names["scratch"].cleanup()


# ---- one's own images, from a folder to scores


@pytest.fixture(scope="module")
def trained(photos):
    return own.train([photos], image_size=32, weights="random", held_out=0.4)


def test_a_detector_is_trained_saved_and_loaded_in_a_few_lines(photos, trained, tmp_path):
    about = trained.about
    assert (about["method"], about["weights"], about["n_train"]) == ("patchcore", "resnet18/random", 4)
    assert about["n_normal"] == 2 and about["n_checked"] == 1 and about["n_above"] in (0, 1)
    assert about["expected_above"] == pytest.approx(1 / 3)
    text = own.describe(trained)
    assert "patchcore, resnet18/random, 32 px, 4 images to train on, 3 held out" in text
    assert "of the other 1 held-out normal images, 33% expected" in text
    detectors.save(trained, tmp_path / "detector.pt")
    again = detectors.load(tmp_path / "detector.pt", "cpu")
    for loaded, before in zip(detectors.score(again, photos), detectors.score(trained, photos), strict=True):
        np.testing.assert_array_equal(
            np.concatenate([np.ravel(x) for x in loaded]), np.concatenate([np.ravel(x) for x in before])
        )


def test_the_same_seed_trains_the_same_detector(photos, trained):
    again = own.train([photos], image_size=32, weights="random", held_out=0.4)
    np.testing.assert_allclose(detectors.score(again, photos)[0], detectors.score(trained, photos)[0], rtol=1e-5)


def test_images_of_any_size_and_channels_are_scored_with_maps_of_their_size(photos, trained):
    files = pictures.find([photos])
    arrays = [np.asarray(Image.open(path)) for path in files]
    scores, maps = detectors.score(trained, arrays, batch=3)
    assert scores.dtype == np.float32 and [found.shape for found in maps] == [array.shape[:2] for array in arrays]
    np.testing.assert_allclose(scores, detectors.score(trained, files)[0], rtol=1e-5)
    one = arrays[1]
    opaque = np.dstack([one, np.full(one.shape[:2], 255, np.uint8)])
    floats, tensor = one.astype(np.float32) / 255, torch.from_numpy(one.copy()).permute(2, 0, 1)[None]
    for same in (one, [opaque], floats[None], tensor):
        np.testing.assert_allclose(detectors.score(trained, same)[0], scores[1:2], rtol=1e-5, atol=1e-3)
    assert detectors.score(trained, [])[0].shape == (0,)
    for wrong, said in (
        ([one, one[..., :2]], "image 1 is an array of"),
        ([one.astype(int)], "image 0 is of int64 from 0 to 255: pixels are uint8"),
        (torch.zeros(3, 8, 8), "a tensor of images is"),
        ([np.zeros((8, 8), np.uint16)], "image 0 cannot be taken: it has 16 bits a pixel"),
    ):
        with pytest.raises(ValueError, match=said):
            detectors.score(trained, wrong)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"method": "feature_ae"}, "unknown method 'feature_ae': choose patchcore; the papers' methods"),
        ({"quantile": 95}, "quantile is 95: it is a share"),
        ({"coreset": 0}, "coreset is 0: it is a share"),
        ({"image_size": 100}, "image_size is 100: .* a multiple of 8"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(photos, monkeypatch, given, said):
    monkeypatch.setattr(own, "_read", None)
    with pytest.raises(ValueError, match=said):
        own.train(photos, **{"weights": "random", **given})


def test_without_imagenet_weights_random_ones_are_taken_and_said(photos, monkeypatch, capsys):
    monkeypatch.delenv("ADLIB_DATA", raising=False)
    pictures.say.cache_clear()
    detector = own.train(photos, image_size=32)
    assert detector.about["weights"] == "resnet18/random"
    assert "adlib: RANDOM weights: what the detector finds says little." in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="ADLIB_OFFLINE=1 forbids"):
        own.train(photos, image_size=32, weights="imagenet")


def test_the_train_command_writes_a_detector_that_the_score_command_takes(photos, tmp_path, capsys):
    main = pytest.importorskip("adlib.__main__").main
    out = tmp_path / "new folder" / "detector.pt"
    words = ["--image-size", "32", "--weights", "random", "--device", "cpu"]
    assert main(["train", str(photos), "--out", str(out), *words]) == 0
    printed = capsys.readouterr().out
    assert "7 images, 1 of 60 x 40 px" in printed and "5 images to train on, 2 held out" in printed
    assert f"python -m adlib score '{out}' FOLDER" in printed
    assert main(["score", str(out), str(photos), "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert main(["train", str(photos), "--out", str(tmp_path), *words]) == 2
    assert "is a folder: give the detector a file name" in capsys.readouterr().err
    assert main(["train", str(photos), "--quantile", "95"]) == 2
    assert capsys.readouterr().err == "adlib: quantile is 95.0: it is a share, above 0 and at most 1\n"


def test_files_are_held_out_by_seed_and_laid_out_as_links(photos, tmp_path):
    normal = [photos / name for name in ("0.bmp", "1.png", "2.png", "3.png", "below/4.png", "below/5.png")] * 2
    training, kept = own.hold_out(normal, 0.25, seed=3)
    assert len(training) == 9 and len(kept) == 3 and sorted(training + kept) == sorted(normal)
    assert own.hold_out(normal, 0.25, seed=3) == (training, kept) != own.hold_out(normal, 0.25, seed=4)
    own.lay_out(training, kept, [photos / "grey.png"], tmp_path / "set")
    for part, files in {"train/good": training, "test/good": kept, "test/judged": [photos / "grey.png"]}.items():
        links = sorted((tmp_path / "set" / part).iterdir())
        assert [link.resolve() for link in links] == [file.resolve() for file in files]
    for share, said in ((0, "it is a share"), (1, "it is a share"), (0.9, "at least 2 must be left")):
        with pytest.raises(ValueError, match=said):
            own.hold_out(normal[:4], share)
