"""The default experiment does what the README shows. Minutes long: `make test-slow`."""

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

from src.cli import main
from src.data.digits import Digits


@pytest.mark.slow
def test_an_independent_classifier_reads_the_generated_digits(tmp_path):
    """Of 1,000 samples all ten digits are recognised, none under 3 %, nearly as surely as held-out real ones."""
    run = tmp_path / "digits"
    main(["fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--run_dir", str(run), "--trainer.logger", "false"])
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    main(["predict", "--ckpt_path", checkpoint, "--num_images", "1000", "--output", str(tmp_path / "out")])
    fakes = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "images").iterdir())])

    (images, labels), (held_out, truth) = (Digits().load(split) for split in ("train", "test"))
    classifier = CalibratedClassifierCV(SVC(C=10, random_state=0), ensemble=False)
    classifier.fit(images.reshape(len(images), -1) / 255, labels)
    real, fake = (classifier.predict_proba(x.reshape(len(x), -1) / 255) for x in (held_out, fakes))
    assert (real.argmax(1) == truth).mean() > 0.97
    shares = np.bincount(fake.argmax(1), minlength=10) / len(fake)
    print(f"shares {shares}, mean top probability {fake.max(1).mean():.3f}, real {real.max(1).mean():.3f}")
    assert shares.min() >= 0.03
    assert fake.max(1).mean() >= 0.95 * real.max(1).mean()
    assert (fake.argmax(1) == np.arange(1000) % 10).mean() > 0.9  # and they are the ones asked for
