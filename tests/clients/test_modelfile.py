"""The template in a Modelfile gives the prompts that the model's own chat template gives, for every chat template that
is at hand; one that no Modelfile is written for is reported."""
import random
import re
import shutil
import unittest

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

import common
import go_template

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "A model."}
CONVERSATIONS = ([USER], [USER, ANSWER, USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER])
EOS = "<|endoftext|>"  # of the quickstart's model

# What they write depends on the date or on tools, or is more than turns.
REPORTED = {
    "CohereForAI-c4ai-command-r-plus-tool_use", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "fireworks-ai-llama-3-firefunction-v2", "meetkai-functionary-medium-v3.1", "meetkai-functionary-medium-v3.2",
    "meta-llama-Llama-3.2-3B-Instruct"}


def prompt(template, messages):
    """What the chat template gives; None where it refuses the conversation."""
    try:
        rendered = render_jinja_template(conversations=[messages], chat_template=template, add_generation_prompt=True,
                                         bos_token="", eos_token=EOS)
    except Exception as refusal:
        assert "not supported" in str(refusal), refusal
        return None
    return rendered[0][0]


class Modelfile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = common.workspace(cls)

    def export(self, name, template, code):
        model = self.dir / name
        shutil.copytree(common.TEACHER, model)
        (model / "chat_template.jinja").write_text(template)
        result = common.retort("export", model, "--output", self.dir / f"{name}.ollama", "--format", "gguf",
                               "--modelfile", code=code)
        return result, (self.dir / f"{name}.ollama" / "Modelfile").read_text()

    def check(self, name, template):
        _, text = self.export(name, template, 0)
        written = re.search(r'TEMPLATE """(.*?)"""', text, re.S).group(1)
        rendered = 0
        for messages in CONVERSATIONS:
            expected = prompt(template, messages)
            if expected is not None:
                self.assertEqual(go_template.render(written, messages), expected, name)
                rendered += 1
        self.assertGreaterEqual(rendered, 2)
        stops = re.findall(r'^PARAMETER stop "(.*)"$', text, re.M)
        end = prompt(template, CONVERSATIONS[1]).split(ANSWER["content"])[1]
        self.assertTrue(any(end.startswith(stop) for stop in stops), (end, stops))

    def test_the_renderer(self):
        template = '{{ if not .System }}none {{ end }}{{ range $i, $_ := .Messages }}{{ $i }}{{ if eq .Role "user" }}U' \
                   '{{ else if ne .Role "system" }}A{{ else }}S{{ end }}{{ if eq (len (slice $.Messages $i)) 1 }}!{{ end }} ' \
                   '{{ .Content }};{{ end }}'
        self.assertEqual(go_template.render(template, [USER, ANSWER]), "none 0U Who are you?;1A! A model.;")
        self.assertEqual(go_template.render(template, [SYSTEM, USER]), "0S Be brief.;1U! Who are you?;")

    def test_the_quickstart(self):
        self.check("teacher", (common.TEACHER / "chat_template.jinja").read_text())

    @unittest.skipUnless((common.DATA / "chat-templates").exists(), "the data set is not beside the checkout")
    def test_every_chat_template(self):
        files = sorted((common.DATA / "chat-templates").glob("*.jinja"))
        self.assertGreater(len(files), 10)
        for file in [*files, common.DATA / "tokenizers/smollm2/chat_template.jinja"]:
            with self.subTest(template=file.stem):
                if file.stem in REPORTED:
                    result, text = self.export(file.stem, file.read_text(), 3)
                    self.assertIn("chat template", result["problems"][0])
                    self.assertNotIn("TEMPLATE", text)
                else:
                    self.check(file.stem, file.read_text())

    def test_a_broken_template_is_reported_in_every_format(self):
        """One that Jinja cannot read, and no other: random cuts of a template, judged by Jinja."""
        model = common.quantized(common.TEACHER, self.dir / "broken", "int4-g32-sym")
        (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
        for format in ("gguf", "onnx", "gptq", "awq", "compressed-tensors", "mlx", "hf"):
            result = common.retort("export", model, "--output", self.dir / f"broken.{format}", "--format", format, code=3)
            (problem,) = result["problems"]
            self.assertIn("line 1: nothing ends '{% for %}'", problem)
        dice, template, broken = random.Random(1), (common.TEACHER / "chat_template.jinja").read_text(), 0
        for _ in range(40):
            begin = dice.randrange(len(template))
            text = template[:begin] + template[begin + dice.randrange(1, 20):]
            (model / "chat_template.jinja").write_text(text)
            result = common.retort("export", model, "--output", self.dir / "cut", "--format", "hf", "--overwrite", code=(0, 3))
            if result["problems"]:
                broken += 1
                with self.assertRaises(jinja2.TemplateSyntaxError, msg=text):
                    _compile_jinja_template(text)
        self.assertGreater(broken, 10)


if __name__ == "__main__":
    unittest.main()
