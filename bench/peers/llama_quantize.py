"""llama-quantize through llama-cpp-python: the same function, with an importance matrix."""
import ctypes

import gguf
import llama_cpp
import numpy as np

# LLAMA_FTYPE of llama.cpp.
TYPES = {"Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17,
         "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30}


QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))


def imatrix_entries(path):
    """Mean squared activations of each column, by the name of the tensor; llama-quantize's own reading of the file."""
    tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    entries = (llama_cpp.llama_model_imatrix_data * (len(tensors) // 2 + 1))()
    keep = []
    for i, name in enumerate(name for name in tensors if name.endswith(".in_sum2")):
        base = name.removesuffix(".in_sum2")
        means = np.ascontiguousarray((tensors[name] / tensors[base + ".counts"].reshape(-1, 1)).reshape(-1))
        keep.append(means)
        entries[i].name = base.encode()
        entries[i].data = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entries[i].size = means.size
    return entries, keep


def llama_quantize(source, output, kind, imatrix=None, threads=1):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = TYPES[kind]
    parameters.nthread = threads
    if imatrix:
        entries, keep = imatrix_entries(imatrix)
        parameters.imatrix = entries
    if llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp could not write {output}")
