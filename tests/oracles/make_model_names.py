#!/usr/bin/env python3
"""Writes tests/golden/model_names.json: what the gguf package takes the names of models apart into, and what llama.cpp's
converter, which calls it, names their files.

Made with gguf 0.19.0:
    python tests/oracles/make_model_names.py > tests/golden/model_names.json
"""
import importlib.metadata
import json
import sys

import gguf
from gguf.metadata import Metadata

# Repositories and the parameters of their models, tied embeddings counted once.
MODELS = {
    "meta-llama/Llama-3.2-1B-Instruct": 1235814400,
    "meta-llama/Llama-3.2-3B": 3212749824,
    "meta-llama/Llama-2-7b-chat-hf": 6738415616,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8030261248,
    "Qwen/Qwen2.5-0.5B-Instruct": 494032768,
    "Qwen/Qwen2.5-7B-Instruct-1M": 7615616512,
    "Qwen/Qwen3-8B": 8190735360,
    "Qwen/Qwen3-30B-A3B": 30532122624,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1100048384,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": 1100048384,
    "HuggingFaceTB/SmolLM2-135M": 134515008,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1711376384,
    "mistralai/Mistral-7B-Instruct-v0.3": 7248023552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12247782400,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46702792704,
    "microsoft/Phi-3-mini-4k-instruct": 3821079552,
    "microsoft/Phi-3.5-mini-instruct": 3821079552,
    "microsoft/Phi-3-medium-128k-instruct": 13960238080,
    "microsoft/phi-2": 2779683840,
    "google/gemma-2-2b-it": 2614341888,
    "google/gemma-3-270m": 268098176,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1777088000,
    "deepseek-ai/deepseek-llm-7b-chat": 6910365696,
    "NousResearch/Hermes-2-Pro-Llama-3-8B": 8030261248,
    "NousResearch/Hermes-3-Llama-3.1-8B": 8030261248,
    "teknium/OpenHermes-2.5-Mistral-7B": 7241748480,
    "01-ai/Yi-1.5-9B-Chat-16K": 8829407232,
    "bigscience/bloom-7b1": 7069016064,
    "EleutherAI/pythia-160m-deduped-v0": 162322944,
    "openai-community/gpt2-xl": 1557611200,
    "stabilityai/stablelm-2-1_6b": 1644417024,
    "h2oai/h2o-danube2-1.8b-chat": 1831201280,
    "someone/llama-4bit-q4_0": 6738415616,
    "someone/tiny_model.v2": 144832,
    "someone/Model-iter35-7B-v0.1-dpo-v2": 7241748480,
    "someone/x--y-": 5800000,
    "student": 5800000,
}
ENCODING = "Q4_K_M"


def entry(name, parameters):
    full, _, base, finetune, version, size = Metadata.get_model_id_components(name, parameters)
    # The converter counts where the name has no size.
    label = size or gguf.size_label(parameters, parameters, 0, 0)
    title = Metadata.id_to_title(full)
    return {"name": name, "parameters": parameters, "full": full, "base": base, "size": size, "finetune": finetune,
            "version": version, "title": title, "size_label": gguf.size_label(parameters, parameters, 0, 0),
            "file": gguf.naming_convention(title, base, finetune, version, label, ENCODING) + ".gguf"}


json.dump({"gguf": importlib.metadata.version("gguf"), "encoding": ENCODING,
           "models": [entry(*model) for model in MODELS.items()]}, sys.stdout, indent=1)
sys.stdout.write("\n")
