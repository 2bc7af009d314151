import torch

from loricate.defenses.bit_depth import BitDepth


def test_levels_by_hand() -> None:
    x = torch.tensor([[0.0, 0.16, 0.17, 0.49, 0.51, 1.0]])
    thirds = torch.tensor([[0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 1.0]])
    assert torch.allclose(BitDepth(bits=2)(x, [0]), thirds)


def test_eight_bits_leave_pictures_alone() -> None:
    x = torch.arange(256).view(1, -1) / 255
    assert torch.equal(BitDepth(bits=8)(x, [0]), x)


def test_backward_is_the_identity() -> None:
    x = torch.tensor([[0.1, 0.7]], requires_grad=True)
    (BitDepth()(x, [0]) * torch.tensor([[2.0, -3.0]])).sum().backward()
    assert x.grad.tolist() == [[2.0, -3.0]]
