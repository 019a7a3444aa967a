"""How long quantizing takes beside the peers, both sides in turns, on a machine that does nothing else.

usage: bench/peers/speed.py [--work DIR] [--shape CONFIG] [--repeats N] [--only blocks|gptq] [--threads N...]
                             [--programs llmcompressor gptqmodel]

blocks: block types and mixes of a model with random weights beside llama-quantize's (without an importance matrix on
either side), the median of N runs. gptq: 32 samples of 512 tokens beside llm-compressor and GPTQModel, each with the
numbers of threads asked (1 and 2), of which the fastest counts; ours with its second pass over the codes, which they do
not have, and without. CONFIG: a config.json, by default TinyLlama's shape (1.1
billion weights)."""
import argparse
import json
import os
import pathlib
import statistics
import time

from common import MODEL, ROOT, peer, peer_python, progress, retort, table, texts

TINYLLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
             "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000,
             "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
             "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
# With --grid max, q4_0 is made by llama-quantize's own rule, which searches nothing.
TYPES = [("Q8_0", "q8_0", []), ("Q4_0", "q4_0", []), ("Q4_0", "q4_0", ["--grid", "max"]), ("Q4_K_M", "q4_k_m", []),
         ("Q3_K_M", "q3_k_m", []), ("Q6_K", "q6_k", []), ("IQ4_XS", "iq4_xs", [])]


def seconds_of(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure_blocks(work, model, repeats):
    from llama_quantize import llama_quantize
    source = work / "speed-f16.gguf"
    retort("export", model, "--format", "gguf", "--type", "f16", "--output", source, "--overwrite")
    rows = []
    for kind, scheme, options in TYPES:
        theirs, ours = [], []
        for _ in range(repeats):
            theirs.append(seconds_of(lambda: llama_quantize(source, work / "speed-peer.gguf", kind, None, os.cpu_count()))[0])
            ours.append(seconds_of(lambda: retort("quantize", model, "--scheme", scheme, "--method", "rtn", *options,
                                                  "--output", work / "speed-ours", "--overwrite"))[0])
        rows.append([" ".join([kind, *options]), statistics.median(theirs), statistics.median(ours)])
        progress(str(rows[-1]))
    return [row + [row[1] / row[2]] for row in rows]


def measure_gptq(work, model, calibration, threads, programs):
    rows = []
    for program in programs:
        if peer_python(program) is None:
            progress(f"{program} is not installed")
            continue
        theirs = {}
        for count in threads:
            os.environ["OMP_NUM_THREADS"] = str(count)
            os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # GPTQModel refuses two cores without it
            theirs[count] = peer(program, program, "gptq", model, calibration, work / "speed-gptq-peer", 32, 512)["seconds"]
            progress(f"{program} gptq, {count} threads: {theirs[count]:.1f} s")
        best = min(theirs, key=theirs.get)
        for second_pass in ("on", "off"):
            ours = retort("quantize", model, "--scheme", "int4-g128-sym", "--method", "gptq", "--calibration", calibration,
                          "--samples", 32, "--sequence-length", 512, "--second-pass", second_pass,
                          "--output", work / "speed-ours", "--overwrite")["seconds"]
            rows.append([f"{program} gptq, {best} threads; second pass {second_pass}", theirs[best], ours,
                         theirs[best] / ours])
            progress(str(rows[-1]))
    return rows


def random_model(work, shape):
    """Random weights in the shape asked, with the tokenizer of the small model: its ids fit any larger vocabulary."""
    config, path = work / "speed-config.json", work / "speed-model"
    config.write_text(shape.read_text() if shape else json.dumps(TINYLLAMA))
    if not path.exists():
        retort("init", "--config", config, "--tokenizer", MODEL, "--type", "bf16", "--output", path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench-peers")
    parser.add_argument("--shape", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["blocks", "gptq"])
    parser.add_argument("--programs", nargs="+", default=["llmcompressor", "gptqmodel"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    calibration, _ = texts(options.work)
    model = random_model(options.work, options.shape)
    results = {}
    if options.only != "gptq":
        results["blocks"] = measure_blocks(options.work, model, options.repeats)
    if options.only != "blocks":
        results["gptq"] = measure_gptq(options.work, model, calibration, options.threads, options.programs)
    for name, rows in results.items():
        print(f"\n{name}: seconds\n")
        print(table(["", "peer", "retort", "times as fast"],
                    [[f"{value:.3g}" if isinstance(value, float) else value or "" for value in row] for row in rows]))
    (options.work / "speed.json").write_text(json.dumps(results, indent=1))


main()
