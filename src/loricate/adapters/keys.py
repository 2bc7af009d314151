"""Names of adapter files that more than one reader goes by."""

__all__ = ["COMFY_PREFIXES", "COMPONENT_KEY", "HEADER_KEY", "KOHYA_PREFIXES"]

HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers looks for configs in the header of a file, as a JSON object."""

COMPONENT_KEY = "loricate.component"
"""Component of a file whose names do not say it; only our own files state it."""

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
