"""The pages: commands are understood, links lead somewhere, names and figures are those of the code."""

import inspect
import re
import shlex
from importlib import import_module
from urllib.parse import unquote

import pytest
import torch
import yaml
from conftest import ROOT, write_images

from src.callbacks.checkpoints import LastCheckpoint
from src.callbacks.doctor import CAUSES, EARLIEST, diagnose
from src.cli import FUNCTIONS, Trainer, main
from src.commands.parts import bases, parts
from src.data.digits import Digits
from src.data.mnist import SmallMNIST
from src.engine.freezing import freeze_
from src.gan import GAN
from src.metrics import classifier
from src.metrics.features import Classifier
from src.metrics.statistics import GROUPS

HIDDEN = (".venv", ".git", ".cache", "runs", "data", "wandb", ".pytest_cache")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(ROOT.rglob("*.md"))
    if not set(path.relative_to(ROOT).parts[:1]) & set(HIDDEN)
}
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def commands():
    """Command lines in blocks of shell, without comments, by page."""
    for page, text in PAGES.items():
        for block in re.findall(r"^```(?:ba)?sh\n(.*?)^```", text, flags=re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                yield page, line.split(" #")[0].split(" ||")[0].strip()


COMMANDS = sorted({command[command.index(" -m src") + 4 :] for _, command in commands() if " -m src" in command})
OF_MODEL = re.compile("src (fit|validate|test|predict) ")  # the other commands have parsers of their own


@pytest.mark.parametrize("command", filter(OF_MODEL.match, COMMANDS))
def test_commands_parse(command, tmp_path, monkeypatch, capsys):
    """Each is parsed whole by the real command line; digits.yaml stands for a checkpoint that it names."""
    words = shlex.split(command)[1:]
    for i, word in enumerate(words):
        if word.endswith((".root", ".test_root")):
            write_images(tmp_path / str(i), 8, 3)
            words[i + 1] = str(tmp_path / str(i))
    if "--ckpt_path" in words:
        monkeypatch.setattr("src.commands.first.check_checkpoint", lambda path: None)
        monkeypatch.setattr(
            "src.commands.remembered.remembered", lambda *_: ["--config", str(ROOT / "configs" / "digits.yaml")]
        )
    (tmp_path / "my_ideas.py").write_text(example("README.md", "# my_ideas.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    if "--model.freeze" in words:  # names of weights that there are
        model = yaml.safe_load(printed.out)["model"]
        module, _, name = model["discriminator"]["class_path"].rpartition(".")
        options = model["discriminator"]["init_args"] | {"image_size": (32, 32), "channels": 3, "num_classes": 0}
        freeze_({"discriminator": getattr(import_module(module), name)(**options)}, model["freeze"])


@pytest.mark.parametrize("command", [command for command in COMMANDS if not OF_MODEL.match(command)])
def test_options_of_the_other_commands_are_in_their_help(command, capsys):
    module, *words = shlex.split(command)
    with pytest.raises(SystemExit):
        classifier.main(["--help"]) if module == "src.metrics.classifier" else main([words[0], "--help"])
    assert module == "src.metrics.classifier" or words[0] in FUNCTIONS
    told = capsys.readouterr().out
    for word in words:
        option = word.partition(".")[0]  # those of a class that it names are in the help of that class
        assert not word.startswith("--") or re.search(rf"{option}\b", told), word


def test_targets_of_make_are_there():
    targets = re.findall(r"^([a-z%-]+):", MAKEFILE, flags=re.M)
    studies = {path.stem for path in (ROOT / "tests" / "studies").glob("*.py")} - {"common"}
    targets += [f"study-{name}" for name in studies]
    for page, text in PAGES.items():
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.M):
            assert target in targets, f"{page}: make {target}"


def example(page: str, first: str) -> str:
    """The block of Python in a page that begins so."""
    return next(
        block for block in re.findall(r"^```python\n(.*?)^```", PAGES[page], flags=re.M | re.S) if first in block
    )


@pytest.mark.parametrize(("page", "first"), [("README.md", "# my_ideas.py"), ("src/README.md", "# src/objectives/")])
def test_the_loss_of_the_page_is_one(page, first):
    names: dict = {}
    exec("from src.objectives.losses import Loss\n" + example(page, first), names)
    loss, logits = names["Exponential"](), torch.tensor([0.0, 1.0])
    assert loss.generator(None, logits) == (-logits).exp().mean()
    assert loss.discriminator(logits, -logits) == 2 * (-logits).exp().mean()


def test_the_python_of_the_readme_runs(run):
    lines, names = example("README.md", "from src.cli import load"), {}
    exec(lines.replace("runs/mnist/checkpoints/last.ckpt", str(run / "checkpoints" / "last.ckpt")), names)
    assert names["images"].shape == (16, 1, 8, 8)


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_no_page_and_no_picture_is_forgotten():
    """A reader who follows links from the README comes to all of them."""
    reached, new = set(), {(ROOT / "README.md").resolve()}
    while new:
        path = new.pop()
        reached.add(path)
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)#:]+)", path.read_text())
            new |= {(path.parent / link).resolve() for link in links} - reached
    for path in [*(ROOT / page for page in PAGES), *(ROOT / ".assets").iterdir()]:
        assert path.resolve() in reached, path


@pytest.mark.parametrize("page", PAGES)
def test_names_in_a_page_exist(page):
    """Files, configurations and classes that stand in quotes or in commands."""
    text = PAGES[page]
    if page == ".github/CHANGELOG.md":
        text = text.partition("## Since")[0]  # it names what was
    configurations = {path.name for path in (ROOT / "configs").rglob("*.yaml")} | {"config.yaml"}
    for name in re.findall(r"[\w/]+\.yaml", text):
        found = (ROOT / name).exists() if "/" in name else name in configurations
        assert found or (ROOT / "configs" / name).exists() or ((ROOT / page).parent / name).exists(), name
    for name in re.findall(r"`(src/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\bsrc(?:\.\w+)+", text):
        if "mine" not in name:
            assert importable(name), name


@pytest.mark.parametrize("page", PAGES)
def test_options_in_a_page_exist(page):
    data, _ = bases()["data"]  # walks the rooms
    owners = {"model": [GAN], "trainer": [Trainer], "data": parts(data)}
    for group, option in re.findall(r"--(model|trainer|data)\.(\w+)", PAGES[page]):
        kinds = {base for owner in owners[group] for base in owner.__mro__}
        assert any(option in inspect.signature(kind.__init__).parameters for kind in kinds), f"--{group}.{option}"


def importable(name: str) -> bool:
    """Whether it is a module, or a class or function of one."""
    try:
        import_module(name)
        return True
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(import_module(module), attribute)


def options(name: str) -> dict:
    return yaml.safe_load((ROOT / "configs" / name).read_text())


def test_figures_of_the_pages_are_those_of_the_code():
    for source in (Digits, SmallMNIST):
        train, test = (len(source().split(split)[0]) for split in ("train", "test"))
        assert f"{train:,} training images" in PAGES["tests/README.md"]
        assert f"{test:,} test images" in PAGES["tests/README.md"]
    assert f"trains on {train:,} digits" in PAGES["README.md"]
    pages = {"digits": ("configs/systems/README.md", "src/metrics/README.md", "tests/README.md")}
    for name in Classifier.SHIPPED:
        distance = Classifier(name).load().distance
        for page in pages.get(name, ("tests/README.md",)):
            assert set(re.findall(rf"fcd-{name}-\w+", PAGES[page])) == {distance}, page
    assert f"over {GROUPS} groups" in PAGES["src/metrics/README.md"]
    assert f"every {LastCheckpoint().every_n_steps:,} steps" in PAGES["src/engine/README.md"]
    for name, batch_size in (("digits", 64), ("mnist", 32)):
        steps = options(f"{name}.yaml")["trainer"]["max_steps"]
        assert f"{steps:,} steps of {batch_size}" in PAGES["tests/README.md"]
    rows = re.findall(r"^\| \[\w+\.yaml\]\((recipes/\w+\.yaml)\) .* \| ([\d.]*) ?\|$", PAGES["configs/README.md"], re.M)
    assert len(rows) > 3
    for name, published in rows:
        reported = re.search(r"reports FID ([\d.]+\d)", (ROOT / "configs" / name).read_text())
        assert published == (reported[1] if reported else ""), name
    assert (
        f"{options('recipes/sngan_cifar10.yaml')['model']['d_steps']} discriminator updates"
        in PAGES["configs/README.md"]
    )


SIGNS = {  # of an ailment: what the page says in front of the limit, and the figures that pass it
    "overfitting": ("`overfitting` above", ["overfitting"]),
    "collapse": ("`diversity` below", ["diversity"]),
    "one_hue": ("`color_diversity` below", ["color_diversity"]),
    "checkerboard": ("`checkerboard` above", ["checkerboard"]),
    "vanishing": ("no gradient reaches the generator | below", ["gradient"]),
    "d_wins": ("`accuracy/train` and `accuracy/fake` above", ["accuracy/train", "accuracy/fake"]),
    "g_wins": ("| `accuracy/fake` below", ["accuracy/fake"]),
}


@pytest.mark.parametrize("ailment", CAUSES)
def test_limits_of_the_doctor_are_those_of_the_page(ailment):
    page, (said, figures) = PAGES["src/callbacks/README.md"], SIGNS[ailment]
    limit = float(re.search(rf"{re.escape(said)} ([\d.]+)", page)[1])
    beyond = 1.005 if said.endswith("above") else 0.995
    healthy = {"accuracy/train": 0.7, "accuracy/fake": 0.7, "diversity": 1.0, "gradient": 0.5}
    assert diagnose(healthy | dict.fromkeys(figures, limit * beyond)) == [ailment]
    assert diagnose(healthy | dict.fromkeys(figures, limit / beyond)) == []
    assert f"the first {EARLIEST:,} images" in page


def test_overlays_go_with_what_the_page_says():
    rows = re.findall(r"\(overlays/(\w+\.yaml)\) \| `(\w+\.yaml)`", PAGES["configs/README.md"])
    assert len(rows) > 10
    for overlay, base in rows:
        named = re.search(r"configs/(?:\w+/)?(\w+\.yaml)", (ROOT / "configs" / "overlays" / overlay).read_text())
        assert named[1] == base, overlay
