"""transformers with GPTQ and AWQ checkpoints, whose matrices GPTQModel computes; importing this takes seconds."""
import gc
import os

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it refuses machines with few cores without this

import torch
import transformers
from gptqmodel.nn_modules.qlinear import torch_cpu_avx512, torch_cpu_avx512_awq

# Where the processor has AVX-512 with BF16, GPTQModel compiles a kernel for minutes: the same kernel on every machine.
for kernels in (torch_cpu_avx512, torch_cpu_avx512_awq):
    kernels.has_avx512_bf16 = lambda: False
gc.freeze()  # GPTQModel collects garbage at every loading, which goes through all that was just imported

TOLERANCE = 1e-2  # of the largest logit: its CPU kernel rounds sums, which large random weights carry far


def load(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", dtype=torch.float32)


def logits(loaded, ids):
    """[tokens, vocabulary]"""
    with torch.no_grad():
        return loaded(torch.tensor([ids])).logits[0].float().numpy()
