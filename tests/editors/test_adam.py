"""Adam's moves, beside those of torch's own Adam."""

import pytest
import torch

from safeedit.editors import adam


@pytest.mark.parametrize("moments", [adam.MOMENTS, (0.8, 0.95)])
def test_moves_are_those_of_adam(moments):
    torch.manual_seed(0)
    ours, theirs = torch.zeros(7, 3), torch.zeros(7, 3, requires_grad=True)
    first, second = torch.zeros(2, 7, 3)
    optimiser = torch.optim.Adam([theirs], lr=0.1, betas=moments, eps=adam.LEAST)
    for step in range(1, 6):
        gradient = torch.randn(7, 3) * 10.0**-step
        adam.remember(first, second, gradient, moments)
        ours = ours - 0.1 * adam.move(first, second, step, moments)
        theirs.grad = gradient
        optimiser.step()
    assert torch.allclose(ours, theirs, rtol=1e-5)


def test_a_move_leaves_the_moments_as_they_are():
    first, second = torch.ones(4), torch.ones(4)
    before = first.clone(), second.clone()
    adam.move(first, second, 3)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def test_what_never_had_a_gradient_does_not_move():
    zeros = torch.zeros(4)
    adam.remember(first := zeros.clone(), second := zeros.clone(), zeros)
    assert torch.equal(adam.move(first, second, 1), zeros)
