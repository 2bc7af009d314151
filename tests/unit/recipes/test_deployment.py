"""Deployed models: adapters on copies, and a base that never notices."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from loricate.adapters.files import save_adapter
from loricate.basics.errors import ConfigError
from loricate.defenses.jpeg import JPEG
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.recipes._deployment import Deployment, deploy
from loricate.surfaces.attach import attach, target_layers
from loricate.surfaces.gated import attach_gated, watched, whole_state


@pytest.fixture(scope="module")
def base():
    return SD15.tiny()


@pytest.fixture
def saved(base, tmp_path):
    """Writes an adapter for the first layers of a part, and returns where."""

    def written(component, form):
        module = base.module(component)
        paths = list(target_layers(module, ("encoder.", "down_blocks.", "text_model.encoder.")))[:2]
        attached = attach(module, dict.fromkeys(paths, 2), seed=0)
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator()))
        adapter = attached.adapter(component)
        attached.detach()
        ending = ".safetensors" if form == "kohya" else ""
        path = tmp_path / f"{component}-{form}{ending}"
        save_adapter(adapter, path, form=form)
        return path

    return written


def _same(one, other) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def test_a_deployment_without_anything_is_the_base(base) -> None:
    subject = deploy(base, Deployment(name="base"))
    assert (subject.name, subject.family, subject.defenses) == ("base", base, ())


def test_adapters_go_on_copies_of_their_parts_and_the_rest_is_shared(base, saved) -> None:
    before = {k: v.clone() for k, v in base.module("vae").state_dict().items()}
    deployment = Deployment(
        name="both", adapters={"vae": saved("vae", "peft"), "unet": saved("unet", "kohya")}
    )
    family = deploy(base, deployment).family
    assert family.module("text_encoder") is base.module("text_encoder")
    for component in ("vae", "unet"):
        assert not _same(family.module(component), base.module(component))
    assert base.module("vae").state_dict().keys() == before.keys()
    assert all(torch.equal(base.module("vae").state_dict()[k], v) for k, v in before.items())


def test_a_gated_adapter_is_deployed_and_seen_by_the_digest(base, tmp_path) -> None:
    module = base.module("unet")
    path = next(p for p, layer in target_layers(module).items() if isinstance(layer, nn.Linear))
    attached = attach_gated(module, {path: 2}, seed=0)
    with torch.no_grad():
        attached.updates[path].b.fill_(0.3)
    attached.save(tmp_path / "gated.safetensors")
    attached.detach()
    deployment = Deployment(name="lord", adapters={"unet": tmp_path / "gated.safetensors"})
    deployed = deploy(base, deployment).family.module("unet")
    assert _same(deployed, module)
    assert digest(whole_state(deployed)) != digest(whole_state(module))
    assert whole_state(module).keys() == module.state_dict().keys()
    with watched(deployed) as gates:
        layer = deployed.get_submodule(path)
        layer(torch.ones(1, 2, layer.in_features))
    assert gates.mean().shape == (1,)


def test_defenses_stand_in_front(base) -> None:
    subject = deploy(base, Deployment(name="jpeg", defenses=(JPEG(),)))
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(subject.latents(x, [0]), base.vae_encoder()(JPEG()(x, [0]), [0]))


def test_parts_that_a_pipeline_lacks_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'text_encoder'"):
        Deployment(name="x", adapters={"text_encodr": tmp_path})
