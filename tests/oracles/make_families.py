"""Makes tests/golden/families: a small random model of every family and variant, with its logits from transformers.

Each directory holds config.json as transformers 5 writes it, config_v4.json (the same in the keys of transformers 4),
model.safetensors (float32) and golden.safetensors:
  input_ids    [1, 40]
  logits       [1, 40, vocab]  all tokens in one forward pass
  step_logits  [1, 8, vocab]   tokens 33 to 40, one at a time behind a KV cache of the first 32
The metadata of golden.safetensors names the versions of transformers and torch.

usage: make_families.py OUTPUT_DIRECTORY
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

TOKENS, PREFILL = 40, 32
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)


def rope(**parameters):
    return {"rope_theta": 10000.0, "rope_type": "default", **parameters}


VARIANTS = {
    "llama": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, rms_norm_eps=1e-5, rope_parameters=rope()),
    "llama3-tied": LlamaConfig(
        **{**SIZES, "max_position_embeddings": 256}, tie_word_embeddings=True, head_dim=16,
        rope_parameters=rope(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-mqa": LlamaConfig(
        **{**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}, head_dim=20, rope_parameters=rope()),
    "llama-linear": LlamaConfig(**SIZES, rope_parameters=rope(rope_type="linear", factor=4.0)),
    "llama-bias": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, rope_parameters=rope()),
    "mistral": MistralConfig(**SIZES, head_dim=12, sliding_window=16, rope_parameters=rope(rope_theta=1000000.0)),
    "mistral-full": MistralConfig(**SIZES, sliding_window=None, rope_parameters=rope()),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=rope(rope_theta=1000000.0)),
    "qwen2-sliding": Qwen2Config(
        **{**SIZES, "num_hidden_layers": 3}, use_sliding_window=True, sliding_window=16, max_window_layers=1,
        rope_parameters=rope()),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, rope_parameters=rope(rope_theta=1000000.0)),
    "qwen3-sliding": Qwen3Config(
        **SIZES, head_dim=8, tie_word_embeddings=True, attention_bias=True, use_sliding_window=True,
        sliding_window=16, max_window_layers=1, rope_parameters=rope()),
    "llama-yarn": LlamaConfig(
        **{**SIZES, "max_position_embeddings": 128}, head_dim=16,
        rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0)),
    "qwen3-yarn": Qwen3Config(
        **{**SIZES, "max_position_embeddings": 128}, head_dim=16,
        rope_parameters=rope(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32,
                             attention_factor=0.8, truncate=False)),
    "mistral-longrope": MistralConfig(
        **{**SIZES, "max_position_embeddings": 128}, head_dim=16, sliding_window=None,
        rope_parameters=rope(rope_type="longrope", original_max_position_embeddings=32,
                             short_factor=[1.0, 1.1, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0],
                             long_factor=[1.0, 1.3, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0])),
    "qwen2-yarn": Qwen2Config(
        **{**SIZES, "max_position_embeddings": 128},
        rope_parameters=rope(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=32,
                             attention_factor=1.3)),
    "phi3": Phi3Config(**SIZES, sliding_window=16, pad_token_id=None, rope_parameters=rope(rope_theta=250000.0)),
    "phi3-longrope": Phi3Config(
        **{**SIZES, "max_position_embeddings": 128}, sliding_window=None, pad_token_id=None,
        original_max_position_embeddings=32,
        rope_parameters=rope(rope_type="longrope", short_factor=[1.0, 1.2, 1.6, 2.5], long_factor=[1.0, 2.0, 4.0, 8.0])),
}


def randomize(model, generator):
    """Weights large enough that every one of them shows in the logits; gains around 1, biases around 0."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.data = 1 + 0.3 * noise
        elif name.endswith("bias"):
            parameter.data = 0.3 * noise
        else:
            parameter.data = noise * (2.0 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.3)


def transformers4(config):
    """The keys of transformers 4 for the same model."""
    config = dict(config)
    config["torch_dtype"] = config.pop("dtype")
    parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters if parameters.get("rope_type") != "default" else None
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    return config


@torch.no_grad()
def cached_steps(model, ids):
    cache = model(ids[:, :PREFILL], use_cache=True).past_key_values
    rows = []
    for position in range(PREFILL, TOKENS):
        output = model(ids[:, position:position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        rows.append(output.logits)
    return torch.cat(rows, dim=1)


@torch.no_grad()
def make(name, config, directory, seed):
    generator = torch.Generator().manual_seed(seed)
    config.dtype = "float32"
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(model, generator)
    model.tie_weights()
    ids = torch.randint(0, config.vocab_size, (1, TOKENS), generator=generator)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    written = json.loads((directory / "config.json").read_text())
    (directory / "config_v4.json").write_text(json.dumps(transformers4(written), indent=2) + "\n")
    golden = {"input_ids": ids, "logits": model(ids).logits, "step_logits": cached_steps(model, ids)}
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    save_file({key: value.contiguous() for key, value in golden.items()}, directory / "golden.safetensors", versions)
    gap = (golden["logits"][:, PREFILL:] - golden["step_logits"]).abs().max()
    print(f"{name}: logits up to {golden['logits'].abs().max():.1f}, cached steps differ by {gap:.1e}")


def main():
    torch.set_num_threads(1)
    root = pathlib.Path(sys.argv[1])
    for seed, (name, config) in enumerate(VARIANTS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        make(name, config, root / name, seed)


main()
