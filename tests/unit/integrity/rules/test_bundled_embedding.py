"""Embeddings inside an adapter."""

import numpy as np

from loricate.integrity.finding import Severity
from loricate.integrity.rules.bundled_embedding import BundledEmbedding


def test_each_word_is_named(judged, pair):
    words = {f"bundle_emb.{word}.string_to_param.*": np.ones((2, 8)) for word in ("cat", "dog")}
    found = judged(BundledEmbedding(), pair("lora_unet_mid_block_resnets_0_conv1") | words)
    assert [each.evidence["word"] for each in found] == ["cat", "dog"]
    assert {each.severity for each in found} == {Severity.MEDIUM}


def test_no_embedding_no_finding(judged, pair):
    assert not judged(BundledEmbedding(), pair("lora_te_text_model_embeddings_token_embedding"))
