"""Which programs will accept an adapter file as it is, and why others will not.

What PEFT 0.21 and diffusers 0.42 do is tested; ComfyUI (a125cd84) and A1111 were read, not run.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, final

from loricate.adapters.files import AdapterFile
from loricate.adapters.keys import HEADER_KEY, KOHYA_PREFIXES
from loricate.adapters.tensors import TensorFile

__all__ = ["Acceptance", "Answer", "acceptances"]

Answer: TypeAlias = Literal["yes", "partly", "no", "unknown"]
_Verdict: TypeAlias = tuple[Answer, str]

_OWN_METHOD = {"unet", "transformer", "vae"}
_ATTENTION = re.compile(r"[._](attn1|attn2|self_attn)[._]")
_DOWN = ".lora_down.weight"


@final
@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What one program does with a file.

    Args:
        loader: The program, and the call.
        answer: Whether it takes the whole file, at the right scale.
        why: Reason, or what the call needs.
    """

    loader: str
    answer: Answer
    why: str


@final
@dataclass(frozen=True)
class _Facts:
    """What loaders look at.

    Args:
        found: The file as it was read.
        file: Its tensors as they are named.
    """

    found: AdapterFile
    file: TensorFile

    @property
    def form(self) -> str:
        return self.found.form

    @cached_property
    def components(self) -> set[str]:
        return set(self.found.adapter.components)

    @cached_property
    def is_unbound(self) -> bool:
        return any(name.startswith("lycoris_") for name in self.file)

    @cached_property
    def is_scaled(self) -> bool:
        return any(update.factors.scale != 1.0 for update in self.found.adapter.values())


def acceptances(found: AdapterFile, file: TensorFile) -> tuple[Acceptance, ...]:
    """What each known program does with a file as it is.

    Args:
        found: The file as it was read.
        file: Its tensors.
    """
    facts = _Facts(found, file)
    answers = {loader: judge(facts) for loader, judge in _LOADERS.items()}
    return tuple(
        Acceptance(loader=loader, answer=answer, why=why)
        for loader, (answer, why) in answers.items()
    )


def _peft(facts: _Facts) -> _Verdict:
    if facts.form != "peft":
        return "no", "wants a folder with adapter_config.json: --to peft"
    if any("text_model." in name for name in facts.file) and "text_encoder" in facts.components:
        return "yes", "CLIPTextModel of transformers >= 5.6 needs a key_mapping"
    return "yes", ""


def _pipeline(facts: _Facts) -> _Verdict:
    if facts.form not in ("diffusers", "kohya") or facts.is_unbound:
        return "no", "names do not begin with a component: --to diffusers"
    if facts.components == {"vae"}:
        return "no", "drops a VAE without a word: load_lora_adapter, or --to merged"
    if "vae" in facts.components:
        return "partly", "drops the VAE without a word"
    if facts.form == "diffusers" and facts.found.scale_source == "tensor":
        return "unknown", "alpha tensors between names of diffusers"
    if facts.form == "kohya" and (trouble := _misread(facts.file)):
        return "partly", f"{trouble}: --to diffusers"
    return "yes", "pass weight_name and use_safetensors=True"


def _misread(file: TensorFile) -> str | None:
    """What pipelines get wrong of a kohya file, if anything."""
    layers = [name.removesuffix(_DOWN) for name in file if name.endswith(_DOWN)]
    for prefix in KOHYA_PREFIXES:
        names = [name for name in layers if name.startswith(prefix)]
        alphas = {name: _alpha(file, name) for name in names}
        attention = [name for name in names if _ATTENTION.search(name)]
        if prefix != "lora_unet_":
            if attention and not any(name.endswith("_out_proj") for name in attention):
                return "needs out_proj to find a text encoder's attention"
            attention = names
        # One alpha, the commonest, is all that these layers get.
        common = Counter(alphas.values()).most_common(1)
        if any(alphas[name] != common[0][0] for name in attention):
            return "takes one alpha where this file has several"
    return None


def _alpha(file: TensorFile, layer: str) -> float | None:
    key = f"{layer}.alpha"
    return float(file[key].reshape(())) if key in file else None


def _model(facts: _Facts) -> _Verdict:
    if not facts.components & (_OWN_METHOD | {"model"}):
        return "no", "text encoders have no such method"
    prefixes = {
        "peft": '"base_model.model"',
        "diffusers": f'"{min(facts.components & _OWN_METHOD, default="")}"',
        "diffusers-model": "None",
    }
    if facts.form not in prefixes:
        return "no", "does not know these names: --to diffusers"
    why = f"prefix={prefixes[facts.form]}"
    if facts.form == "peft" and facts.is_scaled and HEADER_KEY not in facts.file.metadata:
        return "partly", f"{why}; ignores the scale in adapter_config.json"
    if facts.components - _OWN_METHOD - {"model"}:
        return "partly", f"{why}; text encoders have no such method"
    return "yes", f"{why}; not AutoencoderTiny" if "vae" in facts.components else why


def _comfy(facts: _Facts) -> _Verdict:
    if common := _interface(facts):
        return common
    if facts.form in ("kohya", "comfy"):
        return "yes", ""
    if facts.form == "peft":
        return "no", "maps base_model.model for other families only: --to kohya"
    modules = facts.found.adapter.modules("unet")
    others = [name for name in modules if not _ATTENTION.search(name)]
    if not modules:
        return "yes", "at alpha == rank, whatever the header says"
    is_lost = facts.components == {"unet"} and not others
    return "no" if is_lost else "partly", "finds no attention of the UNet: --to kohya"


def _a1111(facts: _Facts) -> _Verdict:
    if common := _interface(facts):
        return common
    if facts.form in ("kohya", "comfy"):
        return ("yes", "") if facts.form == "kohya" else ("unknown", "")
    return "no", "splits names at the first dot: --to kohya"


def _interface(facts: _Facts) -> _Verdict | None:
    """What user interfaces have in common."""
    if facts.components == {"vae"}:
        return "no", "has no names for a VAE: --to merged"
    is_other = facts.form == "diffusers-model" or facts.components & {"transformer", "model"}
    if is_other or facts.is_unbound:
        return "unknown", ""
    if "vae" in facts.components:
        return "partly", "has no names for a VAE: --to merged"
    return None


_LOADERS: Mapping[str, Callable[[_Facts], _Verdict]] = {
    "PEFT PeftModel.from_pretrained": _peft,
    "diffusers pipe.load_lora_weights": _pipeline,
    "diffusers model.load_lora_adapter": _model,
    "ComfyUI": _comfy,
    "A1111": _a1111,
}
