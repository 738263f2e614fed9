"""Networks of other libraries with random weights, and what each is given: ``timm``, ``transformers``, ``segmentation_models_pytorch``.

Networks of ``transformers`` are small ones of their kind, with two layers or stages as short as can be, since all layers are alike.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

LAYERS = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = LAYERS | {"vocab_size": 100}
VIT = LAYERS | {"image_size": 64}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 96, 128]}
CAUSAL = TEXT | {"num_key_value_heads": 2, "use_cache": False}
WAVES = LAYERS | {"conv_dim": (32,) * 7, "num_conv_pos_embedding_groups": 4}
SWIN = {"image_size": 64, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
BACKBONE = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
WORDS, PICTURE, WAVE, VIDEO = (1, 16), (1, 3, 64, 64), (1, 3200), (1, 4, 3, 32, 32)

KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "BertForSequenceClassification": (TEXT, WORDS),
    "DistilBertForSequenceClassification": ({"vocab_size": 100, "n_layers": 2, "dim": 64, "n_heads": 4, "hidden_dim": 128}, WORDS),
    "RobertaForTokenClassification": (TEXT, WORDS),
    "AlbertForSequenceClassification": (TEXT | {"embedding_size": 32}, WORDS),
    "ElectraForSequenceClassification": (TEXT | {"embedding_size": 32}, WORDS),
    "ModernBertForSequenceClassification": (
        TEXT | dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"], 0),
        WORDS,
    ),
    "DebertaV2ForSequenceClassification": (TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, WORDS),
    "GPT2LMHeadModel": ({"vocab_size": 100, "n_layer": 2, "n_embd": 64, "n_head": 4, "use_cache": False}, WORDS),
    "LlamaForCausalLM": (CAUSAL, WORDS),
    "Qwen2ForCausalLM": (CAUSAL, WORDS),
    "MambaForCausalLM": ({"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "use_cache": False}, WORDS),
    "T5EncoderModel": ({"vocab_size": 100, "d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2}, WORDS),
    "ViTForImageClassification": (VIT, PICTURE),
    "DeiTForImageClassification": (VIT, PICTURE),
    "BeitForImageClassification": (VIT, PICTURE),
    "Dinov2ForImageClassification": (VIT | {"patch_size": 16}, PICTURE),
    "CLIPVisionModelWithProjection": (VIT, PICTURE),
    "SiglipForImageClassification": ({"vision_config": VIT}, PICTURE),
    "YolosForObjectDetection": (VIT | {"image_size": [64, 64], "num_detection_tokens": 10}, PICTURE),
    "SwinForImageClassification": (SWIN, PICTURE),
    "HieraForImageClassification": ({"image_size": [64, 64], "embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}, PICTURE),
    "FocalNetForImageClassification": ({"image_size": 64, "embed_dim": 32, "depths": [1, 1, 2, 1]}, PICTURE),
    "ConvNextForImageClassification": (STAGES, PICTURE),
    "ConvNextV2ForImageClassification": (STAGES, PICTURE),
    "PoolFormerForImageClassification": (STAGES, PICTURE),
    "ResNetForImageClassification": (STAGES, PICTURE),
    "RegNetForImageClassification": (STAGES | {"groups_width": 32}, PICTURE),
    "MobileNetV2ForImageClassification": ({"image_size": 64}, PICTURE),
    "MobileViTForImageClassification": ({"image_size": 64}, PICTURE),
    "MobileViTV2ForImageClassification": ({"image_size": 64}, PICTURE),
    "LevitForImageClassification": ({}, (1, 3, 224, 224)),
    "PvtForImageClassification": ({"image_size": 64, "depths": [1, 1, 1, 1]}, PICTURE),
    "SegformerForSemanticSegmentation": (STAGES | {"decoder_hidden_size": 64}, PICTURE),
    "UperNetForSemanticSegmentation": ({"hidden_size": 64, "auxiliary_in_channels": 96}, PICTURE),
    "GLPNForDepthEstimation": ({"depths": [1, 1, 1, 1]}, PICTURE),
    "Swin2SRForImageSuperResolution": (SWIN | {"image_size": 32, "patch_size": 1, "num_heads": [2, 2]}, (1, 3, 32, 32)),
    "Wav2Vec2ForCTC": (WAVES | {"vocab_size": 30}, WAVE),
    "HubertForSequenceClassification": (WAVES, WAVE),
    "ASTForAudioClassification": (LAYERS | {"max_length": 128, "num_mel_bins": 64}, (1, 128, 64)),
    "VideoMAEForVideoClassification": (LAYERS | {"image_size": 32, "num_frames": 4}, VIDEO),
    "TimesformerForVideoClassification": (LAYERS | {"image_size": 32, "num_frames": 4}, VIDEO),
}


def build(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor], int | None]:
    """A network such as ``timm:resnet26d``, ``transformers:LlamaForCausalLM`` or ``segmentation_models_pytorch:Unet``.

    Returns:
        The network; what it takes by keyword, if it does; and the side of the images that it insists on, if any.
    """
    library, _, kind = name.partition(":")
    torch.manual_seed(0)
    made: Any
    if library == "timm":
        made = import_module(library).create_model(kind, pretrained=False)
        return made, {}, int(made.default_cfg["input_size"][-1]) if made.default_cfg.get("fixed_input_size") else None
    if library == "segmentation_models_pytorch":
        made, _, encoder = kind.partition("/")
        return getattr(import_module(library), made)(encoder or "resnet18", encoder_weights=None, classes=3), {}, None
    settings, shape = KINDS[kind]
    of = getattr(import_module(library), kind)
    if kind.startswith("UperNet"):
        settings = settings | {"backbone_config": import_module(library).ConvNextConfig(**STAGES, **BACKBONE)}
    made = of(of.config_class(**settings))
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(0, 100, shape, generator=generator) if shape == WORDS else torch.randn(shape, generator=generator)
    return made, {made.main_input_name: given}, None
