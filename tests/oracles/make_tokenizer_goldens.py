#!/usr/bin/env python3
"""Goldens of the tokenizers, made with Hugging Face tokenizers, transformers and sentencepiece.

    python tests/oracles/make_tokenizer_goldens.py [--show NAME INDEX]

Writes tests/golden/tokenizer/{corpus,models,components,checkpoints,sentencepiece}.json. A result is one CRC-32 of
the ids (with and without special tokens) and of the decoded texts; --show prints what is behind it.

corpus.json: texts, each a list of [part, repetitions]; "hex" gives bytes that are not valid UTF-8.
models.json: small BPE models, trained here. components.json: tokenizers made of one of these models and the
components under test, each with the results for every text and for some lists of ids. checkpoints.json and
sentencepiece.json: the same for the tokenizers of ../shared/data (the latter also for small models trained here).
"""
import argparse
import base64
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/tokenizer"
SHARED = ROOT / "../shared/data"
VERSIONS = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__,
            "sentencepiece": sentencepiece.__version__}

# ---- the corpus ------------------------------------------------------------------------------------------------

SHORT = [
    "", " ", "  ", "\n", "\t", "a", " a", "a ", "  a  b  ", "\n\n\n", " \n", "\n ", "\r\n", "\r\n\r\n x", "\t\t\tx\t",
    "Hello, world!", "Hello  world", "I'm you're he'll we've don't IT'S I'D", "it's 'tis 'S 'ſ 'K", "x=1;y+=2;// c",
    "3.14159 1,000,000 12345678901234567890 0x1F", "٣٤٥ ⅷ ½ ² ①", "a1b2c3 v1.2.3-rc4", "e\u0301 \u00e9 E\u0301 \u212b \u00c5 A\u030a",
    "\ufb01\ufb02 \u2460 \uff21\uff22\uff23 \u00bd \u2122 \ufdfa", "q\u0307\u0323 q\u0323\u0307 \u1e69 s\u0323\u0307 \u0344",
    "Straße İstanbul ıI ΑΣ ΟΔΟΣ ǅ", "Ünïcödé naïve façade", "日本語のテキスト、中国語と한국어 텍스트", "我喜欢吃苹果。你呢？", "ไทย ภาษา ลาว",
    "हिन्दी में परीक्षण", "عربي مع تَشْكِيل", "שלום עולם", "Привет, мир! ЁЖ", "ελληνικά", "தமிழ்", "ქართული", "አማርኛ", "𝒳𝓎 𐍈 𠜎 🂡",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ✊🏿", "🦙.cpp 🦙🦙", "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060",
    "nb\u00a0sp em\u2003sp id\u3000sp ls\u2028ps\u2029 nel\u0085x mvs\u180ex", "ctl\x00\x01\x02\x07\x08\x0b\x0c\x1b\x1f\x7f\x80\x9f",
    "�", "\U0010ffff\ufffe", "▁a ▁▁b a▁b", "Ġa ĠĠb Ċ", "<0x41><0x0A> <0xFF>", "a<|end|>b <|end|> <|end|><|end|>", "<s>a</s> b<unk>c <pad>",
    "  <|end|>  x", "x<|end|>\n\ny", "in[word]in [word] [word]s s[word]", "[strip] a [strip] b[strip]c  [strip]  d", "<CAFÉ> <café> <cafe\u0301>",
    "<|start|>user\nhi<|end|>\n<|start|>assistant\n", "the-final--countdown -a- --", "a.b,c;d:e!f?g (h) [i] {j} \"k\" 'l' <m> $n^o`p~",
    "–—‘’“”…¿¡«»、。！", "snake_case camelCase kebab-case SCREAMING_SNAKE __dunder__", "http://example.com/a?b=c&d=%20#e user@host.org",
    "def f(x):\n    if x > 0:\n\t\treturn x ** 2  # two\n    return None\n", "    four     five      six", "\n  \n   \n", "a\n\n\nb\n\n c\r\rd",
    "ab" * 30, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "...!!!???---===", "1" * 40, "end with space ", "end with newline\n", "ÿþ ½¼ ¤ µ ª º ß",
    "xX\u0301\u0302\u0303\u0304\u0305 zalgo Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d", "\u0301 leading mark", "ａｂｃ　ｄｅｆ", "ﾊﾝｶｸ ｶﾅ", "各各", "e\u0301\u200d👍",
    "lower UPPER MiXeD ÀÉÎ àéî", "Mr. O'Neill's 'quoted' words'", "don’t won’t", "a b  c   d    e", "tab\tsep\tvals", "‏ RTL‎ marks",
    "The quick brown fox jumps over the lazy dog. The quick brown fox.", "low lower lowest newer newest wider widest",
    "Once upon a time, there was a little girl named Lily.", "ꙮ꙰ ꜳ Ⱥⱥ ẞ", "\u1100\u1161\u11a8 \uac01 \u3131", "\u0958 \u0928\u093c \u2126 \u1e9b\u0323",
    "word\u0301word wo\u200drd _x_ x_1 ·", "٠١٢ ۱۲ १२", "1st 2nd 3rd 4\u1d57\u02b0", "Δx≠∑∫√∞ ±×÷ €£¥",
]
LONG = [
    [["word", 25000]],                                        # 100 KB without a blank
    [["x", 10000]],
    [[" ", 5000], ["end", 1]],
    [["\n", 1000], [" ", 1000], ["\t", 1000]],
    [["e\u0301\u0323", 1000]],
    [["\u0323\u0301", 1000]],                                 # one run of combining marks
    [["日本語", 1000]],
    [["👩‍👩‍👧‍👦", 200]],
    [["The quick brown fox, it's 42 times; don't ask.\n", 100]],
    [["<|end|>", 300]],
    [["<|en", 500]],
    [["1234567890", 300]],
    [["'", 500], ["!?", 500]],
]
INVALID = ["ff", "61ff62", "c3", "c328", "e28228", "f09f98", "f0288cbc20", "eda08061", "c0af", "f4908080", "61e282", "80808061", "e282f09f92a9", "fe fe ff ff"]


def corpus():
    texts = [{"parts": [[t, 1]]} for t in SHORT] + [{"parts": p} for p in LONG]
    return texts + [{"hex": h.replace(" ", "")} for h in INVALID]


# What depends on Unicode's tables: blocks assigned long ago. Without U+32FF, of which the reference does not know yet.
BLOCKS = [(0x20, 0x250), (0x300, 0x400), (0x900, 0x980), (0x1100, 0x1200), (0x1E00, 0x2190), (0x2460, 0x2500), (0x3000, 0x32FF), (0x3300, 0x3400), (0xAC00, 0xD7A4),
          (0xF900, 0xFAFF), (0xFB00, 0xFE00), (0xFE30, 0xFE50), (0xFF00, 0xFFF0), (0x1D400, 0x1D800), (0x2F800, 0x2FA1E)]


def unicode_text():
    """Every character, with a mark after it and before it."""
    return "".join(chr(c) + "\u0301" + chr(c) + "\u0323\u0301" for first, last in BLOCKS for c in range(first, last))


def text_of(entry):
    if "hex" in entry:
        return bytes.fromhex(entry["hex"]).decode("utf-8", errors="replace")
    return "".join(part * times for part, times in entry["parts"])


def id_lists(size):
    """Ids that no text gives: decoders must cope with halves of characters."""
    return [[], [0], [size - 1], list(range(min(size, 600))), [(i * 7919 + 13) % size for i in range(300)],
            [(i * 104729 + 1) % size for i in range(300)]]


# ---- results ---------------------------------------------------------------------------------------------------

def digest(*values):
    """CRC-32 of lists of ids (as decimal numbers, each followed by a blank) and of texts, each followed by a zero byte."""
    crc = 0
    for value in values:
        text = value if isinstance(value, str) else "".join(f"{i} " for i in value)
        crc = zlib.crc32(text.encode() + b"\0", crc)
    return f"{crc:08x}"


class Reference:
    """One tokenizer: encode(text, special) and decode(ids, skip_special). `unicode`: its tables matter."""

    unicode = False

    def __init__(self, encode, decode, size):
        self.encode, self.decode, self.size = encode, decode, size

    def results(self):
        rows = []
        for entry in corpus():
            text = text_of(entry)
            ids = self.encode(text, True)
            rows.append(digest(ids, self.encode(text, False), self.decode(ids, False), self.decode(ids, True)))
        lists = [digest(self.decode(ids, False), self.decode(ids, True)) for ids in id_lists(self.size)]
        results = {"size": self.size, "texts": " ".join(rows), "lists": " ".join(lists)}
        return results | ({"unicode": digest(self.encode(unicode_text(), False))} if self.unicode else {})


def library_reference(json_text):
    tok = Tokenizer.from_str(json_text)
    plain = Tokenizer.from_str(json_text)
    plain.encode_special_tokens = True
    tok.no_truncation(), plain.no_truncation()

    def encode(text, special):
        return (tok if special else plain).encode(text, add_special_tokens=special).ids

    size = max(tok.get_vocab(with_added_tokens=True).values()) + 1
    return Reference(encode, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip), size)


def configured_reference(json_text, config):
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "tokenizer.json").write_text(json_text)
        pathlib.Path(directory, "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
        return transformers_reference(directory)


def transformers_reference(directory):
    tok = transformers.PreTrainedTokenizerFast.from_pretrained(directory)

    def encode(text, special):
        return tok(text, add_special_tokens=special, split_special_tokens=not special)["input_ids"]

    return Reference(encode, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip), max(tok.get_vocab().values()) + 1)


# ---- small models ----------------------------------------------------------------------------------------------

ENGLISH = ["The quick brown fox jumps over the lazy dog. Once upon a time there was a little girl named Lily. It's low, lower, lowest; new, newer, "
            "newest; wide, wider, widest. I'm here, you're there, he'll go, we've gone, don't ask. word words word 123 1234 100 200 2024. "
            "Hello world, hello there!  The end.\n\n    return x\n    if x > 0:\n"] * 3


def trained(pre, vocab_size, alphabet=(), texts=ENGLISH + SHORT, **options):
    tok = Tokenizer(models.BPE(**options))
    tok.pre_tokenizer = pre
    extra = {k: v for k, v in options.items() if k in ("continuing_subword_prefix", "end_of_word_suffix")}
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=list(alphabet), show_progress=False, **extra)
    tok.train_from_iterator(texts, trainer)
    return json.loads(tok.to_str())["model"]


SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<|end|>", "<|start|>"]


def small_models():
    """As committed: training is not the same twice. Remove models.json to train anew."""
    path = GOLDEN / "models.json"
    if not path.exists():
        GOLDEN.mkdir(parents=True, exist_ok=True)
        write("models", trained_models())
    return json.loads(path.read_text())


def trained_models():
    byte_level = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), 420, pre_tokenizers.ByteLevel.alphabet())
    byte_level["merges"] = [" ".join(m) for m in byte_level["merges"]]  # both ways of writing them occur
    ignoring = dict(byte_level, ignore_merges=True)
    ignoring["merges"] = ignoring["merges"][: len(ignoring["merges"]) // 2]
    ascii_text = [chr(c) for c in range(33, 127)] + ["▁"]
    metaspace = trained(pre_tokenizers.Metaspace(), 330, ascii_text, unk_token="<unk>", fuse_unk=True)
    fallback = json.loads(json.dumps(metaspace))
    fallback["vocab"] = dict(sorted(((t, i) for t, i in fallback["vocab"].items()), key=lambda e: e[1]))
    keep = {t for t in fallback["vocab"] if all(ord(c) < 128 or c == "▁" for c in t)}
    order = [t for t in fallback["vocab"] if t in keep]
    order[len(SPECIALS):len(SPECIALS)] = [f"<0x{b:02X}>" for b in range(256)]
    fallback["vocab"] = {t: i for i, t in enumerate(order)}
    fallback["merges"] = [m for m in fallback["merges"] if m[0] in keep and m[1] in keep and m[0] + m[1] in keep]
    fallback["byte_fallback"] = True
    partial = json.loads(json.dumps(fallback))  # some bytes missing: the rest is unknown
    for b in (0xE2, 0xF0, 0xC3):
        del partial["vocab"][f"<0x{b:02X}>"]
    unknown = json.loads(json.dumps(fallback))
    unknown["vocab"] = {t: i for i, t in enumerate(t for t in order if not t.startswith("<0x"))}
    unknown["byte_fallback"] = False
    unfused = dict(unknown, fuse_unk=False)
    silent = dict(unknown, unk_token=None)
    suffix = trained(pre_tokenizers.BertPreTokenizer(), 240, texts=ENGLISH, unk_token="<unk>", end_of_word_suffix="</w>")
    prefix = trained(pre_tokenizers.BertPreTokenizer(), 240, texts=ENGLISH, unk_token="<unk>", continuing_subword_prefix="##")
    return {"byte_level": byte_level, "ignore_merges": ignoring, "byte_fallback": fallback, "partial_bytes": partial,
            "unknown": unknown, "unfused": unfused, "silent": silent, "suffix": suffix, "prefix": prefix}


def added(content, id=0, special=False, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return token | flags


STANDARD = [added(t, i, special=True) for i, t in enumerate(SPECIALS)]
VARIED = STANDARD + [
    added("[word]", 1000, single_word=True), added("[strip]", 1001, special=True, lstrip=True, rstrip=True),
    added("<CAFÉ>", 1002), added("fox", 1003, normalized=False), added("quick brown", 1004, lstrip=True), added("brown fox", 1005),
    added("👍", 1006, special=True, rstrip=True), added("the", 1007, single_word=True, normalized=False),
]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTE_LEVEL_ONLY = dict(BYTE_LEVEL, use_regex=False)
SPM_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
SPM_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}


def sequence(kind, *parts):
    return {"type": "Sequence", {"n": "normalizers", "p": "pretokenizers", "d": "decoders", "o": "processors"}[kind]: list(parts)}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def split_string(text, behavior, invert=False):
    return {"type": "Split", "pattern": {"String": text}, "behavior": behavior, "invert": invert}


def metaspace(scheme="always", cut=True, replacement="▁"):
    return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": cut}


def template(before, after):
    special = lambda t: {"SpecialToken": {"id": t, "type_id": 0}}
    tokens = {t: {"id": t, "ids": [SPECIALS.index(t)], "tokens": [t]} for t in before + after}
    return {"type": "TemplateProcessing", "single": [special(t) for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [special(t) for t in after],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens}


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"


def component_cases():
    """name -> (model, the other keys of tokenizer.json)"""
    base = {"added_tokens": STANDARD, "normalizer": None, "pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL}
    cases = {}

    def case(name, model="byte_level", **changes):
        cases[name] = {"model": model, **base, **changes}

    def sp(name, model="byte_fallback", **changes):
        case(name, model, **{"pre_tokenizer": None, "normalizer": SPM_NORMALIZER, "decoder": SPM_DECODER, **changes})

    case("byte_level")
    case("prefix_space", pre_tokenizer=dict(BYTE_LEVEL, add_prefix_space=True))
    case("ignore_merges", "ignore_merges")
    case("added", added_tokens=VARIED)
    case("added_lowercase", added_tokens=VARIED, normalizer=sequence("n", {"type": "NFD"}, {"type": "Lowercase"}))
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        case(form, normalizer={"type": form})
    case("nfd_strip_accents", normalizer=sequence("n", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}))
    for clean, chinese, accents, lower in ((1, 1, None, 1), (1, 0, False, 1), (0, 1, True, 0)):
        case(f"bert_normalizer_{clean}{chinese}{lower}", normalizer={"type": "BertNormalizer", "clean_text": bool(clean), "handle_chinese_chars": bool(chinese),
                                                               "strip_accents": accents, "lowercase": bool(lower)})
    for left, right in ((1, 0), (0, 1), (1, 1)):
        case(f"strip_{left}{right}", normalizer={"type": "Strip", "strip_left": bool(left), "strip_right": bool(right)})
    case("prepend", normalizer={"type": "Prepend", "prepend": "> "})
    case("replace_string", normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": "_"})
    case("replace_regex", normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " $1 "})
    case("normalizer_byte_level", normalizer={"type": "ByteLevel"}, pre_tokenizer=None)
    case("normalizer_byte_level_added", normalizer={"type": "ByteLevel"}, pre_tokenizer=None, added_tokens=VARIED)
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            case(f"split_{behavior}_{int(invert)}", pre_tokenizer=sequence("p", split(r"[-\s]|\d{2}", behavior, invert), BYTE_LEVEL_ONLY))
        case(f"split_string_{behavior}", pre_tokenizer=sequence("p", split_string("a", behavior), BYTE_LEVEL_ONLY))
        case(f"punctuation_{behavior}", pre_tokenizer=sequence("p", {"type": "Punctuation", "behavior": behavior}, BYTE_LEVEL_ONLY))
    for name, pattern in (("llama3", LLAMA3), ("qwen2", QWEN2), ("tekken", TEKKEN), ("gpt4o", GPT4O)):
        case(name, pre_tokenizer=sequence("p", split(pattern), BYTE_LEVEL_ONLY), post_processor=sequence("o", BYTE_LEVEL, template(["<s>"], [])))
    case("deepseek3", pre_tokenizer=sequence("p", split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), BYTE_LEVEL_ONLY))
    for i, pattern in enumerate(REGEXES):
        case(f"regex_{i}", pre_tokenizer=sequence("p", split(pattern), BYTE_LEVEL_ONLY))
    for single in (False, True):
        case(f"digits_{int(single)}", pre_tokenizer=sequence("p", {"type": "Digits", "individual_digits": single}, BYTE_LEVEL))
    for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        case(kind, pre_tokenizer=sequence("p", {"type": kind}, BYTE_LEVEL_ONLY))
    case("delimiter", pre_tokenizer=sequence("p", {"type": "CharDelimiterSplit", "delimiter": "e"}, BYTE_LEVEL_ONLY))
    case("fixed_length", pre_tokenizer=sequence("p", {"type": "FixedLength", "length": 3}, BYTE_LEVEL_ONLY))
    case("nested", pre_tokenizer=sequence("p", sequence("p", {"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True}), BYTE_LEVEL_ONLY),
         normalizer=sequence("n", sequence("n", {"type": "NFC"}), {"type": "Lowercase"}))
    case("template", post_processor=template(["<s>", "<|start|>"], ["<|end|>", "</s>"]))
    case("roberta", post_processor={"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": True})
    case("bert", post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]})
    case("no_decoder", decoder=None)
    for i, config in enumerate(CONFIGS):
        case(f"config_{i}", added_tokens=STANDARD + [added("[x]", 6, special=True, lstrip=True), added("[y]", 7)], post_processor=template(["<s>"], []), config=config)
    sp("spm_legacy")
    sp("spm_template", post_processor=template(["<s>"], ["</s>"]), added_tokens=VARIED)
    sp("partial_bytes", "partial_bytes")
    sp("unknown", "unknown")
    sp("unfused", "unfused")
    sp("silent", "silent")
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            sp(f"metaspace_{scheme}_{int(cut)}", normalizer=None, pre_tokenizer=metaspace(scheme, cut),
               decoder=sequence("d", {"type": "ByteFallback"}, metaspace(scheme, cut)), added_tokens=VARIED)
    sp("metaspace_strip", normalizer={"type": "Strip", "strip_left": True, "strip_right": False}, pre_tokenizer=metaspace("first", False))
    sp("metaspace_replaced", normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": "x"}, pre_tokenizer=metaspace("first", False))
    sp("metaspace_old", normalizer={"type": "NFKC"}, pre_tokenizer=sequence("p", {"type": "WhitespaceSplit"},
       {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}), decoder={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True})
    sp("strip_both", decoder=sequence("d", {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": "▁", "start": 2, "stop": 0}))
    sp("replace_decoder", decoder=sequence("d", {"type": "Replace", "pattern": {"Regex": "[▁e]"}, "content": "~"}, {"type": "Fuse"}))
    sp("suffix", "suffix", normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "BPEDecoder", "suffix": "</w>"})
    sp("prefix", "prefix", normalizer=None, pre_tokenizer={"type": "Whitespace"}, decoder=None)
    sp("no_pre_tokenizer", normalizer=None)
    return cases


# What tokenizer_config.json can say.
CONFIGS = [
    {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "add_eos_token": True},
    {"bos_token": "[x]", "eos_token": "[y]", "pad_token": "[new]", "unk_token": {"__type": "AddedToken", "content": "fox", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}},
    {"extra_special_tokens": ["<e1>", "quick brown"], "mask_token": "Hello"},
    {"extra_special_tokens": {"image": "<e1>"}, "added_tokens_decoder": {
        "500": {"content": "lazy dog", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False, "special": False},
        "6": {"content": "[x]", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}}},
    {"additional_special_tokens": ["the", "a b"], "clean_up_tokenization_spaces": True},
]
UNICODE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "bert_normalizer_111", "digits_0", "digits_1", "Whitespace", "WhitespaceSplit",
           "BertPreTokenizer", "punctuation_Isolated", "llama3", "gpt4o", "regex_0", "regex_2", "regex_6", "strip_11", "added"}

# Every construct in which Oniguruma and PCRE2 differ, and those that tokenizers use.
REGEXES = [
    r"\s+", r"\S+", r"\w+", r"\W+", r"\h+", r"[\h ]+", r"\d", r"\D+", r"\bw", r"\b", r"\Bo", r"^.", r".$", r"(?m).+", r".+", r"(?i)THE|fox", r"(?i:É)x?",
    r"\p{N}{1,3}+", r"\p{N}{2}?", r"o{,2}", r"l{1,}?", r"[a-z&&[^aeiou]]+", r"[a[bc]e]+", r"[^a[bc]e]+", r"[\w&&[^\d_]]+", r"[^\W\d]+", r"[\s\S]{3}",
    r"[^\S]+", r"[]a]+", r"[a-]+", r"[\]\[]", r"\p{Han}+", r"\p{^L}+", r"\P{L}+", r"\p{Alpha}+", r"\p{Letter}+", r"[[:alpha:]]+", r"\p{Punct}+", r"\p{Upper}\p{Lower}+",
    r"\x{65e5}|\x61|\u0062", r"(?<=a)b", r"(?<!a)b", r"a(?=b)", r"(ab)\1", r"a++|b*+", r"", r"b*", r"(?:a|b)+?", r"(?>a+)b", r"\v|\f|\e", r"\R", r"\X", r"a(?#comment)b",
    r"[\p{L}\p{M}]+", r" ?[^(\s|.,!?…。，、।۔،)]+", r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"\d{1,3}(?=(?:\d{3})*\b)", r"[^\n]+|[\n]+", r"[\-\^\\]", r"\.|\(|\{", r"{|}", r"a{1", r"[ab&&bc&&[b]]", r"[^a-y&&[a-z]]", r"\A.|.\z", r"(?-i)A",
]


# ---- SentencePiece ----------------------------------------------------------------------------------------------

SENTENCEPIECE = ["tokenizers/llama2-spm-32000/tokenizer.model", "weights/stories260K-hf/tokenizer.model", "tokenizers/mistral/tokenizer.model.v1",
                 "tokenizers/mistral/mistral_instruct_tokenizer_240216.model.v2", "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
                 "tokenizers/mistral/mistral_instruct_tokenizer_241114.model.v7"]
# Hexadecimal code points: what, what it becomes.
RULES = "41\t61\n42\t62 62\nFB01\t66 69\n65 301\tE9\n3000\t20\n9\t20\nAD\t\n2026\t2E 2E 2E\n1F44D\t20 6C 69 6B 65 20\n"


def small_sentencepieces():
    """name -> a serialized model. Like small_models(), as committed."""
    path = GOLDEN / "sentencepiece_models.json"
    if not path.exists():
        trained = {
            "plain": train_sentencepiece(remove_extra_whitespaces=True),
            "rules": train_sentencepiece(remove_extra_whitespaces=True, normalization_rule_tsv=True, user_defined_symbols=["fox", "<|end|>", "A!", "quick"]),
            "bytes": train_sentencepiece(byte_fallback=True, vocab_size=420, user_defined_symbols=["<|end|>", "the qu", "ab", "abab", "\n"], control_symbols=["<ctl>"]),
            "suffix": train_sentencepiece(treat_whitespace_as_suffix=True, byte_fallback=True, vocab_size=420, pad_id=3),
            "no_prefix": train_sentencepiece(add_dummy_prefix=False, byte_fallback=True, vocab_size=420, allow_whitespace_only_pieces=True, bos_id=-1),
            "crossing": train_sentencepiece(split_by_whitespace=False, byte_fallback=True, vocab_size=420),
        }
        trained["unused"] = with_unused_pieces(trained["bytes"])
        write("sentencepiece_models", {k: base64.b64encode(v).decode() for k, v in trained.items()})
    return {k: base64.b64decode(v) for k, v in json.loads(path.read_text()).items()}


def train_sentencepiece(normalization_rule_tsv=False, vocab_size=160, **options):
    with tempfile.TemporaryDirectory() as directory:
        if normalization_rule_tsv:
            rules = pathlib.Path(directory, "rules.tsv")
            rules.write_text(RULES)
            options["normalization_rule_tsv"] = str(rules)
        else:
            options["normalization_rule_name"] = "identity"
        model = io.BytesIO()
        options.setdefault("remove_extra_whitespaces", False)
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(t for text in ENGLISH for t in text.split("\n") if t), model_writer=model,
                                                 model_type="bpe", vocab_size=vocab_size, minloglevel=2, **options)
        return model.getvalue()


def with_unused_pieces(model):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    normal = [p for p in proto.pieces if p.type == p.NORMAL and len(p.piece) > 2]
    for piece in normal[::3]:
        piece.type = piece.UNUSED
    return proto.SerializeToString()


def sentencepiece_results(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    rows = []
    for entry in corpus():
        ids = processor.encode(text_of(entry))
        rows.append(digest(ids, processor.decode(ids)))
    size = processor.get_piece_size()
    return {"size": size, "texts": " ".join(rows), "lists": " ".join(digest(processor.decode(ids)) for ids in id_lists(size))}


def special_results(path):
    """What transformers make of special tokens in the text, with the same tokenizer.model. (No runs of blanks: there
    transformers 5 merges in another order than SentencePiece.)"""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(SHARED / path, pathlib.Path(directory, "tokenizer.model"))
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": True}
        pathlib.Path(directory, "tokenizer_config.json").write_text(json.dumps(config))
        tok = transformers.AutoTokenizer.from_pretrained(directory)
        texts = ["", "Hello", "Hello</s>world", "<s>Hello</s> <s>there <unk>x", "</s>", "a</s>\n\nb c</s></s>"]
        return {"config": config, "texts": [[t, tok(t)["input_ids"], tok.decode(tok(t)["input_ids"])] for t in texts]}


# ---- main ------------------------------------------------------------------------------------------------------

CHECKPOINTS = ["weights/books-5.8m", "weights/stories260K-hf", "tokenizers/phi-3", "tokenizers/smollm2"]


def tokenizer_json(all_models, case):
    rest = {k: v for k, v in case.items() if k not in ("model", "config")}
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, **rest, "model": all_models[case["model"]]}, ensure_ascii=False)


def write(name, value):
    lines = json.dumps(value, ensure_ascii=False, separators=(",", ":")) if name.endswith("models") else json.dumps(value, ensure_ascii=False, indent=0)
    (GOLDEN / f"{name}.json").write_text(lines + "\n", encoding="utf-8")


def references():
    all_models = small_models()
    for name, case in component_cases().items():
        def make(case=case, name=name):
            text = tokenizer_json(all_models, case)
            reference = configured_reference(text, case["config"]) if "config" in case else library_reference(text)
            reference.unicode = name in UNICODE
            return reference
        yield "components", name, case, make
    for path in CHECKPOINTS:
        yield "checkpoints", path, {}, (lambda p=path: transformers_reference(SHARED / p))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", nargs=2, metavar=("NAME", "INDEX"))
    parser.add_argument("--only", help="write only this file (without .json)")
    arguments = parser.parse_args()
    if arguments.show and arguments.show[0] in small_sentencepieces() | dict.fromkeys(SENTENCEPIECE):
        name, index = arguments.show[0], int(arguments.show[1])
        processor = sentencepiece.SentencePieceProcessor(model_proto=small_sentencepieces().get(name) or (SHARED / name).read_bytes())
        ids = processor.encode(text_of(corpus()[index]))
        print(ids[:500], processor.encode(text_of(corpus()[index]), out_type=str)[:500], repr(processor.decode(ids)[:500]), sep="\n")
        return
    if arguments.show:
        name, index = arguments.show[0], int(arguments.show[1])
        reference = next(make for _, n, _, make in references() if n == name)()
        text = text_of(corpus()[index])
        ids = reference.encode(text, True)
        print(repr(text[:500]), ids[:500], reference.encode(text, False)[:500], repr(reference.decode(ids, False)[:500]), sep="\n")
        return
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write("corpus", {"texts": corpus()})
    groups = {}
    for group, name, case, make in references() if arguments.only != "sentencepiece" else ():
        if arguments.only not in (None, group):
            continue
        try:
            groups.setdefault(group, {"versions": VERSIONS, "cases": {}})["cases"][name] = {**case, **make().results()}
        except BaseException as error:  # tokenizers panics
            print(f"{name}: the reference fails: {str(error)[:200]}", file=sys.stderr)
    spm = {name: sentencepiece_results(model) for name, model in small_sentencepieces().items()}
    spm |= {path: sentencepiece_results((SHARED / path).read_bytes()) for path in SENTENCEPIECE}
    special = {path: special_results(path) for path in SENTENCEPIECE[:2]}
    groups["sentencepiece"] = {"versions": VERSIONS, "cases": spm, "special": special}
    for group, value in groups.items():
        if arguments.only in (None, group):
            write(group, value)


if __name__ == "__main__":
    main()
