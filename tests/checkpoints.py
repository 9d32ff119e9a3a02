"""Checkpoints as the field shares them, in their genuine layout, with the values of a model at hand."""

from argparse import Namespace

import numpy as np
import torch
from torch import nn

DEPTHS = {"vit_tiny_patch16_224": 12}


def npz_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return what ViT-*_16.npz would hold: Flax's names, and kernels the other way round."""

    def linear(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
        return layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    width = model.embed_dim
    heads = model.blocks[0].attn.num_heads
    arrays = {
        "cls": model.cls_token.detach().numpy(),
        "embedding/kernel": model.patch_embed.proj.weight.detach().numpy().transpose(2, 3, 1, 0),
        "embedding/bias": model.patch_embed.proj.bias.detach().numpy(),
        "Transformer/posembed_input/pos_embedding": model.pos_embed.detach().numpy(),
        "Transformer/encoder_norm/scale": model.norm.weight.detach().numpy(),
        "Transformer/encoder_norm/bias": model.norm.bias.detach().numpy(),
        "head/kernel": np.zeros((width, 21843), np.float32),
        "head/bias": np.zeros(21843, np.float32),
        "pre_logits/kernel": np.zeros((width, width), np.float32),
        "pre_logits/bias": np.zeros(width, np.float32),
    }
    for index, block in enumerate(model.blocks):
        prefix = f"Transformer/encoderblock_{index}/"
        for name, norm in (("LayerNorm_0", block.norm1), ("LayerNorm_2", block.norm2)):
            arrays[f"{prefix}{name}/scale"] = norm.weight.detach().numpy()
            arrays[f"{prefix}{name}/bias"] = norm.bias.detach().numpy()
        for layer, name in ((block.mlp.fc1, "Dense_0"), (block.mlp.fc2, "Dense_1")):
            kernel, bias = linear(layer)
            arrays[f"{prefix}MlpBlock_3/{name}/kernel"] = kernel
            arrays[f"{prefix}MlpBlock_3/{name}/bias"] = bias
        attention = f"{prefix}MultiHeadDotProductAttention_1/"
        kernel, bias = linear(block.attn.qkv)
        for part, name in enumerate(("query", "key", "value")):
            columns = slice(part * width, (part + 1) * width)
            arrays[f"{attention}{name}/kernel"] = kernel[:, columns].reshape(width, heads, -1)
            arrays[f"{attention}{name}/bias"] = bias[columns].reshape(heads, -1)
        kernel, bias = linear(block.attn.proj)
        arrays[f"{attention}out/kernel"] = kernel.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = bias
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model without its classifier."""
    return {
        n: v.clone() for n, v in model.state_dict().items() if not n.startswith(("head.weight", "head.bias"))
    }


@torch.no_grad()
def fix_positions(model: nn.Module, first: str) -> nn.Module:
    """Give a ViT the position embeddings of MAE (first the "columns") or MoCo v3 (first the "rows")."""
    side, width = model.patch_embed.grid_size[0], model.embed_dim // 4
    for token in range(side * side):
        row, column = divmod(token, side)
        axes = (column, row) if first == "columns" else (row, column)
        angles = [axis / 10000 ** (np.arange(width) / width) for axis in axes]
        values = np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)])
        model.pos_embed[0, token + 1] = torch.from_numpy(values)
    model.pos_embed[0, 0] = 0
    return model


def mae(model: nn.Module) -> dict:
    """Return what mae_pretrain_vit_*.pth holds; its full sibling has a decoder and a command line too."""
    return {"model": body(model)}


def mae_full(model: nn.Module) -> dict:
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 8)}
    return {"model": body(model) | extra, "epoch": 799, "args": Namespace(lr=1e-3)}


def mocov3(model: nn.Module) -> dict:
    """Return what vit-*-300ep.pth.tar holds: both encoders of the pre-training, and the predictor."""
    state = {}
    for encoder in ("base_encoder", "momentum_encoder"):
        shift = 0.0 if encoder == "base_encoder" else 1.0
        state |= {f"module.{encoder}.{name}": value + shift for name, value in body(model).items()}
        state[f"module.{encoder}.head.0.weight"] = torch.zeros(16, 8)
    state["module.predictor.0.weight"] = torch.zeros(16, 8)
    return {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {"step": 1}}


def mocov3_linear(model: nn.Module) -> dict:
    """Return what linear-vit-*.pth.tar holds: the encoder under `module.`, with a classifier."""
    state = {f"module.{name}": value for name, value in body(model).items()}
    state |= {"module.head.weight": torch.zeros(1000, 8), "module.head.bias": torch.zeros(1000)}
    return {"epoch": 90, "arch": "vit_base", "state_dict": state, "best_acc1": 76.7}


def dino(model: nn.Module) -> dict:
    """Return what dino_*_pretrain_full_checkpoint.pth holds: teacher and student, with projections."""
    files = {"teacher": "", "student": "module."}
    content = {
        key: {f"{start}backbone.{name}": value + (key == "student") for name, value in body(model).items()}
        | {f"{start}head.mlp.0.weight": torch.zeros(8, 8), f"{start}head.last_layer.weight_g": torch.zeros(8)}
        for key, start in files.items()
    }
    return content | {
        "epoch": 100,
        "args": Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(8)},
    }


def dinov2(model: nn.Module) -> dict:
    """Return what dinov2_*_pretrain.pth holds: timm's names, and a mask token."""
    return body(model) | {"mask_token": torch.zeros(1, model.embed_dim)}


def dinov2_training(model: nn.Module) -> dict:
    """Return what DINOv2's training leaves: the teacher, in chunks of blocks."""
    names = {name: name.replace("blocks.", "blocks.0.") for name in dinov2(model)}
    state = {f"backbone.{names[name]}": value for name, value in dinov2(model).items()}
    return {"teacher": state | {"dino_head.mlp.0.weight": torch.zeros(8, 8)}}


def deit3(model: nn.Module) -> dict:
    """Return what deit_3_*_1k.pth holds: its own names of the layer scales, and a classifier."""
    state = {
        name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): value
        for name, value in model.state_dict().items()
    }
    return {"model": state}


def renamed(state: dict, names: dict[str, str]) -> dict:
    """Return tensors under other names: in each, every text is replaced in turn."""
    result = {}
    for name, value in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        result[name] = value.clone()
    return result


def dinov3(model: nn.Module, bias: float = 0.0) -> dict:
    """Return what dinov3_vit*_pretrain_*.pth holds (facebookresearch/dinov3)."""
    names = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma", "reg_token": "storage_tokens"}
    names |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2"} if hasattr(model.blocks[0].mlp, "fc1_g") else {}
    state = renamed(body(model), names)
    width = model.embed_dim
    for index in range(len(model.blocks)):
        at = f"blocks.{index}.attn."
        parts = [state.pop(f"{at}{part}_bias", torch.full((width,), bias)) for part in "qv"]
        state[f"{at}qkv.bias"] = torch.cat([parts[0], torch.full((width,), 0.3), parts[1]])
        state[f"{at}qkv.bias_mask"] = torch.cat([torch.ones(width), torch.zeros(width), torch.ones(width)])
    state["rope_embed.periods"] = model.rope.periods.bfloat16()
    return state | {"mask_token": torch.zeros(1, width)}


def dinov3_sat(model: nn.Module) -> dict:
    """Return what dinov3_vitl16_pretrain_sat493m.pth holds: a norm for local crops beside."""
    norm = {f"local_cls_norm.{part}": torch.ones(model.embed_dim) for part in ("weight", "bias")}
    return dinov3(model) | norm


def clip(model: nn.Module) -> dict:
    """Return what open_clip's files hold, and OpenAI's as a state dict: an image and a text tower."""
    names = {
        "norm_pre": "ln_pre",
        "blocks.": "transformer.resblocks.",
        ".norm": ".ln_",
        "attn.proj": "attn.out_proj",
        "qkv.": "in_proj_",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "patch_embed.proj": "conv1",
        "pos_embed": "positional_embedding",
        "cls_token": "class_embedding",
    }
    image = renamed(body(model), names)
    image |= {f"ln_post.{part}": image.pop(f"norm.{part}") for part in ("weight", "bias")}
    image["class_embedding"] = image["class_embedding"][0, 0]
    image["positional_embedding"] = image["positional_embedding"][0]
    image["proj"] = torch.zeros(model.embed_dim, 8)
    text = {name: value for name, value in image.items() if name.startswith("transformer.")}
    text |= {"positional_embedding": torch.zeros(77, 8), "text_projection": torch.zeros(8, 8)}
    text |= {"token_embedding.weight": torch.zeros(9, 8), "ln_final.weight": torch.ones(8)}
    return {f"visual.{n}": v for n, v in image.items()} | text | {"logit_scale": torch.tensor(4.6)}


def eva02(model: nn.Module) -> dict:
    """Return what eva02_*_pt_*.pt holds (baaivision/EVA, EVA-02/asuka), with rotary tables."""
    names = {"fc_norm.": "norm.", "mlp.norm.": "mlp.ffn_ln.", "attn.norm.": "attn.inner_attn_ln."}
    names |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    names |= {"mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}
    state = renamed(body(model), names)
    tables = {f"rope.freqs_{name}": torch.zeros(256, 64) for name in ("cos", "sin")}
    state |= tables | {f"blocks.{i}.attn.{n}": v for i in range(len(model.blocks)) for n, v in tables.items()}
    width = model.embed_dim
    state |= {"mask_token": torch.zeros(1, 1, width), "lm_head.weight": torch.zeros(8, width)}
    return {"module": state | {"lm_head.bias": torch.zeros(8)}}


def beit(model: nn.Module) -> dict:
    """Return what beit_*_pt22k_ft22k.pth holds: the places of its bias tables, and a classifier."""
    places = {
        f"blocks.{index}.attn.relative_position_index": torch.zeros(197, 197, dtype=torch.int64)
        for index in range(len(model.blocks))
    }
    return {"model": model.state_dict() | places}


def siglip(model: nn.Module) -> dict:
    """Return what open_clip's files of SigLIP hold: timm's image tower, and a text tower."""
    state = {f"visual.trunk.{name}": value for name, value in body(model).items()}
    state |= {"text.token_embedding.weight": torch.zeros(9, 8), "text.ln_final.weight": torch.ones(8)}
    return state | {"logit_scale": torch.tensor(4.7), "logit_bias": torch.tensor(-12.9)}


def swin(model: nn.Module) -> dict:
    """Return what swin_*_22k.pth holds: downsampling at the end of a stage, indices and masks beside."""
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("head."):
            continue
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts)] = value.clone()
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state |= {"head.weight": torch.zeros(21841, 8), "head.bias": torch.zeros(21841)}
    return {"model": state}
