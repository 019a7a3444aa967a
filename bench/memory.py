#!/usr/bin/env python3
"""memory.py RETORT TOKENIZER DIRECTORY [--shape CONFIG] [--calibration TEXT] [--samples N] [--schemes A,B]

Peak resident memory of `retort quantize` on random weights, beside the limit that it was given: rounding and K-quants
under 6 GiB, gptq with calibration under 8 GiB. CONFIG: a config.json, by default the shape of Llama 2 7B (13 GiB on the
disk, and what is made of them). TOKENIZER: a model whose tokenizer is taken."""
import argparse
import json
import pathlib
import shutil
import subprocess

LLAMA_7B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}


def retort(program, *arguments):
    done = subprocess.run([program, *map(str, arguments), "--json", "--quiet"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def random_model(given):
    path = given.directory / "memory-model"
    if not path.exists():
        config = given.directory / "memory-config.json"
        config.write_text(given.shape.read_text() if given.shape else json.dumps(LLAMA_7B))
        retort(given.retort, "init", "--config", config, "--tokenizer", given.tokenizer, "--type", "bf16", "--output", path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retort")
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--shape", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path)
    parser.add_argument("--samples", default="32")
    parser.add_argument("--schemes", default="int4-g128-sym,q4_k_m,q2_k,q6_k")
    given = parser.parse_args()
    model, made = random_model(given), given.directory / "memory-quantized"
    runs = [(scheme, "rtn", "6GiB", []) for scheme in given.schemes.split(",")]
    if given.calibration:
        runs.append(("int4-g128-sym", "gptq", "8GiB", ["--calibration", given.calibration, "--samples", given.samples]))
    for scheme, method, limit, options in runs:
        summary = retort(given.retort, "quantize", model, "--scheme", scheme, "--method", method, "--memory", limit,
                         "--output", made, "--overwrite", *options)
        print(f"{scheme:16} {method:6} limit {limit:>5}   peak {summary['peak_rss_bytes'] / 2**20:8.1f} MiB   "
              f"{summary['seconds']:8.1f} s   {summary['output_bytes'] / 2**20:8.0f} MiB written", flush=True)
    shutil.rmtree(made)


main()
