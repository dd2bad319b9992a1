"""Parts are found by themselves: short names, lists, help, and the nearest name where one is misspelt."""

import inspect
import re

import pytest
import yaml
from conftest import ROOT, refusal

from src import __version__
from src.cli import main
from src.commands.first import COMMANDS, nearest
from src.commands.parts import bases, completed, full, listed, parts, path, short
from src.networks import dcgan

DIGITS = ["fit", "--config", str(ROOT / "configs" / "digits.yaml")]


def printed(args, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(args)
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    return said.out


def model(args, capsys):
    return yaml.safe_load(printed([*DIGITS, *args, "--print_config"], capsys))["model"]


def test_every_short_name_is_understood_and_stands_for_one_part():
    every = {kind for base, _ in bases().values() for kind in parts(base)}
    assert len(every) > 50
    names = [short(kind) for kind in every]
    assert len(set(names)) == len(names)
    assert all(full(short(kind)) == path(kind) for kind in every if "." in short(kind))


def test_abstract_bases_are_not_offered():
    for option, (base, _) in bases().items():
        assert parts(base), option
        assert not any(inspect.isabstract(kind) for kind in parts(base))
    offered = {kind.__name__ for base, _ in bases().values() for kind in parts(base)}
    assert not offered & {
        "Loss",
        "Regularizer",
        "Metric",
        "PairMetric",
        "Mask",
        "Classical",
        "Multimodal",
        "Augmentation",
    }


def test_what_is_no_short_name_stays_as_it_is():
    for name in ("torch.optim.Adam", "nothing.Generator", "my/file.Png", "Hinge", "dcgan.generator", "os.PathLike", ""):
        assert full(name) == name
    assert full("dcgan.Generator") == path(dcgan.Generator)


def test_short_names_on_the_command_line_and_in_yaml(capsys, tmp_path):
    given = model(["--model.generator", "mlp.Generator", "--model.discriminator=mlp.Discriminator"], capsys)
    assert given["generator"]["class_path"] == "src.networks.mlp.Generator"
    assert given["discriminator"]["class_path"] == "src.networks.mlp.Discriminator"
    (tmp_path / "short.yaml").write_text("model: {generator: {class_path: mlp.Generator}, loss: losses.Hinge}\n")
    given = model(["--config", str(tmp_path / "short.yaml")], capsys)
    assert given["generator"]["class_path"] == "src.networks.mlp.Generator"
    assert given["loss"]["class_path"] == "src.objectives.losses.Hinge"


@pytest.mark.parametrize("given", [["--model.regularizers", "R2"], ["--model.regularizers=R2"]])
def test_one_name_stands_for_a_list_of_it(given, capsys):
    (only,) = model([*given, "--model.regularizers.weight", "3"], capsys)["regularizers"]
    assert only["class_path"].endswith(".R2") and only["init_args"]["weight"] == 3
    assert model(["--model.regularizers", "null"], capsys)["regularizers"] is None
    assert len(model(["--model.regularizers+=R2", "--model.regularizers.weight=1"], capsys)["regularizers"]) == 2
    assert completed(["--run_dir", "R2"]) == ["--run_dir", "R2"]


@pytest.mark.parametrize("option", ["model.loss", "model.generator", "model.metrics", "data", "trainer.callbacks"])
def test_help_without_a_name_lists_the_parts_with_their_first_lines(option, capsys):
    said = printed(["fit", f"--{option}.help"], capsys)
    assert said.strip() == listed(option)
    for kind in parts(bases()[option][0]):
        line = next(line for line in said.splitlines() if re.match(rf"  {re.escape(short(kind))} ", line))
        assert line.endswith(inspect.getdoc(kind).splitlines()[0])


def test_parts_are_listed_by_room_file_option_and_module_of_the_user(tmp_path, monkeypatch, capsys):
    def names(*words):
        capsys.readouterr()
        main(["list", *words])
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert names("losses") == names("loss") == names("model.loss")
    assert names("losses")[0] == "--model.loss" and {"Hinge", "LeCam"} <= set(names("losses"))
    assert "LeCam" not in names("src.objectives.losses")  # which lies in a file of its own
    assert {"--model.generator", "--model.discriminator", "mlp.Generator"} <= set(names("networks"))
    assert "R1" in names("regularizers") and "R1" not in names("losses")
    assert len(names()) > len(names("networks")) + len(names("losses")) and names("data", "losses")[0] == "--data"
    (tmp_path / "listed_by_a_user.py").write_text(
        'from src.objectives.losses import Hinge, Loss\n\n\nclass Mine(Hinge):\n    """My own."""\n\n\n'
        "class Half(Loss):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for word in ("listed_by_a_user", "listed_by_a_user.py"):
        main(["list", word])
        assert capsys.readouterr().out == "--model.loss\n  listed_by_a_user.Mine  My own.\n"
    (tmp_path / "broken_by_a_user.py").write_text("class")
    assert "broken_by_a_user cannot be imported: SyntaxError" in refusal(["list", "broken_by_a_user"], capsys)


def test_help_of_a_short_name_is_that_of_its_class(capsys):
    assert "num_blocks" in printed(["fit", "--model.generator.help", "dcgan.Generator"], capsys)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("--model.loss Hing", "Hinge"), ("--model.los Hinge", "--model.loss"), ("--data Digit", "Digits"),
        ("--model.generator dcgan.Generatr", "dcgan.Generator"), ("--model.generator.widht 3", "width"),
        ("--trainer.max_step 3", "--trainer.max_steps"), ("--trainer.callbacks+=SampelGrid", "SampleGrid"),
        ("--model.regularizers+=R1 --model.regularizers.wieght 3", "weight"), ("--data.batchsize 3", "batch_size"),
        ("--model.metrics.extractor Inceptoin", "Inception"),
    ],
)  # fmt: skip
def test_a_misspelt_name_gets_the_nearest_one(wrong, meant, capsys):
    assert refusal([*DIGITS, *wrong.split()], capsys).endswith(f": did you mean {meant}?")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("fit --config digits.yaml --data ImageFolder", "required: --data.root ("),
        ("fit --config systems/simmim_digits.yaml --data.source ImageFolder", "required: --data.source.root ("),
        ("fit --data Digits", "required: --model.generator, --model.discriminator ("),
        ("fit --config digits.yaml --model.generator.width x", "--model.generator.width: expected int"),
        ("fit --config digits.yaml --model.g_optimizer.lr x", "expected float; given: str Given value: x (`--help`"),
        ("fit --config digits.yaml --data.root x", "--data: Option 'root' is not accepted (`--help`"),
        ("score --real a --fake b --metrics FrechetDistance --metrics.extractor Inceptoin",
         "--metrics.extractor: there is no class Inceptoin: did you mean Inception?"),
        ("score --real a --fake b --metrics KernelDistence", "--metrics: there is no class KernelDistence: did"),
    ],
)  # fmt: skip
def test_an_error_names_the_option_as_it_is_typed(args, said, capsys):
    args = [str(ROOT / "configs" / arg) if arg.endswith(".yaml") else arg for arg in args.split()]
    assert said in refusal(args, capsys)


def test_a_name_like_no_other_gets_no_suggestion(capsys):
    assert nearest("xyzzy", ["Hinge"]) == ""
    said = refusal([*DIGITS, "--model.loss", "xyzzy"], capsys)
    assert "did you mean" not in said and re.search(r"src\.objectives\.\w+\.\w+ for instance", said)


def test_commands_are_named_suggested_and_described(capsys):
    main(["--help"])
    assert re.findall(r"^  (\w+) +[A-Z].*\.$", capsys.readouterr().out, re.MULTILINE) == list(COMMANDS)
    assert "did you mean predict?" in refusal(["predct"], capsys)
    assert ", ".join(COMMANDS) in refusal([], capsys)


@pytest.mark.parametrize("git", [True, False])
def test_version_names_what_it_stands_on(git, capsys, monkeypatch, tmp_path):
    if not git:  # as in a container
        monkeypatch.setenv("PATH", str(tmp_path))
    main(["--version"])
    assert re.match(rf"gan-template {__version__}.*, torch \d.*, lightning \d.*, Python 3", capsys.readouterr().out)


def test_a_part_outside_src_works_and_its_absence_is_named(tmp_path, monkeypatch, capsys, tiny_config):
    (tmp_path / "ideas_of_a_user.py").write_text(
        "from src.objectives.losses import Hinge\n\n\nclass Doubled(Hinge):\n    def generator(self, real, fake):\n"
        "        return 2 * super().generator(real, fake)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(tiny_config), "--run_dir", "run", "--model.loss", "ideas_of_a_user.Doubled"])
    (tmp_path / "ideas_of_a_user.py").unlink()
    monkeypatch.delitem(__import__("sys").modules, "ideas_of_a_user")
    said = refusal(["test", "--ckpt_path", "run/checkpoints/last.ckpt"], capsys)
    assert "ideas_of_a_user.Doubled" in said and "put its file" in said
