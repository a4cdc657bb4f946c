"""fid.py diagnose by its command lines, and the benchmark that asks what it predicts."""

import json
import shutil

import pytest

from benchmarks import prediction, prediction_heads, prediction_report
from dg.calibration import Calibration
from dg.checkpoints import load_discriminator, save_calibrated
from dg.data.manifests import MANIFEST
from dg.options.diagnosis import _tell_origin
from dg.runtime.files import read_json, write_json
from dg.sampling import Sampling
from edm import load_network
from tests.scripts import TRAIN, TWELVE, pixels, run, succeed

ON = "fid diagnose --network {net} --discriminator_ckpt {head} --data digits:heldout "
SMALL = "--images {fake} --levels 3 --num_visited 2 "


def test_a_diagnosis_is_printed_written_drawn_and_stored(at):
    done = succeed(
        ON + SMALL + "--train_data digits:train --train_images {fake} --outdir {out} "
        "--store {tmp}/stored.safetensors --weights 1",
        **at,
    )
    assert "12 real and 12 generated held-out images" in done.out
    assert "verdict: " in done.out and "training AUC" in done.out
    assert "12 images of each kind are taken, drawn by the seed" in done.lines
    found = read_json(at["out"] / "diagnosis.json")
    head = found["heads"][str(at["head"])]
    assert found["images"]["train_real"] == 12 and len(head["levels"]) == 3
    assert [one["weight"] for one in head["levels"][0]["change"]] == [1.0]
    assert found["command"].startswith("python fid.py diagnose") and found["seconds"]["total"] > 0
    for name in ("diagnosis.png", "log_ratio.png"):
        assert (at["out"] / name).stat().st_size > 10_000
    assert f"diagnosis.json, diagnosis.png, log_ratio.png in {at['out']}" in done.lines
    assert sum(head["levels"][0]["histogram"]["real"]) > 0
    net = load_network(at["net"])
    calibrated = load_discriminator(None, at["tmp"] / "stored.safetensors", net, calibrated=True)
    temperatures = [one["temperature"] for one in head["levels"][::-1]]
    assert list(calibrated.calibrations[0].temperatures) == pytest.approx(temperatures)


def test_exchanged_and_few_images_are_named_in_the_output(at):
    succeed(TRAIN + TWELVE + "--epochs 10 --network {net} --save_dir {tmp}/head", **at)
    command = "fid diagnose --network {net} --discriminator_ckpt {tmp}/head/last.safetensors "
    command += "--levels 2 --num_visited 0 "
    exchanged = succeed(command + "--data {fake} --images digits:heldout", **at).out
    right = succeed(command + "--data digits:heldout --images {fake}", **at).out
    assert "verdict: do not guide. The AUC is 0." in exchanged
    told = "real and generated images are exchanged, here or in the training.\n"
    assert told in exchanged and told not in right
    for text in (exchanged, right):
        assert "\ntoo few images: An AUC is known to 0." in text or "but an AUC is known" in text


def test_calibrated_images_differ_and_say_so(at):
    save_calibrated(at["tmp"] / "hot.safetensors", at["head"], Calibration((0, 1), (0.1, 0.1)))
    command = (
        "generate --network {net} --seeds 0-3 --steps 3 --discriminator_ckpt {tmp}/hot.safetensors "
    )
    succeed(command + "--outdir {tmp}/plain", **at)
    succeed(command + "--outdir {tmp}/hot --calibrated", **at)
    assert (pixels(at["tmp"] / "plain") != pixels(at["tmp"] / "hot")).any()
    settings = json.loads((at["tmp"] / "hot" / MANIFEST).read_text())["settings"]
    assert settings["guidance"]["calibrations"] == [
        {"times": [0.0, 1.0], "temperatures": [0.1, 0.1]}
    ]
    for sampler in ("", "--sampler rejection ", "--sampler particles "):
        bare = run(
            "generate --network {net} --seeds 0-3 --discriminator_ckpt {head} --calibrated "
            f"{sampler}--outdir {{out}}",
            **at,
        )
        assert bare.code == 2 and "holds no calibration" in bare.err


@pytest.mark.slow
def test_heads_are_compared_and_guided_images_are_told(at):
    shutil.copytree(at["fake"], at["tmp"] / "guided")
    path = at["tmp"] / "guided" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["settings"] |= {"network": "another", "guidance": {"scale": 2}}
    path.write_text(json.dumps(manifest))
    last = at["tmp"] / "other" / at["head"].name  # a name that the first one has too
    last.parent.mkdir()
    shutil.copy(at["head"].with_name("last.safetensors"), last)
    told = []
    _tell_origin(load_network(at["net"]), at["tmp"] / "guided", told.append)
    assert "another network" in told[0] and "with guidance" in told[1]
    command = ON + SMALL + "--discriminator_ckpt {last} --num_samples 10 --outdir {out}"
    done = succeed(command, last=last, **at)
    names = {path.name for path in at["out"].glob("*.png")}
    assert names == {"diagnosis.png", "log_ratio-head-best.png", "log_ratio-other-best.png"}
    assert "cosine" in done.out and "gain in nats, largest first: " in done.out
    assert "10 real" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--train_data digits", "belong together; give both"),
        ("--discriminator_ckpt {net} --store {out}", "--store keeps one head"),
        ("--calibrated --store {out}", "leave --calibrated out"),
        ("--calibrated", "holds no calibration"),
        ("--num_samples 50", "--num_samples"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_line(at, options, message):
    done = run(ON + SMALL + options, **at)
    assert done.code == 2 and message in done.err.replace("\n", " ")
    assert "Traceback" not in done.err


def test_predictions_are_resumed_and_correlated(at, capsys, monkeypatch):
    folder = at["tmp"] / "run" / "train-head-0123"
    shutil.copytree(at["head"].parent, folder)
    for name, times in (("epoch_001", 0.5), ("epoch_002", 2.0)):
        fitted = Calibration((0, 1), (times, times))  # other bytes, the same head
        save_calibrated(folder / f"{name}.safetensors", folder / "best.safetensors", fitted)
    arguments = [
        *(str(at["tmp"] / "run"), "--network", str(at["net"]), "--data", "digits:heldout"),
        *("--fake", str(at["fake"]), "--ref", "digits:heldout", "--num", "12", "--images", "4"),
        *("--batch", "12", "--out", str(at["out"]), "--features", "pixels"),
    ]
    monkeypatch.setattr(prediction, "Sampling", lambda: Sampling(num_steps=2))
    heads = prediction.heads_in([at["tmp"] / "run"])
    assert [head.stem for head in heads] == ["best", "last", "epoch_001", "epoch_002"]
    prediction.main(arguments)
    found = read_json(at["out"] / "results.json")
    assert len(found["rows"]) == len({row["sha256"] for row in found["rows"]}) >= 3
    row = found["rows"][0]
    assert row["epoch"] == 1 and row["valid_loss"] > 0 and 0 < row["auc"] < 1 and row["fd"] > 0
    capsys.readouterr()
    monkeypatch.setattr(prediction.Prediction, "row", lambda *_: pytest.fail("made again"))
    prediction.main(arguments)
    assert read_json(at["out"] / "results.json")["rows"] == found["rows"]
    report = (at["out"] / "report.md").read_text()
    assert f"whose distance is {found['unguided']:.3f}" in report and "train-head-0123" in report
    assert 'src="prediction.png"' in report
    assert (at["out"] / "prediction.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="other settings"):
        prediction.main([*arguments, "--weight", "1"])
    with pytest.raises(SystemExit, match="no head"):
        prediction.heads_in([at["fake"]])


def rows_of(trainings):
    """Rows from {training: [(fd, gain, valid_loss, auc, epoch)]}."""
    names = ("fd", "gain", "valid_loss", "auc", "epoch")
    return [
        {"name": f"{training}/{place}", "verdict": "guide"} | dict(zip(names, head, strict=True))
        for training, heads in trainings.items()
        for place, head in enumerate(heads)
    ]


def test_correlations_have_the_sign_of_the_order():
    rows = [
        {"name": f"{'ab'[i % 2]}/{i}", "fd": 5.0 - i, "gain": i, "auc": None, "epoch": 3, "loss": i}
        for i in range(6)
    ]
    found = prediction_report.correlations(rows)
    assert set(found) == {"gain", "loss"}
    assert found["gain"]["value"] == pytest.approx(-1) and found["gain"]["expected"] == -1
    assert (found["gain"]["n"], found["gain"]["units"]) == (6, 2) and found["gain"]["high"] <= 0
    assert prediction_report.correlations(rows[::2]) == {}  # of one training


def test_each_number_chooses_a_checkpoint_within_each_training():
    first = [(3.0, 0.3, 0.5, 0.6, 1), (4.0, 0.1, 0.4, 0.7, 2), (2.0, 0.2, 0.6, 0.8, 3)]
    second = [(7.0, 0.1, 0.2, 0.9, 1), (5.0, 0.2, 0.3, 0.5, 2)]
    trainings = {"first": first, "second": second, "one head": first[:1]}
    unknown = [(1.0, 0.9, None, 0.9, 9)]
    rows = rows_of(trainings | {"first, too": unknown * 2})
    found = prediction_report.choices(rows)
    means = {name: one["distance"]["value"] for name, one in found.items()}
    assert means == {"gain": 4.0, "valid_loss": 5.5, "auc": 4.5, "epoch": 3.5, "fd": 3.5}
    assert found["gain"]["distance"]["units"] == 2  # trainings
    less = found["gain"]["less_valid_loss"]  # 3 - 4 and 5 - 7
    assert (less["value"], less["low"], less["high"]) == (-1.5, -2.0, -1.0)
    assert prediction_report.choices(rows_of({"first": first})) == {}


def test_the_report_is_written_again_from_its_rows(tmp_path, capsys):
    first = [(3.0, 0.3, 0.5, 0.6, 1), (4.0, 0.1, 0.4, 0.7, 2)]
    second = [(7.0, 0.1, 0.2, 0.9, 1), (5.0, 0.2, 0.3, 0.5, 2)]
    settings = dict(network="net", weight=2.0, images=4, ref="ref", features="pixels", num=3)
    outcome = {"settings": settings, "unguided": 6.0, "correlations": {"old": {}}}
    outcome |= {"rows": rows_of({"first": first, "second": second}), "command": "as it was"}
    write_json(tmp_path / "results.json", outcome)
    prediction_report.main([str(tmp_path)])
    kept = read_json(tmp_path / "results.json")
    assert kept["rows"] == outcome["rows"] and kept["command"] == "as it was"
    assert kept["correlations"] == prediction_report.correlations(outcome["rows"])
    report = (tmp_path / "report.md").read_text()
    assert "3 of 4 discriminators" in report and "over the 2 trainings" in report
    assert "| largest gain | 4.000 | 3.000 to 5.000 | -1.500 | -2.000 to -1.000 |" in report
    assert "largest gain" in capsys.readouterr().out
    assert (tmp_path / "prediction.png").stat().st_size > 10_000


def test_heads_are_made_along_their_trainings_and_not_again(at, monkeypatch):
    making = prediction_heads.Making("score", 80, 2, 1, 1e-3, 8)
    folder, trained = at["tmp"] / "made", []
    train = prediction_heads.train_discriminator
    monkeypatch.setattr(
        prediction_heads,
        "train_discriminator",
        lambda *args, **kwargs: trained.append(args[0].extractor.kind) or train(*args, **kwargs),
    )
    monkeypatch.setattr(prediction_heads, "Sampling", lambda: Sampling(num_steps=2))
    monkeypatch.setattr(prediction_heads, "TRAININGS", {"small": making})
    arguments = [str(folder), "--network", str(at["net"]), "--data", "digits:train"]
    for _ in range(2):
        prediction_heads.main([*arguments, "--held-out", "4"])
    heads = prediction.heads_in([folder])
    assert trained == ["score", "score"]  # the second time nothing is left to do
    assert [head.name for head in heads][2:] == ["epoch_001.safetensors", "epoch_002.safetensors"]
    assert [prediction.training_of(head)["epoch"] for head in heads[2:]] == [1, 2]
