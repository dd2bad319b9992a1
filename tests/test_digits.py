"""The experiments on digits do what the README shows. Minutes long: `make test-slow`."""

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

from src.cli import main
from src.data.digits import Digits
from src.data.mnist import SmallMNIST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source", "readable", "asked", "of_each"),
    [("digits", Digits, 0.97, 0.9, 0.8), ("mnist", SmallMNIST, 0.95, 0.97, 0.9)],
)
def test_an_independent_classifier_reads_the_generated_digits(name, source, readable, asked, of_each, tmp_path):
    """Of 1,000 samples most are the digit asked for, of every class; it is nearly as sure of them as of real ones.

    The classifier reads the share `readable` of held-out digits.
    """
    run = tmp_path / name
    config = str(ROOT / "configs" / f"{name}.yaml")
    main(["fit", "--config", config, "--run_dir", str(run), "--trainer.logger", "false"])
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    main(["predict", "--ckpt_path", checkpoint, "--num_images", "1000", "--output", str(tmp_path / "out")])
    fakes = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "images").iterdir())])

    (images, labels), (held_out, truth) = (source().load(split) for split in ("train", "test"))
    classifier = CalibratedClassifierCV(SVC(C=10, random_state=0), ensemble=False)
    classifier.fit(images.reshape(len(images), -1) / 255, labels)
    real, fake = (classifier.predict_proba(x.reshape(len(x), -1) / 255) for x in (held_out, fakes))
    assert (real.argmax(1) == truth).mean() > readable
    right = (fake.argmax(1) == np.arange(1000) % 10).reshape(100, 10).mean(axis=0)  # the classes were asked for in turn
    print(f"right {right}, mean top probability {fake.max(1).mean():.3f}, real {real.max(1).mean():.3f}")
    assert right.mean() >= asked and right.min() >= of_each
    assert fake.max(1).mean() >= 0.97 * real.max(1).mean()
