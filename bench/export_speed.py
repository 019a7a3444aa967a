#!/usr/bin/env python3
"""export_speed.py RETORT MODEL DIRECTORY [--formats gguf,onnx,...] [--repeat N] [--memory SIZE] [--sync]

Seconds of `retort export` beside those of `cp` of the same bytes, run in turn so that both meet the same machine, and
the ratio of the medians. The model's files are read once before, so that neither side waits for them. CPU seconds are
printed too: on a busy machine only they can be compared. With --sync the time of either side ends when its bytes are on
the disk; without it, what fits the page cache is compared at the speed of memory."""
import argparse
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import time


def timed(command, sync):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if sync:
        os.sync()
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def measure(retort, model, directory, format_name, repeat, memory, sync):
    made, copy = directory / f"export.{format_name}", directory / f"copy.{format_name}"
    exports, copies, size = [], [], 0
    for _ in range(repeat):
        exports.append(timed([retort, "export", model, "--format", format_name, "--output", made, "--quiet", *memory], sync))
        copies.append(timed(["cp", "-r", made, copy], sync))
        size = sum(f.stat().st_size for f in ([made] if made.is_file() else made.iterdir()))
        remove(made)
        remove(copy)
    wall = [statistics.median(run[0] for run in side) for side in (exports, copies)]
    cpu = [statistics.median(run[1] for run in side) for side in (exports, copies)]
    print(f"{format_name:20} {size / 2**20:8.0f} MiB   export {wall[0]:7.2f} s   cp {wall[1]:7.2f} s   "
          f"speed {100 * wall[1] / wall[0]:4.0f} % of cp   CPU {cpu[0]:6.2f} s and {cpu[1]:6.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retort")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--formats", default="gguf,onnx,gptq")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory")
    parser.add_argument("--sync", action="store_true")
    given = parser.parse_args()
    for file in given.model.iterdir():
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass
    for format_name in given.formats.split(","):
        measure(given.retort, given.model, given.directory, format_name, given.repeat,
                ["--memory", given.memory] if given.memory else [], given.sync)


main()
