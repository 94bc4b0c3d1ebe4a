"""SAM and SAM 2 of `transformers` with random weights and squares of 64 pixels."""

import torch
from transformers import Sam2VideoConfig, Sam2VideoModel, SamConfig, SamModel

SQUARE = {"image_size": 64, "patch_size": 16}
DECODER = {"mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
HEAD = {"iou_head_depth": 2, "iou_head_hidden_dim": 16}
WIDTH = 128  # of SAM 2: twice the 64 channels of memory that its attention expects


def tiny_sam(seed=0):
    """24,000 parameters."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    windows = {"window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 8}
    config = SamConfig(
        vision_config={**SQUARE, **sizes, **windows, "output_channels": 16},
        prompt_encoder_config={**SQUARE, "hidden_size": 16, "mask_input_channels": 4},
        mask_decoder_config={**DECODER, **HEAD, "hidden_size": 16},
    )
    return SamModel(config).eval()


def tiny_sam2(seed=0):
    """860,000 parameters."""
    torch.manual_seed(seed)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": WIDTH,
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={**SQUARE, "hidden_size": WIDTH, "mask_input_channels": 4},
        mask_decoder_config={**DECODER, **HEAD, "hidden_size": WIDTH},
        image_size=64,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=16,
        memory_fuser_num_layers=1,
    )
    return Sam2VideoModel(config).eval()
