# SPDX-License-Identifier: Apache-2.0
"""Tiny configurations of architectures of the package transformers, with inputs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Final

import torch

_TEXT: Final = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
_GROUPED: Final = {**_TEXT, "num_key_value_heads": 2}
# The sizes of experts are multiples of 16 bytes, which a kernel of torch asks for.
_SPARSE: Final = {**_GROUPED, "intermediate_size": 48}
_VISION: Final = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "image_size": 32,
    "patch_size": 8,
}
_PAIR: Final = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "max_position_embeddings": 64,
}
_AUDIO: Final = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model class, its configuration, and the kind of its inputs.

    kind: "text" (ids and a mask with padding), "image", "pair" (ids for encoder and decoder),
    "audio", or the name of one of `_INPUTS`.
    """

    name: str
    model: str
    config: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


def _text(*, length: int = 12) -> dict[str, torch.Tensor]:
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, length - 3 :] = 0
    return {"input_ids": torch.randint(3, 99, (2, length)), "attention_mask": mask}


def _pair() -> dict[str, torch.Tensor]:
    return {**_text(), "decoder_input_ids": torch.randint(3, 99, (2, 7))}


_INPUTS: Final[dict[str, Any]] = {
    "text": _text,
    "ids": lambda: {"input_ids": torch.randint(3, 99, (2, 12))},
    "long": lambda: _text(length=16),
    "pair": _pair,
    "image": lambda: {"pixel_values": torch.randn(1, 3, 32, 32)},
    "image64": lambda: {"pixel_values": torch.randn(1, 3, 64, 64)},
    "masked": lambda: {"pixel_values": torch.randn(1, 3, 32, 32), "noise": torch.rand(1, 16)},
    "audio": lambda: {"input_values": torch.randn(1, 800)},
    "speech": lambda: {
        "input_features": torch.randn(1, 16, 60),
        "decoder_input_ids": torch.randint(3, 99, (1, 7)),
    },
    "spectrogram": lambda: {"input_values": torch.randn(1, 32, 16)},
    "clip": lambda: {**_text(), "pixel_values": torch.randn(2, 3, 32, 32)},
    "video": lambda: {"pixel_values": torch.randn(1, 2, 3, 32, 32)},
}


def _of(name: str, stem: str, kind: str, **settings: Any) -> Architecture:
    return Architecture(name, f"{stem}Model", f"{stem}Config", kind, settings)


_MOE: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

ARCHITECTURES: Final = (
    # encoders of text
    _of("bert", "Bert", "text", **_TEXT),
    _of("roberta", "Roberta", "text", **_TEXT),
    _of("xlm_roberta", "XLMRoberta", "text", **_TEXT),
    _of("camembert", "Camembert", "text", **_TEXT),
    _of(
        "distilbert",
        "DistilBert",
        "text",
        vocab_size=99,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=37,
        max_position_embeddings=64,
    ),
    _of("albert", "Albert", "text", **_TEXT, embedding_size=16),
    _of("electra", "Electra", "text", **_TEXT, embedding_size=16),
    _of("mpnet", "MPNet", "text", **_TEXT),
    _of(
        "mobilebert",
        "MobileBert",
        "text",
        **{**_TEXT, "intermediate_size": 32},
        embedding_size=16,
        intra_bottleneck_size=16,
        true_hidden_size=16,
    ),
    _of(
        "squeezebert",
        "SqueezeBert",
        "text",
        **{**_TEXT, "intermediate_size": 64},
        q_groups=2,
        k_groups=2,
        v_groups=2,
        post_attention_groups=2,
        intermediate_groups=4,
        output_groups=4,
        embedding_size=32,
    ),
    _of(
        "deberta", "Deberta", "text", **_TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"]
    ),
    _of(
        "deberta_v2",
        "DebertaV2",
        "text",
        **_TEXT,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    ),
    _of(
        "modernbert",
        "ModernBert",
        "text",
        **{**_TEXT, "intermediate_size": 48},
        pad_token_id=0,
        global_attn_every_n_layers=2,
        local_attention=8,
    ),
    _of("longformer", "Longformer", "long", **_TEXT, attention_window=4),
    _of(
        "funnel",
        "Funnel",
        "text",
        vocab_size=99,
        block_sizes=[1, 1],
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=37,
        num_decoder_layers=1,
    ),
    _of("xlnet", "XLNet", "text", vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=37),
    _of("fnet", "FNet", "ids", **{k: v for k, v in _TEXT.items() if k != "num_attention_heads"}),
    _of("convbert", "ConvBert", "text", **_TEXT, embedding_size=16),
    _of("rembert", "RemBert", "text", **_TEXT, input_embedding_size=16, output_embedding_size=16),
    _of("layoutlm", "LayoutLM", "text", **_TEXT),
    # decoders of text
    _of("gpt2", "GPT2", "text", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _of(
        "gpt_neo",
        "GPTNeo",
        "text",
        vocab_size=99,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
    ),
    _of("gpt_neox", "GPTNeoX", "text", **_TEXT),
    _of(
        "gptj",
        "GPTJ",
        "text",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=4,
    ),
    _of(
        "gpt_bigcode",
        "GPTBigCode",
        "text",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
    ),
    _of(
        "codegen",
        "CodeGen",
        "text",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=4,
    ),
    _of(
        "opt",
        "OPT",
        "text",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=37,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    _of("bloom", "Bloom", "text", vocab_size=99, hidden_size=32, n_layer=2, n_head=4),
    _of(
        "falcon",
        "Falcon",
        "text",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    _of("mpt", "Mpt", "text", vocab_size=99, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    _of("llama", "Llama", "text", **_GROUPED),
    _of("mistral", "Mistral", "text", **_GROUPED, sliding_window=6),
    _of("qwen2", "Qwen2", "text", **_GROUPED),
    _of("qwen3", "Qwen3", "text", **_GROUPED, head_dim=8),
    _of("gemma", "Gemma", "text", **_GROUPED, head_dim=8),
    _of("gemma2", "Gemma2", "text", **_GROUPED, head_dim=8, sliding_window=6),
    _of("gemma3", "Gemma3Text", "text", **_GROUPED, head_dim=8, sliding_window=6),
    _of("phi", "Phi", "text", **_TEXT),
    _of("phi3", "Phi3", "text", **_GROUPED, pad_token_id=0),
    _of("stablelm", "StableLm", "text", **_GROUPED),
    _of("starcoder2", "Starcoder2", "text", **_GROUPED),
    _of("cohere", "Cohere", "text", **_GROUPED),
    _of("olmo", "Olmo", "text", **_GROUPED),
    _of("olmo2", "Olmo2", "text", **_GROUPED),
    _of("granite", "Granite", "text", **_GROUPED),
    _of("glm", "Glm", "text", **_GROUPED, head_dim=8, pad_token_id=0),
    _of("nemotron", "Nemotron", "text", **_GROUPED),
    _of("persimmon", "Persimmon", "text", **_TEXT),
    _of("mixtral", "Mixtral", "text", **_SPARSE, num_local_experts=4),
    _of("qwen2_moe", "Qwen2Moe", "text", **_SPARSE, **_MOE, shared_expert_intermediate_size=16),
    _of("olmoe", "Olmoe", "text", **_SPARSE, num_experts=4, num_experts_per_tok=2),
    _of("mamba", "Mamba", "ids", vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4),
    _of(
        "mamba2",
        "Mamba2",
        "ids",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        head_dim=8,
        num_heads=8,
        n_groups=2,
        chunk_size=4,
    ),
    _of(
        "rwkv",
        "Rwkv",
        "ids",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
    ),
    _of(
        "xglm",
        "XGLM",
        "text",
        vocab_size=99,
        d_model=32,
        num_layers=2,
        attention_heads=4,
        ffn_dim=37,
        max_position_embeddings=64,
    ),
    # encoders and decoders of text
    _of("t5", "T5", "pair", vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4),
    _of(
        "mt5", "MT5", "pair", vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    ),
    _of("bart", "Bart", "pair", **_PAIR),
    _of("mbart", "MBart", "pair", **_PAIR),
    _of("marian", "Marian", "pair", **_PAIR, pad_token_id=0),
    _of("pegasus", "Pegasus", "pair", **_PAIR),
    _of("blenderbot", "Blenderbot", "pair", **_PAIR),
    _of("m2m_100", "M2M100", "pair", **_PAIR),
    # images
    _of("vit", "ViT", "image", **_VISION),
    _of("deit", "DeiT", "image", **_VISION),
    _of("beit", "Beit", "image", **_VISION),
    _of("dinov2", "Dinov2", "image", **{k: v for k, v in _VISION.items() if "inter" not in k}),
    _of(
        "swin",
        "Swin",
        "image",
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
    ),
    _of(
        "swinv2",
        "Swinv2",
        "image",
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
    ),
    _of("convnext", "ConvNext", "image", num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    _of("convnextv2", "ConvNextV2", "image", num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    _of("resnet", "ResNet", "image", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]),
    _of(
        "regnet",
        "RegNet",
        "image",
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        groups_width=8,
    ),
    _of("mobilenet_v1", "MobileNetV1", "image", depth_multiplier=0.25, min_depth=4),
    _of("mobilenet_v2", "MobileNetV2", "image", depth_multiplier=0.25),
    _of(
        "efficientnet",
        "EfficientNet",
        "image",
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    _of(
        "segformer",
        "Segformer",
        "image",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
    ),
    _of(
        "poolformer",
        "PoolFormer",
        "image64",
        depths=[1, 1],
        hidden_sizes=[16, 32],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
    ),
    _of(
        "pvt",
        "Pvt",
        "image64",
        image_size=64,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 32],
        num_attention_heads=[1, 2, 2, 4],
    ),
    _of(
        "levit",
        "Levit",
        "image64",
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        mlp_ratio=[2, 2, 2],
        attention_ratio=[2, 2, 2],
    ),
    _of(
        "mobilevit",
        "MobileViT",
        "image64",
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
    ),
    _of("cvt", "Cvt", "image64", embed_dim=[16, 16, 32], num_heads=[1, 1, 2], depth=[1, 2, 3]),
    _of(
        "focalnet",
        "FocalNet",
        "image",
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        hidden_sizes=[16, 32],
        focal_levels=[1, 1],
        focal_windows=[3, 3],
    ),
    _of("yolos", "Yolos", "image", **{**_VISION, "image_size": [32, 32]}, num_detection_tokens=4),
    _of("vit_mae", "ViTMAE", "masked", **_VISION, mask_ratio=0.0),
    _of(
        "dpt",
        "DPT",
        "image",
        **_VISION,
        backbone_out_indices=[0, 0, 1, 1],
        neck_hidden_sizes=[8, 8, 16, 16],
        is_hybrid=False,
    ),
    # sound, video, and two at a time
    _of("wav2vec2", "Wav2Vec2", "audio", **_AUDIO),
    _of("hubert", "Hubert", "audio", **_AUDIO),
    _of("wavlm", "WavLM", "audio", **_AUDIO),
    _of(
        "ast",
        "AST",
        "spectrogram",
        **{k: v for k, v in _VISION.items() if "image" not in k},
        max_length=32,
        num_mel_bins=16,
        frequency_stride=8,
        time_stride=8,
    ),
    _of(
        "whisper",
        "Whisper",
        "speech",
        **{k: v for k, v in _PAIR.items() if "max" not in k},
        num_mel_bins=16,
        max_source_positions=30,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    _of(
        "clip",
        "CLIP",
        "clip",
        projection_dim=16,
        text_config={**_TEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config=_VISION,
    ),
    _of(
        "siglip", "Siglip", "clip", text_config={**_TEXT, "pad_token_id": 0}, vision_config=_VISION
    ),
    _of("timesformer", "Timesformer", "video", **_VISION, num_frames=2),
)


def _transformers() -> Any:
    """The package, imported when needed: that takes seconds."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        # A torchvision built for another torch is found but does not load, and takes the models of
        # transformers with it; None makes it count as not installed.
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    import transformers

    return transformers


def make(architecture: Architecture) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model with random weights, in evaluation mode, and inputs by name: the same each time."""
    transformers = _transformers()
    torch.manual_seed(0)
    config = getattr(transformers, architecture.config)(**architecture.settings)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    model = getattr(transformers, architecture.model)(config).eval()
    if hasattr(config, "_experts_implementation"):  # the one whose sizes do not depend on data
        model.set_experts_implementation("batched_mm")
    for parameter in model.parameters():  # what starts as zeros would hide mistakes
        if parameter.numel() and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model, _INPUTS[architecture.kind]()
