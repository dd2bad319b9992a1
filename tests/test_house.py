"""The plan of the house: who imports whom, and what the configurations promise."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, in_the_checkout, write_images

from src.callbacks.standing import StandingStatistics
from src.cli import main
from src.gan import GAN

SOURCES = sorted((ROOT / "src").rglob("*.py"))
SHIPPED = [*(ROOT / "configs" / f"{name}.yaml" for name in ("mnist", "digits", "folder", "debug"))]
SHIPPED += sorted(path for name in ("systems", "recipes", "overlays") for path in (ROOT / "configs" / name).iterdir())
CONFIGS = [path for path in SHIPPED if path.suffix == ".yaml"]  # yours may lie beside them and be as they like

# A room imports from itself and from the rooms below it that stand here; files of `src` itself are rooms, too.
ROOMS = {
    "engine": set(),
    "images": {"engine"},
    "networks": {"images", "engine"},
    "data": {"images", "engine"},
    "callbacks": {"images", "engine"},
    "metrics": {"images", "engine"},
    "objectives": {"networks", "images", "engine"},
    "evaluation": {"metrics", "networks", "images", "engine"},
    "training": {"evaluation", "images", "engine"},
    "gan": {"training", "objectives", "metrics", "networks", "images", "engine"},
    "commands": {"gan", "metrics", "data", "callbacks", "networks", "images", "engine"},
    "cli": {"gan", "commands", "metrics", "data", "callbacks", "engine"},
    "__main__": {"cli", "engine"},
}


def imports(path):
    """Modules of `src` imported at the top level of a file, as `networks.base`; the package itself is free."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("src.") for alias in node.names if alias.name.startswith("src."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "src":
            inside = node.module.removeprefix("src").removeprefix(".")
            for alias in node.names:
                full = f"{inside}.{alias.name}" if inside else alias.name
                is_module = (ROOT / "src" / (full.replace(".", "/") + ".py")).exists()
                yield full if is_module else inside


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below(path):
    room = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    for imported in filter(None, imports(path)):
        assert imported.split(".")[0] in ROOMS.get(room, set()) | {room}, f"{path} imports {imported}"


def test_the_house_is_seen_at_a_glance():
    """Few files beside the rooms, none too long to read, and each room says who lives there."""
    top = {path.name for path in (ROOT / "src").iterdir() if path.suffix == ".py"}
    assert top == {"__init__.py", "__main__.py", "cli.py", "gan.py", "training.py", "evaluation.py"}
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 300, path
    for folder in {path.parent for path in SOURCES} - {ROOT / "src"}:
        assert 3 <= len(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())).splitlines()) <= 6, folder


def test_the_house_is_at_most_four_deep():
    assert max(len(path.relative_to(ROOT).parts) for path in SOURCES) <= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_configurations_hold_only_what_differs(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) <= {"seed_everything", "trainer", "model", "data"}


EXPERIMENTS = [
    path for path in CONFIGS if "data" in yaml.safe_load(path.read_text()) and path.parent.name != "overlays"
]
OVERLAYS = [path for path in CONFIGS if path not in EXPERIMENTS]


# Of BigGAN's recipes, whose networks are slow to make, one is quick: the others have parts that other tests run.
LONG = ("biggan_consistency_cifar10.yaml", "biggan_diffaugment_cifar10.yaml", "biggan_lecam_cifar10.yaml")
LONG += ("stylegan2_folder256.yaml", "r3gan_folder256.yaml")  # large images


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.name in LONG)) for path in EXPERIMENTS],
    ids=lambda p: p.name,
)
def test_every_experiment_prints_and_runs_at_tiny_width(path, tmp_path, capsys, monkeypatch):
    """Through the real command line; data that are not at hand are replaced by images of the same size in a folder."""
    monkeypatch.setattr(StandingStatistics.__init__, "__defaults__", (2, 2))  # 100 batches of 64 take long
    config = yaml.safe_load(path.read_text())
    overlay = {"model": {}, "data": {"init_args": {"batch_size": 4}}}
    source = config["data"]["class_path"].split(".")[-2:]
    if source[0] in ("vision", "folder"):
        given = config["data"].get("init_args", {})
        size = given.get("image_size") or {"MNIST": 28}.get(source[1], 32)
        channels = 1 if size == 28 else 3
        write_images(tmp_path / "images", size, channels)
        data = {"root": str(tmp_path / "images"), "cache_dir": str(tmp_path / "cache"), "image_size": size}
        data |= {"channels": channels, "batch_size": 4, "flip": given.get("flip", False)}
        overlay["data"] = {"class_path": "src.data.folder.ImageFolder", "init_args": data}
    if source == ["manifest", "Manifest"]:
        write_images(tmp_path / "images", 32, 3)
        rows = [f"images/{name}/{i}.png,{name} {i}" for name in ("a", "b") for i in range(10)]
        (tmp_path / "manifest.csv").write_text("\n".join(["image,text", *rows]))
        overlay["data"]["init_args"] |= {
            "manifest": str(tmp_path / "manifest.csv"),
            "cache_dir": str(tmp_path / "cache"),
        }
    for network in ("generator", "discriminator"):
        options = config["model"][network].get("init_args", {})
        narrow = {name: value for name, value in (("hidden", [4]), ("width", 4)) if name in options}
        overlay["model"][network] = {"init_args": narrow}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    arguments = ["fit", "--config", str(path), "--config", str(tmp_path / "tiny.yaml")]
    cli = main([*arguments, "--config", str(ROOT / "configs" / "debug.yaml"), "--run_dir", str(tmp_path / "run")])
    again = GAN.made(dict(cli.model.hparams))  # as `load_from_checkpoint` does
    assert again.state_dict().keys() == cli.model.state_dict().keys() and again.hparams.loss == cli.model.hparams.loss
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--print_config"])
    assert stopped.value.code == 0 and "generator" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()  # the overlay keeps nothing


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: p.name)
def test_every_overlay_runs_on_the_experiment_that_it_names(path, tmp_path):
    first = path.read_text().splitlines()[0]
    assert "overlay" in first
    base = re.search(r"configs/[\w/]+\.yaml", path.read_text())[0]
    config = ["--config", str(ROOT / base), "--config", str(path)]
    if base == "configs/folder.yaml":
        write_images(tmp_path / "images", 64, 3)
        config += ["--data.root", str(tmp_path / "images"), "--data.cache_dir", str(tmp_path / "cache")]
    if path.name != "debug.yaml":
        config += ["--config", str(ROOT / "configs" / "debug.yaml")]
    main(["fit", *config, "--run_dir", str(tmp_path / "run")])


def test_nothing_names_a_machine():
    here = [p for p in ROOT.rglob("*") if p.suffix in {".py", ".yaml", ".md", ".toml"} and ".venv" not in p.parts]
    for path in [*here, ROOT / "Makefile"]:
        if path.relative_to(ROOT).parts[0] in ("data", "runs"):
            continue
        assert not re.search(r"/(home|root)/\w", path.read_text()), path


def test_what_tests_leave_in_the_checkout_is_found(tmp_path):
    assert in_the_checkout(tmp_path) is None
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in (".gitignore", "kept.txt", ".cache/x", "new/y", "__pycache__/z", ".venv/z", ".pytest_cache/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(".cache/\n__pycache__/\n.venv/\n")
    assert in_the_checkout(tmp_path) == {"?? .gitignore", "?? kept.txt", "!! .cache/x", "?? new/y"}


MINE = '''"""Networks of a user."""

from src.networks import mlp


class Generator(mlp.Generator):
    """Mine."""


class Discriminator(mlp.Discriminator):
    """Mine."""
'''


def test_files_of_a_user_need_no_edit_of_a_page_or_a_test(tmp_path):
    """A configuration and a network are added to a copy of the house, and its tests still pass."""
    for name in ("src", "configs", "tests", ".github", ".assets", ".docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "src" / "networks" / "mine.py").write_text(MINE)
    (tmp_path / "configs" / "mine").mkdir()
    for path in ("mine.yaml", "mine/first.yaml"):
        (tmp_path / "configs" / path).write_text("run_dir: runs/mine\n" * 50)
    quick = "not runs and not commands_parse and not user and not other_commands"
    tests = ["tests/test_house.py", "tests/test_pages.py", "-k", quick]
    done = subprocess.run([sys.executable, "-m", "pytest", *tests, "-q"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
