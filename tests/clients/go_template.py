"""The part of Go's text/template that Modelfiles use (pkg.go.dev/text/template): fields, range, if, eq, ne, not, and, len,
slice, index. Written from its documentation, to render what `export --modelfile` writes."""
import re

ATOM = re.compile(r'\s*(\(|\)|"(?:[^"\\]|\\.)*"|[^\s()]+)')


def parse(tokens, ends=()):
    """Nodes up to one of the keywords in `ends`, and the action that ended them."""
    nodes = []
    while tokens:
        kind, text = tokens.pop(0)
        word = text.split(maxsplit=1)[0] if kind == "action" else ""
        if word in ends:
            return nodes, text
        if word == "range":
            names, _, source = text[len("range"):].partition(":=")
            body, _ = parse(tokens, ("end",))
            nodes.append(("range", [name.strip() for name in names.split(",")], source, body))
        elif word == "if":
            nodes.append(branch(text[len("if"):], tokens))
        else:
            nodes.append((kind, text))
    assert not ends, f"{ends} is missing"
    return nodes, ""


def branch(condition, tokens):
    yes, end = parse(tokens, ("else", "end"))
    if end == "end":
        return "if", condition, yes, []
    if end.startswith("else if"):
        return "if", condition, yes, [branch(end[len("else if"):], tokens)]
    return "if", condition, yes, parse(tokens, ("end",))[0]


FUNCTIONS = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "not": lambda a: not a, "len": len,
             "and": lambda *values: next((v for v in values if not v), values[-1]),
             "slice": lambda items, first: items[first:], "index": lambda items, at: items[at]}


def evaluate(text, dot, names):
    atoms = ATOM.findall(text)
    value, rest = expression(atoms, dot, names)
    assert not rest, text
    return value


def expression(atoms, dot, names):
    """A call or a single operand, up to a closing parenthesis."""
    values = []
    while atoms and atoms[0] != ")":
        atom, atoms = atoms[0], atoms[1:]
        if atom == "(":
            value, atoms = expression(atoms, dot, names)
            assert atoms.pop(0) == ")"
            values.append(value)
        else:
            values.append(operand(atom, dot, names))
    head, *arguments = values
    return (head(*arguments) if callable(head) else head), list(atoms)


def operand(atom, dot, names):
    if atom in FUNCTIONS:
        return FUNCTIONS[atom]
    if atom[0] == '"':
        return atom[1:-1].encode().decode("unicode_escape")
    if atom.isdigit():
        return int(atom)
    name, *fields = atom.split(".")
    value = dot if name == "" else names[name]
    for field in filter(None, fields):
        value = value[field]
    return value


def run(nodes, dot, names):
    out = ""
    for node in nodes:
        if node[0] == "text":
            out += node[1]
        elif node[0] == "action":
            out += str(evaluate(node[1], dot, names))
        elif node[0] == "if":
            out += run(node[2] if evaluate(node[1], dot, names) else node[3], dot, names)
        else:
            for index, item in enumerate(evaluate(node[2], dot, names)):
                bound = dict(zip(node[1], (index, item)))
                out += run(node[3], item, {**names, **bound})
    return out


def render(template, messages):
    """As Ollama calls it: .Messages, and .System, the text of the system messages."""
    parts = re.split(r"\{\{(.*?)\}\}", template, flags=re.S)
    tokens = [("action", part.strip()) if i % 2 else ("text", part) for i, part in enumerate(parts) if part or i % 2]
    data = {"Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages],
            "System": "\n\n".join(m["content"] for m in messages if m["role"] == "system")}
    return run(parse(tokens)[0], data, {"$": data})
