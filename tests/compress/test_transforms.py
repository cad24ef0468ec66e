"""Registered changes of a network, and a user's own."""

import pytest
import torch
from torch import nn

from tune_kd.compress import transforms
from tune_kd.errors import UsageError
from tune_kd.models import checkpoints, registry

SHAPE = registry.Shape(num_classes=10, channels=1, size=(8, 8))
SAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

OWN = """
class Halved:
    def apply(self, model, *, sample):
        for parameter in model.parameters():
            parameter.data /= 2
        return model

    def rebuild(self, model, state):
        return model


class Nothing:
    pass
"""


def network(seed: int = 0) -> nn.Module:
    return registry.build("digits_medium", shape=SHAPE, seed=seed).eval()


@pytest.mark.parametrize("name", transforms.TRANSFORMS)
def test_a_changed_network_is_rebuilt_from_its_state(name):
    transform = transforms.find(name)
    changed = transform.apply(network(), sample=SAMPLE)
    state = changed.state_dict()
    again = transforms.find(name).rebuild(network(seed=1), state)
    checkpoints.checked_load(again, state, source="the state")
    assert torch.equal(changed(SAMPLE), again.eval()(SAMPLE))


def test_low_rank_is_the_truncated_singular_value_decomposition():
    model = network()
    weight = model.get_submodule("fc").weight.detach().clone()
    changed = transforms.find("low_rank", {"rank": 3}).apply(model, sample=SAMPLE)
    _, first, second = changed.get_submodule("fc")
    u, sizes, vh = torch.linalg.svd(weight, full_matrices=False)
    expected = u[:, :3] @ torch.diag(sizes[:3]) @ vh[:3]
    assert first.weight.shape == (3, weight.shape[1])
    assert torch.allclose(second.weight @ first.weight, expected, atol=1e-6)


def test_the_full_rank_changes_no_logit():
    before = network()(SAMPLE)
    changed = transforms.find("low_rank", {"rank": 1000}).apply(network(), sample=SAMPLE)
    assert torch.allclose(changed(SAMPLE), before, atol=1e-5)


def test_a_users_own_class(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    before = next(network().parameters()).detach().clone()
    changed = transforms.find("own.py:Halved", base=tmp_path).apply(network(), sample=SAMPLE)
    assert torch.equal(next(changed.parameters()), before / 2)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("low_rnk", {}, "did you mean 'low_rank'"),
        ("low_rank", {"ranks": 3}, "low_rank with .*ranks"),
        ("low_rank", {"rank": 0}, "rank >= 1 must hold, but got 0"),
        ("own.py:Nothing", {}, "has no method apply"),
        ("own.py:Halfed", {}, "Halved"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, options, says):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(UsageError, match=says):
        transforms.find(name, options, base=tmp_path)
