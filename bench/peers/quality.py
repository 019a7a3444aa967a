"""How close to the float model what we make is, beside what the peers make, in one run.

usage: bench/peers/quality.py [--work DIR] [--gguf-method 'METHOD[ OPTIONS],...'] [--only gguf|int4] [--peers DIR]

1. GGUF, in llama.cpp's own arithmetic: llama-quantize's files, with an importance matrix where one helps, and ours of
   the same types. Needs llama-cpp-python in the interpreter that runs this (install.sh llamacpp).
2. int4-g128-sym with a 16-bit embedding, all read and computed in float32 by one program: llm-compressor's and
   GPTQModel's GPTQ and AWQ and AutoRound's 200 iterations, as far as install.sh has installed them, and ours. --peers:
   a folder with artifacts that they made before (llmcompressor-gptq, gptqmodel-awq, ...), used instead of a run.
Prints tables and writes WORK/quality.json."""
import argparse
import json
import pathlib

from common import (MODEL, ROOT, SAMPLES, WINDOW, LlamaCpp, divergence, importance, peer, peer_python, progress, retort,
                    table, texts)

GGUF = {"Q4_0": "q4_0", "Q4_K_M": "q4_k_m", "Q3_K_M": "q3_k_m", "Q2_K": "q2_k", "Q6_K": "q6_k"}
PEERS = [("llmcompressor", "gptq"), ("llmcompressor", "awq"), ("gptqmodel", "gptq"), ("gptqmodel", "awq"),
         ("autoround", "rounding")]
# Methods, with options after the name.
OURS = ["rtn", "gptq", "gptq --aim float", "awq", "awq+gptq", "gptq --tune-scales 100", "gptq --learn-rounding 100"]


def quantize(work, scheme, method, calibration, keep=()):
    method, *options = method.split()
    output = work / "-".join([scheme, method, *options]).replace("--", "")
    if method != "rtn":
        options += ["--samples", SAMPLES]
    if method != "rtn" or options:  # what tunes reads the text, too
        options += ["--calibration", calibration, "--sequence-length", WINDOW]
    for pattern in keep:
        options += ["--keep", pattern]
    result = retort("quantize", MODEL, "--scheme", scheme, "--method", method, "--output", output, "--overwrite", *options)
    return output, result


def measure_gguf(work, methods, calibration, evaluation):
    from llama_quantize import llama_quantize
    imatrix = importance(work, calibration)
    reference = work / "f32.gguf"
    retort("export", MODEL, "--format", "gguf", "--type", "f32", "--output", reference, "--overwrite")
    llama = LlamaCpp(reference, retort("tokenize", MODEL, "--text", evaluation)["ids"])
    rows = []

    def add(program, kind, method, path):
        rows.append({"type": kind, "program": program, "method": method, "bytes": path.stat().st_size,
                     "kl": llama.divergence(path)})
        progress(f"{kind} {program} {method}: {rows[-1]['kl']:.5f}")

    for kind, scheme in GGUF.items():
        for matrix in (None, imatrix):
            path = work / f"peer-{kind}{'-imatrix' if matrix else ''}.gguf"
            llama_quantize(reference, path, kind, matrix)
            add("llama-quantize", kind, "imatrix" if matrix else "plain", path)
        for method in methods:
            model, _ = quantize(work, scheme, method, calibration)
            path = work / f"ours-{model.name}.gguf"
            retort("export", model, "--format", "gguf", "--output", path, "--overwrite")
            add("retort", kind, method, path)
    for row in rows:
        theirs = [r["kl"] for r in rows if r["type"] == row["type"] and r["program"] != "retort"]
        row["of the best peer"] = row["kl"] / min(theirs)
    return rows


def measure_int4(work, made_before, calibration, evaluation):
    rows = []

    def add(program, method, path, seconds):
        rows.append({"program": program, "method": method, "kl": divergence(path, evaluation), "seconds": seconds})
        progress(f"int4-g128-sym {program} {method}: {rows[-1]['kl']:.5f}")

    for program, method in PEERS:
        path = work / f"{program}-{method}"
        if made_before and (made_before / path.name).exists():
            add(program, method, made_before / path.name, None)
        elif peer_python(program):
            add(program, method, path, peer(program, program, method, MODEL, calibration, path, SAMPLES, WINDOW)["seconds"])
        else:
            progress(f"{program} is not installed")
    for method in OURS:
        path, result = quantize(work, "int4-g128-sym", method, calibration, ["model.embed_tokens.weight=bf16"])
        add("retort", method, path, result["seconds"])
    theirs = [row["kl"] for row in rows if row["program"] != "retort"]
    for row in rows:
        row["of the best peer"] = row["kl"] / min(theirs) if theirs else None
    return rows


def shown(rows):
    head = [key for key in rows[0]]
    return table(head, [[f"{row[key]:.3g}" if isinstance(row[key], float) else row[key] or "" for key in head] for row in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench-peers")
    parser.add_argument("--gguf-method", default="rtn,imatrix,gptq")
    parser.add_argument("--only", choices=["gguf", "int4"])
    parser.add_argument("--peers", type=pathlib.Path)
    options = parser.parse_args()
    calibration, evaluation = texts(options.work)
    results = {}
    if options.only != "int4":
        results["gguf"] = measure_gguf(options.work, options.gguf_method.split(","), calibration, evaluation)
    if options.only != "gguf":
        results["int4-g128-sym"] = measure_int4(options.work, options.peers, calibration, evaluation)
    for name, rows in results.items():
        print(f"\n{name}: KL to the float model, nats per token\n\n{shown(rows)}")
    (options.work / "quality.json").write_text(json.dumps(results, indent=1))


main()
