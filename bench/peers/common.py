"""What the measurements share: the model and texts, running `retort` and the peers, and llama.cpp as an evaluator."""
import json
import lzma
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes/quickstart"
DATA = pathlib.Path(os.environ.get("RETORT_DATA", ROOT.parent / "shared/data"))  # need not be there
MODEL = QUICKSTART / "teacher"
RETORT = pathlib.Path(os.environ.get("RETORT_PROGRAM", ROOT / "build/release/cli/retort"))
WINDOW = 256  # the model's context
SAMPLES = 128  # windows of calibration


class Failure(SystemExit):
    """A program that ended with another exit code than it should."""

    def __init__(self, command, done):
        super().__init__(f"{' '.join(map(str, command))} gave {done.returncode}:\n{done.stderr[-2000:]}")
        self.exit_code = done.returncode


def run(command, code=(0,), folder=None):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)
    if done.returncode not in code:
        raise Failure(command, done)
    return done.stdout


def retort(*arguments, code=(0, 3)):
    """What --json printed; 3 is the exit code of a run that had to do something otherwise than asked."""
    return json.loads(run([RETORT, *arguments, "--json", "--quiet"], code))


def peer_python(name):
    """The interpreter of a peer's environment, or None where install.sh has not made it."""
    python = ROOT / f".deps/peers-{name}/bin/python"
    return python if (ROOT / f".deps/peers-{name}/installed").exists() else None


def peer(environment, *arguments):
    """Runs peer.py there; the last line that it prints is JSON."""
    script = pathlib.Path(__file__).resolve().with_name("peer.py")
    arguments = [argument.resolve() if isinstance(argument, pathlib.Path) else argument for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:  # some leave logs where they are started
        return json.loads(run([peer_python(environment), script, *arguments], folder=folder).strip().splitlines()[-1])


def calibration_text():
    """16 excerpts of the training books, or of those that the repository has."""
    books = DATA / "text/classic-books-train/books.txt.xz"
    if books.exists():
        with lzma.open(books, "rt", encoding="utf-8") as file:
            text = file.read()
    else:
        text = (QUICKSTART / "train.txt").read_text(encoding="utf-8")
    step = len(text) // 17
    return "".join(text[step * i:step * i + 9000] for i in range(1, 17))


def evaluation_text():
    """Some KiB of each of the eight books held out, or as much of the one that the repository has."""
    books = sorted(path for path in (DATA / "text/books-dev").glob("*.md") if path.name != "README.md")
    if books:
        return "".join(path.read_text(encoding="utf-8")[100000:109000] for path in books)
    return (QUICKSTART / "heldout.txt").read_text(encoding="utf-8")[:72000]


def texts(work):
    """(calibration, evaluation), written once."""
    work.mkdir(parents=True, exist_ok=True)
    calibration, evaluation = work / "calibration.txt", work / "evaluation.txt"
    for path, text in ((calibration, calibration_text), (evaluation, evaluation_text)):
        if not path.exists():
            path.write_text(text(), encoding="utf-8")
    return calibration, evaluation


def importance(work, calibration):
    """llama.cpp's importance matrix: the one of the data set, or one of the calibration text that we write for it."""
    theirs, ours = DATA / "quantized/gguf/books-5.8m.imatrix.gguf", work / "imatrix.gguf"
    if theirs.exists():
        return theirs
    retort("quantize", MODEL, "--scheme", "q4_0", "--method", "imatrix", "--calibration", calibration, "--samples", SAMPLES,
           "--sequence-length", WINDOW, "--save-imatrix", ours, "--output", work / "imatrix-model", "--overwrite")
    return ours


def divergence(model, evaluation):
    """KL(float model || model) in nats per token, both computed in float32 by one program."""
    result = retort("eval", model, "--reference", MODEL, "--text", evaluation, "--convention", f"windows-{WINDOW}",
                    "--backend", "torch")
    return result["kl_mean"]


class LlamaCpp:
    """KL of GGUF files against the float file, both computed by llama.cpp in its own arithmetic."""

    def __init__(self, reference, ids):
        self.windows = [ids[i:i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
        self.reference = self.log_probabilities(reference)

    def log_probabilities(self, path):
        import llama_cpp
        import numpy as np
        llama = llama_cpp.Llama(model_path=str(path), n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, logits_all=True,
                                n_threads=1, n_threads_batch=1, type_k=0, type_v=0, flash_attn=False, verbose=False)
        rows = []
        for window in self.windows:
            llama.reset()
            llama.eval(window)
            logits = np.array(llama.scores[:WINDOW - 1], np.float32)
            logits -= logits.max(1, keepdims=True)
            rows.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        llama.close()
        return rows

    def divergence(self, path):
        import numpy as np
        sums = [(np.exp(p) * (p - q)).sum(1, dtype=np.float64) for p, q in zip(self.reference, self.log_probabilities(path))]
        return float(np.concatenate(sums).mean())


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def progress(text):
    print(text, file=sys.stderr, flush=True)
