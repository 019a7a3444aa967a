"""Makes tests/golden/perplexity.json: the quickstart's teacher scored by transformers on the quickstart's held-out text.

Perplexity in the conventions windows-N and llama.cpp-N (in float32, the log-probabilities summed in float64), and
the divergence from it of the same model with its last layer left out.

usage: make_perplexity.py REPOSITORY OUTPUT_FILE
"""

import copy
import json
import math
import pathlib
import sys

import torch
import transformers

MAX_TOKENS = 2048


def score(model, reference, ids, window, first_row):
    """Rows first_row to window - 2 of each window, each against the token that follows."""
    total, divergences, agreed = 0.0, [], 0
    windows = ids[: len(ids) // window * window].view(-1, window)
    for tokens in windows:
        targets = tokens[first_row + 1:].unsqueeze(1)
        log_p = model(tokens.unsqueeze(0)).logits[0, first_row:-1].float().log_softmax(-1)
        total += log_p.gather(1, targets).double().sum().item()
        if reference is not None:
            log_r = reference(tokens.unsqueeze(0)).logits[0, first_row:-1].double().log_softmax(-1)
            divergences.append((log_r.exp() * (log_r - log_p.double())).sum(-1))
            agreed += (log_r.argmax(-1) == log_p.argmax(-1)).sum().item()
    count = windows.shape[0] * (window - 1 - first_row)
    result = {"tokens": count, "perplexity": math.exp(-total / count)}
    if reference is not None:
        kl = torch.cat(divergences)
        result |= {"kl_mean": kl.mean().item(), "kl_p99": kl.quantile(0.99).item(), "kl_max": kl.max().item(),
                   "top1_agreement": agreed / count}
    return result


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    repository = pathlib.Path(sys.argv[1])
    teacher = repository / "recipes/quickstart/teacher"
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    shorter = copy.deepcopy(model)
    shorter.model.layers = shorter.model.layers[:-1]
    shorter.config.num_hidden_layers -= 1
    text = (repository / "recipes/quickstart/heldout.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text)["input_ids"][:MAX_TOKENS])
    golden = {
        "transformers": transformers.__version__, "torch": torch.__version__, "ids": ids.tolist(),
        "model": {"windows-256": score(model, None, ids, 256, 0), "llama.cpp-256": score(model, None, ids, 256, 128),
                  "windows-100": score(model, None, ids, 100, 0)},
        "without its last layer": {"windows-256": score(shorter, model, ids, 256, 0)},
    }
    pathlib.Path(sys.argv[2]).write_text(json.dumps(golden) + "\n")
    print(json.dumps({key: value for key, value in golden.items() if key != "ids"}, indent=2))


main()
