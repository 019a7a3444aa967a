"""Quantizes with a peer, inside its own environment (install.sh): int4, groups of 128, symmetric.

usage: peer.py llmcompressor|gptqmodel|autoround gptq|awq|rounding MODEL CALIBRATION OUTPUT SAMPLES WINDOW
Prints {"seconds": ...}: of the call that quantizes, without loading and saving."""
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def windows_of(tokenizer, path, samples, length):
    ids = tokenizer(open(path, encoding="utf-8").read(), add_special_tokens=False)["input_ids"]
    windows = [ids[i:i + length] for i in range(0, len(ids) - length + 1, length)][:samples]
    assert len(windows) == samples, "the calibration text is too short"
    return windows


def llmcompressor(method, model, windows):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier
    torch.Tensor.pin_memory = lambda tensor, *arguments, **options: tensor  # AWQ pins memory, which wants a GPU
    modifier = AWQModifier if method == "awq" else GPTQModifier
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(w) for w in windows]})
    recipe = [modifier(targets=["Linear"], scheme="W4A16", ignore=["lm_head"])]
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=len(windows[0]),
            num_calibration_samples=len(windows))
    return lambda output: model.save_pretrained(output, save_compressed=True)


def gptqmodel(method, path, windows):
    from gptqmodel import GPTQModel, QuantizeConfig
    options = {"quant_method": "awq", "format": "gemm"} if method == "awq" else {}
    model = GPTQModel.load(path, QuantizeConfig(bits=4, group_size=128, **options), device="cpu")
    data = [{"input_ids": w, "attention_mask": [1] * len(w)} for w in windows]

    def quantize():
        model.quantize(data, batch_size=1)
        return lambda output: model.save(output)
    return quantize


def autoround(model, tokenizer, windows):
    from auto_round import AutoRound
    data = [{"input_ids": torch.tensor([w]), "attention_mask": torch.ones(1, len(w), dtype=torch.long)} for w in windows]
    rounding = AutoRound(model, tokenizer, bits=4, group_size=128, sym=True, iters=200, nsamples=len(windows),
                         seqlen=len(windows[0]), dataset=data, batch_size=8, device_map="cpu")
    rounding.quantize()
    return lambda output: rounding.save_quantized(output, format="auto_gptq")


def main():
    program, method, path, calibration, output, samples, length = sys.argv[1:8]
    tokenizer = AutoTokenizer.from_pretrained(path)
    windows = windows_of(tokenizer, calibration, int(samples), int(length))
    if program == "gptqmodel":
        quantize = gptqmodel(method, path, windows)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        quantize = {"llmcompressor": lambda: llmcompressor(method, model, windows),
                    "autoround": lambda: autoround(model, tokenizer, windows)}[program]
    start = time.perf_counter()
    save = quantize()
    seconds = time.perf_counter() - start
    save(output)
    tokenizer.save_pretrained(output)
    print()
    print(json.dumps({"seconds": seconds}))


main()
