"""Fusion of modalities: the recordings, the code of any subset of them, and what a probe makes of it."""

import copy
import csv
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, make_gan, make_trainer, refusal

from src.commands.export import traced
from src.data.digits import Digits
from src.data.manifest import Manifest
from src.data.mnist import SmallMNIST
from src.data.multimodal import MODALITIES, SpokenDigits, spectrogram, to_bytes
from src.metrics.cross_modal import CrossModal
from src.metrics.features import Classifier
from src.metrics.probe import LinearProbe, cross_predict, later, pooled, scores
from src.networks import dcgan, fusion
from src.objectives.regularizers import R1
from src.objectives.terms import ModalityPrediction

SUBSETS = [[], ["image"], ["audio"], ["text"], ["image", "text"], list(MODALITIES)]


@pytest.fixture(scope="module")
def digits():
    return SpokenDigits(batch_size=8)


def players():
    torch.manual_seed(0)
    generator = fusion.Generator((8, 8), 1, latent_dim=4, code_dim=8, width=4)
    discriminator = fusion.Discriminator((8, 8), 1, code_dim=8, width=4)
    discriminator.meet(generator)
    return generator, discriminator


def showing(condition, names):
    present = torch.tensor([name in names for name in MODALITIES])
    return condition | {"present": condition["recorded"] & present}


def fusion_gan(**options):
    generator, discriminator = players()
    options = {"generator": generator, "discriminator": discriminator} | options
    return make_gan(g_regularizers=[ModalityPrediction(1.0)], **options)


def test_a_program_of_it_draws_any_number_of_images():
    generator = players()[0].eval()
    z = torch.randn(5, 4)
    torch.testing.assert_close(traced(generator).module()(z), generator(z))


# ---- recordings


def test_recordings_are_a_function_of_the_number_of_the_example(digits):
    again = SpokenDigits(batch_size=32)
    for split in ("train", "test"):
        one, other = (data.condition(split, np.arange(20)) for data in (digits, again))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["audio"][0], one["audio"][1])
    assert not torch.equal(digits.condition("train", np.arange(20))["image"], one["image"])


def test_other_digits_are_spoken_as_well_and_other_images_refused():
    data = SpokenDigits(source=SmallMNIST(), audio_noise=0.0)
    assert (data.image_size, data.num_images("train")) == ((28, 28), 4000)
    assert data.targets("test").tolist() == SmallMNIST().split("test")[1].tolist()
    assert data.condition("test", np.arange(3))["image"].shape == (3, 1, 28, 28)
    with pytest.raises(ValueError, match="classes 0 to 9"):
        SpokenDigits(source=Digits(labels=False))


def test_what_is_made_of_a_modality_is_right_as_often_as_a_classifier_finds_its_digit(digits, monkeypatch):
    """A model that draws the true image where it hears the sound, and a zero where it does not."""
    labels = digits.targets("test")
    images = digits.examples("test", 360)[0]
    zero = images[labels == 0][:1]

    def sample(numbers, condition):
        heard = condition["present"][:, MODALITIES.index("audio")]
        return torch.where(heard[:, None, None, None], images[numbers], zero)

    model = SimpleNamespace(trainer=SimpleNamespace(datamodule=digits), protocol=dict, sample=sample)
    model.generator = SimpleNamespace(names=MODALITIES)
    score = CrossModal(Classifier())
    score.setup("cpu")
    score.check(digits, 1)
    found = {figure["name"]: figure["value"] for figure in score.evaluate(model, errors=True)}
    zeros = (labels == 0).mean()
    assert found["right-text"] == found["right-no-audio"] == pytest.approx(zeros)
    assert found["right-audio"] == found["right-no-text"] == found["right-all"] > 0.95
    with pytest.raises(ValueError, match="several modalities"):
        score.check(Digits(), 1)


def test_the_tones_are_those_of_the_key_and_come_at_most_so_late():
    data = SpokenDigits(audio_noise=0.0, delay=0.1)
    for digit, pair in {0: (941, 1336), 1: (697, 1209), 6: (770, 1477), 9: (852, 1477)}.items():
        signal = data.tones(digit, number=digit)
        loudest = np.abs(np.fft.rfft(signal, 4 * data.RATE))
        peaks = [low + np.argmax(loudest[4 * low : 4 * high]) / 4 for low, high in ((600, 1100), (1100, 1600))]
        assert np.allclose(peaks, pair, atol=4)
        sounding = np.flatnonzero(signal)
        assert sounding[0] <= 0.1 * data.RATE + 1 and sounding[-1] - sounding[0] <= 0.25 * data.RATE


def test_a_band_of_the_spectrogram_is_its_share_of_half_the_rate():
    for rate in (4000, 16000):
        for band in (3, 20):
            frequency = (band + 0.5) * rate / 2 / 32
            frames = spectrogram(np.sin(2 * np.pi * frequency * np.arange(rate) / rate), rate, 20)
            assert frames.shape == (20, 32) and (frames.argmax(1) == band).all()
    assert np.allclose(spectrogram(np.zeros(10), 4000, 3), -2)
    for rate in (8000, 11025, 22050, 44100, 48000):
        assert spectrogram(np.zeros(rate), rate, 31).shape == (31, 32)


def test_typing_errors_and_occlusion_are_as_frequent_as_stated(digits):
    assert SpokenDigits(typos=0.0).name(7, 3) == "seven"
    wrong = [a != b for n in range(2000) for a, b in zip(digits.name(3, n), "three", strict=True)]
    assert abs(np.mean(wrong) - 0.5 * 25 / 26) < 0.02
    image = np.full((1, 8, 8), 255, np.uint8)
    clean = SpokenDigits(image_noise=0.0)
    halves = [tuple(map(tuple, clean.degraded(image, n)[0] == 0)) for n in range(100)]
    assert len(set(halves)) == 4 and all(np.mean(half) == 0.5 for half in halves)


def attach(data, step=0, rank=0, world_size=1, batches_per_step=1):
    module = SimpleNamespace(seed=3, batches_per_step=batches_per_step, accumulate=1)
    data = copy.copy(data)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=rank, world_size=world_size, global_step=step)
    return data


def test_what_a_step_shows_is_a_function_of_it_and_the_processes_share_it_out(digits):
    joined = torch.stack([attach(digits, 5, rank, 2, 3).shown(12).view(3, 4, 3) for rank in range(2)], 1).flatten(0, 2)
    assert torch.equal(joined, attach(digits, 5, 0, 1, 3).shown(24))
    assert not torch.equal(attach(digits, 6, 0, 1, 3).shown(24), joined)
    assert abs(attach(digits).shown(20000).float().mean() - 0.5) < 0.01


def test_training_hides_modalities_and_evaluation_does_not(digits):
    data = attach(digits)
    images, condition = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (8, 1, 8, 8) and images.min() >= -1
    assert torch.equal(condition["present"], data.shown(8)) and condition["recorded"].all()
    request = torch.arange(4), data.conditions(torch.arange(4))
    assert data.on_after_batch_transfer(request, 0)[1]["present"].all()


# ---- networks


def test_the_code_depends_on_what_is_present_alone(digits):
    generator = players()[0].eval()
    one, other = (digits.condition("train", rows) for rows in (np.arange(6), np.arange(6, 12)))
    for names in SUBSETS:
        mixed = other | {name: one[name] for name in names}
        codes = [generator.encode(showing(condition, names)) for condition in (one, other, mixed)]
        assert torch.allclose(codes[0], codes[2], atol=1e-6)
        assert torch.allclose(codes[0], codes[1]) == (not names)
    without = {name: one[name] for name in ("image", "text")}
    assert torch.allclose(generator.encode(without), generator.encode(showing(one, ["image", "text"])), atol=1e-6)
    assert torch.allclose(generator.encode(None, 6), generator.encode(showing(one, [])))


def test_padding_of_a_text_is_not_read_and_order_is():
    encoder = players()[0].encoders["text"]
    texts = [to_bytes(text, length) for text, length in (("ab", 2), ("ab", 9), ("ba", 9))]
    short, padded, turned = (encoder(torch.from_numpy(text)[None]) for text in texts)
    assert torch.allclose(short, padded, atol=1e-6) and not torch.allclose(padded, turned, atol=1e-3)
    assert encoder(torch.zeros(1, 5, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize(("image_size", "channels"), [((8, 8), 1), ((16, 24), 3)])
def test_samples_and_logits_of_any_condition(image_size, channels):
    generator = fusion.Generator(image_size, channels, code_dim=8, width=4)
    discriminator = fusion.Discriminator(image_size, channels, code_dim=8, width=4)
    discriminator.meet(generator)
    z, image = torch.randn(3, *generator.latent_shape), torch.randn(3, channels, *image_size)
    for condition in (None, {"image": image}, {"audio": torch.randn(3, 5, 32)}):
        fake = generator(z, condition)
        assert fake.shape == image.shape and fake.abs().max() <= 1
        assert discriminator(fake, condition).shape == (3,)


def test_the_discriminator_is_given_the_code_and_does_not_train_it(digits):
    generator, discriminator = players()
    (x, condition), z = digits.examples("train", 6), torch.randn(6, 4)
    statistics = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    discriminator.eval()(x, condition)  # an evaluation leaves the generator as it is
    assert generator.training and all(torch.equal(b, statistics[n]) for n, b in generator.named_buffers())
    discriminator.train()
    code, h = generator.encode(condition), discriminator.features(x).flatten(1)
    expected = discriminator.psi(h)[:, 0] + torch.einsum("bc,fc,bf->b", code, discriminator.project.weight, h)
    assert torch.allclose(discriminator(x, condition), expected, atol=1e-5)
    discriminator(x, condition).sum().backward()
    assert all(p.grad is None for p in generator.parameters())
    assert not set(generator.parameters()) & set(discriminator.parameters())
    generator(z, condition)  # nor where it is given the code of the sample just made, which has a graph
    assert generator.latest[1].requires_grad
    discriminator(x, condition).sum().backward()
    assert all(p.grad is None for p in generator.parameters())


def test_a_remembered_code_is_the_one_that_would_be_computed(digits):
    generator, _ = players()
    one, other = (digits.condition("train", rows) for rows in (np.arange(6), np.arange(6, 12)))
    generator(torch.randn(6, 4), one)
    assert generator.latest[1] is generator.code(one, 6)
    assert torch.equal(generator.code(one, 6), generator.encode(one))
    assert torch.equal(generator.code(other, 6), generator.encode(other))
    assert torch.equal(generator.code(None, 6), generator.encode(None, 6))
    generator(torch.randn(6, 4), other)
    assert generator.code(other, 6).requires_grad
    generator.eval()(torch.randn(6, 4), other)
    assert generator.latest is None  # weights may change between two evaluations


def test_every_parameter_learns(digits):
    gan = fusion_gan().double()  # where what has no effect has a gradient of 1e-17
    x, condition = digits.examples("train", 12)
    x = x.double()
    condition = {name: t.double() if t.is_floating_point() else t for name, t in condition.items()}
    present = torch.arange(12)[:, None] % torch.tensor([2, 3, 4]) > 0
    condition |= {"present": present}
    z = torch.randn(12, 4).double()
    fake = gan.generator(z, condition)
    loss = (gan.judge(fake, condition) * torch.randn(12)).sum() + gan.g_regularizers[0].penalty(
        gan, z, fake, x, condition
    )
    loss.backward()
    for name, parameter in gan.named_parameters():
        if name.endswith("text.layer.norm2.bias"):
            continue  # a shift before batch normalization has no effect
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-10, name


def test_prediction_is_the_unexplained_share_of_the_variance_over_what_is_recorded(digits):
    gan = fusion_gan()
    term = gan.g_regularizers[0]
    x, condition = digits.examples("train", 40)
    condition["recorded"] = torch.rand(40, 3) < 0.7
    expected = 0
    for i, (name, values) in enumerate(
        [("image", x.flatten(1)), ("audio", condition["audio"].mean(1)), ("text", torch.zeros(40, 255))]
    ):
        if name == "text":
            for row, text in enumerate(condition["text"].tolist()):
                for byte in filter(None, text):
                    values[row, byte - 1] += 1
        held = condition["recorded"][:, i]
        values, predicted = values[held], term.heads[name](gan.generator.encode(condition))[held]
        left = values - values.mean(0) - values.var(0, correction=0).mean().sqrt() * predicted
        expected += left.square().sum() / (values - values.mean(0)).square().sum() / 3
    assert torch.allclose(term.penalty(gan, None, None, x, condition), expected, rtol=1e-4)
    for parameter in term.parameters():
        torch.nn.init.zeros_(parameter)  # heads that give the mean of everything explain nothing
    everything = condition | {"recorded": torch.ones(40, 3) > 0}
    assert torch.allclose(term.penalty(gan, None, None, x, everything), torch.tensor(1.0), atol=1e-4)


def test_resumed_training_is_the_uninterrupted_one(digits, tmp_path):
    def trained(steps, **options):
        gan = fusion_gan()
        trainer = make_trainer(tmp_path, max_steps=steps)
        trainer.fit(gan, datamodule=digits, **options)
        return gan, trainer

    whole, _ = trained(4)
    _, trainer = trained(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = trained(4, ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_penalty_in_float32_takes_the_code_of_a_step_in_bfloat16(digits, tmp_path):
    gan = fusion_gan()
    gan.regularizers = [R1(1.0)]
    make_trainer(tmp_path, max_steps=2, precision="bf16-mixed").fit(gan, datamodule=digits)
    assert all(weight.isfinite().all() for weight in gan.parameters())


def test_parts_that_do_not_fit_are_refused():
    generator, discriminator = players()
    with pytest.raises(ValueError, match="code of length 8 and the generator has 16"):
        discriminator.meet(fusion.Generator((8, 8), 1, code_dim=16))
    with pytest.raises(ValueError, match="the generator has None"):
        discriminator.meet(dcgan.Generator((8, 8), 1, num_blocks=2))
    with pytest.raises(ValueError, match="needs the code"):
        ModalityPrediction(1.0).build(dcgan.Generator((8, 8), 1, num_blocks=2), discriminator)
    for network in (fusion.Generator, fusion.Discriminator):
        with pytest.raises(ValueError, match="no labels"):
            network((8, 8), 1, num_classes=10)
    with pytest.raises(ValueError, match="multiple of 4"):
        fusion.Generator((8, 8), 1, code_dim=6)
    with pytest.raises(ValueError, match="probability"):
        SpokenDigits(drop=1.5)
    with pytest.raises(ValueError, match="0 to 0.25 seconds"):
        SpokenDigits(delay=0.3)


# ---- scores


def test_scores_against_their_formulas():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    accuracy, recall, f1 = scores(labels, predicted)
    assert accuracy == pytest.approx(4 / 6)
    assert recall == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert f1 == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_a_probe_is_scored_on_examples_that_it_was_not_fitted_on():
    random = np.random.RandomState(0)
    labels = np.arange(120) % 3
    told, noise = np.eye(3)[labels] + 0.1 * random.randn(120, 3), random.randn(120, 200)
    assert (cross_predict([told], labels, 4)[0] == labels).mean() == 1
    assert (cross_predict([noise], labels, 4)[0] == labels).mean() < 0.5  # 200 columns fit 90 examples by heart
    same, turned = cross_predict([told, told[:, [1, 2, 0]]], labels, 4)
    assert (same == labels).all() and (turned == (labels - 1) % 3).all()


def test_a_delay_moves_frames_and_leaves_their_mean(digits):
    condition = digits.condition("test", np.arange(30))
    delayed = condition | {"audio": later(condition["audio"], 4)}
    moved = [torch.equal(a, b) for a, b in zip(condition["audio"], delayed["audio"], strict=True)]
    assert 0 < sum(moved) < 20
    assert np.allclose(pooled(condition)["audio"], pooled(delayed)["audio"], atol=1e-5)


def test_the_probe_sees_held_out_codes_of_each_subset(digits):
    class Told(fusion.Generator):
        """A code that tells the digit where the text is present, and else nothing."""

        code_dim = 10

        def encode(self, condition, batch_size=None):
            there = condition["present"][:, 2].float()
            return torch.nn.functional.one_hot(labels, 10) * there[:, None] + 0.0

    labels = torch.from_numpy(digits.targets("test"))
    gan = SimpleNamespace(
        trainer=SimpleNamespace(datamodule=digits), generator=Told((8, 8), 1), generator_ema=None,
        device=torch.device("cpu"), protocol=lambda: {"seed": 0},
    )  # fmt: skip
    probe = LinearProbe(folds=3)
    results = {result["name"]: result for result in probe.evaluate(gan, errors=True)}
    assert probe.name in results and results["accuracy-code-all"]["protocol"]["num_real"] == 360
    for what, expected in {"all": 1, "text": 1, "no-image": 1, "delayed": 1, "no-text": 0.1, "audio": 0.1}.items():
        assert results[f"accuracy-code-{what}"]["value"] == pytest.approx(expected, abs=0.03)
    assert {name.split("-", 2)[2] for name in results} == {
        "all", "delayed", "image", "audio", "text", "no-image", "no-audio", "no-text",
    }  # fmt: skip
    for kind in ("raw", "pooled"):  # neither trivial nor hopeless alone, and better together
        values = {what: results[f"accuracy-{kind}-{what}"]["value"] for what in ("all", "image", "audio", "text")}
        assert all(0.2 < values[name] < 0.85 for name in MODALITIES) and values["all"] > max(list(values.values())[1:])


@pytest.mark.parametrize("folds, labelled, says", [(2, True, False), (9, True, True), (2, False, True)])
def test_too_few_labels_for_a_probe_are_known_before_the_first_step(folds, labelled, says, tmp_path, caplog):
    table = write_manifest(tmp_path)
    write_table(tmp_path, [{k: v for k, v in row.items() if labelled or k != "label"} for row in table])
    data = Manifest(str(tmp_path / "table.csv"), 8, 1, test_share=0.6, cache_dir=str(tmp_path / "cache"))
    LinearProbe(folds).check(data, 100)
    line = f"LinearProbe will give no figure: it takes {folds} labelled test examples of each of two classes"
    assert any(message.startswith(line) for message in caplog.messages) == says


# ---- manifests


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(folder, rows=10):
    """A table of grey images, sounds and texts of two classes; every third sound and every fourth text is missing."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    table = []
    for i in range(rows):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(folder / f"{i}.png")
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(4000)
            file.writeframes((8000 * np.sin(np.arange(2000) * (i + 1) / 10)).astype("<i2").tobytes())
        audio, text = f"{i}.wav" if i % 3 else "", f"Größe {i}" if i % 4 else ""
        table.append({"image": f"{i}.png", "audio": audio, "text": text, "label": "ab"[i % 2]})
    write_table(folder, table)
    return table


def write_table(folder, table):
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def test_a_manifest_holds_its_rows(folder):
    data = Manifest(str(folder / "table.csv"), 8, 1, cache_dir=str(folder / "cache"), hide_half=False)
    seen = {}
    for split, count in (("train", 8), ("test", 2)):
        images, condition = data.examples(split, 100)
        assert len(images) == count and condition["audio"].shape == (count, 31, 32)
        for j, image in enumerate(images):
            assert torch.allclose(condition["image"][j], image, atol=1e-6)
            number = round((image[0, 0, 0].item() + 1) * 127.5) // 20
            seen[number] = {name: condition[name][j] for name in condition}
            assert data.targets(split)[j] == number % 2
    assert set(seen) == set(range(10))
    for number, example in seen.items():
        assert example["recorded"].tolist() == [True, number % 3 > 0, number % 4 > 0]
        text = f"Größe {number}" if number % 4 else ""
        assert bytes(example["text"].tolist()).rstrip(b"\0").decode() == text


def spoil(folder, **changes):
    rows = [
        row | {name: value for name, value in changes.items() if i == 2} for i, row in enumerate(write_manifest(folder))
    ]
    write_table(folder, rows)


def without_column(folder, *names):
    write_table(folder, [{k: v for k, v in row.items() if k not in names} for row in write_manifest(folder)])


def write_audio(folder, content=None, rate=4000):
    if content is not None:
        (folder / "2.wav").write_bytes(content)
        return
    with wave.open(str(folder / "2.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda f: (f / "table.csv").unlink(), "table.csv does not exist: name a table with --data.manifest"),
        (lambda f: (f / "table.csv").write_text(""), "needs a column image, .* it has nothing"),
        (lambda f: without_column(f, "image"), "needs a column image, .* it has audio, label, text"),
        (lambda f: without_column(f, "audio", "text"), "needs a column image, .* it has image, label"),
        (lambda f: spoil(f, image="none.png"), "line 4: image none.png does not exist"),
        (lambda f: spoil(f, audio="none.wav"), "line 4: audio none.wav does not exist"),
        (lambda f: spoil(f, image=""), "line 4: no image"),
        (lambda f: spoil(f, text="  "), "line 4: text is blank"),
        (lambda f: (f / "table.csv").write_text("image,text\n0.png,one, two\n"), "table.csv, line 2 has more cells"),
        (lambda f: (f / "table.csv").write_bytes(b"image,text\n0.png,gr\xfc\n"), "table.csv is no table in UTF-8"),
        (lambda f: write_table(f, [row | {"text": ""} for row in write_manifest(f)]), "column text is empty"),
        (lambda f: write_audio(f, b"RIFF"), "2.wav is no uncompressed WAV file"),
        (lambda f: write_audio(f, b""), "2.wav is no uncompressed WAV file"),
        (lambda f: write_audio(f, rate=8000), "4000 samples a second and .*2.wav 8000|8000 .* 4000"),
    ],
)  # fmt: skip
def test_bad_manifests_end_in_one_line(folder, capsys, spoiled, message):
    import re

    spoiled(folder)
    experiment = ROOT / "configs" / "systems" / "fusion_manifest.yaml"
    config = ["--config", str(experiment), "--config", str(ROOT / "configs" / "debug.yaml")]
    options = {"manifest": folder / "table.csv", "image_size": 8, "channels": 1, "test_share": 0, "batch_size": 4}
    options |= {"cache_dir": folder / "cache"}
    arguments = [part for name, value in options.items() for part in (f"--data.{name}", str(value))]
    line = refusal(["fit", *config, *arguments, "--run_dir", str(folder / "run")], capsys)
    assert re.search(message, line), line


def test_parquet_without_pandas(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    (folder / "table.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="export a .csv"):
        Manifest(str(folder / "table.parquet"))


def test_labels_never_reach_a_batch(digits):
    assert digits.num_classes == 0 and digits.split("train")[1] is None
    condition = digits.condition("train", np.arange(5))
    assert set(condition) == {"image", "audio", "text", "recorded", "present"}
    assert (digits.targets("train") == Digits().load("train")[1]).all()
