"""What a folder or .zip of images means: labels in files, splits, and the line that says what was found."""

import json
import zipfile

import numpy as np
import pytest
from conftest import Squares, fit
from test_folder import GREY, RGB, error_of, folder, save, tree

from src.data.bags import ImageBags
from src.data.digits import Digits
from src.data.summary import sentence
from src.images.measurements import MissingPixels


def found(root, **options):
    """The line that every command says."""
    data = folder(root, **options)
    data.prepare_data()
    data.setup("fit")
    return sentence(data).removeprefix(f"{root}: ")


def labelled(root, split="train", **options):
    """File and class of every image, through decoding."""
    data = folder(root, **options)
    data.prepare_data()
    images, labels = data.split(split)
    names = data.files[split].names
    assert len(images) == len(names)
    return {name: None if labels is None else data.class_names[labels[i]] for i, name in enumerate(names)}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pack(folder, target, prefix="", separator="/"):
    """A .zip of a folder, with the separator that the archiver has."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo("x")
                entry.filename = (prefix + path.relative_to(folder).as_posix()).replace("/", separator)
                archive.writestr(entry, path.read_bytes())
    return target


# ---- dataset.json

CHUNKS = ["00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png"]


@pytest.mark.parametrize("prefix", [None, "", "outer/"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_dataset_json_gives_the_labels(tmp_path, prefix, separator):
    root = tmp_path / "a"
    tree(root, CHUNKS)
    write(root / "dataset.json", {"labels": [[CHUNKS[0], 10], [CHUNKS[1], 2], [CHUNKS[2], 10]]})
    if prefix is not None:
        root = pack(root, tmp_path / "a.zip", prefix, separator)
    data = folder(root)
    assert data.class_names == ["2", "10"]  # numbers by their size
    assert [*labelled(root).values()] == ["10", "2", "10"]
    assert f"2 classes by {prefix or ''}dataset.json (2: 1, 10: 2)" in found(root)


def test_folders_that_number_images_are_no_classes(tmp_path):
    tree(tmp_path / "stylegan", CHUNKS)
    assert "no classes (folders 00000 to 00001 number the images)" in found(tmp_path / "stylegan")
    tree(tmp_path / "ffhq", ["images/00000/00007.png", "images/01000/01999.png"])
    assert folder(tmp_path / "ffhq").num_classes == 0
    tree(tmp_path / "years", ["01998/00007.png", "02001/01999.png"])
    tree(tmp_path / "digits", ["0/0.png", "0/999.png", "1/1000.png"])
    assert folder(tmp_path / "years").num_classes == folder(tmp_path / "digits").num_classes == 2
    write(tmp_path / "digits" / "dataset.json", {"labels": None})
    assert "no classes (dataset.json has none)" in found(tmp_path / "digits")


def test_folders_named_after_the_sizes_of_their_images_are_no_classes(tmp_path):
    for name, height, width in (("8x6", 6, 8), ("16x12", 12, 16), ("4@2x", 8, 8)):  # of icons
        save(tmp_path / "icons" / name / "apps" / "1.png", np.zeros((height, width), np.uint8))
    assert "no classes (folders 16x12, 8x6 say the sizes of the images)" in found(tmp_path / "icons", image_size=4)
    save(tmp_path / "icons" / "round" / "1.png", np.zeros((8, 8), np.uint8))
    assert folder(tmp_path / "icons", image_size=4).num_classes == 4
    tree(tmp_path / "digits", ["4/1.png", "5/1.png"])  # of 4x4
    assert folder(tmp_path / "digits").num_classes == 2
    (tmp_path / "digits" / "4" / "1.png").write_bytes(b"no image")
    assert folder(tmp_path / "digits").num_classes == 2


def test_dataset_json_of_something_else_is_said(tmp_path):
    tree(tmp_path / "a", ["x/1.png", "y/2.png"])
    write(tmp_path / "a" / "dataset.json", {"name": "mine"})
    assert (
        found(tmp_path / "a") == "2 images, 4x4 grey, 2 classes by folder (x: 1, y: 1); dataset.json holds no `labels`"
    )
    write(tmp_path / "a" / "dataset.json", "[1, 2]")
    assert "by folder" in found(tmp_path / "a")


WRONG_JSON = {
    "a vector of 2, and a class is a whole number": {"labels": [["1.png", [0, 1]]]},
    "is 0.5, and a class": {"labels": [["1.png", 0.5]]},
    "is -1, and a class": {"labels": {"1.png": -1}},
    "is True, and": {"labels": [["1.png", True]]},
    "is nan, and": '{"labels": [["1.png", NaN]]}',
    "is 'cat', and": {"labels": [["1.png", "cat"]]},
    "no pairs of a file and a number": {"labels": [1, 2]},
    "is no JSON": '{"labels": [',
    "names none of the images": {"labels": [["7.png", 1], ["8.png", 2]]},
    "the labels 1 and 2, and an image has one": {"labels": [["1.png", 1], ["./1.png", 2]]},
}


@pytest.mark.parametrize("message", WRONG_JSON)
def test_labels_that_are_no_classes_are_refused(tmp_path, message):
    tree(tmp_path / "a", ["1.png", "2.png"])
    write(tmp_path / "a" / "dataset.json", WRONG_JSON[message])
    said = error_of(lambda: folder(tmp_path / "a"))
    assert message in said and "dataset.json" in said
    assert folder(tmp_path / "a", labels=False).num_classes == 0


def test_images_without_labels_and_labels_without_images_are_counted(tmp_path):
    tree(tmp_path / "a", ["1.png", "2.png", "3.png", "4.png"])
    write(tmp_path / "a" / "dataset.json", {"labels": [["1.png", 1.0], ["3.png", 0], ["9.png", 0], ["8.png", 7]]})
    assert labelled(tmp_path / "a") == {"1.png": "1", "3.png": "0"}
    assert found(tmp_path / "a") == (
        "2 images, 4x4 grey, 2 classes by dataset.json (0: 1, 1: 1); 2 left out: 2 without a label; "
        "2 labels of dataset.json are of no image here"
    )


# ---- labels.csv


@pytest.mark.parametrize(
    "table",
    [
        "file,label\nx/1.png,cat\nx/2.png,dog\ny/3.png,cat\n",
        "\ufefffile;label\r\nx/1.png;cat\r\nx/2.png;dog\r\n\r\ny/3.png;cat\r\n",
        "label\timage\ncat\tx\\1.png\ndog\t.\\x\\2.png\ncat\ty\\3.png",
        "\ufeffx/1.png,cat\nx/2.png,dog\ny/3.png,cat",  # no header
        "x/0.png,cat\nx/1.png,cat\nx/2.png,dog\ny/3.png,cat",  # nor the first image
        ",image,breed\n0,x/1.png,cat\n1,x/2.png,dog\n2,y/3.png,cat",  # the index of pandas
        "id,breed\n1,cat\n2,dog\n3,cat",
        "id,label\n3,cat\n1,cat\n2,dog",
        "path,Class\n/data/x/1.jpg,cat\n/data/x/2.jpg,dog\n/data/y/3.jpg, cat ",
        ",image,label,width\n0,1.png,cat,4\n1,2.png,dog,4\n2,3.png,cat,4",
        '"image","class"\n"x/1.png","cat"\n"x/2.png","dog"\n"y/3.png","cat"\n"y/3.png","cat"',
    ],
)
def test_a_table_gives_the_labels(tmp_path, table):
    tree(tmp_path / "a", ["x/1.png", "x/2.png", "y/3.png"])
    write(tmp_path / "a" / "labels.csv", table)
    assert [*labelled(tmp_path / "a").values()] == ["cat", "dog", "cat"]
    packed = pack(tmp_path / "a", tmp_path / "a.zip", "top/")
    assert [*labelled(packed).values()] == ["cat", "dog", "cat"]
    line = found(packed)
    assert "2 classes by top/labels.csv (cat: 2, dog: 1)" in line
    assert ("1 labels of labels.csv are of no image here" in line) == ("x/0.png" in table)
    assert ("images matched" in line) == ("x/1.png" not in table and "x\\1.png" not in table)


def test_the_column_of_labels_is_chosen_or_asked_for(tmp_path):
    root = tmp_path / "a"
    tree(root, ["1.png", "2.png", "3.png"])
    write(root / "labels.csv", "file,animal,colour\n1.png,cat,red\n2.png,dog,red\n3.png,cat,blue")
    said = error_of(lambda: folder(root))
    assert "2 columns of labels" in said and "--data.label_column: animal, colour" in said
    assert folder(root, label_column="colour").class_names == ["blue", "red"]
    assert "no column 'size' beside that of the files: choose one of animal, colour" in error_of(
        lambda: folder(root, label_column="size")
    )
    assert "leave one out" in error_of(lambda: folder(root, label_column="colour", labels=False))
    assert folder(root, labels=False).num_classes == 0
    write(root / "labels.csv", "1.png,cat,red\n2.png,dog,red")
    assert "add a first line" in error_of(lambda: folder(root))
    assert "it has no header" in error_of(lambda: folder(root, label_column="colour"))
    write(root / "labels.csv", "file\n1.png\n2.png")
    assert "no column of labels" in error_of(lambda: folder(root))
    (root / "labels.csv").unlink()
    assert "there is no labels.csv" in error_of(lambda: folder(root, label_column="colour"))


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["1.0", "", "10.0", "2.0"], ["1", "2", "10"]),  # of pandas, where a cell is empty
        (["a", "NaN", "b", " "], ["a", "b"]),
        (["01", "1", "02", "10"], ["01", "1", "02", "10"]),
    ],
)
def test_cells_of_a_table(tmp_path, cells, classes):
    tree(tmp_path / "a", [f"{i}.png" for i in range(4)])
    write(tmp_path / "a" / "labels.csv", "file,label\n" + "\n".join(f"{i}.png,{cell}" for i, cell in enumerate(cells)))
    assert sorted(folder(tmp_path / "a").class_names) == sorted(classes)
    assert len(labelled(tmp_path / "a")) == sum(cell.strip() not in ("", "NaN") for cell in cells)


WRONG_TABLES = {
    "names none of the images": "file,label\n7.png,cat\n8.png,dog",
    "labels.csv names none": "",
    "labels cat and dog, and an image has one class": "file,label\n1.png,cat\n1.png,dog",
    "may be x/1.png or y/1.png": "file,label\n1.png,cat\n2.png,dog",
    "numbers that name no class (0.5, ...)": "file,label\nx/1.png,1\ny/1.png,0.5",
    "is no table in UTF-8": b"file,label\nx/1.png,\xff\xfe",
}


@pytest.mark.parametrize("message", WRONG_TABLES)
def test_tables_that_do_not_say_which_class_are_refused(tmp_path, message):
    names = ["x/1.png", "y/1.png", "x/2.png"] if "x/" in str(WRONG_TABLES[message]) + message else ["1.png", "2.png"]
    tree(tmp_path / "a", names)
    content = WRONG_TABLES[message]
    (tmp_path / "a" / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = error_of(lambda: folder(tmp_path / "a"))
    assert message in said and str(tmp_path / "a" / "labels.csv") in said
    assert folder(tmp_path / "a", labels=False).num_classes == 0


def test_folders_of_one_image_each_are_no_classes(tmp_path):
    tree(tmp_path / "a", [f"{i}/icon.png" for i in range(12)])
    assert "no classes (12 folders of 12 images)" in found(tmp_path / "a")
    tree(tmp_path / "a", [f"{i}/icon_2.png" for i in range(12)])
    assert folder(tmp_path / "a").num_classes == 12
    tree(tmp_path / "test", [f"{i}/icon.png" for i in range(12)])
    assert "12 images held out" in found(tmp_path / "a", test_root=str(tmp_path / "test"))


def test_captions_are_no_labels_unless_the_user_says_so(tmp_path):
    root, names = tmp_path / "a", [f"{i}.png" for i in range(12)]
    tree(root, names)
    rows = "".join(f'{name},"a picture, {name}"\n' for name in names)
    for header in ("file,text\n", ""):
        write(root / "labels.csv", header + rows)
        assert "12 different labels of 12 images, as captions are" in error_of(lambda: folder(root))
    write(root / "labels.csv", "file,text\n" + rows)
    assert folder(root, label_column="text").num_classes == 12 and folder(root, labels=False).num_classes == 0
    write(root / "labels.csv", "file,Class\n" + rows)
    assert folder(root).num_classes == 12
    write(root / "labels.csv", "".join(f"{name},kind {number // 2}\n" for number, name in enumerate(names)))
    assert folder(root).num_classes == 6


def test_which_source_of_labels_wins(tmp_path):
    root = tmp_path / "a"
    tree(root, ["x/1.png", "y/2.png"])
    assert "2 classes by folder (x: 1, y: 1)" in found(root)
    write(root / "dataset.json", {"labels": [["x/1.png", 1], ["y/2.png", 0]]})
    assert "2 classes by dataset.json (0: 1, 1: 1)" in found(root)
    write(root / "labels.csv", "file,label\nx/1.png,cat\ny/2.png,dog")
    assert "2 classes by labels.csv (cat: 1, dog: 1); dataset.json is not read" in found(root)
    assert "no classes (labels: false)" in found(root, labels=False)
    write(root / "labels.csv", "file,label\nx/1.png,cat\ny/2.png,cat")
    assert "no classes (labels.csv has one alone, cat)" in found(root)


def test_names_of_a_table_are_compared_as_text(tmp_path):
    tree(tmp_path / "a", ["sub/e\u0301.png", "sub/ä b.png", "猫.png"])  # an accent of its own, as macOS writes it
    write(tmp_path / "a" / "labels.csv", "file,label\nsub/\u00e9.png,A\nsub/ä b.png,B\n猫.png,C")
    assert sorted(labelled(tmp_path / "a").values()) == ["A", "B", "C"]


def test_a_missing_image_does_not_lend_its_label(tmp_path):
    tree(tmp_path / "a", ["cat/2.png", "dog/1.png"])
    write(tmp_path / "a" / "labels.csv", "file,label\ncat/1.png,A\ncat/2.png,B\ndog/1.png,C\n")
    assert labelled(tmp_path / "a") == {"cat/2.png": "B", "dog/1.png": "C"}
    tree(tmp_path / "b", ["train/1.png", "train/2.png", "test/1.png"])
    write(tmp_path / "b" / "labels.csv", "file,label\ntest/1.png,A\ntrain/2.png,B\ntrain/1.png,A")
    assert labelled(tmp_path / "b", "test") == {"test/1.png": "A"}


# ---- splits


def splits(root, **options):
    data = folder(root, **options)
    return {split: data.files[split].names for split in data.splits}


@pytest.mark.parametrize("train", ["train", "Train", "training_set", "train_images", "train2017", "outer/train"])
@pytest.mark.parametrize("test", ["test", "VALID", "validation", "val", "testing", "test1"])
def test_folders_named_after_splits_are_splits(tmp_path, train, test):
    outer = train.rpartition("/")[0]
    test = f"{outer}/{test}" if outer else test
    tree(tmp_path / "a", [f"{train}/x/1.png", f"{train}/y/2.png", f"{test}/x/3.png"])
    data = folder(tmp_path / "a")
    data.prepare_data()
    assert data.class_names == ["x", "y"] and data.splits == ("train", "test")
    assert data.split("train")[1].tolist() == [0, 1] and data.split("test")[1].tolist() == [0]
    assert data.split("test")[0].max() == 2  # the third image
    assert f"1 image held out ({test.rpartition('/')[2]}/)" in sentence(data)


def test_splits_without_classes_and_inside_of_classes(tmp_path):
    tree(tmp_path / "flat", ["train/1.png", "test/2.png"])
    assert splits(tmp_path / "flat") == {"train": ["train/1.png"], "test": ["test/2.png"]}
    tree(tmp_path / "inside", ["x/train/1.png", "y/train/2.png", "x/test/3.png"])
    data = folder(tmp_path / "inside")
    assert data.class_names == ["x", "y"] and data.files["test"].names == ["x/test/3.png"]
    tree(tmp_path / "root", ["1.png", "2.png", "test/3.png"])
    assert splits(tmp_path / "root") == {"train": ["1.png", "2.png"], "test": ["test/3.png"]}
    tree(tmp_path / "beside", ["cover.png", "train/x/1.png", "train/y/1.png", "test/x/3.png"])
    assert "1 image held out (test/); 1 left out: 1 beside train/" in found(tmp_path / "beside")


def test_an_image_beside_the_outer_folder_does_not_hide_the_splits(tmp_path):
    tree(tmp_path / "a", ["cover.png", "outer/train/x/1.png", "outer/train/y/2.png", "outer/test/x/3.png"])
    assert splits(tmp_path / "a")["test"] == ["outer/test/x/3.png"]
    assert folder(tmp_path / "a").class_names == ["x", "y"]


def test_classes_may_be_called_like_splits(tmp_path):
    tree(tmp_path / "a", ["train/1.png", "bus/1.png", "car/1.png"])
    assert folder(tmp_path / "a").class_names == ["bus", "car", "train"]
    tree(tmp_path / "b", ["train/1.png", "test/1.png"])
    assert folder(tmp_path / "b", splits=False).class_names == ["test", "train"]
    tree(tmp_path / "c", ["test1/1.png", "test2/1.png"])
    assert folder(tmp_path / "c").class_names == ["test1", "test2"]


def test_of_test_and_validation_images_the_first_with_classes_are_held_out(tmp_path):
    root = tmp_path / "a"
    tree(root, ["train/x/1.png", "train/y/2.png", "val/x/3.png", "test/y/4.png", "test/y/5.png"])
    assert "; 2 images held out (test/); 1 left out: 1 in val/ (beside test/)" in found(root)
    (root / "test" / "y").rename(root / "test" / "unknown")
    assert "; 1 image held out (val/); 2 left out: 2 in test/ (without the classes of train/)" in found(root)
    assert "; 2 images held out (test/); 1 left out: 1 in val/" in found(root, labels=False)
    tree(tmp_path / "t", ["x/6.png"])
    line = found(root, test_root=str(tmp_path / "t"))
    assert f"1 image held out ({tmp_path}/t/); 3 left out: " in line
    assert "2 in test/ (test_root is given)" in line and "1 in val/ (test_root is given)" in line
    tree(tmp_path / "only", ["1.png", "2.png"])
    write(tmp_path / "only" / "labels.csv", "file,label,size\n1.png,x,4\n2.png,y,5")
    assert f"1 image held out ({root}/val/)" in found(
        tmp_path / "only", test_root=str(root / "val"), label_column="label"
    )


def test_a_test_root_with_splits_gives_its_held_out_part(tmp_path):
    tree(tmp_path / "a", ["train/x/1.png", "train/y/2.png", "test/x/3.png"])
    data = folder(tmp_path / "a" / "train", test_root=str(tmp_path / "a"))
    assert data.files["test"].names == ["test/x/3.png"]
    assert f"2 in {tmp_path}/a/train/" in found(tmp_path / "a" / "train", test_root=str(tmp_path / "a"))


def test_two_domains_are_refused_and_one_is_taken(tmp_path):
    root = tmp_path / "a"
    tree(root, ["trainA/1.png", "testA/2.png"])
    assert splits(root) == {"train": ["trainA/1.png"], "test": ["testA/2.png"]}
    tree(root, ["trainB/1.png"])
    said = error_of(lambda: folder(root))
    assert f"--data.root {root}/trainA --data.test_root {root}/testA" in said and "testA/, trainA/, trainB/" in said
    assert len(folder(root, splits=False).class_names) == 3
    assert "unpack it and name" in error_of(lambda: folder(pack(root, tmp_path / "a.zip")))
    tree(tmp_path / "b", ["val/1.png", "test/2.png"])
    assert "no train/" in error_of(lambda: folder(tmp_path / "b"))


@pytest.mark.parametrize("place", ["", "train/"])
def test_a_table_labels_splits(tmp_path, place):
    """As of a competition: numbered files in both, and labels of the training images alone."""
    root = tmp_path / "a"
    tree(root, ["train/1.png", "train/2.png", "test/1.png", "test/3.png"])
    write(root / place / "labels.csv", "id,breed\n1,cat\n2,dog")
    assert labelled(root) == {"train/1.png": "cat", "train/2.png": "dog"}
    assert "; 2 left out: 2 in test/ (without the classes of train/)" in found(root)
    write(root / place / "labels.csv", "id,breed\n1,cat\n2,dog\n3,dog")
    if not place:
        assert labelled(root, "test") == {"test/3.png": "dog"}
        assert "1 image held out (test/); 1 left out: 1 without a label" in found(root)


# ---- the line


def test_the_line_says_what_was_found(tmp_path, caplog):
    root = tmp_path / "a"
    tree(root, [f"{label}/{i}.png" for label in "abcdefghij" for i in range(2)])
    (root / "a" / "bad.png").write_bytes(b"no image")
    for name in (
        "x.svg",
        "y.SVG",
        "a/z.heic",
        "noname",
        "README",
        "readme.md",
        "list.txt",
        ".DS_Store",
        "__MACOSX/q.svg",
    ):
        write(root / name, "text")
    line = (
        "20 images, 4x4 grey, 10 classes by folder (a: 2, b: 2, c: 2, d: 2, e: 2, f: 2, g: 2, h: 2, ...); "
        "5 left out: 2 .svg, 1 .heic, 1 without a suffix, 1 unreadable"
    )
    for _ in range(2):  # the second time from the cache
        assert found(root, max_bad=0.1) == line
    assert [r.message for r in caplog.records if r.message.startswith(str(root))] == [f"{root}: {line}"] * 2


def test_the_line_says_what_becomes_of_other_sizes(tmp_path):
    save(tmp_path / "a" / "1.png", RGB)
    assert found(tmp_path / "a") == "1 image, 6x5 RGB, no classes"
    assert "1 image, 6x5, scaled and cut to 4x4 RGB" in found(tmp_path / "a", image_size=4)
    save(tmp_path / "a" / "2.png", np.zeros((9, 30, 3), np.uint8))
    assert "sizes 6x5 to 9x30, scaled and cut to 4x4 RGB" in found(tmp_path / "a", image_size=4)
    save(tmp_path / "a" / "3.png", np.zeros((1, 7, 3), np.uint8))
    (tmp_path / "a" / "4.png").write_bytes(b"no image")
    assert "3 images, sizes 1x7 to 9x30 (of the 3 files looked at), scaled and cut to 4x4 RGB" in found(
        tmp_path / "a", image_size=4, max_bad=0.5
    )
    (tmp_path / "a" / "4.png").unlink()
    assert "stretched to 4x4 grey" in found(tmp_path / "a", image_size=4, resize="stretch", channels=1)


def test_the_line_says_why_there_are_no_classes(tmp_path):
    tree(tmp_path / "a", ["x/1.png", "y/2.png", "3.png"])
    assert found(tmp_path / "a") == "3 images, 4x4 grey, no classes (1 in no sub-folder)"
    assert "no classes (1 in no sub-folder)" in found(pack(tmp_path / "a", tmp_path / "a.zip", "top/"))
    tree(tmp_path / "c", ["only/1.png"])
    assert found(tmp_path / "c") == "1 image, 4x4 grey, no classes"
    save(tmp_path / "b" / "x\ny" / "1.png", GREY)
    save(tmp_path / "b" / "z" / "1.png", GREY)
    assert r"(x\ny: 1, z: 1)" in found(tmp_path / "b")


def test_a_folder_without_images_says_what_there_is_instead(tmp_path):
    for name in ("1.svg", "x/2.svg", "3.pdf", "readme.txt"):
        write(tmp_path / "a" / name, "")
    assert f"no image in {tmp_path / 'a'}, but 2 .svg, 1 .pdf: expected files" in error_of(
        lambda: folder(tmp_path / "a")
    )


def test_the_line_counts_what_the_options_leave(tmp_path):
    tree(tmp_path / "a", [f"{label}/{i}.png" for label in "xy" for i in range(5)])
    assert found(tmp_path / "a", without=[0], subset=3).startswith(
        "3 images, 4x4 grey, 2 classes by folder (x: 0, y: 3); 7 left out: 7 by data.subset or data.without"
    )


def test_every_source_says_its_line(tmp_path):
    digits = Digits(subset=100)
    digits.setup("fit")
    assert sentence(digits).startswith("Digits: 100 images, 8x8 grey, 10 classes (0: 9, 1: ")
    assert sentence(digits).endswith("; 360 images held out; 1,337 left out: 1,337 by data.subset or data.without")
    tree(tmp_path / "a", [f"{label}/{i}.png" for label in "xy" for i in range(5)])
    write(tmp_path / "a" / "note.svg", "")
    bags = ImageBags(folder(tmp_path / "a"), ["y"], num_bags=3, mean_size=4.0, size_deviation=0.0)
    bags.setup("fit")
    assert sentence(bags) == (
        f"{tmp_path}/a: 3 bags of 12 instances, 4x4 grey, 2 classes by folder (none: 2, y: 1); 1 left out: 1 .svg"
    )


def test_the_line_says_what_training_makes_of_the_images(tmp_path, caplog):
    fit(tmp_path, data=Squares(flip=True, measurement=MissingPixels(0.5), inpaint="harmonic"), max_steps=1)
    (said,) = [message for message in caplog.messages if message.startswith("Squares: ")]
    assert said.endswith(
        "; training sees them through MissingPixels, then filled in (data.measurement)"
        "; each is used mirrored as well (--data.flip false switches that off)"
    )
    caplog.clear()
    fit(tmp_path, data=Squares(), max_steps=1)
    assert "Squares: 100 images, 4x4 grey, no classes; 100 images held out" in caplog.messages


def test_a_batch_larger_than_the_set_is_said(tmp_path, caplog):
    fit(tmp_path, data=Squares(3, batch_size=8))
    repeats = (
        "batch_size 8 is more than the 3 training examples: a batch repeats some, and samples will be copies of them"
    )
    assert repeats in caplog.messages
    caplog.clear()
    fit(tmp_path, data=Squares(4, batch_size=8, flip=True))  # eight with the mirrored ones
    assert not [message for message in caplog.messages if "is more than" in message]


def test_folders_and_archives_with_backslashes_have_classes(tmp_path):
    tree(tmp_path / "a", ["x/1.png", "x/2.png", "y/1.png"])
    packed = pack(tmp_path / "a", tmp_path / "a.zip", separator="\\")
    assert [*labelled(packed).values()] == ["x", "x", "y"]
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist()[0] == "x\\1.png"
        archive.extractall(tmp_path / "unpacked")  # on Linux: files with backslashes in their names
    assert [*labelled(tmp_path / "unpacked").values()] == ["x", "x", "y"]
