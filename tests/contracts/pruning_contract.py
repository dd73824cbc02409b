"""What every pruning method and every criterion must keep."""

import copy

import pytest
import torch
from torch import nn

from trainables.errors import PruningError
from trainables.importance import CHANNEL_SCORES, Look
from trainables.models import build_model
from trainables.prune import PRUNING, How

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SCOPES = ["uniform", "global", "sensitivity"]


def build(seed=0, **args):
    args = {"width": 16, "depth": 2, "fc_width": 48} | args
    model = build_model("cnn", args, in_channels=3, image_size=16, classes=10, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        # Untrained, all factors are 1, and a cut among equals takes all or none.
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model


def look(seed=0) -> Look:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(96, 3, 16, 16, generator=generator)
    labels = torch.randint(10, (96,), generator=generator)

    def accuracy(model) -> float:
        with torch.no_grad():
            return float((model(images).argmax(1) == labels).float().mean())

    return Look(images, labels, accuracy, seed)


class PruningContract:
    """Inherit, and give the fixture `method`."""

    @pytest.fixture(params=sorted(CHANNEL_SCORES))
    def criterion(self, request) -> str:
        return request.param

    @pytest.fixture(params=SCOPES)
    def scope(self, request) -> str:
        return request.param

    def pruned(self, method, how, seed=0, shares=(1.0,), look_seed=0):
        model = build(seed)
        pruner = PRUNING[method](model, how, example=EXAMPLE, look=look(look_seed))
        return model, pruner, [pruner.step(share) for share in shares]

    def left(self, model) -> int:
        """Count the weights that still do something."""
        return sum(int(p.count_nonzero()) for n, p in model.named_parameters() if p.ndim > 1)

    def test_removes_about_what_was_asked(self, method, criterion, scope):
        whole = self.left(build())
        model, _, [pruning] = self.pruned(method, How(0.5, criterion, scope))
        _, _, [expected] = self.pruned(method, How(0.5))
        assert self.left(model) < whole
        assert pruning.parameters_after <= expected.parameters_after
        assert pruning.parameters_after > 0.5 * expected.parameters_after
        assert pruning.layers

    def test_repeats(self, method, criterion, scope):
        first, _, _ = self.pruned(method, How(0.5, criterion, scope))
        second, _, _ = self.pruned(method, How(0.5, criterion, scope))
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_criteria_choose_differently_from_random(self, method):
        random, _, _ = self.pruned(method, How(0.5, "random"))
        other, _, _ = self.pruned(method, How(0.5, "random"), look_seed=1)
        weak, _, _ = self.pruned(method, How(0.5, "l2"))
        values = [torch.cat([p.flatten() for p in m.parameters()]) for m in (random, other, weak)]
        assert not torch.equal(values[0], values[1])
        assert values[2].norm() > values[0].norm()

    def test_what_stays_keeps_its_value(self, method, criterion):
        before = {round(v, 6) for p in build().parameters() for v in p.flatten().tolist()}
        model, _, _ = self.pruned(method, How(0.5, criterion))
        after = {round(v, 6) for p in model.parameters() for v in p.flatten().tolist()}
        assert after - {0.0} <= before

    def test_several_steps_end_where_one_does(self, method, scope):
        _, _, [at_once] = self.pruned(method, How(0.5, scope=scope))
        _, _, steps = self.pruned(method, How(0.5, scope=scope), shares=(0.5, 0.9, 1.0))
        left = [s.parameters_after for s in steps]
        assert left == sorted(left, reverse=True)
        assert left[0] > left[-1]
        assert steps[-1].layers == at_once.layers

    def test_modes_generators_and_gradients_stay(self, method, criterion):
        model = build()
        model.stage1.eval()
        modes = [layer.training for layer in model.modules()]
        torch.manual_seed(3)
        expected = torch.rand(3)
        torch.manual_seed(3)
        PRUNING[method](model, How(0.5, criterion), example=EXAMPLE, look=look()).step(1.0)
        assert torch.equal(torch.rand(3), expected)
        assert [layer.training for layer in model.modules()] == modes
        assert all(p.grad is None for p in model.parameters())

    def test_the_pruned_model_answers_and_trains(self, method):
        model, _, _ = self.pruned(method, How(0.5))
        model(EXAMPLE).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_sensitivity_needs_images(self, method):
        how = How(0.5, scope="sensitivity")
        with pytest.raises(PruningError, match="sensitivity needs images"):
            PRUNING[method](build(), how, example=EXAMPLE).step(1.0)

    def test_known_curves_are_not_measured_again(self, method):
        how = How(0.5, scope="sensitivity")
        model = build()
        pruner = PRUNING[method](copy.deepcopy(model), how, example=EXAMPLE, look=look())
        pruner.step(1.0)
        blind = Look(look().images, look().labels, lambda model: pytest.fail("measured again"))
        again = PRUNING[method](model, how, example=EXAMPLE, look=blind, curves=pruner.curves)
        assert again.step(1.0).layers == pruner.step(1.0).layers
