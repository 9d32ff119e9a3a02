"""Files of save_pretrained: what was changed, or is not as one is written, is refused in a sentence."""

import json

import pytest
from models import attach, build
from safetensors import safe_open
from safetensors.torch import save_file

from mosa import peft
from mosa.base.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file, and what is in it."""
    path = tmp_path_factory.mktemp("saved") / "bias.safetensors"
    model = attach(build(), "bias")
    peft.save_pretrained(model, path, label_names=[f"class {n}" for n in range(model.num_classes)])
    with safe_open(path, "pt") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_an_interrupted_save_leaves_the_file_that_was_there(saved, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    model = attach(build(), "bias")
    peft.save_tuned(model, path)
    before = path.read_bytes()

    def half(self, content):
        self.open("wb").write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        peft.save_tuned(model, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def changed(saved, tmp_path, tensors=None, drop=("mosa.content",), **about):
    """Write the file anew, with other tensors or another description."""
    _, state, metadata = saved
    metadata = {key: value for key, value in metadata.items() if key not in drop}
    if about:
        metadata["mosa.backbone"] = json.dumps(json.loads(metadata["mosa.backbone"]) | about)
    save_file(tensors or state, tmp_path / "x.safetensors", metadata=metadata)
    return tmp_path / "x.safetensors"


def test_what_was_changed_after_it_was_saved_is_refused(saved, tmp_path):
    _, state, metadata = saved
    (head,) = [name for name in json.loads(metadata["mosa.backbone"])["head"] if name.endswith("weight")]
    for change in ({"tensors": state | {head: state[head].flip(0)}}, {"label_names": ["x"] * 10}):
        with pytest.raises(UserError, match="was changed after it was saved"):
            peft.from_pretrained(changed(saved, tmp_path, drop=(), **change), build())
    older = changed(saved, tmp_path)  # which has no digest
    assert peft.get_label_names(peft.from_pretrained(older, build()))[3] == "class 3"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"num_classes": "a"}, "number of classes is 'a'"),
        ({"num_classes": True}, "number of classes is True"),
        ({"num_classes": 10**12}, "1000000000000 classes and a classifier of"),
        ({"label_names": ["x"]}, "1 name for"),
        ({"label_names": [3]}, "label_names is no list of names"),
        ({"changed": 3}, "changed is no list"),
        ({"head": "head.weight"}, "head is no list"),
        ({"architecture": 3}, "architecture is no text"),
        ({"tag": 3}, "tag is no text"),
        ({"model_args": 3}, "model_args are none"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args have 'checkpoint_path'"),
    ],
)
def test_a_description_that_is_none_is_refused(saved, tmp_path, about, words):
    with pytest.raises(UserError, match=words):
        peft.from_pretrained(changed(saved, tmp_path, **about))


def test_nested_metadata_are_no_description(saved, tmp_path):
    _, state, metadata = saved
    nested = {"mosa.method": metadata["mosa.method"], "mosa.backbone": "[" * 100_000}
    save_file(state, tmp_path / "x.safetensors", metadata=nested)
    with pytest.raises(UserError, match="says nothing of its backbone"):
        peft.from_pretrained(tmp_path / "x.safetensors")
