"""What PEFT writes of DoRA, beside the base it was trained on."""

import re

import pytest

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.integrity.finding import Severity
from loricate.integrity.scan import scan

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = torch.nn.Conv2d(8, 12, 3)
        self.proj_in = torch.nn.Linear(12, 10)


@pytest.fixture
def base(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Model()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_tensors(tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors", tensors)
    return model


@pytest.mark.parametrize(("gain", "outcome"), [(1.0, "pass"), (300.0, "fail")])
def test_its_magnitudes_are_those_of_the_base_until_somebody_changes_them(
    base, tmp_path, gain, outcome
):
    with torch.random.fork_rng():
        config = peft.LoraConfig(
            r=2, lora_alpha=2, target_modules=["conv_in", "proj_in"], use_dora=True
        )
        adapted = peft.get_peft_model(base, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.01 * torch.randn_like(parameter)
            if "lora_magnitude_vector" in name:
                parameter.data *= gain
    adapted.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    assert sum("lora_magnitude_vector" in name for name in TensorFile(path)) == 2
    report = scan([path], base=tmp_path / "base")
    assert report.outcome() == outcome
    found = [each for each in report.findings if each.rule == "dora_magnitude"]
    assert [each.severity for each in found] == ([] if gain == 1.0 else [Severity.HIGH])
    assert all(each.evidence["n_modules"] == 2 for each in found)
    assert all(each.evidence["whole"] == pytest.approx(gain, rel=0.05) for each in found)
    assert not any(each.rule == "dora_magnitude" for each in report.not_verified)


def test_a_row_that_cancels_has_any_size_its_magnitude_gives_it(base, tmp_path):
    with torch.random.fork_rng():
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["proj_in"], use_dora=True)
        adapted = peft.get_peft_model(base, config)
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                parameter.data[0] = base.proj_in.weight.data[0]
            if "lora_B" in name:
                parameter.data = torch.zeros_like(parameter)
                parameter.data[0, 0] = -1.0
            if "lora_magnitude_vector" in name:
                parameter.data[0] *= 1000
    adapted.save_pretrained(tmp_path / "adapter")
    report = scan([tmp_path / "adapter"], base=tmp_path / "base")
    [found] = [each for each in report.findings if each.rule == "dora_magnitude"]
    assert found.severity is Severity.HIGH


def test_scales_that_are_no_numbers_are_found(base, tmp_path):
    with torch.random.fork_rng():
        adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["proj_in"]))
    adapted.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    for number in ("NaN", "1e400"):
        path.write_text(re.sub(r'"lora_alpha": \d+', f'"lora_alpha": {number}', path.read_text()))
        [found] = [each for each in scan([path.parent]).findings if each.rule == "non_finite"]
        assert (found.severity, found.where) == (Severity.HIGH, "lora_alpha")
        path.write_text(path.read_text().replace(number, "8"))
