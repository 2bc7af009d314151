"""Names of adapter files that more than one reader goes by."""

__all__ = [
    "BASE_DIGEST",
    "COMFY_PREFIXES",
    "COMPONENT_KEY",
    "HASH_KEY",
    "HEADER_KEY",
    "KOHYA_PREFIXES",
    "PLAIN_INITS",
]

HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers looks for configs in the header of a file, as a JSON object."""

COMPONENT_KEY = "loricate.component"
"""Component of a file whose names do not say it; only our own files state it."""

BASE_DIGEST = "loricate.base_digest"
"""Metadata of an adapter: digest of the tensors of its base, as the component stores them.

With the component behind a dot it is that of this component. Without, it names the base of an
adapter of one component.
"""

HASH_KEY = "sshs_model_hash"
"""Where kohya's trainer keeps the digest of all bytes behind the header."""

KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""What stands in front of the modules of each component in files of kohya."""

COMFY_PREFIXES = {
    "diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
"""What stands in front of dotted names of ComfyUI."""

PLAIN_INITS = ("gaussian", "orthogonal", "eva")
"""Named initializations of PEFT that leave the base as it is, beside its flags."""
