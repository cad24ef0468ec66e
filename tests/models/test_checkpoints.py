"""Loading names what differs, reading unpickles nothing, a tensor hash sees values alone."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tune_kd.errors import UsageError
from tune_kd.models.checkpoints import checked_load, load_weights, tensor_hash
from tune_kd.models.layers import Dropout
from tune_kd.models.registry import Shape, build

GREY = Shape(num_classes=10, channels=1)


def small(**settings: float) -> nn.Module:
    return build("digits_student", shape=GREY, **settings)  # type: ignore[arg-type]


def test_wrapped_state_dicts_are_loaded() -> None:
    source = small(seed=7)
    state = source.state_dict()
    for wrapped in (
        state,
        {"state_dict": state, "epoch": 3},
        {"model": {f"module.{k}": v for k, v in state.items()}},
        {f"_orig_mod.{k}": v for k, v in state.items()},
    ):
        model = small()
        checked_load(model, wrapped, source="teacher.pt")
        assert tensor_hash(model) == tensor_hash(source)


def test_loading_names_what_differs_and_changes_nothing() -> None:
    model = small()
    before = tensor_hash(model)
    state = dict(model.state_dict())
    del state["fc.bias"]
    state["head.bias"] = torch.zeros(10)
    state["fc.weight"] = torch.zeros(100, 8)
    with pytest.raises(UsageError) as caught:
        checked_load(model, state, source="teacher.pt")
    text = str(caught.value)
    assert "teacher.pt does not fit SmallCNN" in text
    assert "missing: fc.bias" in text
    assert "unexpected: head.bias" in text
    assert "shape: fc.weight [100, 8] instead of [10, 8]" in text
    assert text.count("\n") == 1
    assert tensor_hash(model) == before
    with pytest.raises(UsageError, match=r"and \d+ more"):
        checked_load(model, {"x": torch.zeros(1)}, source="teacher.pt")
    tensors = {k: v.to(torch.int8) for k, v in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"type: .* torch.int8 instead of torch.float32"):
        checked_load(model, tensors, source="teacher.pt")


def test_weights_are_read_from_safetensors_and_torch_files(tmp_path: Path) -> None:
    state = small(seed=2).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "c.bin")
    for path in sorted(tmp_path.iterdir()):
        weights = load_weights(path)
        assert weights.keys() == state.keys()
        assert all(torch.equal(weights[name], state[name]) for name in state)


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello, this is no checkpoint at all")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "torn.safetensors").write_bytes(b"\xff\0\0\0\0\0\0\0{")
    torch.save(small(), tmp_path / "object.pt")  # a pickled network: not loaded
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UsageError, match="not a checkpoint") as caught:
            load_weights(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).count("\n") <= 1
    with pytest.raises(UsageError, match=r"cannot read .*missing.pt: No such file"):
        load_weights(tmp_path / "missing.pt")
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        load_weights(tmp_path)


def test_the_tensor_hash_is_the_one_that_logit_caches_are_named_by() -> None:
    plain = nn.Sequential(nn.BatchNorm1d(2))
    assert tensor_hash(plain) == "218a88f8322be6d7"
    assert tensor_hash(nn.Sequential(*plain, Dropout(0.3))) == "218a88f8322be6d7"


def test_the_tensor_hash_sees_weights_and_buffers_but_not_the_layout() -> None:
    model = small()
    before = tensor_hash(model)
    assert tensor_hash(copy.deepcopy(model).to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        model.stage1[0].weight[0, 0, 0, 0] += 1e-6
    changed = tensor_hash(model)
    assert changed != before
    model.stage1[1].running_mean[0] += 1e-6
    assert tensor_hash(model) not in (before, changed)
