import torch

from fxgrow.execution.structures import mapped


def test_a_size_whose_items_become_something_else_is_a_tuple():
    shapes = mapped([torch.Size([2, 3]), (torch.Size([4]),)], lambda size: None)
    assert shapes == [(None, None), ((None,),)]
    assert type(mapped(torch.Size([2, 3]), lambda size: size + 1)) is torch.Size
