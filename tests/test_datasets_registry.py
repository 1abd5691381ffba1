"""Data sets by name: what a name means, what is no name, and a user's own class."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from readers_toy import check_sound, one_line

from datasets.registry import FORMATS, DatasetName, open_dataset, parse_names, short_name
from maskrcnn.config import UserError, settings
from maskrcnn.structures.instances import Instances
from workbench.config import PathsConfig

OWN = """
import torch
from maskrcnn.structures.instances import Instances

class MyData:
    class_names = ["a", "b"]
    has_masks = False
    def __init__(self, root, split):
        self.root, self.split = root, split
    def __len__(self):
        return 2
    def __getitem__(self, index):
        box = torch.tensor([[1.0, 2, 5, 6]])
        return torch.zeros(3, 20, 30, dtype=torch.uint8), Instances((20, 30), box, torch.tensor([2]))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    (tmp_path / "mine.py").write_text(OWN)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


# ---- names


def test_a_name_says_set_and_variant():
    assert parse_names("coco") == [DatasetName("coco", "coco")]
    assert parse_names("voc:2007-masks + ellipses") == [
        DatasetName("voc:2007-masks", "voc", "2007-masks"),
        parse_names("ellipses")[0],
    ]
    assert parse_names("synthetic:a/b.toml")[0].rest == "a/b.toml"
    own = parse_names("deep.module:MyData:C:/folder")[0]
    assert (own.name, own.rest, own.is_class, own.path_key) == ("deep.module:MyData", "C:/folder", True, None)
    assert parse_names("dsbowl2018:stage2")[0].path_key == "kaggle_dsbowl2018_root"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("coco:2017", "coco-2017"),
        ("voc+labels", "voc+labels"),
        ("synthetic:some/where/dense one.toml", "synthetic-dense-one"),
        ("my.module:MyData:/a/b", "MyData"),
    ],
)
def test_runs_are_named_after_it(name, short):
    assert short_name(name) == short


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("elipses", "unknown dataset 'elipses': did you mean 'ellipses'?"),
        ("COCO:2017", "did you mean"),
        ("coco:2071", "did you mean 'coco:2017'"),
        ("coco:minitrain", "use coco or coco:2017 or coco:2014"),
        ("cst:train", "use cst"),
        ("mnist", "use one of ellipses, shapes, coco"),
        ("mnist", "my_module:MyData"),
        ("coco+", "--dataset=coco+: a name is missing beside '+'"),
        ("coco++voc", "a name is missing beside '+'"),
        ("synthetic:a.toml+elipses", "did you mean 'ellipses'?"),
        ("synthetic:.", "'synthetic:.': is a folder; name the TOML file of a recipe"),
        ("voc+voc", "lists voc twice"),
        ("synthetic", "synthetic:FILE.toml"),
        ("my-module:MyData", "unknown dataset"),
        ("my_module:", "unknown dataset"),
    ],
)
def test_what_is_no_name_gets_a_hint(name, words):
    with pytest.raises(UserError) as error:
        parse_names(name)
    assert words in one_line(error)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("synthetic:a+b/c.toml", ["synthetic:a+b/c.toml"]),
        ("synthetic:a+b.toml+coco:2017", ["synthetic:a+b.toml", "coco:2017"]),
        ("coco+synthetic:a.toml+synthetic:b.toml", ["coco", "synthetic:a.toml", "synthetic:b.toml"]),
        ("my:Data:x+y+voc", ["my:Data:x+y", "voc"]),
        ("my:Data+your.own:Data:x", ["my:Data", "your.own:Data:x"]),
    ],
)
def test_a_plus_in_a_path_joins_nothing(text, parts):
    assert [each.text for each in parse_names(text)] == parts


def test_a_folder_for_a_recipe_is_answered_with_its_recipe(tmp_path):
    (tmp_path / "dataset.toml").touch()
    with pytest.raises(UserError) as error:
        parse_names(f"synthetic:{tmp_path}")
    assert f"synthetic:{tmp_path}/dataset.toml draws" in one_line(error) and "--dataset_root=" in str(error.value)


def test_the_other_version_of_aitod_is_pointed_out(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "aitodv2_trainval.json").touch()
    with pytest.raises(UserError) as error:
        open_dataset("aitod", tmp_path, "train")
    assert "no annotations of AI-TOD v1" in one_line(error) and "use --dataset=aitod:v2" in str(error.value)


def test_every_set_has_its_key_in_paths():
    keys = {source.path_key for source in FORMATS.values()}
    assert keys == set(settings(PathsConfig))


@pytest.mark.parametrize(
    "name", [*FORMATS, *(f"{name}:{variant}" for name, source in FORMATS.items() for variant in source.variants)]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_name_opens_its_reader(tmp_path, name, split):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError) as error:
            open_dataset(name, root, split)
        assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["coco", "ellipses", "synthetic:a.toml", "mine:MyData"])
def test_a_split_file_that_would_not_be_used_is_refused(name, place):
    with pytest.raises(UserError, match="split_file"):
        open_dataset(name, place, "train", split_file="split.json")


def test_names_are_known_without_heavy_imports():
    code = "import sys, datasets.registry; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


# ---- a user's own class


def test_a_class_in_the_working_directory(place):
    data = open_dataset("mine:MyData", "some", "test")
    assert (len(data), data.class_names, data.has_masks) == (2, ("a", "b"), False)
    assert (data.image_ids, data.image_names, data.counts) == ([0, 1], ["0", "1"], {})
    image, instances = data[1]
    check_sound(data, image, instances)
    assert instances.ids.tolist() == [1] and instances.labels.tolist() == [2]
    inner = open_dataset("mine:MyData:other", "some", "test")._data
    assert (inner.root, inner.split) == ("other", "test")


@pytest.mark.parametrize("ids", ["numpy.array([7, 9])", "torch.tensor([7, 9])", "(each for each in (7, 9))"])
def test_ids_are_whole_numbers_of_any_kind(place, ids):
    (place / "ids.py").write_text("import numpy\n" + OWN.replace("has_masks", f"image_ids = {ids}\n    has_masks"))
    data = open_dataset("ids:MyData", ".", "train")
    assert data.image_ids == [7, 9] and all(type(each) is int for each in data.image_ids)


def test_a_dict_as_torchvision_takes_it(place):
    mask = "torch.ones(1, 20, 30, dtype=torch.uint8)"
    target = f'{{"boxes": box, "labels": torch.tensor([1]), "masks": {mask}}}'
    text = OWN.replace("Instances((20, 30), box, torch.tensor([2]))", target).replace("has_masks = False", "pass")
    (place / "dicts.py").write_text(text)
    image, instances = open_dataset("dicts:MyData", ".", "train")[0]
    assert isinstance(instances, Instances) and instances.masks.areas().tolist() == [600]
    assert torch.equal(image, torch.zeros(3, 20, 30, dtype=torch.uint8))


def test_boxes_are_clipped_to_the_image_and_those_outside_dropped(place):
    boxes = "torch.tensor([[1.0, 2, 50, 6], [40.0, 2, 50, 6], [1.0, 2, 5, 6]])"
    text = OWN.replace("torch.tensor([[1.0, 2, 5, 6]])", boxes).replace("tensor([2])", "tensor([1, 2, 2])")
    (place / "far.py").write_text(text)
    data = open_dataset("far:MyData", ".", "train")
    _, instances = data[0]
    assert instances.boxes.tolist() == [[1, 2, 30, 6], [1, 2, 5, 6]] and instances.labels.tolist() == [1, 2]
    assert instances.ids.tolist() == [1, 3]
    assert data.counts == {"boxes clipped to the image": 1, "boxes outside the image dropped": 1}


def test_an_image_without_objects_needs_no_masks(place):
    text = OWN.replace("has_masks = False", "pass").replace("Instances((20, 30), box, torch.tensor([2]))", "NOTHING")
    (place / "void.py").write_text(text + "\nNOTHING = Instances((20, 30), torch.zeros(0, 4), torch.zeros(0))\n")
    data = open_dataset("void:MyData", ".", "train")
    check_sound(data, *data[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class MyData(:", "importing bad failed: SyntaxError"),
        (
            "import no_such_thing",
            "importing bad failed: ModuleNotFoundError: No module named 'no_such_thing' (bad.py:1)",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero (bad.py:1)"),
        ("class MyDataset: pass", "has no class MyData; did you mean 'MyDataset'?"),
        ("MyData = 3", "is int, not a class"),
        ("def MyData(*arguments): raise SystemExit", "is function, not a class"),
        ("class MyData: pass", "has no class_names, __len__, __getitem__"),
        ("class MyData(dict):\n    def __init__(self, *words): raise SystemExit", "has no class_names"),
        (OWN.replace("def __init__(self, root, split)", "def __init__(self)"), "bad:MyData('.', 'train'): TypeError"),
        (OWN.replace("self.root, self.split =", "raise OSError('no disk')\n        _ ="), "OSError: no disk (bad.py:"),
        (OWN.replace("self.root, self.split =", "raise KeyError('a\\nb')\n        _ ="), "KeyError"),
        (OWN.replace("def __len__", "def size"), "has no __len__"),
        (OWN.replace("class_names = ", "names = "), "has no class_names"),
        (OWN.replace('["a", "b"]', '"ab"'), "class_names must be a list of strings"),
        (OWN.replace('["a", "b"]', "[1]"), "class_names must be a list of strings"),
        (OWN.replace('["a", "b"]', '["a", "a"]'), "it must be one or more unique names"),
        (OWN.replace("has_masks", "image_ids = [5, 5]\n    has_masks"), "image_ids must be 2 unique integers"),
        (OWN.replace("has_masks", "image_ids = [5, 6.0]\n    has_masks"), "image_ids must be 2 unique"),
        (OWN.replace("has_masks", "image_ids = 5\n    has_masks"), "image_ids must be 2 unique integers"),
        (OWN.replace("has_masks", "image_names = ['x']\n    has_masks"), "2 images but 1 image_names"),
    ],
)
def test_a_class_that_cannot_be_opened_is_named(place, text, words):
    (place / "bad.py").write_text(text)
    with pytest.raises(UserError) as error:
        open_dataset("bad:MyData", ".", "train")
    assert words in one_line(error)


def test_a_module_that_is_not_there(place):
    for name in ("absent:MyData", "absent.deeper:MyData", "mine.deeper:MyData"):
        with pytest.raises(UserError, match="unknown dataset|failed"):
            open_dataset(name, ".", "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return torch.zeros", "raise ValueError('odd')\n        return torch.zeros", "ValueError: odd (bad.py:"),
        ("torch.zeros(3, 20, 30, dtype=torch.uint8), ", "", "must be a pair"),
        (
            "dtype=torch.uint8",
            "dtype=torch.int32",
            "must be uint8, uint16 or float32 [C, H, W], is torch.int32 [3, 20, 30]",
        ),
        ("3, 20, 30", "20, 30, 3", "is torch.uint8 [20, 30, 3]"),
        ("Instances((20, 30)", "Instances((30, 20)", "is 30 x 20 but its objects are in an image of 20 x 30"),
        ("Instances((20, 30), box, torch.tensor([2]))", "[]", "must be Instances, not list"),
        ("Instances((20, 30), box, torch.tensor([2]))", "{'boxes': box}", "a target has no 'labels', only 'boxes'"),
        ("tensor([2])", "tensor([3])", "has label 3; use 1 to 2"),
        ("tensor([2])", "tensor([0])", "has label 0"),
        ("tensor([2])", "tensor([2.0])", "labels must be torch.int64"),
        ("5, 6]", "1, 6]", "x1 < x2"),
        ("5, 6]", "float('nan'), 6]", "box 0 is 1, 2, nan, 6"),
        ("has_masks = False", "has_masks = True", "has no masks; add them, or set has_masks = False"),
    ],
)
def test_samples_that_are_none_name_the_image(place, old, new, words):
    assert old in OWN
    (place / "bad.py").write_text(OWN.replace(old, new))
    data = open_dataset("bad:MyData", ".", "train")
    with pytest.raises(UserError) as error:
        data[1]
    assert str(error.value).startswith("bad:MyData: image '1': ") and words in one_line(error)


def test_user_errors_of_the_class_are_passed_on(place):
    text = "from maskrcnn.images.reading import read_image\n" + OWN.replace(
        "return torch.zeros", "read_image(__import__('pathlib').Path('none.png'))\n        return torch.zeros"
    )
    (place / "bad.py").write_text(text)
    with pytest.raises(UserError, match="^none.png: no such image file$"):
        open_dataset("bad:MyData", ".", "train")[0]
    Image.new("L", (4, 4)).save("none.png")
    assert len(open_dataset("bad:MyData", ".", "train")[0][1]) == 1


@pytest.mark.parametrize(
    "name", ["pty:spawn", "os:system", "subprocess:Popen", "mailbox:mbox", "shelve:DbfilenameShelf"]
)
def test_only_the_class_of_a_data_set_is_called(place, name):
    with pytest.raises(UserError, match="not a class|has no class_names"):
        open_dataset(name, "echo", "train")
    assert sorted(path.name for path in place.iterdir() if path.suffix == ".py") == ["mine.py"]
    assert not (place / "echo").exists() and not (place / "train").exists()


@pytest.mark.parametrize(
    "declared", ["", "class_names: tuple\n    ", "class_names = property(lambda self: ('a', 'b'))\n    "]
)
def test_class_names_may_be_an_attribute_of_the_instance_or_inherited(place, declared):
    own = OWN.replace('class_names = ["a", "b"]\n    ', declared)
    assert own != OWN
    if "property" not in declared:
        own = own.replace("self.root, self.split =", "self.class_names = ['a', 'b']\n        self.root, self.split =")
    (place / "late.py").write_text(own.replace("class MyData", "class Base") + "\n\nclass MyData(Base):\n    pass\n")
    assert open_dataset("late:MyData", ".", "train").class_names == ("a", "b")


def test_auto_is_what_the_folder_holds(tmp_path, tiny_ellipses):
    assert type(open_dataset("auto", tiny_ellipses, "train")).__name__ == "Generated"
    assert parse_names("auto")[0].short == "auto"
    with pytest.raises(UserError, match="auto recognizes a single data set; name the formats that are joined"):
        parse_names("auto+coco")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="the format is unknown.*Looked for .*; voc: Annotations/ with ImageSets/"):
        open_dataset("auto", tmp_path, "train")
