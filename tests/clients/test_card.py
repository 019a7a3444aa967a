"""The model card that `retort export --card` writes: its figures are those of the JSON, and its commands load what lies
beside it."""
import ast
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import subprocess
import sys
import unittest

import yaml
from transformers import LlamaForCausalLM  # noqa: F401, for the commands that run in forks

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # GPTQModel refuses machines with few cores without this
import common
from common import retort

FIGURES = ("convention", "text", "tokens", "perplexity", "reference", "kl_mean", "kl_p99", "kl_max", "top1_agreement")
# What loads a format, by the card. Programs that are not among the clients of these tests are not run.
LOADERS = {"gguf": {"llama.cpp", "llama-cpp-python", "Retort"}, "onnx": {"onnxruntime-genai"},
           "gptq": {"GPTQModel", "transformers", "vLLM"}, "awq": {"GPTQModel", "transformers", "vLLM", "mlx-lm"},
           "compressed-tensors": {"vLLM", "transformers"}, "mlx": {"mlx-lm"}, "hf": {"transformers"}}
ABSENT = {"llama.cpp", "vLLM", "Ollama"}


def commands(card):
    """{program: command}"""
    return dict(re.findall(r"^(\S+):\n\n```sh\n(.*)\n```$", card.split("## Loading")[1], re.M))


def run_code(code, directory):
    os.chdir(directory)
    exec(code, {"__name__": "__main__"})


def rows(card):
    """The cells of every line of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]


class Card(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)
        cls.model = common.quantized(common.TEACHER, cls.dir / "model", "int4-g128-sym")
        cls.metrics = cls.dir / "metrics.json"
        cls.measured = retort("eval", cls.model, "--reference", common.TEACHER, "--text", common.HELDOUT, "--convention",
                              "windows-256", "--max-tokens", 2048, "--output", cls.metrics)

    def export(self, format, *options, model=None):
        directory = self.dir / f"{format}{len(options)}{model.name if model else ''}"
        done = retort("export", model or self.model, "--format", format, "--card", "--output", directory, *options)
        return directory, done, (directory / "README.md").read_text()

    def check_files(self, command, directory):
        """The command is one that its shell and Python can read, and what it opens is there."""
        words = shlex.split(command)
        if words[0] == "python":
            self.assertEqual(words[1], "-c")
            opened = [node.value for node in ast.walk(ast.parse(words[2])) if isinstance(node, ast.Constant)]
        else:
            opened = words[1:]
        files = [name for name in opened if isinstance(name, str)
                 and (name in (".", "Modelfile") or name.endswith(".gguf"))]
        self.assertEqual(len(files), 1, command)
        self.assertTrue((directory / files[0]).exists(), command)

    def run_in_fork(self, command, directory):
        """What a shell and Python make of the command, in a process that need not import transformers first: this one has
        done so, and nothing that one command imports or patches reaches another."""
        printed = subprocess.run(["sh", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"], text=True, check=True,
                                 stdout=subprocess.PIPE).stdout
        option, code, _ = printed.split("\0")
        self.assertEqual(option, "-c")
        process = multiprocessing.get_context("fork").Process(target=run_code, args=(code, directory))
        process.start()
        process.join()
        self.assertEqual(process.exitcode, 0, command)

    def run_command(self, command, directory):
        places = [pathlib.Path(sys.executable).parent, pathlib.Path(os.environ["RETORT_PROGRAM"]).parent]
        path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
        if command.startswith("mlx_lm.generate "):
            command += " --max-tokens 8"  # without the option it is a hundred, half a minute in the 16 bits of AWQ
        done = subprocess.run(["sh", "-c", command], cwd=directory, env={**os.environ, "PATH": path}, text=True,
                              capture_output=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout

    def check_commands(self, format, directory, card, more=frozenset()):
        found = commands(card)
        self.assertEqual(set(found), LOADERS[format] | more)
        for program, command in found.items():
            with self.subTest(format=format, program=program):
                self.check_files(command, directory)
                if program in ("transformers", "GPTQModel"):
                    self.run_in_fork(command, directory)
                elif program not in ABSENT:
                    told = self.run_command(command, directory)
                    if program == "onnxruntime-genai":
                        self.assertGreater(len(told), len("Once upon a time") + 20, told)

    def test_commands_load_it(self):
        for format in LOADERS:
            directory, done, card = self.export(format)
            head = yaml.safe_load(card.split("---\n")[1])
            self.assertIn(format, head["tags"])
            facts = dict(row for row in rows(card) if len(row) == 2)
            self.assertEqual(facts["format"], format)
            self.assertEqual(facts["tensors"], f"{done['tensors']}, {done['quantized_tensors']} of them as integers")
            self.assertEqual((facts["scheme"], facts["method"]) if done["quantized_tensors"] else facts["scheme"],
                             ("int4-g128-sym", "rtn") if done["quantized_tensors"] else "none: dense tensors")
            self.assertIn("were not measured", card)
            self.check_commands(format, directory, card)

    def test_commands_name_the_first_of_several_files(self):
        directory, _, card = self.export("gguf", "--max-shard-size", "1MiB")
        self.assertGreater(len(list(directory.glob("*.gguf"))), 2)
        self.assertIn("-00001-of-", commands(card)["llama.cpp"])
        self.check_commands("gguf", directory, card)

    def test_zero_points_need_an_option_of_transformers(self):
        model = common.quantized(common.TEACHER, self.dir / "asymmetric", "int4-g32-asym")
        directory, _, card = self.export("compressed-tensors", model=model)
        self.assertIn("dequantize=True", commands(card)["transformers"])
        self.check_commands("compressed-tensors", directory, card)

    def test_ollama_has_a_command_where_there_is_a_modelfile(self):
        directory, _, card = self.export("gguf", "--modelfile", "--base-model", "someone/Tiny-3.2-chat")
        self.check_commands("gguf", directory, card, {"Ollama"})
        self.assertTrue((directory / "Tiny-3-2-5.8M-chat-v1.0-Q4_0.gguf").exists(), list(directory.iterdir()))
        head = yaml.safe_load(card.split("---\n")[1])
        self.assertEqual((head["base_model"], head["base_model_relation"]), ("someone/Tiny-3.2-chat", "quantized"))

    def test_figures_of_another_model_are_refused(self):
        of_teacher = self.dir / "teacher.json"
        retort("eval", common.TEACHER, "--text", common.HELDOUT, "--max-tokens", 1024, "--output", of_teacher)
        self.assertEqual(len(json.loads(of_teacher.read_text())["model_digest"]), 32)
        refusal = retort("export", self.model, "--format", "mlx", "--card", "--metrics", of_teacher, "--output",
                         self.dir / "refused", code=1)
        self.assertIn("it was measured on another model", refusal)
        self.assertFalse((self.dir / "refused").exists())
        refusal = retort("export", self.model, "--format", "mlx", "--card", "--base-model", "../student", "--output",
                         self.dir / "refused", code=2)
        self.assertIn("--base-model", refusal)

    def test_figures_are_those_of_the_json(self):
        _, _, card = self.export("compressed-tensors", "--metrics", self.metrics)
        self.assertNotIn("not measured", card)
        (row,) = [row for row in rows(card) if row[0] == "windows-256"]
        self.assertEqual(json.loads(self.metrics.read_text())["perplexity"], self.measured["perplexity"])
        self.assertGreater(self.measured["kl_mean"], 0)
        for key, cell in zip(FIGURES, row, strict=True):
            expected = self.measured[key]
            if key in ("text", "reference"):
                expected = pathlib.Path(expected).name
            self.assertEqual(cell, expected if isinstance(expected, str) else f"{expected:.5g}", key)

    def test_what_was_not_measured_is_said(self):
        alone = self.dir / "alone.json"
        retort("eval", self.model, "--text", common.HELDOUT, "--max-tokens", 1024, "--output", alone)
        _, _, card = self.export("mlx", "--metrics", alone)
        (row,) = [row for row in rows(card) if row[0] == json.loads(alone.read_text())["convention"]]
        self.assertEqual(row[4:], ["none", *["not measured"] * 4])


if __name__ == "__main__":
    unittest.main()
