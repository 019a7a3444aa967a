#!/usr/bin/env python3
"""run_examples.py SOURCE PAGE RETORT: runs every command that a page of the documentation shows.

The ```sh blocks of the page run one after the other in one shell, in an empty directory that has the checkout's
`recipes` folder in it. A line may end in `# exit N` where another exit code than 0 is what the page promises.
```console blocks are not run; no other block may show `retort` commands."""

import pathlib
import re
import subprocess
import sys
import tempfile


def blocks(text):
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)


def shell(line):
    promised = re.search(r"#\s*exit (\d+)\s*$", line)
    return f"code=0; {line[:promised.start()]} || code=$?; [ $code = {promised[1]} ]" if promised else line


def script(page):
    lines = ["set -euxo pipefail"]
    for language, code in blocks(page):
        if language == "sh":
            lines += [shell(line) for line in code.splitlines()]
        elif language != "console" and re.search(r"^\s*retort ", code, flags=re.M):
            sys.exit(f"a block of the language '{language}' shows a command that is not run:\n{code}")
    return "\n".join(lines)


def main():
    source, page, retort = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    code = script((source / page).read_text())
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / "recipes").symlink_to(source / "recipes")
        environment = {"PATH": f"{retort.parent}:/usr/bin:/bin", "HOME": directory}
        result = subprocess.run(["bash", "-c", code], cwd=directory, env=environment, stderr=subprocess.STDOUT)
    sys.exit(result.returncode)


main()
