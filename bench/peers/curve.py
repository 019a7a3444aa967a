"""KL against bits per weight for every scheme and method, and of what options add: JSON, a picture, and the tables in
docs/quantize.md.

usage: bench/peers/curve.py [--work DIR] [--schemes A,B] [--methods rtn,gptq] [--max-tokens N]
A scheme may have options after its name: --schemes "int3-g128-sym,int3-g128-sym --outliers 4"

A pair that `retort quantize` refuses is left out with its reason. Results already in WORK/curve.json are kept, so a run
that was stopped goes on; delete the file to measure again. A run over all schemes and methods writes
docs/pictures/kl_vs_bits.svg and the lines between the markers in docs/quantize.md; OPTIONS are measured by such a run
too."""
import argparse
import json
import math
import pathlib
import re
import shutil

from common import MODEL, ROOT, SAMPLES, WINDOW, Failure, progress, retort, table, texts

SCHEMES = ["int2-g32-asym", "int2-g64-asym", "q2_k", "q2_k_s", "int3-g32-asym", "int3-g64-asym", "int3-g128-sym",
           "q3_k", "q3_k_m", "int4-g128-sym", "int4-g128-asym", "int4-g32-sym", "int4-g32-asym", "int4-channel-sym",
           "int4-tensor-sym", "nf4-g64", "q4_0", "q4_1", "iq4_nl", "iq4_xs", "q4_k", "q4_k_s", "q4_k_m", "q5_0",
           "q5_1", "q5_k", "q5_k_s", "q5_k_m", "q6_k", "int8-g128-sym", "int8-g128-asym", "int8-channel-sym", "q8_0"]
METHODS = ["rtn", "imatrix", "gptq", "awq", "awq+gptq"]
# Scheme, method, and what is asked beside them; a "--calibration" is that of the others.
OPTIONS = [
    ("q4_k_m", "gptq", "--second-pass off"), ("q4_k_m", "gptq", "--aim float"),
    ("auto", "rtn", "--size 5.05bpw"), ("auto", "rtn", "--size 5.05bpw --calibration"),
    ("auto", "gptq", "--size 5.05bpw"),
    ("int4-g128-sym", "gptq", "--second-pass off"), ("int4-g128-sym", "gptq", "--group-order none"),
    ("int4-g128-sym", "gptq", "--damp 0.001"), ("int4-g128-sym", "gptq", "--damp 0.003"),
    ("int4-g128-sym", "gptq", "--damp 0.03"), ("int4-g128-sym", "gptq", "--damp 0.1"),
    ("int4-g128-sym", "gptq", "--aim float"), ("int4-g128-sym", "awq", "--aim float"),
    ("int4-g128-sym", "awq+gptq", "--aim float"),
    ("int4-g128-sym", "rtn", "--scale-type portable"), ("int4-g128-sym", "gptq", "--scale-type portable"),
    ("int8-g128-sym", "rtn", "--scale-type portable"),
    ("int4-g128-sym", "rtn", "--outliers 4"), ("int4-g128-sym", "rtn", "--outliers 16"),
    ("int4-g128-sym", "gptq", "--outliers 4"), ("int4-g128-sym", "gptq", "--outliers 16"),
    ("int3-g128-sym", "rtn", "--outliers 4"), ("int3-g128-sym", "rtn", "--outliers 16"),
    ("int3-g128-sym", "gptq", "--outliers 4"), ("int3-g128-sym", "gptq", "--outliers 16"),
    ("q3_k_m", "gptq", "--aim float"), ("int3-g128-sym", "gptq", "--aim float"),
    ("q2_k", "gptq", "--aim float"), ("q2_k", "gptq", "--aim float --group-order none"),
    ("q2_k", "gptq", "--aim float --group-order none --learn-rounding 50"),
    ("int2-g32-asym", "gptq", "--aim float"), ("int2-g32-asym", "gptq", "--aim float --group-order none")]
COLOURS = {"rtn": "#8a8a8a", "imatrix": "#228833", "gptq": "#0b66c3", "awq": "#c3660b", "awq+gptq": "#993388"}
BEGIN, END = "<!-- kl table: bench/peers/curve.py writes it -->", "<!-- end of the kl table -->"
OPTIONS_BEGIN, OPTIONS_END = "<!-- options: bench/peers/curve.py writes it -->", "<!-- end of the options -->"


def measure(work, scheme, method, calibration, evaluation, tokens):
    output = work / "curve-model"
    name, *options = scheme.split()
    if options[-1:] == ["--calibration"]:
        options.append(calibration)
    options += [] if method == "rtn" else ["--calibration", calibration, "--samples", SAMPLES, "--sequence-length", WINDOW]
    entry = {"scheme": scheme, "method": method, "tokens": tokens}
    try:
        made = retort("quantize", MODEL, "--scheme", name, "--method", method, "--output", output, "--overwrite", *options)
        result = retort("eval", output, "--reference", MODEL, "--text", evaluation, "--convention", f"windows-{WINDOW}",
                        "--max-tokens", tokens, "--backend", "torch")
    except Failure as failure:
        if failure.exit_code != 2:  # nothing was refused: something went wrong
            raise
        return {**entry, "refused": str(failure).strip().splitlines()[-1]}
    finally:
        shutil.rmtree(output, ignore_errors=True)
    return {**entry, "bits": made["bits_per_weight"], "kl": result["kl_mean"],
            "seconds": made["seconds"]}


def picture(points):
    """A scatter plot: bits per weight, logarithm of KL, a colour for each method."""
    left, top, width, height = 60, 20, 760, 420
    low = math.floor(math.log10(min(p["kl"] for p in points)))
    high = math.ceil(math.log10(max(p["kl"] for p in points)))
    first, last = math.floor(min(p["bits"] for p in points)), math.ceil(max(p["bits"] for p in points))

    def x(bits):
        return left + width * (bits - first) / (last - first)

    def y(kl):
        return top + height * (high - math.log10(kl)) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {top + height + 50}" '
           'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']
    for bits in range(first, last + 1):
        out.append(f'<path d="M{x(bits):.1f} {top}V{top + height}" stroke="#ddd"/>'
                   f'<text x="{x(bits):.1f}" y="{top + height + 16}" text-anchor="middle">{bits}</text>')
    for power in range(low, high + 1):
        out.append(f'<path d="M{left} {y(10 ** power):.1f}H{left + width}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y(10 ** power) + 4:.1f}" text-anchor="end">1e{power}</text>')
    for point in sorted(points, key=lambda p: (p["method"], p["bits"])):
        colour = COLOURS.get(point["method"], "#000000")
        out.append(f'<circle cx="{x(point["bits"]):.1f}" cy="{y(point["kl"]):.1f}" r="4" fill="{colour}">'
                   f'<title>{point["scheme"]} {point["method"]}: {point["bits"]:.2f} bits, KL {point["kl"]:.5f}</title></circle>')
    best = {}
    for point in points:
        if point["scheme"] not in best or point["kl"] < best[point["scheme"]]["kl"]:
            best[point["scheme"]] = point
    for point in best.values():
        out.append(f'<text x="{x(point["bits"]) + 6:.1f}" y="{y(point["kl"]) + 4:.1f}" font-size="8">{point["scheme"]}</text>')
    for i, (method, colour) in enumerate(COLOURS.items()):
        out.append(f'<circle cx="{left + width - 60}" cy="{top + 14 + 16 * i}" r="4" fill="{colour}"/>'
                   f'<text x="{left + width - 50}" y="{top + 18 + 16 * i}">{method}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">bits per weight</text>'
               f'<text transform="translate(14 {top + height / 2}) rotate(-90)" text-anchor="middle">'
               'KL to the float model, nats per token</text></svg>')
    return "\n".join(out) + "\n"


def docs_table(points, methods):
    by = {(p["scheme"], p["method"]): p for p in points}
    rows = []
    for scheme in sorted({p["scheme"] for p in points}, key=lambda s: min(p["bits"] for p in points if p["scheme"] == s)):
        cells = [by.get((scheme, method)) for method in methods]
        bits = next(cell["bits"] for cell in cells if cell)
        rows.append([f"`{scheme}`", f"{bits:.2f}"] + [f"{cell['kl']:.5f}" if cell else "" for cell in cells])
    return table(["scheme", "bits per weight", *[f"`{m}`" for m in methods]], rows)


def options_table(done):
    by = {(p["scheme"], p["method"]): p for p in done if "kl" in p}
    rows = []
    for scheme, method, asked in OPTIONS:
        plain, with_options = by.get((scheme, method)), by.get((f"{scheme} {asked}", method))
        rows.append([f"`{scheme}`", f"`{method}`", f"`{asked}`", f"{with_options['bits']:.2f}",
                     f"{plain['kl']:.6f}" if plain else "", f"{with_options['kl']:.6f}"])
    return table(["scheme", "method", "options", "bits per weight", "KL without them", "KL with them"], rows)


def write_between(text, begin, end, lines):
    return re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n\n{lines}\n\n{end}", text, flags=re.S)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench-peers")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--max-tokens", type=int, default=0)
    options = parser.parse_args()
    calibration, evaluation = texts(options.work)
    path = options.work / "curve.json"
    done = json.loads(path.read_text()) if path.exists() else []
    schemes, methods = options.schemes.split(","), options.methods.split(",")
    everything = schemes == SCHEMES and methods == METHODS
    pairs = [(scheme, method) for scheme in schemes for method in methods]
    pairs += [(f"{scheme} {asked}", method) for scheme, method, asked in OPTIONS if everything]
    for scheme, method in pairs:
        if any((p["scheme"], p["method"], p["tokens"]) == (scheme, method, options.max_tokens) for p in done):
            continue
        done.append(measure(options.work, scheme, method, calibration, evaluation, options.max_tokens))
        progress(json.dumps(done[-1]))
        path.write_text(json.dumps(done, indent=1))
    if not everything:
        return
    done = [p for p in done if p["tokens"] == options.max_tokens]
    points = [p for p in done if "kl" in p and p["scheme"] in SCHEMES]
    pictures = ROOT / "docs/pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / "kl_vs_bits.svg").write_text(picture(points))
    (pictures / "kl_vs_bits.json").write_text(json.dumps(points, indent=1) + "\n")
    page = ROOT / "docs/quantize.md"
    text = page.read_text()
    text = write_between(text, BEGIN, END, docs_table(points, methods))
    page.write_text(write_between(text, OPTIONS_BEGIN, OPTIONS_END, options_table(done)))


main()
