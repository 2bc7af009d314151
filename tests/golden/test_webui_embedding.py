"""Embeddings of the WebUI as torch writes them: parameters are built, and nothing else happens."""

from collections import OrderedDict

import pytest
import torch

from loricate.integrity.rules.pickle import Pickle
from loricate.integrity.scan import scan


def test_an_embedding_of_parameters_passes_as_torch_itself_takes_it(tmp_path) -> None:
    path = tmp_path / "style.pt"
    vector = torch.nn.Parameter(torch.ones(2, 4))
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vector}}, path)
    report = scan([path], rules=[Pickle()])
    assert (report.findings, report.not_verified, report.outcome()) == ((), (), "pass")
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(loaded["string_to_param"]["*"], vector)


def test_what_rebuilds_a_parameter_takes_nothing_but_tensors() -> None:
    built = torch._utils._rebuild_parameter(torch.ones(2), True, OrderedDict())
    assert type(built) is torch.nn.Parameter
    for other in ("os.system", {"a": 1}, OrderedDict(), [1.0]):
        with pytest.raises((AttributeError, TypeError)):
            torch._utils._rebuild_parameter(other, True, OrderedDict())
