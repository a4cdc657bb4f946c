"""fid.py by its command lines: what it measures, writes, draws and refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.random_weights import write_random_weights
from dg.data.datasets import load_images
from dg.evaluation import figures
from tests.scripts import leads_to, run, start_together, succeed

IN = "--features {features} "
PIXELS = "--features pixels "


def measured(command, **places):
    return json.loads(succeed(command + " --json", **places).out)


def metrics(outcome, source):
    return outcome["images"][str(source)]["metrics"]


@pytest.fixture
def digits(tmp_path):
    """The digits as a folder of shards with seeds, in thirds."""
    images = load_images("digits").images[:900]
    (tmp_path / "digits").mkdir()
    for start in range(0, 900, 100):
        np.savez(
            tmp_path / "digits" / f"samples_{start:06d}.npz",
            samples=images[start : start + 100],
            seeds=np.arange(start, start + 100),
        )
    return tmp_path / "digits"


def test_equal_sets_have_no_distance(at):
    outcome = measured("fid --images digits --ref digits " + IN, **at)
    found = metrics(outcome, "digits")
    assert abs(found["fd"]["value"]) < 1e-6 and found["kid"]["value"] < 1e-6
    assert (
        found["precision"]["value"] == found["recall"]["value"] == found["coverage"]["value"] == 1
    )
    assert outcome["distance"] == "FD" and outcome["extractor"]["name"] == "classifier"
    assert outcome["images"]["digits"]["fingerprints"] == [outcome["reference"]["fingerprint"]]


def test_a_table_of_several_sets(at):
    done = succeed("fid --images digits:heldout --images {fake} --ref digits:heldout " + IN, **at)
    lines = done.out.splitlines()
    assert (
        lines[0].startswith("features: classifier (") and "digits:heldout (360 images)" in lines[0]
    )
    assert lines[1].split() == [
        "images",
        "n",
        "FD",
        "KID",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    assert [line.split()[:2] for line in lines[2:4]] == [
        ["digits:heldout", "360"],
        [str(at["fake"]), "12"],
    ]
    assert "standard error" in lines[4]


def test_shuffling_changes_nothing_but_the_fingerprint(at, digits, tmp_path):
    images = load_images(digits).images
    np.savez(tmp_path / "shuffled.npz", samples=images[np.random.default_rng(0).permutation(900)])
    outcome = measured(
        "fid --images {tmp}/shuffled.npz --ref {digits} " + PIXELS, tmp=tmp_path, digits=digits
    )
    assert abs(metrics(outcome, tmp_path / "shuffled.npz")["fd"]["value"]) < 1e-6
    assert outcome["images"][str(tmp_path / "shuffled.npz")]["fingerprints"] != [
        outcome["reference"]["fingerprint"]
    ]


def test_the_first_images_or_drawn_ones(at, digits):
    first = measured(
        "fid --images {digits} --ref digits --num_samples 200 " + PIXELS, digits=digits
    )
    drawn = measured(
        "fid --images {digits} --ref digits --num_samples 200 --seed 3 " + PIXELS, digits=digits
    )
    images = load_images("digits").images[:200].reshape(200, -1) / 127.5 - 1
    from dg.evaluation import frechet_distance, statistics

    real = load_images("digits").images.reshape(1797, -1) / 127.5 - 1
    expected = frechet_distance(*statistics(images), *statistics(real))
    assert metrics(first, digits)["fd"]["value"] == pytest.approx(expected, rel=1e-5)
    assert metrics(drawn, digits)["fd"]["value"] != pytest.approx(expected, rel=1e-3)
    assert first["images"][str(digits)]["num_images"] == 200


def test_disjoint_sets_have_mean_sd_and_minimum(at, digits):
    command = "fid --images {digits} --ref digits --num_samples 300 --metrics fd "
    outcome = measured(command + "--sets 3 " + PIXELS, digits=digits)
    fd = metrics(outcome, digits)["fd"]
    assert len(set(outcome["images"][str(digits)]["fingerprints"])) == 3
    assert fd["n"] == 3 and fd["min"] == min(fd["values"]) < fd["mean"]
    assert fd["sd"] == pytest.approx(np.std(fd["values"], ddof=1))
    alone = measured(command + PIXELS, digits=digits)
    assert fd["values"][0] == pytest.approx(metrics(alone, digits)["fd"]["value"])
    text = succeed(command + "--sets 3 " + PIXELS, digits=digits).out
    assert "3 x 300" in text and "min" in text and "mean ± sd over the sets" in text


def test_statistics_serve_as_reference_and_as_images(at, digits, tmp_path):
    places = {**at, "digits": digits, "tmp": tmp_path}
    done = succeed("fid ref --data {digits} --dest {tmp}/plain.npz " + IN, **places)
    assert "900 images, 64 features of classifier" in done.err
    succeed("fid ref --data {digits} --dest {tmp}/kept.npz --keep_features " + IN, **places)
    direct = metrics(measured("fid --images {fake} --ref {digits} " + IN, **places), at["fake"])
    plain = metrics(
        measured("fid --images {fake} --ref {tmp}/plain.npz " + IN, **places), at["fake"]
    )
    kept = metrics(measured("fid --images {fake} --ref {tmp}/kept.npz " + IN, **places), at["fake"])
    assert set(plain) == {"fd"} and plain["fd"]["value"] == pytest.approx(
        direct["fd"]["value"], rel=1e-9
    )
    assert all(kept[name] == pytest.approx(direct[name]) for name in direct) and set(kept) == set(
        direct
    )
    both = metrics(
        measured("fid --images {tmp}/plain.npz --ref {tmp}/kept.npz " + IN, **places),
        tmp_path / "plain.npz",
    )
    assert abs(both["fd"]["value"]) < 1e-6


def test_kept_features_of_the_images_serve_metrics_by_name(at, digits, tmp_path):
    places = {**at, "digits": digits, "tmp": tmp_path}
    succeed("fid ref --data {digits} --dest {tmp}/kept.npz --keep_features " + PIXELS, **places)
    command = "--ref digits:heldout --metrics kid,recall " + PIXELS
    kept = measured("fid --images {tmp}/kept.npz " + command, **places)
    direct = measured("fid --images {digits} " + command, **places)
    assert metrics(kept, tmp_path / "kept.npz") == metrics(direct, digits)


def test_random_vgg_in_the_whole_path(at, tmp_path):
    features = " --features random-vgg "
    reference = "fid ref --data digits:heldout --dest {tmp}/vgg.npz --num_samples 70" + features
    assert "70 images, 64 features of random-vgg" in succeed(reference, **at).err
    command = "fid --images {fake} --ref {tmp}/vgg.npz "
    done = succeed(command + "--outdir {out}" + features, **at)
    assert done.out.startswith("features: random-vgg (589dc667); reference: ")
    assert any("12 images for 64 features" in line for line in done.lines)
    written = json.loads((at["out"] / "results.json").read_text())
    assert written["distance"] == "FD" and written["extractor"]["sha256"].startswith("589dc667")
    assert np.isfinite(metrics(written, at["fake"])["fd"]["value"])
    done = run(command + PIXELS, **at)
    assert done.code == 2 and "statistics of the extractor random-vgg (589dc667)" in done.lines[-1]


def test_training_images_add_authenticity_and_memorised(at, digits, tmp_path):
    command = "--ref digits:heldout --train digits:train " + PIXELS
    copies = load_images("digits:train").images[:100]
    np.savez(tmp_path / "copies.npz", samples=copies)
    done = succeed(
        "fid --images {tmp}/copies.npz --images digits:heldout --outdir {out} --plot " + command,
        **at,
    )
    assert "; training images: digits:train (1437 images)" in done.out.splitlines()[0]
    assert done.out.splitlines()[1].split()[-2:] == ["authenticity", "memorised"]
    assert "1 copies" in done.out.splitlines()[-1]
    written = json.loads((at["out"] / "results.json").read_text())
    assert written["training"]["source"] == "digits:train"
    found = metrics(written, tmp_path / "copies.npz")
    assert found["authenticity"]["value"] == 0 and found["memorised"]["value"] == 1
    assert found["memorised"]["low"] < 1 and found["authenticity"]["high"] > 0
    assert metrics(written, "digits:heldout")["memorised"]["value"] == 0.5
    plain = measured("fid --images {tmp}/copies.npz --ref digits:heldout " + PIXELS, **at)
    assert "training" not in plain
    assert metrics(plain, tmp_path / "copies.npz") == {
        name: value for name, value in found.items() if name not in ("authenticity", "memorised")
    }


def test_training_statistics_with_features_are_as_good_as_images(at, digits, tmp_path):
    places = {**at, "digits": digits, "tmp": tmp_path}
    kept = "fid ref --data digits:train --dest {tmp}/train.npz --keep_features " + PIXELS
    succeed(kept, **places)
    command = "fid --images {digits} --ref digits:heldout --metrics authenticity,memorised "
    images = measured(command + "--train digits:train " + PIXELS, **places)
    statistics = measured(command + "--train {tmp}/train.npz " + PIXELS, **places)
    found = metrics(images, digits)
    assert set(found) == {"authenticity", "memorised"}
    assert metrics(statistics, digits) == found
    sets = measured(
        command + "--num_samples 300 --sets 3 --train {tmp}/train.npz " + PIXELS, **places
    )
    assert metrics(sets, digits)["memorised"]["n"] == 3
    # authenticity asks nothing of the reference, which may be the training set's statistics
    alone = "fid --images {digits} --ref {tmp}/plain.npz --train {tmp}/train.npz "
    succeed(kept.replace("train.npz", "plain.npz").replace("--keep_features", ""), **places)
    outcome = measured(alone + "--metrics fd,authenticity " + PIXELS, **places)
    assert metrics(outcome, digits)["authenticity"] == found["authenticity"]


def test_reference_images_that_are_training_images_are_told(at):
    command = "fid --images {fake} --ref digits --train digits:train --metrics memorised " + PIXELS
    assert any(
        "1437 of the 1797 reference images of digits are training images of digits:train" in line
        for line in succeed(command, **at).lines
    )


def test_a_sheet_shows_the_nearest_training_images(at, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "neighbour_sheet", lambda *args: shown.append(args))
    command = "fid neighbours --images {fake} --train digits:train --out {tmp}/sheet.png --k 3 "
    done = succeed(command + "--num_samples 7 " + PIXELS, **at)
    path, images, neighbours = shown[0]
    fake, train = load_images(at["fake"]).images[:7], load_images("digits:train").images
    assert path == at["tmp"] / "sheet.png" and (images == fake).all()
    truth = np.linalg.norm(np.subtract(fake[:, None], train, dtype=float), axis=(2, 3))[..., 0]
    assert (neighbours == train[np.argsort(truth, axis=1)[:, :3]]).all()
    assert "7 images" in done.lines[0] and "3 nearest of 1437 training" in done.lines[0]
    assert f" {truth.min() / 127.5:.3g} to " in done.lines[0]
    copies = at["tmp"] / "copies.npz"
    np.savez(copies, samples=train[5:8])
    done = succeed(command.replace("{fake}", "{copies}") + PIXELS, copies=copies, **at)
    assert (shown[1][2][:, 0] == train[5:8]).all() and "at 0 to 0" in done.lines[0]


def test_a_sheet_of_neighbours_is_written_whole(at):
    command = "fid neighbours --images {fake} --train digits:train --out {tmp}/sheet.png "
    succeed(command + IN, **at)
    with Image.open(at["tmp"] / "sheet.png") as sheet:
        assert sheet.size[0] > 7 * 64 and sheet.size[1] > 12 / 2 * 64


def test_adm_reference_files_give_statistics_and_images(at, tmp_path):
    images = load_images("digits").images[:100]
    values = images.reshape(100, -1) / 127.5 - 1
    shift = values.mean(0) + 1
    np.savez(tmp_path / "virtual.npz", arr_0=images, mu=shift, sigma=np.cov(values, rowvar=False))
    found = metrics(
        measured("fid --images digits --ref {tmp}/virtual.npz --features pixels", tmp=tmp_path),
        "digits",
    )
    assert found["fd"]["value"] > 60 and found["recall"]["value"] == 1, (
        "fd by mu and sigma, recall by the images"
    )


def test_figures_and_results_file(at, digits, tmp_path):
    for epoch in (5, 10, 20):
        np.savez(
            tmp_path / f"epoch-{epoch}.npz", samples=load_images("digits").images[: 60 * epoch]
        )
    sources = " ".join(f"--images {{tmp}}/epoch-{epoch}.npz" for epoch in (5, 10, 20))
    done = succeed(
        f"fid {sources} --ref digits --fid_infinity --plot --outdir {{tmp}}/out " + PIXELS,
        tmp=tmp_path,
    )
    for name in ("metrics", "precision-recall", "fid-against-n", "series"):
        assert name in done.err
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.width > 800 and len(image.convert("RGB").getcolors(1 << 24)) > 20
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {
        "command",
        "versions",
        "hardware",
        "seconds",
        "extractor",
        "reference",
        "images",
        "distance",
    } <= set(written)
    line = written["images"][str(tmp_path / "epoch-20.npz")]["fid_infinity"]
    assert len(line["sizes"]) == len(line["values"]) and line["low"] < line["value"] < line["high"]


@pytest.mark.parametrize("seeds", [False, True])
def test_a_folder_of_several_sets_is_a_row_for_each_of_them(tmp_path, seeds):
    """As reproduction A published it: --images=FOLDER --plot=True --num_samples=N."""
    images = load_images("digits").images
    (tmp_path / "sets").mkdir()
    for epoch in (5, 10, 15):
        more = {"seeds": np.arange(300)} if seeds else {}
        part = images[20 * epoch : 20 * epoch + 300]
        np.savez(tmp_path / "sets" / f"epoch{epoch}.npz", samples=part, **more)
    command = (
        "fid --images={tmp}/sets --plot=True --num_samples=200 --ref digits --outdir {tmp}/out "
    )
    done = succeed(command + "--metrics fd " + PIXELS, tmp=tmp_path)
    assert f"{tmp_path / 'sets'} holds 3 sets, which are measured one by one" in done.lines
    written = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert list(written) == [str(tmp_path / "sets" / f"epoch{n}.npz") for n in (5, 10, 15)]
    assert (tmp_path / "out" / "series.png").exists()
    np.savez(tmp_path / "alone.npz", samples=images[200:400])
    alone = measured(
        "fid --images {tmp}/alone.npz --metrics fd --ref digits " + PIXELS, tmp=tmp_path
    )
    row = written[str(tmp_path / "sets" / "epoch10.npz")]
    assert row["num_images"] == 200
    assert row["metrics"]["fd"] == pytest.approx(metrics(alone, tmp_path / "alone.npz")["fd"])


def test_folders_of_pictures_named_by_what_is_counted_are_a_row_each(tmp_path):
    images = load_images("digits").images
    for name in ("a/epoch5", "a/epoch10", "b/5", "b/10"):
        (tmp_path / name).mkdir(parents=True)
        for number, image in enumerate(images[:4]):
            Image.fromarray(image[..., 0]).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "notes.txt").touch()
    command = "fid --images {tmp}/%s --ref digits --metrics fd " + PIXELS
    done = succeed(command % "a" + "--json", tmp=tmp_path)
    rows = json.loads(done.out)["images"]
    assert list(rows) == [str(tmp_path / "a" / name) for name in ("epoch5", "epoch10")]
    assert [row["num_images"] for row in rows.values()] == [4, 4]
    assert done.lines[0] == (
        f"{tmp_path / 'a'} holds 2 sets, which are measured one by one; 1 others in it are left out"
    )
    done = run(command % "b", tmp=tmp_path)
    assert done.code == 2 and len(done.lines) == 1
    assert "holds the folders 5, 10, which may be sets or classes" in done.lines[0]
    (tmp_path / "b" / "dataset.json").write_text('{"labels": null}')
    assert metrics(measured(command % "b", tmp=tmp_path), tmp_path / "b")["fd"]["value"] > 0


def test_a_folder_whose_files_do_not_tell_what_they_are_is_asked_about(tmp_path):
    images = load_images("digits").images[:40]
    for folder, names in {"parts": ("part0", "part1"), "words": ("before", "after")}.items():
        (tmp_path / folder).mkdir()
        for index, name in enumerate(names):
            np.savez(tmp_path / folder / name, samples=images[20 * index : 20 * index + 20])
        done = run(f"fid --images {{tmp}}/{folder} --ref digits " + PIXELS, tmp=tmp_path)
        assert done.code == 2 and "sets or parts of one" in done.lines[0]


def test_files_of_different_seeds_are_one_set_and_folders_of_stores_are_several(at, tmp_path):
    images = load_images("digits").images[:40]
    (tmp_path / "one").mkdir()
    for start in (0, 20):
        part = slice(start, start + 20)
        np.savez(
            tmp_path / "one" / f"epoch{start}", samples=images[part], seeds=np.arange(40)[part]
        )
    outcome = measured("fid --images {tmp}/one --metrics fd --ref digits " + PIXELS, tmp=tmp_path)
    assert [row["num_images"] for row in outcome["images"].values()] == [40]
    for name in ("epoch9", "epoch10"):
        shutil.copytree(at["fake"], tmp_path / "stores" / name)
    outcome = measured(
        "fid --images {tmp}/stores --metrics fd --ref digits " + PIXELS, tmp=tmp_path
    )
    assert list(outcome["images"]) == [str(tmp_path / "stores" / f"epoch{n}") for n in (9, 10)]


def test_files_of_one_image_each_are_one_set(tmp_path):
    """As reproduction B wrote them; their numbers do not make sets of them."""
    (tmp_path / "one").mkdir()
    images = np.repeat(load_images("digits").images[:20], 3, axis=3)
    for number, image in enumerate(images):
        np.savez(tmp_path / "one" / f"{number}.npz", samples=image)
    command = "fid --images {tmp}/one --ref {tmp}/one --metrics fd " + PIXELS
    (row,) = measured(command, tmp=tmp_path)["images"].values()
    assert row["num_images"] == 20


def test_what_a_reference_lacks_is_told(at, tmp_path):
    images = load_images("digits").images
    np.savez(tmp_path / "few.npz", samples=images[:5])
    np.savez(tmp_path / "named.npz", mean=np.zeros(64), cov=np.eye(64))
    np.savez(tmp_path / "nan.npz", mu=np.full(64, np.nan), sigma=np.eye(64))
    for images, ref, told in (
        ("{tmp}/few.npz", "digits", r"few\.npz against digits: .*; give more images, or choose"),
        ("digits", "{tmp}/named.npz", "statistics under 'mu' and 'sigma'"),
        ("digits", "{tmp}/nan.npz", r"nan\.npz: mu or sigma holds NaN or infinity; get or make"),
        ("digits", "{tmp}/named", r"named does not exist; give .*named\.npz"),
    ):
        done = run(f"fid --images {images} --ref {ref} " + PIXELS, tmp=tmp_path)
        assert done.code == 2 and len(done.lines) == 1 and re.search(told, done.lines[0])


def test_numbers_that_mean_little_are_told(at, tmp_path):
    command = "fid --images digits:heldout --images {fake} --ref digits:heldout " + IN
    lines = succeed(command, **at).lines
    assert sum("12 images for 64 features" in line for line in lines) == 1
    assert not any("360 images for" in line for line in lines)
    assert any(
        f"do not compare: 360 of digits:heldout, 12 of {at['fake']}" in line for line in lines
    )
    lines = succeed("fid --images digits --images digits --ref {fake} " + PIXELS, **at).lines
    assert lines[0] == "images given twice are measured once" and lines[1:] == [
        f"the reference {at['fake']}: 12 images for 64 features; a distance of fewer images than "
        "features says little"
    ]
    reference = "fid ref --data digits --dest {tmp}/x.npz --features pixels"
    done = succeed(reference, **at)
    assert "KID, precision and recall will be missing" in done.lines[-1]
    leads_to(done, f"fid.py --images IMAGES --ref {at['tmp']}/x.npz --features pixels")
    assert not any(
        "missing" in line for line in succeed(reference + " --keep_features", **at).lines
    )


def test_fid_is_a_metric_and_other_features_are_told_with_the_images(at):
    command = "fid --images digits:heldout --ref digits --metrics FID,kid "
    assert set(metrics(measured(command + IN, **at), "digits:heldout")) == {"fd", "kid"}
    np.savez(at["tmp"] / "other.npz", mu=np.zeros(192), sigma=np.eye(192))
    done = run("fid --images digits:heldout --ref {tmp}/other.npz " + PIXELS, **at)
    assert (
        done.code == 2
        and "64 feature dimensions of images of 8x8 with 1 channels, but" in done.lines[-1]
    )
    for name in ("/stats/cifar10-32x32.npz", "cifar10-32x32"):
        done = run(f"fid --images digits --ref {name} " + PIXELS, **at)
        assert "did you mean" in done.lines[-1] and "fid-ref-cifar10-32x32" in done.lines[-1]
        assert "edm-" not in done.lines[-1] and "baseline-" not in done.lines[-1]


def test_a_plot_of_what_there_is(digits, tmp_path):
    """Metrics without a distance leave the figures of distances out."""
    for epoch in (5, 10):
        np.savez(
            tmp_path / f"epoch-{epoch}.npz", samples=load_images("digits").images[: 20 * epoch]
        )
    sources = " ".join(f"--images {{tmp}}/epoch-{epoch}.npz" for epoch in (5, 10))
    succeed(
        f"fid {sources} --ref digits --metrics density,coverage --plot --outdir {{tmp}}/out "
        + PIXELS,
        tmp=tmp_path,
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    succeed(
        f"fid {sources} --ref digits --metrics kid --plot --outdir {{tmp}}/kid " + PIXELS,
        tmp=tmp_path,
    )
    assert sorted(path.name for path in (tmp_path / "kid").iterdir()) == [
        "metrics.png",
        "results.json",
    ]


def test_published_spellings_of_options(at, digits, tmp_path):
    places = {"digits": digits, "tmp": tmp_path}
    short = succeed(
        "fid calc --images={digits} --ref=digits --num=100 --batch=7 --plot=False " + PIXELS,
        **places,
    )
    plain = succeed(
        "fid --images {digits} --ref digits --num_samples 100 --plot 0 " + PIXELS, **places
    )
    assert short.out == plain.out


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(at, digits):
    command = (
        "fid --images {digits} --ref digits:heldout --train digits:train --batch 16 --json " + IN
    )
    processes = start_together(command, {**at, "digits": digits})
    texts = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert texts[1] == ("", "")
    one, two = measured(command.replace("--json", ""), **at, digits=digits), json.loads(texts[0][0])
    assert two["images"][str(digits)]["fingerprints"] == one["images"][str(digits)]["fingerprints"]
    for name, value in metrics(one, digits).items():
        assert metrics(two, digits)[name]["value"] == pytest.approx(value["value"], rel=1e-9), name


def test_likelihood_of_a_network_and_of_the_guided_flow(at):
    command = "fid nll --network {net} --data digits:heldout --num_samples 6 --steps 4 "
    plain = measured(command, **at)
    guided = measured(command + "--discriminator_ckpt {head}", **at)
    assert (
        plain["num_images"] == 6
        and plain["num_evaluations"] == 8
        and not plain["guided"]
        and guided["guided"]
    )
    assert plain["bits_per_dim"] != guided["bits_per_dim"] and np.isfinite(guided["bits_per_dim"])
    assert measured(command + "--batch 2", **at)["bits_per_dim"] == pytest.approx(
        plain["bits_per_dim"], rel=1e-5
    )
    conditional = measured(
        "fid nll --network {cond_net} --data digits:heldout --num_samples 4 --steps 3", **at
    )
    assert np.isfinite(conditional["bits_per_dim"])
    assert re.search(r"bits/dim over 6 images of digits:heldout", succeed(command, **at).out)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    write_random_weights(path)
    return path


@pytest.mark.slow
def test_inception_with_random_weights_gives_every_metric(random_inception, tmp_path):
    """Grey 8 x 8 images become RGB, all metrics come out, and half the images lie close to the
    other half."""
    images = load_images("digits").images[:40]
    np.savez(tmp_path / "a.npz", samples=images[:20])
    np.savez(tmp_path / "b.npz", samples=images[20:])
    command = "fid --images {tmp}/a.npz --ref {tmp}/b.npz --weights {weights} --unpublished_weights"
    outcome = measured(command, tmp=tmp_path, weights=random_inception)
    found = metrics(outcome, tmp_path / "a.npz")
    assert set(found) == {"fd", "sfid", "kid", "precision", "recall", "density", "coverage", "is"}
    assert outcome["distance"] == "FID" and outcome["extractor"]["published_weights"] is False
    assert all(np.isfinite(entry["value"]) for entry in found.values())


@pytest.mark.slow
def test_inception_in_the_whole_path(random_inception, at, tmp_path):
    places = {"tmp": tmp_path, "weights": random_inception, **at}
    done = run("fid --images {fake} --ref digits:heldout --weights {weights}", **places)
    assert (
        done.code == 2 and "SHA-256" in done.lines[-1] and "unpublished_weights" in done.lines[-1]
    )
    few, colour = load_images(at["fake"]).images[:10], tmp_path / "colour.npz"
    np.savez(tmp_path / "few.npz", samples=few)
    np.savez(colour, samples=np.repeat(few, 3, axis=3))
    done = succeed(
        "fid --images {tmp}/few.npz --ref {tmp}/colour.npz --weights {weights} "
        "--unpublished_weights --metrics fd,sfid,is --outdir {out}",
        **places,
    )
    assert "NOT the published weights" in done.out and done.out.splitlines()[1].split() == [
        "images",
        "n",
        "FID",
        "sFID",
        "IS",
    ]
    found = metrics(json.loads((at["out"] / "results.json").read_text()), tmp_path / "few.npz")
    assert abs(found["fd"]["value"]) < 1e-6 and abs(found["sfid"]["value"]) < 1e-6, (
        "grey is repeated to RGB"
    )


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A folder of files that do not fit."""
    folder, images = tmp_path_factory.mktemp("wrong"), load_images("digits").images
    np.savez(folder / "plain.npz", samples=images[:4])
    np.savez(folder / "one.npz", samples=images[:1])
    np.savez(folder / "float.npz", samples=np.float32(images[:4]))
    np.savez(folder / "colour.npz", samples=images[:4].repeat(3, axis=3))
    np.savez(folder / "small.npz", mu=np.zeros(5), sigma=np.eye(5))
    (folder / "cut.npz").write_bytes((folder / "plain.npz").read_bytes()[:-40])
    (folder / "text.pth").write_text("not weights")
    (folder / "mixed").mkdir()
    for i, side in enumerate((8, 9)):
        Image.fromarray(np.zeros([side, side], np.uint8)).save(folder / "mixed" / f"{i:06d}.png")
    succeed("fid ref --data digits:heldout --dest {tmp}/pixels.npz --features pixels", tmp=folder)
    (folder / "cut-statistics.npz").write_bytes((folder / "pixels.npz").read_bytes()[:-40])
    return folder


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("fid --ref digits", "--images"),
        ("fid --images {fake} --ref digits --features magic", "--features: magic"),
        ("fid --images {fake} --ref digits --features magic.safetensors", "no such classifier"),
        ("fid --images {fake} --ref digits --features inception-2015-12-05.pkl", "not executed"),
        ("fid --images {fake} --ref digits --weights {tmp}/none.pth", "none.pth"),
        (
            "fid --images {fake} --ref digits --weights {tmp}/text.pth --unpublished_weights",
            "not a PyTorch file",
        ),
        (
            "fid --images {fake} --ref digits --features {features} --weights {tmp}/text.pth",
            "--weights: ",
        ),
        (
            "fid --images {fake} --ref digits --num_samples 13 " + IN,
            "13 images asked for, 12 found",
        ),
        (
            "fid --images {fake} --ref digits --num_samples 5 --sets 3 " + IN,
            "15 images asked for, 12 found",
        ),
        ("fid --images {fake} --ref digits --sets 3 " + IN, "--num_samples"),
        (
            "fid --images {fake} --ref digits --num_samples 5 --sets 2 --fid_infinity " + IN,
            "--fid_infinity",
        ),
        ("fid --images {fake} --ref digits --metrics fd,sharpness " + IN, "sharpness"),
        ("fid --images {fake} --ref digits --metrics fd,is " + IN, "is: not possible"),
        (
            "fid --images {fake} --ref {tmp}/pixels.npz --metrics kid " + PIXELS,
            "kid need the reference images",
        ),
        (
            "fid --images {tmp}/pixels.npz --ref digits --fid_infinity " + PIXELS,
            "pixels.npz: statistics alone; the extrapolation needs the images",
        ),
        (
            "fid --images {fake} --ref digits --fid_infinity " + PIXELS,
            "12 images; the extrapolation needs 256",
        ),
        ("fid --images {fake} --ref digits --features random-vgg --weights {tmp}/text.pth", "text"),
        (
            "fid --images {fake} --ref digits --metrics fd,memorised " + IN,
            "--metrics memorised needs --train",
        ),
        (
            "fid --images {fake} --ref digits --train digits:train --metrics fd " + IN,
            "--train serves authenticity and memorised",
        ),
        (
            "fid --images {fake} --ref digits --train digitz " + IN,
            "--train: digitz does not exist",
        ),
        (
            "fid --images {fake} --ref digits --train digits " + IN,
            "--train: all of the 1797 reference images of digits are training images",
        ),
        (
            "fid --images {fake} --ref digits --train {tmp}/pixels.npz " + PIXELS,
            "statistics alone; authenticity, memorised need the features of every training image",
        ),
        (
            "fid --images {fake} --ref digits --train {tmp}/colour.npz " + PIXELS,
            "colour.npz: 192 feature dimensions, but digits has 64",
        ),
        (
            "fid --images {fake} --ref {tmp}/pixels.npz --train digits:train " + PIXELS,
            "memorised need the reference images; authenticity does not",
        ),
        (
            "fid --images {tmp}/pixels.npz --ref digits:heldout --train digits:train " + PIXELS,
            "pixels.npz: statistics alone; authenticity, memorised needs the images",
        ),
        ("fid --images {fake} --ref digitz " + IN, "digitz does not exist"),
        ("fid --images {tmp}/none --ref digits " + IN, "none does not exist"),
        ("fid --images {tmp}/cut.npz --ref digits " + IN, "cut short"),
        ("fid --images {tmp}/float.npz --ref digits " + IN, "float32, not uint8"),
        ("fid --images {tmp}/one.npz --ref digits " + IN, "at least 2"),
        ("fid --images {tmp}/colour.npz --ref digits " + IN, "3 channels"),
        ("fid --images {tmp}/mixed --ref digits " + IN, "one size"),
        ("fid --images {fake} --ref {tmp}/colour.npz --features pixels", "192"),
        ("fid --images {fake} --ref {tmp}/small.npz " + IN, "dimensions"),
        ("fid --images {fake} --ref {tmp}/pixels.npz " + IN, "statistics of the extractor pixels"),
        ("fid --images {fake} --ref {tmp}/cut-statistics.npz " + IN, "cut-statistics.npz"),
        (
            "fid --images {tmp}/pixels.npz --ref digits --num_samples 5 " + PIXELS,
            "leave num_samples out",
        ),
        ("fid ref --data {tmp}/pixels.npz --dest {out}.npz " + PIXELS, "already"),
        ("fid ref --data digits --dest {tmp}/one.npz/a.npz " + PIXELS, "one.npz/a.npz"),
        (
            "fid neighbours --images {tmp}/colour.npz --train digits --out {out} " + PIXELS,
            "colour.npz has images of 8x8 with 3 channels, but digits of 8x8 with 1 channels",
        ),
        (
            "fid neighbours --images {fake} --train {tmp}/plain.npz --out {out} " + PIXELS,
            "5 nearest of 4 training images; ask for 1 to 4",
        ),
        (
            "fid neighbours --images {fake} --train {tmp}/pixels.npz --out {out} " + PIXELS,
            "pixels.npz",
        ),
        ("fid nll --network {net} --data {tmp}/colour.npz", "colour.npz"),
        ("fid nll --network {cond_net} --data {tmp}/plain.npz", "labels"),
    ],
)
def test_what_is_wrong_is_one_line(at, wrong, command, told):
    done = run(command, **at | {"tmp": wrong})
    lines = [line for line in done.lines if "does not name the network" not in line]
    assert done.code == 2 and len(lines) == 1 and told in lines[0], done.err
    assert done.out == "" and not at["out"].exists()
