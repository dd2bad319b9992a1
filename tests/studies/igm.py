"""What a generator learns of clean digits from incomplete ones: AmbientGAN against damaged and filled-in images."""

from common import measure, spread, table

SEEDS = range(3)
CONFIG = ["--config", "configs/systems/igm_digits.yaml", "--trainer.val_check_interval", "100000"]
UNMEASURED = ["--model.measurement", "null"]
METHODS = {  # what the GAN is trained on -> options beside those of the damage
    "measurements, with measured fakes (AmbientGAN)": [],
    "damaged images": UNMEASURED,
    "images filled in (harmonic)": [*UNMEASURED, "--data.inpaint", "harmonic"],
}


def distance(name: str, options: list[str]) -> str:
    """Frechet distance from the clean test images."""
    figures = measure(f"igm/{name}", [*CONFIG, *options], SEEDS)
    return spread(next(values for figure, values in figures.items() if figure.endswith("-test")), 2)


def damaged(share: float) -> list[str]:
    """Options that hide a share of the pixels; those of the model first, since a method may say otherwise."""
    return ["--model.measurement.share", str(share), "--data.measurement.share", str(share)]


if __name__ == "__main__":
    shares = (0.5, 0.8)
    clean = distance("clean", [*UNMEASURED, "--data.measurement", "null"])
    rows = [["clean images (the floor)", *[clean] * len(shares)]]
    for i, (name, options) in enumerate(METHODS.items()):
        rows.append([name, *(distance(f"method{i}-{share}", [*damaged(share), *options]) for share in shares)])
    print(table(["trained on", *(f"{share:.0%} of the pixels missing" for share in shares)], rows))
